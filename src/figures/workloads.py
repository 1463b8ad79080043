"""The figures of the chapter on workloads: tidy tables from `src.findings.workloads` in, Altair charts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from src import theme
from src.schema import LAYER_TYPES

if TYPE_CHECKING:
    import altair as alt

FAMILY_COLOURS = {
    "convolutional": "#0072B2", "mobile": "#E69F00", "transformer": "#009E73", "language": "#CC79A7", "own": "#7F7F7F",
}  # fmt: skip
MEMORY_COLOURS = {"parameters": theme.INK, "activations": "#D55E00"}
ROW = 17
"""Height of one network's row in CSS pixels."""


def _families(present: Sequence[str], **options) -> alt.Color:
    import altair as alt

    legend = alt.Legend(title="Family", symbolType="circle", **options)
    return alt.Color("family:N", scale=theme.scale(FAMILY_COLOURS, present), legend=legend)


def _log_x(field: str, title: str, domain: Sequence[float] | None = None, format_: str = "~s", **axis) -> alt.X:
    import altair as alt

    scale = alt.Scale(type="log", nice=domain is None, **({} if domain is None else {"domain": list(domain)}))
    apart = {"tickCount": 4, "labelOverlap": "greedy", "labelSeparation": 6}
    return alt.X(field, title=title, scale=scale, axis=alt.Axis(format=format_, **apart, **axis))


def _models(order: Sequence[str], labels: bool = True, grid: bool = True) -> alt.Y:
    import altair as alt

    axis = alt.Axis(labels=labels, ticks=False, grid=grid, domain=False, labelPadding=6)
    return alt.Y("model:N", sort=list(order), title=None, axis=axis)


def _range(chart: alt.Chart) -> alt.Chart:
    """A bar between two values, whose round ends keep a narrow range visible."""
    return chart.mark_rule(strokeWidth=7, strokeCap="round", opacity=0.8)


def overview(table: pd.DataFrame, order: Sequence[str]) -> alt.HConcatChart:
    """Four panels with one row per network: FLOPs, parameters, memory, and the range of intensity.

    ``table`` is `findings.overview`. Dots, not bars: a bar's length means nothing on a logarithmic axis.
    """
    import altair as alt

    height, width = ROW * len(order), 118

    def panel(name: str, title: str, colour: alt.Color, labels: bool = False) -> alt.Chart:
        chosen = alt.Chart(table[table["panel"] == name])
        tooltip = ["model:N", "series:N", alt.Tooltip("value:Q", format=".3~s", title=title)]
        points = chosen.mark_point(filled=True, size=55, opacity=0.95)
        return points.encode(
            _log_x("value:Q", title), _models(order, labels), color=colour, tooltip=tooltip
        ).properties(width=width, height=height)

    families = _families(table["family"], columns=2)
    memory = alt.Color(
        "series:N", scale=theme.scale(MEMORY_COLOURS), legend=alt.Legend(title="Memory", symbolType="circle", columns=1)
    )
    ends = alt.Chart(table[table["panel"] == "intensity"])
    bar = _range(ends).encode(
        _log_x("min(value):Q", "Intensity (FLOP/byte)"),
        _models(order, False),
        x2="max(value):Q",
        color=_families(table["family"]).legend(None),
    )
    tooltip = ["model:N", alt.Tooltip("min(value):Q", format=".3~s"), alt.Tooltip("max(value):Q", format=".3~s")]
    intensity = bar.encode(tooltip=tooltip).properties(width=width, height=height)
    counts = alt.hconcat(
        panel("flop", "FLOPs per input", families, labels=True), panel("parameters", "Parameters", families), spacing=10
    )
    return alt.hconcat(counts, panel("memory", "Memory (byte)", memory), intensity, spacing=10).resolve_scale(
        color="independent"
    )


def paths(table: pd.DataFrame, ridges: pd.DataFrame, order: Sequence[str]) -> alt.FacetChart:
    """One panel per network: the band between eager and minimum-traffic intensity over the batch size.

    ``ridges`` holds the horizontal lines: target, ridge_flop_per_byte.
    """
    import altair as alt

    crossed = table.merge(ridges, how="cross").rename(columns={"ridge_flop_per_byte": "ridge"})
    x = alt.X("batch_size:Q", title="Batch size", scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(values=[1, 16, 256], format="d", grid=False))  # fmt: skip
    y_axis = alt.Axis(format="~s", values=[1, 10, 100, 1000, 10000])
    scale = alt.Scale(type="log", nice=False)
    base = alt.Chart(crossed)
    tooltip = [
        "model:N", "batch_size:Q", alt.Tooltip("intensity_eager:Q", format=".3~s", title="eager"),
        alt.Tooltip("intensity_max:Q", format=".3~s", title="minimum bytes"),
    ]  # fmt: skip
    colour = _families(table["family"])
    band = base.mark_area(opacity=0.35).encode(
        x, alt.Y("intensity_eager:Q", title="FLOP/byte", scale=scale, axis=y_axis), y2="intensity_max:Q", color=colour
    )
    upper = base.mark_line(point=alt.OverlayMarkDef(size=14)).encode(
        x, alt.Y("intensity_max:Q", scale=scale), color=colour
    )
    lower = base.mark_line(point=alt.OverlayMarkDef(size=14)).encode(
        x, alt.Y("intensity_eager:Q", scale=scale), color=colour, tooltip=tooltip
    )
    dash = alt.StrokeDash("target:N", legend=alt.Legend(title="Ridge point", symbolStrokeColor=theme.INK))
    rule = base.mark_rule(color=theme.INK, strokeWidth=1).encode(alt.Y("ridge:Q", scale=scale), strokeDash=dash)
    return (
        alt.layer(band, upper, lower, rule)
        .properties(width=104, height=78)
        .facet(
            alt.Facet(
                "model:N",
                sort=list(order),
                title=None,
                header=alt.Header(labelPadding=2, labelFontSize=10, labelFontWeight="normal"),
            ),
            columns=5,
        )
        .properties(bounds="flush")
    )


