"""One look for every figure and table: colours, sizes, label placement, and how a chart reaches HTML and PDF."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import book
from src.report import Text
from src.schema import LAYER_TYPES, ROOT

if TYPE_CHECKING:
    import altair as alt
    import matplotlib.figure
    import pandas as pd

WIDTH = 600
"""Width in CSS pixels of a full-width chart's plot area. With its axis it fits the HTML column (about 770) and, at
about 90 % of its size, the PDF's text width, so legends go on top, where they cost no width."""

FONT = "DejaVu Sans"
"""Ships with Matplotlib; `src.assets` hands it to Typst, so that both editions measure text alike."""

# Okabe and Ito's palette: distinct for readers with colour-vision deficiency (https://jfly.uni-koeln.de/color/).
_BLUE, _SKY, _GREEN, _YELLOW = "#0072B2", "#56B4E9", "#009E73", "#E6C200"
_ORANGE, _RED, _PINK, _GREY, _BLACK = "#E69F00", "#D55E00", "#CC79A7", "#7F7F7F", "#222222"

KIND_COLOURS = {"CPU": _BLUE, "GPU": _GREEN, "ASIC": _RED, "SoC": _PINK}
DEVICE_COLOURS = {"cpu": _BLUE, "cuda": _GREEN, "mps": _PINK}
BATCH_COLOURS = {1: _SKY, 4: "#3B8FC4", 16: "#2F6FA8", 64: _ORANGE, 256: _RED, 1024: "#7A1F00"}
PRECISION_COLOURS = {
    "fp64": _BLACK, "fp32": _BLUE, "tf32": _SKY, "bf16": _GREEN, "fp16": _ORANGE, "fp8": _RED, "int8": _PINK,
    "fp6": "#8C564B", "fp4": "#8C2D04", "int4": "#7B4173",
}  # fmt: skip
LAYER_COLOURS = dict(
    zip(
        LAYER_TYPES,
        (_BLUE, _SKY, "#004C75", _GREEN, "#7BC8A4", _ORANGE, _YELLOW, _RED, _PINK, _GREY, "#BFBFBF"),
        strict=True,
    )
)
BOUND_COLOURS = {"memory-bound": _ORANGE, "compute-bound": _BLUE, "either": "#BBBBBB"}
NEUTRAL = _GREY
INK = _BLACK


def scale(colours: Mapping[Any, str], present: Sequence | None = None) -> alt.Scale:
    """An Altair colour scale in the book's fixed order, cut down to the values present in the data."""
    import altair as alt

    domain = [key for key in colours if present is None or key in set(present)]
    return alt.Scale(domain=domain, range=[colours[key] for key in domain])


def configure(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """The book's look on a finished top-level Altair chart."""
    return (
        chart.configure(font=FONT, background="white", padding={"left": 4, "right": 8, "top": 4, "bottom": 4})
        .configure_axis(
            labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridColor="#E6E6E6", domainColor=INK
        )
        .configure_legend(
            labelFontSize=11, titleFontSize=11, titleFontWeight="normal", labelLimit=260, symbolLimit=60, orient="top"
        )
        .configure_header(labelFontSize=12, titleFontSize=12, labelFontWeight="bold")
        .configure_title(fontSize=13, anchor="start", fontWeight="bold")
        .configure_view(stroke="#CCCCCC")
    )


def matplotlib_style() -> dict[str, Any]:
    """The book's look as Matplotlib rc parameters, for ``matplotlib.rc_context``."""
    return {
        "font.family": FONT, "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.labelsize": 10,
        "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": False, "figure.facecolor": "white", "svg.fonttype": "path",
        "svg.hashsalt": "roofline",
    }  # fmt: skip


@dataclass(frozen=True)
class Display:
    """A chart as Jupyter shows it: interactive HTML where there is any, and a static SVG for paper."""

    html: str | None
    svg: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        bundle = {"image/svg+xml": self.svg, "text/plain": "<chart>"}
        if self.html is None:
            return bundle
        if _quarto_target() == "html":
            # Quarto answers any text/html output with scripts from a CDN; as raw Markdown it passes unattended.
            return {"text/markdown": f"```{{=html}}\n{self.html}\n```", "text/plain": "<chart>"}
        return {**bundle, "text/html": self.html}


def _quarto_target() -> str | None:
    """The format that Quarto executes for ("html", "typst"), or None outside of Quarto."""
    description = os.environ.get("QUARTO_EXECUTE_INFO")
    if description is None:
        return None
    execution = json.loads(Path(description).read_text(encoding="utf-8"))
    return execution["format"]["pandoc"]["to"].split("+")[0]


def show(chart: alt.TopLevelMixin | matplotlib.figure.Figure, static: alt.TopLevelMixin | None = None) -> Display:
    """Show an Altair chart (interactive in HTML, static SVG in the PDF) or a Matplotlib figure (SVG in both).

    ``static`` replaces the chart on paper, where hovering and picking can't help. The HTML holds the chart's
    specification alone; ``assets/charts.js`` draws it with the Vega libraries that ship with the book.
    """
    if hasattr(chart, "savefig"):
        return Display(None, _matplotlib_svg(chart))
    import vl_convert

    specification = _specification(chart)
    paper = specification if static is None else _specification(static)
    html = f'<div class="vega-chart"><script type="application/json">{_embeddable(specification)}</script></div>'
    return Display(html, vl_convert.vegalite_to_svg(paper))


def _specification(chart: alt.TopLevelMixin) -> dict:
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None):
        return configure(chart).to_dict()


