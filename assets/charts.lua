-- Ships the Vega libraries with every HTML page that holds an interactive chart, and with no other.
function RawBlock(block)
  if quarto.doc.is_format("html") and block.text:find('class="vega-chart"', 1, true) then
    quarto.doc.add_html_dependency({
      name = "vega-charts",
      version = "1.0.0",
      scripts = { "generated/vega.js", "charts.js" },
    })
  end
end