def roofline(
    roof: pd.DataFrame, ranges: pd.DataFrame, order: Sequence[str], ridge: float, domain: tuple[float, float]
) -> alt.VConcatChart:
    """A roof, the part of it that each network can reach, and below it each network's range of intensity.

    ``roof`` is `findings.roof`, ``ranges`` `findings.ranges`; both panels share the intensity axis.
    """
    import altair as alt

    x_title = "Arithmetic intensity (FLOP/byte)"
    y = alt.Y("flop_per_s:Q", title="FLOP/s", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s", tickCount=5))
    dash = alt.StrokeDash(
        "ceiling:N", scale=alt.Scale(domain=["achievable", "datasheet peak"], range=[[1, 0], [6, 4]]),
        legend=alt.Legend(title="Ceiling"),
    )  # fmt: skip
    lines = alt.Chart(roof).mark_line(color=theme.INK, strokeWidth=2).encode(
        _log_x("intensity:Q", None, domain, "~g", labels=False), y, strokeDash=dash
    )  # fmt: skip
    tooltip = [
        "model:N", "verdict:N", alt.Tooltip("intensity_eager:Q", format=".3~s", title="eager FLOP/byte"),
        alt.Tooltip("intensity_max:Q", format=".3~s", title="minimum-bytes FLOP/byte"),
        alt.Tooltip("attainable_eager_flop_per_s:Q", format=".3~s", title="attainable FLOP/s, eager"),
    ]  # fmt: skip
    colour = _families(ranges["family"])
    on_roof = alt.Chart(ranges).mark_point(filled=True, size=60, opacity=0.8).encode(
        _log_x("intensity_eager:Q", None, domain, "~g", labels=False), alt.Y("attainable_eager_flop_per_s:Q"),
        color=colour, tooltip=tooltip,
    )  # fmt: skip
    edge = alt.Chart(pd.DataFrame({"ridge": [ridge]})).mark_rule(strokeDash=[2, 3], color=theme.INK).encode(x="ridge:Q")
    rows = _range(alt.Chart(ranges)).encode(
        _log_x("intensity_eager:Q", x_title, domain, "~g"), _models(order), x2="intensity_max:Q", color=colour,
        tooltip=tooltip,
    )  # fmt: skip
    upper = alt.layer(lines, edge, on_roof).properties(width=theme.WIDTH - 60, height=210)
    lower = alt.layer(rows, edge).properties(width=theme.WIDTH - 60, height=ROW * len(order))
    return alt.vconcat(upper, lower, spacing=6).resolve_scale(x="shared", color="shared")


def any_chip(
    roofs: pd.DataFrame, ranges: pd.DataFrame, order: Sequence[str], chosen: str, domain: tuple[float, float]
) -> alt.VConcatChart:
    """The same for a chip picked from a menu. ``roofs`` is `findings.chip_roofs`, ``ranges`` `findings.chip_ranges`."""
    import altair as alt

    options = list(dict.fromkeys(roofs["chip"]))
    choice = alt.param(name="chip_shown", value=chosen, bind=alt.binding_select(options=options, name="Chip: "))
    picked = alt.Chart(roofs).transform_filter("datum.chip == chip_shown")
    line = picked.mark_line(color=theme.INK, strokeWidth=2).encode(
        _log_x("intensity:Q", None, domain, "~g", labels=False),
        alt.Y("flop_per_s:Q", title="FLOP/s", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s", tickCount=5)),
    )  # fmt: skip
    edge = picked.mark_rule(strokeDash=[2, 3], color=theme.INK).encode(x="ridge:Q")
    of_size = "datum.element_byte == (test(/fp32$/, chip_shown) ? 4 : 2)"
    rows = _range(alt.Chart(ranges).transform_filter(of_size)).encode(
        _log_x("intensity_eager:Q", "Arithmetic intensity (FLOP/byte)", domain, "~g"), _models(order),
        x2="intensity_max:Q", color=_families(ranges["family"]),
        tooltip=["model:N", "intensity_eager:Q", "intensity_max:Q"],
    )  # fmt: skip
    upper = alt.layer(line, edge).properties(width=theme.WIDTH - 60, height=180)
    lower = alt.layer(rows, edge).properties(width=theme.WIDTH - 60, height=ROW * len(order))
    return alt.vconcat(upper, lower, spacing=6).resolve_scale(x="shared").add_params(choice)


_MARKS = {"memory-bound": "M", "either": "", "compute-bound": "C"}


def verdicts(table: pd.DataFrame, order: Sequence[str], targets: Sequence[str]) -> alt.FacetChart:
    """A table coloured by verdict: networks down, batch sizes across, one block per target.

    ``table`` is `findings.verdicts`. Letters repeat what the colours say.
    """
    import altair as alt

    marked = table.assign(mark=table["verdict"].map(_MARKS))
    base = alt.Chart(marked).encode(
        alt.X("batch_size:O", title=None, axis=alt.Axis(labelAngle=0, orient="top", ticks=False, domain=False)),
        _models(order, grid=False),
    )
    colour = alt.Color("verdict:N", scale=theme.scale(theme.BOUND_COLOURS), legend=alt.Legend(title="Verdict"))
    tooltip = [
        "model:N", "target:N", "batch_size:O", "verdict:N",
        alt.Tooltip("intensity_eager:Q", format=".3~s", title="eager FLOP/byte"),
        alt.Tooltip("intensity_max:Q", format=".3~s", title="minimum-bytes FLOP/byte"),
        alt.Tooltip("ridge_flop_per_byte:Q", format=".3~s", title="ridge point"),
    ]  # fmt: skip
    cells = base.mark_rect(stroke="white", strokeWidth=1).encode(color=colour, tooltip=tooltip)
    letters = base.mark_text(fontSize=9, color="white").encode(text="mark:N")
    width = max(60, int((theme.WIDTH - 20) / len(targets)) - 12)
    header = alt.Header(labelFontSize=10, labelFontWeight="normal", labelExpr="split(datum.value, ', ')")
    return (
        alt.layer(cells, letters)
        .properties(width=width, height=ROW * len(order))
        .facet(alt.Facet("target:N", sort=list(targets), title=None, header=header), spacing=8)
    )


def layers(table: pd.DataFrame, order: Sequence[str], ridges: Mapping[str, float]) -> alt.LayerChart:
    """Every layer with model FLOPs as a dot at its intensity, one strip per network, sized by its share of FLOPs.

    ``table`` is `findings.layers`; ``ridges`` are vertical lines by target.
    """
    import altair as alt

    present = [name for name in order if name in set(table["model"])]
    colour = alt.Color("layer_type:N", scale=theme.scale(theme.LAYER_COLOURS, table["layer_type"]),
                       legend=alt.Legend(title="Layer type", columns=3, symbolType="circle"))  # fmt: skip
    size = alt.Size("flop_share:Q", scale=alt.Scale(type="sqrt", range=[6, 260]), legend=None)
    tooltip = ["model:N", "module:N", "layer_type:N", alt.Tooltip("intensity:Q", format=".3~s", title="FLOP/byte"),
               alt.Tooltip("flop_share:Q", format=".1%")]  # fmt: skip
    lowest, highest = table["intensity"].min(), table["intensity"].max()
    domain = (lowest / 1.6, max(highest, *ridges.values()) * 1.6)
    dots = alt.Chart(table).mark_point(filled=True, opacity=0.55).encode(
        _log_x("intensity:Q", "Arithmetic intensity of the layer, eager (FLOP/byte)", domain, "~g"), _models(present),
        color=colour, size=size, tooltip=tooltip,
    )  # fmt: skip
    lines = pd.DataFrame({"target": list(ridges), "ridge": list(ridges.values())})
    rule = alt.Chart(lines).mark_rule(color=theme.INK).encode(
        x="ridge:Q", strokeDash=alt.StrokeDash("target:N", legend=alt.Legend(title="Ridge point"))
    )  # fmt: skip
    return alt.layer(rule, dots).properties(width=theme.WIDTH - 20, height=38 * len(present))


def traffic(table: pd.DataFrame, order: Sequence[str]) -> alt.FacetChart:
    """Shares of FLOPs and of bytes by layer type, two stacked bars' columns beside each other.

    ``table`` is `findings.traffic`.
    """
    import altair as alt

    ranked = table.assign(rank=table["layer_type"].map({name: i for i, name in enumerate(LAYER_TYPES)}))
    colour = alt.Color("layer_type:N", scale=theme.scale(theme.LAYER_COLOURS, table["layer_type"]),
                       legend=alt.Legend(title="Layer type", columns=5))  # fmt: skip
    bars = alt.Chart(ranked).mark_bar().encode(
        alt.X("share:Q", title=None, axis=alt.Axis(format="%", tickCount=4), scale=alt.Scale(domain=[0, 1])),
        _models(order), color=colour, order="rank:Q",
        tooltip=["model:N", "layer_type:N", alt.Tooltip("share:Q", format=".1%")],
    )  # fmt: skip
    panels = bars.properties(width=(theme.WIDTH - 130) / 2, height=ROW * len(order))
    return panels.facet(column=alt.Column("quantity:N", sort=["model FLOPs", "bytes moved"], title=None), spacing=14)