def _embeddable(specification: dict) -> str:
    # "</" would end the script element that carries the JSON.
    return json.dumps(specification, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def _matplotlib_svg(figure: matplotlib.figure.Figure) -> str:
    import matplotlib
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with matplotlib.rc_context(matplotlib_style()):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def table(frame: pd.DataFrame, align: str | None = None) -> Text:
    """A data frame of finished strings and numbers as a Markdown pipe table, which HTML and PDF render alike.

    ``align`` has one letter per column, "l", "r" or "c"; by default numbers and numeric-looking text go right. Pipes in
    cells are escaped. Raises ValueError on an empty frame: an empty table is a claim that needs words.
    """
    if frame.empty:
        raise ValueError("a table needs at least one row; say in words that there is none")
    cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    if align is None:
        align = "".join("r" if all(_numeric(row[i]) for row in cells) else "l" for i in range(frame.shape[1]))
    rule = {"l": ":---", "r": "---:", "c": ":---:"}
    lines = [list(map(_cell, frame.columns)), [rule[letter] for letter in align], *cells]
    if len(lines[0]) != len(lines[1]):
        raise ValueError(f"{len(lines[0])} columns need as many letters, not {align!r}")
    return Text("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")


def long_table(frame: pd.DataFrame, align: str | None = None) -> Text:
    """`table` for hundreds of rows: under Quarto already in the output's own language, its citations resolved.

    Quarto's filters walk through every cell many times over, which for a table of chips took longer than the rest of
    its chapter. Citations get the labels that they have among all entries of the bibliography, and link to them; the
    chapter must see to it (``nocite``) that the entries are there. Raises ValueError as `table`, and `book.BookError`
    for a citation of nothing.
    """
    text, target = table(frame, align), _quarto_target()
    if target is None:
        return text
    bibliography = str(ROOT / "references.bib")
    written = book.pandoc(
        f"---\nnocite: '@*'\n---\n\n{text}", f"--to={_WRITERS.get(target, target)}", "--columns=10000", "--citeproc",
        f"--bibliography={bibliography}", "--metadata=link-citations", "--metadata=lang:en-GB",
        folder=ROOT, name="a table",
    )  # fmt: skip
    # The entries of the bibliography follow the table.
    written = written.partition('<div id="refs"')[0].partition("\n#block[\n#block[")[0].strip()
    written = written.replace(' style="text-align: left;"', "")
    # Quarto would parse an HTML table back into cells.
    written = written.replace("<table", '<table data-quarto-disable-processing="true"', 1)
    return Text(f"```{{={target}}}\n{written}\n```\n")


_WRITERS = {"typst": "typst-citations"}
"""Pandoc's writers where they differ from the format's name: citations as text, as Quarto has them."""


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN is the one value unequal to itself
        return "–"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _numeric(text: str) -> bool:
    return text == "–" or text.lstrip("−-+<>≥≤~ ")[:1].isdigit()
