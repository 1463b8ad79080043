"""Chapter 5's figures: one function each, from a tidy table of `src.findings.training` to a chart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from src import theme
from src.breakdown import OUTSIDE, PHASES
from src.findings.training import COMPONENTS, GATHERED, QUANTITIES, gathered

COLOURS = theme.LAYER_COLOURS | {OUTSIDE: "#3A3A3A", GATHERED: "#E3E3E3"}
"""The book's colour of each layer type, and two for what is none."""

DARK = frozenset({"#0072B2", "#004C75", "#009E73", "#D55E00", "#7F7F7F", "#3A3A3A"})
"""Colours on which a label is white."""

COMPONENT_COLOURS = dict(zip(COMPONENTS, ("#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#BFBFBF"), strict=True))
RATIO_MARKS = {"FLOPs": "diamond", "roofline": "triangle-right", "latency": "circle"}
MOST_PIES = 10
"""Networks whose pies fit on a page of the PDF."""

LEAST_INTENSITY = 0.01
"""Below this many FLOP per byte, the arithmetic is that of book-keeping beside copies."""

_PREFIX = (
    "{0} >= 1e12 ? format({0} / 1e12, '.3') + ' T{1}' : {0} >= 1e9 ? format({0} / 1e9, '.3') + ' G{1}' : "
    "{0} >= 1e6 ? format({0} / 1e6, '.3') + ' M{1}' : {0} >= 1e3 ? format({0} / 1e3, '.3') + ' k{1}' : "
    "{0} >= 1 || {0} == 0 ? format({0}, '.3') + ' {1}' : {0} >= 1e-3 ? format({0} * 1e3, '.3') + ' m{1}' : "
    "format({0} * 1e6, '.3') + ' µ{1}'"
)
_UNITS = {"latency": "s", "flop": "FLOP", "memory": "B"}


def _panels(charts: Sequence[alt.Chart], **options) -> alt.TopLevelMixin:
    return charts[0] if len(charts) == 1 else alt.vconcat(*charts, **options)


def _order(frame: pd.DataFrame, column: str = "model") -> list[str]:
    return list(dict.fromkeys(frame[column]))


def ratio(ratios: pd.DataFrame) -> alt.TopLevelMixin:
    """Backward over forward per network: by FLOPs, as the roofline expects it, and by the clock with its interval.

    ``ratios`` has ``series``, ``model``, ``flop_ratio``, ``roof_ratio``, ``ratio``, ``ratio_low``, ``ratio_high``.
    """
    values = ratios[["flop_ratio", "roof_ratio", "ratio_low", "ratio_high"]].stack()
    domain = [math.floor(values.min() * 5 - 0.2) / 5, max(2.2, math.ceil(values.max() * 5 + 0.2) / 5)]
    several = ratios["series"].nunique() > 1
    return _panels([_ratio_panel(group, domain, label if several else "")
                    for label, group in ratios.groupby("series", sort=False)], spacing=12)  # fmt: skip


def _ratio_panel(group: pd.DataFrame, domain: list[float], title: str) -> alt.LayerChart:
    names = {"flop_ratio": "FLOPs", "roof_ratio": "roofline", "ratio": "latency"}
    long = group.melt(["model", "ratio_low", "ratio_high"], list(names), "quantity", "value")
    long = long[long["value"].notna()].assign(quantity=long["quantity"].map(names))
    y = alt.Y("model:N", sort=_order(group), title=None, axis=alt.Axis(grid=True, labelFontSize=11))
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    x = alt.X("value:Q", title="backward / forward", scale=scale, axis=alt.Axis(tickCount=8))
    base = alt.Chart(long)
    latency = base.transform_filter("datum.quantity == 'latency'")
    colours = alt.Scale(domain=list(RATIO_MARKS), range=["#E69F00", "#7F7F7F", "#0072B2"])
    shapes = alt.Scale(domain=list(RATIO_MARKS), range=list(RATIO_MARKS.values()))
    return alt.layer(
        alt.Chart(pd.DataFrame({"two": [2.0]})).mark_rule(strokeDash=[4, 3], color=theme.INK).encode(
            x=alt.X("two:Q", scale=scale)
        ),
        latency.mark_rule(strokeWidth=3, color="#0072B2").encode(
            y=y,
            x=alt.X("ratio_low:Q", title="backward / forward", scale=scale, axis=alt.Axis(tickCount=8)),
            x2="ratio_high:Q",
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, y=y, color=alt.Color("quantity:N", scale=colours, title="ratio of"),
            shape=alt.Shape("quantity:N", scale=shapes, title="ratio of"),
            tooltip=["model", "quantity", alt.Tooltip("value:Q", format=".3f"),
                     alt.Tooltip("ratio_low:Q", format=".3f"), alt.Tooltip("ratio_high:Q", format=".3f")],
        ),
    ).properties(width=theme.WIDTH - 30, height=max(120, 19 * group["model"].nunique()), title=title)  # fmt: skip


