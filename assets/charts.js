// Draws each chart from the specification that its element carries, with the Vega libraries that ship with the book.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".vega-chart")) {
    const specification = JSON.parse(element.querySelector("script").textContent);
    vegaEmbed(element, specification, { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } })
      .catch((error) => { element.textContent = `This chart could not be drawn: ${error.message}`; });
  }
});
