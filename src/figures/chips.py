"""The figures of the chapter on chips: tidy tables from `src.findings.chips` in, Altair charts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from src import theme
from src.schema import CHIP_KINDS, MEMORY_CLASSES

if TYPE_CHECKING:
    import altair as alt

MEMORY_SHAPES = {"DRAM": "circle", "HBM": "square", "SRAM": "triangle-up"}
MEMORY_DASHES = {"DRAM": [1, 0], "HBM": [1, 0], "SRAM": [5, 3]}
HEIGHT = 460


def _log_axis(title: str, format_: str = "~s") -> alt.Axis:
    import altair as alt

    return alt.Axis(title=title, format=format_, tickCount=6, labelOverlap=True, gridOpacity=0.5)


def _kind_colour(present: Sequence[str], **options) -> alt.Color:
    import altair as alt

    legend = alt.Legend(title="Kind", symbolType="circle", symbolOpacity=1, **options)
    return alt.Color("kind:N", scale=theme.scale(theme.KIND_COLOURS, present), legend=legend)


def _memory_shape(present: Sequence[str]) -> alt.Shape:
    import altair as alt

    domain = [name for name in MEMORY_CLASSES if name in set(present)]
    scale = alt.Scale(domain=domain, range=[MEMORY_SHAPES[name] for name in domain])
    return alt.Shape("memory_class:N", scale=scale, legend=alt.Legend(title="Memory"))


def _halo(labels: alt.Chart) -> alt.Chart:
    """A white outline under each label, to be drawn before the points, so that lines do not hurt its legibility."""
    return _text(labels).mark_text(fontSize=10, stroke="white", strokeWidth=3, strokeOpacity=0.85, tooltip=None)


def _text(labels: alt.Chart) -> alt.Chart:
    """The labels of those rows that have a position."""
    placed = labels.transform_filter("isValid(datum.label_x)").mark_text(fontSize=10, tooltip=None)
    return placed.encode(x="label_x:Q", y="label_y:Q", text="label:N")


def model(roof: pd.DataFrame, kernels: pd.DataFrame) -> alt.LayerChart:
    """One roof with its two parts named, and kernels under it.

    ``roof`` holds ``intensity``, ``flop_per_s`` and ``part``; ``kernels`` the same two and ``label``, ``label_x``,
    ``label_y``.
    """
    import altair as alt

    x = alt.X(
        "intensity:Q", scale=alt.Scale(type="log", nice=False), axis=_log_axis("Arithmetic intensity (FLOP/byte)", "~g")
    )
    y = alt.Y("flop_per_s:Q", scale=alt.Scale(type="log", nice=False, padding=16), axis=_log_axis("FLOP/s"))
    colours = alt.Scale(
        domain=["memory-bound", "compute-bound"],
        range=[theme.BOUND_COLOURS[b] for b in ("memory-bound", "compute-bound")],
    )
    colour = alt.Color("part:N", scale=colours, legend=alt.Legend(title="Limit"))
    line = alt.Chart(roof).mark_line(strokeWidth=3).encode(x, y, color=colour)
    points = alt.Chart(kernels).mark_point(size=70, filled=True, color=theme.INK, opacity=1)
    drops = alt.Chart(kernels).mark_rule(strokeDash=[3, 3], color=theme.NEUTRAL).encode(x="intensity:Q")
    tooltip = [
        alt.Tooltip("label:N", title="Work"),
        alt.Tooltip("intensity:Q", title="FLOP/byte", format=".3~s"),
        alt.Tooltip("flop_per_s:Q", title="Attainable FLOP/s", format=".3~s"),
    ]
    marks = alt.layer(line, drops, points.encode(x=x, y=y, tooltip=tooltip))
    labels = alt.Chart(kernels)
    return alt.layer(_halo(labels), marks, _text(labels)).properties(width=theme.WIDTH, height=300)


def roofline(roofs: pd.DataFrame, lines: pd.DataFrame, arithmetic: str, choices: Sequence[str]) -> alt.LayerChart:
    """Interactive rooflines of a group of chips: pick the arithmetic and the kind, hover for numbers, zoom.

    ``roofs`` is a part of `findings.roofs` with label positions; ``lines`` are the matching `findings.roof_lines`.
    ``arithmetic`` is shown first; ``choices`` are those on offer.
    """
    import altair as alt

    chosen = alt.param(
        name="arithmetic",
        value=arithmetic,
        bind=alt.binding_select(options=list(choices), name="Precision and unit: "),
    )
    kind = alt.selection_point(name="kind_shown", fields=["kind"], bind="legend")
    hover = alt.selection_point(name="hover", fields=["roof"], on="pointerover", nearest=True, empty=False)
    zoom = alt.selection_interval(name="zoom", bind="scales")
    of_choice = "datum.arithmetic == arithmetic"
    drawn = _roof_lines(lines).transform_filter(of_choice)
    drawn = drawn.encode(
        opacity=alt.when(hover).then(alt.value(1)).when(kind).then(alt.value(0.3)).otherwise(alt.value(0.03)),
        strokeWidth=alt.when(hover).then(alt.value(3)).otherwise(alt.value(1)),
    )
    points = _ridge_points(roofs).transform_filter(of_choice)
    points = points.encode(opacity=alt.when(kind).then(alt.value(1)).otherwise(alt.value(0.08)))
    labelled = alt.Chart(roofs).transform_filter(of_choice).transform_filter(kind)
    labels = _text(labelled).encode(color=_kind_colour(roofs["kind"]))
    return (
        alt.layer(drawn, _leaders(labelled), _halo(labelled), points.add_params(hover, zoom, kind), labels)
        .add_params(chosen)
        .properties(width=theme.WIDTH, height=HEIGHT)
    )


def roofline_static(roofs: pd.DataFrame, lines: pd.DataFrame, arithmetic: str) -> alt.LayerChart:
    """The same rooflines for paper, at one arithmetic."""
    import altair as alt

    shown, drawn = (frame[frame["arithmetic"] == arithmetic] for frame in (roofs, lines))
    points = alt.Chart(shown)
    return alt.layer(
        _roof_lines(drawn).encode(opacity=alt.value(0.3)),
        _leaders(points),
        _halo(points),
        _ridge_points(shown).encode(opacity=alt.value(1)),
        _text(points).encode(color=_kind_colour(shown["kind"])),
    ).properties(width=theme.WIDTH, height=HEIGHT)


def _leaders(points: alt.Chart) -> alt.Chart:
    """Thin rules from labels at some distance to their points."""
    return (
        points.transform_filter("isValid(datum.leader_x)")
        .mark_rule(color=theme.NEUTRAL, strokeWidth=0.7)
        .encode(x="ridge_flop_per_byte:Q", y="peak_flop_per_s:Q", x2="leader_x:Q", y2="leader_y:Q")
    )


def _roof_lines(lines: pd.DataFrame) -> alt.Chart:
    import altair as alt

    classes = [name for name in MEMORY_CLASSES if name in set(lines["memory_class"])]
    dash = alt.Scale(domain=classes, range=[MEMORY_DASHES[name] for name in classes])
    return (
        alt.Chart(lines)
        .mark_line(strokeWidth=1, tooltip=None)
        .encode(
            x=alt.X(
                "intensity:Q",
                scale=alt.Scale(type="log", nice=False),
                axis=_log_axis("Arithmetic intensity (FLOP/byte)", "~g"),
            ),
            y=alt.Y(
                "flop_per_s:Q", scale=alt.Scale(type="log", nice=False, padding=12), axis=_log_axis("Attainable FLOP/s")
            ),
            color=_kind_colour(lines["kind"]),
            detail="roof:N",
            strokeDash=alt.StrokeDash("memory_class:N", scale=dash, legend=alt.Legend(title="Memory")),
        )
    )


def _ridge_points(roofs: pd.DataFrame) -> alt.Chart:
    import altair as alt

    tooltip = [
        alt.Tooltip(f"{name}:N", title=title)
        for name, title in (
            ("chip", "Chip"), ("precision", "Precision"), ("unit", "Unit"), ("peak", "Peak"), ("derivation", "from"),
            ("clock", "Clock"), ("bandwidth", "Bandwidth"), ("ridge", "Ridge point"), ("power", "Power"),
            ("source", "Source"),
        )
    ]  # fmt: skip
    return (
        alt.Chart(roofs)
        .mark_point(size=45, filled=True)
        .encode(
            x="ridge_flop_per_byte:Q",
            y="peak_flop_per_s:Q",
            color=_kind_colour(roofs["kind"]),
            shape=_memory_shape(roofs["memory_class"]),
            tooltip=tooltip,
        )
    )


def ridges(roofs: pd.DataFrame, order: Sequence[str]) -> alt.LayerChart:
    """Ridge points of every chip, one strip per arithmetic in the given order, coloured by kind."""
    import altair as alt

    present = [kind for kind in CHIP_KINDS if kind in set(roofs["kind"])]
    y = alt.Y("arithmetic:N", sort=list(order), title=None)
    offset = alt.YOffset("kind:N", sort=present)
    kind = alt.selection_point(name="kind_shown", fields=["kind"], bind="legend")
    x = alt.X(
        "ridge_flop_per_byte:Q",
        scale=alt.Scale(type="log", nice=False, padding=105),
        axis=_log_axis("Ridge point: peak / bandwidth (FLOP/byte; OP/byte for integers)", "~g"),
    )
    tooltip = [
        alt.Tooltip(f"{name}:N", title=title)
        for name, title in (("chip", "Chip"), ("ridge", "Ridge point"), ("peak", "Peak"), ("bandwidth", "Bandwidth"))
    ]
    points = (
        alt.Chart(roofs)
        .mark_point(size=30, filled=True)
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            color=_kind_colour(roofs["kind"]),
            shape=_memory_shape(roofs["memory_class"]),
            tooltip=tooltip,
            opacity=alt.when(kind).then(alt.value(0.75)).otherwise(alt.value(0.05)),
        )
        .add_params(kind)
    )
    ends = [
        alt.Chart(roofs)
        .transform_filter(alt.datum.end == end)
        .mark_text(align=align, dx=dx, fontSize=10)
        .encode(x=x, y=y, yOffset=offset, text="label:N", color=_kind_colour(roofs["kind"]))
        for end, align, dx in (("lowest", "right", -6), ("highest", "left", 6))
    ]
    return alt.layer(points, *ends).properties(width=theme.WIDTH, height=alt.Step(9))


def history(chips: pd.DataFrame, lines: pd.DataFrame, column: str, title: str) -> alt.FacetChart:
    """A quantity per chip over its year of launch, one panel per format, with the trend where there is one.

    ``lines`` holds ``year``, the column and ``format``; a format without a clear trend has no rows there.
    """
    import altair as alt

    kind = alt.selection_point(name="kind_shown", fields=["kind"], bind="legend")
    x = alt.X(
        "year:Q",
        axis=alt.Axis(title="Year of launch", format="d", tickMinStep=2),
        scale=alt.Scale(nice=False, zero=False, padding=12),
    )
    y = alt.Y(f"{column}:Q", scale=alt.Scale(type="log", nice=False, padding=12), axis=_log_axis(title))
    tooltip = [
        alt.Tooltip("chip:N", title="Chip"), alt.Tooltip("year:Q", title="Year"),
        alt.Tooltip("precision:N", title="Precision"), alt.Tooltip(f"{column}:Q", title=title, format=".3~s"),
    ]  # fmt: skip
    both = pd.concat([chips.assign(part="chip"), lines.assign(part="trend")], ignore_index=True)
    # JSON has no NaN, and Altair turns it into null only in columns of numbers; a missing value is left out.
    records = [{k: v for k, v in record.items() if pd.notna(v)} for record in both.to_dict("records")]
    base = alt.Chart(alt.Data(values=records))
    points = (
        base.transform_filter("datum.part == 'chip'")
        .mark_point(size=38, filled=True)
        .encode(
            x=x,
            y=y,
            color=_kind_colour(chips["kind"]),
            shape=_memory_shape(chips["memory_class"]),
            tooltip=tooltip,
            opacity=alt.when(kind).then(alt.value(0.8)).otherwise(alt.value(0.05)),
        )
        .add_params(kind)
    )
    trends = (
        base.transform_filter("datum.part == 'trend'")
        .mark_line(color=theme.INK, strokeDash=[6, 4], strokeWidth=1.5)
        .encode(x=x, y=y)
    )
    leaders = (
        base.transform_filter("isValid(datum.leader_x)")
        .mark_rule(color=theme.NEUTRAL, strokeWidth=0.7)
        .encode(x="year:Q", y=f"{column}:Q", x2="leader_x:Q", y2="leader_y:Q")
    )
    labels = _text(base).encode(color=_kind_colour(chips["kind"]))
    panel = alt.layer(trends, leaders, _halo(base), points, labels).properties(width=theme.WIDTH / 2 - 16, height=300)
    return panel.facet(column=alt.Column("format:N", title=None, sort=list(dict.fromkeys(chips["format"]))))