def causes(table: pd.DataFrame) -> alt.TopLevelMixin:
    """What each layer type adds to the ratio of latencies beyond that of FLOPs; the dot is their sum.

    ``table`` has ``series``, ``model``, ``layer_type``, ``added``.
    """
    several = table["series"].nunique() > 1
    panels = []
    for label, group in table.groupby("series", sort=False):
        y = alt.Y("model:N", sort=_order(group), title=None, axis=alt.Axis(labelFontSize=11))
        x = alt.X("added:Q", stack="zero", title="latency ratio less FLOP ratio")
        bars = alt.Chart(group).mark_bar(height=14).encode(
            x=x, y=y, color=alt.Color("layer_type:N", scale=theme.scale(COLOURS, group["layer_type"]), title=None,
                                      legend=alt.Legend(columns=5)),
            order=alt.Order("rank:Q"),
            tooltip=["model", "layer_type", alt.Tooltip("added:Q", format="+.3f")],
        ).transform_calculate(rank=f"indexof({json.dumps(list(COLOURS))}, datum.layer_type)")  # fmt: skip
        total = group.groupby("model", sort=False)["added"].sum().reset_index()
        dots = alt.Chart(total).mark_point(filled=True, size=60, color=theme.INK, opacity=1).encode(
            x="added:Q", y=y, tooltip=["model", alt.Tooltip("added:Q", format="+.3f", title="together")]
        )  # fmt: skip
        zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=theme.INK).encode(x="zero:Q")
        panels.append((bars + zero + dots).properties(
            width=theme.WIDTH - 20, height=max(120, 20 * group["model"].nunique()), title=label if several else ""
        ))  # fmt: skip
    return _panels(panels, spacing=12)


def _ready(slices: pd.DataFrame) -> pd.DataFrame:
    """Gathered slices with what a pie needs: names to pick from, colours of labels, the totals in words."""
    several = slices["series"].nunique() > 1
    shown = gathered(slices)
    shown["pick"] = shown["model"] + (" on " + shown["series"] if several else "")
    shown["ink"] = shown["layer_type"].map(lambda name: "white" if COLOURS[name] in DARK else "#222222")
    return shown


def _legend(present: Sequence[str], columns: int) -> alt.Color:
    return alt.Color("layer_type:N", scale=theme.scale(COLOURS, present), title=None,
                     legend=alt.Legend(columns=columns))  # fmt: skip


def _pie(data: alt.Chart, colour: alt.Color, radius: float, font: int, least: float, quantity: str) -> list[alt.Chart]:
    theta = alt.Theta("share:Q", stack=True, scale=alt.Scale(domain=[0, 1], range=[0, 2 * math.pi]))
    order = alt.Order("rank:Q")
    base = data.encode(theta=theta, order=order)
    unit = _PREFIX.format("datum.value", _UNITS[quantity])
    arcs = base.transform_calculate(amount=unit, percent="format(datum.share, '.1%')").mark_arc(
        outerRadius=radius, stroke="white", strokeWidth=0.8
    ).encode(color=colour, tooltip=["model:N", "phase:N", "layer_type:N", "amount:N", "percent:N"])  # fmt: skip
    labels = (
        base.transform_calculate(label=f"datum.share >= {least} ? format(datum.share, '.0%') : ''")
        .mark_text(radius=radius * 0.62, fontSize=font)
        .encode(text="label:N", color=alt.Color("ink:N", scale=None, legend=None))
    )
    return [arcs, labels]


def pies(slices: pd.DataFrame) -> alt.TopLevelMixin:
    """Six pies of the network that the reader picks: latency, FLOPs and memory, forward and backward.

    ``slices`` has ``series``, ``model``, ``phase``, ``quantity``, ``layer_type``, ``value``, ``total``, ``share``,
    ``rank``.
    """
    shown = _ready(slices)
    place = _place(slices)
    names = sorted(_order(shown, "pick"), key=lambda name: place[name.split(" on ")[0]])
    first = "resnet50" if "resnet50" in names else names[0]
    picked = alt.param("network", value=first, bind=alt.binding_select(options=names, name="network: "))
    colour = _legend(list(shown["layer_type"]), 5)
    rows = []
    for phase in PHASES:
        row = []
        for quantity, title in QUANTITIES.items():
            some = shown[(shown["phase"] == phase) & (shown["quantity"] == quantity)]
            data = alt.Chart(some).transform_filter("datum.pick == network")
            total = (
                data.transform_aggregate(total="max(total)")
                .transform_calculate(words=_PREFIX.format("datum.total", _UNITS[quantity]))
                .mark_text(fontSize=12, color=theme.INK)
                .encode(text="words:N", x=alt.value(92), y=alt.value(194))
            )
            layers = alt.layer(*_pie(data, colour, 82, 11, 0.06, quantity), total)
            head = alt.Title(f"{phase}: {title}", anchor="middle")
            row.append(layers.properties(width=184, height=184, title=head, view=alt.ViewConfig(stroke=None)))
        rows.append(alt.hconcat(*row, spacing=14))
    return alt.vconcat(*rows, spacing=26).add_params(picked)


def pie_grid(slices: pd.DataFrame) -> alt.TopLevelMixin:
    """The same pies of every network at once, a row each, for paper; of the first series, `MOST_PIES` networks."""
    shown = _ready(slices[slices["series"] == slices["series"].iloc[0]])
    names = _order(shown.sort_values("model", key=lambda column: column.map(_place(slices))))[:MOST_PIES]
    colour = _legend(list(shown["layer_type"]), 6)
    size, radius = 74, 35
    heads = [[f"{phase}:", title] for phase in PHASES for title in QUANTITIES.values()]
    lines = [alt.hconcat(_words([""], 96, 28), *[_words(head, size + 14, 28) for head in heads], spacing=0)]
    for name in names:
        row = [_words([name], 96, size, anchor="end")]
        for phase in PHASES:
            for quantity in QUANTITIES:
                some = shown[(shown["model"] == name) & (shown["phase"] == phase) & (shown["quantity"] == quantity)]
                layers = alt.layer(*_pie(alt.Chart(some), colour, radius, 10, 0.17, quantity))
                row.append(layers.properties(width=size + 14, height=size, view=alt.ViewConfig(stroke=None)))
        lines.append(alt.hconcat(*row, spacing=0))
    return alt.vconcat(*lines, spacing=2)


def _place(slices: pd.DataFrame) -> dict[str, int]:
    return {name: index for index, name in enumerate(_order(slices))}


def _words(text: list[str], width: int, height: int, anchor: str = "middle") -> alt.Chart:
    """Lines of text in an otherwise empty panel."""
    x = {"middle": width / 2, "end": width - 6}[anchor]
    align = {"middle": "center", "end": "right"}[anchor]
    y = height / 2 - 6.5 * (len(text) - 1)
    return (
        alt.Chart(pd.DataFrame({"at": [0]}))
        .mark_text(text=text, fontSize=10.5, color=theme.INK, align=align, baseline="middle", lineHeight=13)
        .encode(x=alt.value(x), y=alt.value(y))
        .properties(width=width, height=height, view=alt.ViewConfig(stroke=None))
    )


def bars(slices: pd.DataFrame) -> alt.TopLevelMixin:
    """The same shares as stacked bars, networks beneath each other: one column per quantity, one row per phase."""
    several = slices["series"].nunique() > 1
    colour = _legend(list(slices["layer_type"]), 5)
    rows = []
    for label, group in slices.groupby("series", sort=False):
        order = _order(group)
        for phase in PHASES:
            row = []
            for quantity, title in QUANTITIES.items():
                some = group[(group["phase"] == phase) & (group["quantity"] == quantity) & (group["share"] > 0)]
                is_first = quantity == "latency"
                head = f"{phase}: {title}" + (f", {label}" if several and is_first else "")
                axis = alt.Axis(labels=is_first, ticks=is_first, labelFontSize=11)
                row.append(
                    alt.Chart(some)
                    .transform_calculate(amount=_PREFIX.format("datum.value", _UNITS[quantity]))
                    .mark_bar(height=13)
                    .encode(
                        x=alt.X("share:Q", title=None, stack="zero", scale=alt.Scale(domain=[0, 1], nice=False),
                                axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])),
                        y=alt.Y("model:N", sort=order, title=None, axis=axis),
                        color=colour, order=alt.Order("rank:Q"),
                        tooltip=["model", "phase", "layer_type", "amount:N", alt.Tooltip("share:Q", format=".1%")],
                    )
                    .properties(width=188, height=18 * len(order), title=head)
                )  # fmt: skip
            rows.append(alt.hconcat(*row, spacing=16))
    return alt.vconcat(*rows, spacing=10)


def rates(points: pd.DataFrame, roof_lines: pd.DataFrame) -> alt.TopLevelMixin:
    """Layer types under the roofs: all arithmetic per second against all arithmetic per byte, one point a network.

    ``points`` has ``intensity``, ``work_per_s``, ``layer_type``, ``phase``, ``model``, ``series``; ``roof_lines`` per
    series ``achievable_flop_per_s``, ``achievable_byte_per_s`` and ``cache_byte_per_s``. Layer types that do next to no
    arithmetic have no place under a roof of arithmetic.
    """
    points = points[points["intensity"] >= LEAST_INTENSITY]
    low, high = points["intensity"].min() / 1.6, points["intensity"].max() * 1.6
    floor = points["work_per_s"].min() / 1.6
    colour = alt.Color("layer_type:N", scale=theme.scale(COLOURS, points["layer_type"]), title=None,
                       legend=alt.Legend(columns=5))  # fmt: skip
    several = points["series"].nunique() > 1
    panels = []
    for label, group in points.groupby("series", sort=False):
        mine = roof_lines[roof_lines["series"] == label] if len(roof_lines) else roof_lines
        top = max(group["work_per_s"].max(), mine["achievable_flop_per_s"].max() if len(mine) else 0) * 1.5
        x = alt.X("intensity:Q", title="arithmetic per byte (FLOP/B)", axis=alt.Axis(values=_decades(low, high),
                  format="~g"), scale=alt.Scale(type="log", domain=[low, high], nice=False))  # fmt: skip
        y = alt.Y("work_per_s:Q", title="arithmetic per second", axis=alt.Axis(values=_decades(floor, top), labelExpr=
                  _PREFIX.format("datum.value", "FLOP/s").replace("'.3'", "'d'")),
                  scale=alt.Scale(type="log", domain=[floor, top], nice=False))  # fmt: skip
        for phase in PHASES:
            layers = [
                alt.Chart(_roof(mine.iloc[0], low, high, name))
                .mark_line(color=theme.INK, strokeWidth=1.4, strokeDash=dash, clip=True)
                .encode(x=x, y=y)
                for name, dash in (("achievable_byte_per_s", [1, 0]), ("cache_byte_per_s", [4, 3]))
                if len(mine)
            ]
            some = group[group["phase"] == phase]
            layers.append(
                alt.Chart(some).mark_circle(size=46, opacity=0.9, stroke="white", strokeWidth=0.4, clip=True).encode(
                    x=x, y=y, color=colour,
                    tooltip=["model", "layer_type", "phase", alt.Tooltip("intensity:Q", format=".3"),
                             alt.Tooltip("work_per_s:Q", format=".3s"), alt.Tooltip("share:Q", format=".1%")],
                )
            )  # fmt: skip
            title = phase + (f", {label}" if several else "")
            panels.append(alt.layer(*layers).properties(width=268, height=270, title=title))
    return alt.concat(*panels, columns=2, spacing=16)


def _decades(low: float, high: float) -> list[float]:
    """The powers of ten within a domain."""
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _roof(row: pd.Series, low: float, high: float, bandwidth: str) -> pd.DataFrame:
    ridge = row["achievable_flop_per_s"] / row[bandwidth]
    xs = sorted({low, min(max(ridge, low), high), high})
    return pd.DataFrame(
        {"intensity": xs, "work_per_s": [min(row["achievable_flop_per_s"], row[bandwidth] * x) for x in xs]}
    )


def memory(held: pd.DataFrame) -> alt.TopLevelMixin:
    """Memory of a training step by component, estimated, with the measured peak as a tick.

    ``held`` has ``series``, ``model``, ``component``, ``rank``, ``byte``, ``measured_byte``.
    """
    several = held["series"].nunique() > 1
    panels = []
    for label, group in held.groupby("series", sort=False):
        y = alt.Y("model:N", sort=_order(group), title=None, axis=alt.Axis(labelFontSize=11))
        amount = _PREFIX.format("datum.value", "B")
        stacked = (
            alt.Chart(group)
            .transform_calculate(amount=_PREFIX.format("datum.byte", "B"))
            .mark_bar(height=13)
            .encode(
                x=alt.X("byte:Q", stack="zero", title="memory", axis=alt.Axis(tickCount=6, labelExpr=amount)),
                y=y,
                order=alt.Order("rank:Q"),
                color=alt.Color("component:N", scale=theme.scale(COMPONENT_COLOURS, group["component"]), title=None),
                tooltip=["model", "component", "amount:N"],
            )
        )
        measured = group.drop_duplicates("model")
        measured = measured[measured["measured_byte"].notna()].assign(mark="measured peak")
        ticks = (
            alt.Chart(measured)
            .transform_calculate(amount=_PREFIX.format("datum.measured_byte", "B"))
            .mark_tick(thickness=3, size=17, color=theme.INK)
            .encode(x="measured_byte:Q", y=y, tooltip=["model", "mark", "amount:N"])
        )
        layers = stacked + ticks if len(measured) else stacked
        panels.append(
            layers.properties(
                width=theme.WIDTH - 30, height=19 * group["model"].nunique(), title=label if several else ""
            )
        )
    return _panels(panels, spacing=12)
