"""Chapter 4's figures: one function each, from a tidy table of `src.findings.utilisation` to a chart."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from src import labels, theme
from src.figures.latency import FONT_SIZE, PAGE_HEIGHT, batch_colours, decades, lean, log_scale, ticks
from src.predict import COMPUTE, DISPATCH, LOST, MEMORY, REST
from src.schema import LAYER_TYPES

PANELS = {"convolutional": ("convolutional", "own"), "mobile": ("mobile",),
          "transformers and language": ("transformer", "language")}  # fmt: skip
"""Families that share a panel, so that each network's path can be followed and labelled."""

CAUSE_COLOURS = {COMPUTE: "#222222", MEMORY: "#B39B78", DISPATCH: "#7A3B2E", LOST: "#B9A3D0", REST: "#E3E3E3"}
UNDIVIDED = "below roof, type not known"
_RATE = "replace(format(datum.value, '~s'), regexp('([kMGTPE]?)$'), ' $1FLOP/s')"


def rooflines(cases: pd.DataFrame, ceilings: pd.DataFrame, batches: Sequence[int]) -> alt.TopLevelMixin:
    """Rooflines, achievable and datasheet, with each network's achieved FLOP/s as a path over batch sizes.

    ``cases`` and ``ceilings`` are those of `src.findings.measured`; a panel per series and group of families. A point
    is at its eager intensity; its whisker reaches to the minimum-bytes intensity. Picking a point in the HTML shows its
    network alone.
    """
    series = [name for name in dict.fromkeys(ceilings["series"]) if name in set(cases["series"])]
    columns = 1 if len(series) == 1 else 2
    groups = [name for name, families in PANELS.items() if cases["family"].isin(families).any()]
    rows = len(groups) * math.ceil(len(series) / columns)
    width, height = (theme.WIDTH, 236) if columns == 1 else (282, max(150, PAGE_HEIGHT // rows - 45))
    panels = []
    for first in range(0, len(series), columns):
        for group in groups:
            for name in series[first : first + columns]:
                own = cases[(cases["series"] == name) & cases["family"].isin(PANELS[group])]
                roof = ceilings[ceilings["series"] == name].iloc[0]
                title = [group, name] if len(series) > 1 else [group]
                panels.append(_roofline_panel(own, roof, batches, title, width, height))
    return alt.concat(*panels, columns=columns, spacing=14)


def _roofline_panel(
    own: pd.DataFrame, roof: pd.Series, batches: Sequence[int], title: list[str], width: int, height: int
) -> alt.LayerChart:
    peak = np.nanmax([roof["achievable_flop_per_s"], roof["peak_flop_per_s"]])
    ridge = roof["achievable_flop_per_s"] / roof["achievable_byte_per_s"]
    x_domain = decades(pd.concat([own["intensity_eager"], own["intensity_min"], pd.Series([ridge])]), 1.6, 1.3)
    y_domain = decades(pd.concat([own["achieved_flop_per_s"], pd.Series([peak])]), 1.6, 1.25)
    x = alt.X("intensity_eager:Q", title="arithmetic intensity (FLOP/B)", scale=log_scale(x_domain),
              axis=alt.Axis(values=ticks(x_domain), format="~g"))  # fmt: skip
    y = alt.Y("achieved_flop_per_s:Q", title="achieved", scale=log_scale(y_domain),
              axis=alt.Axis(values=ticks(y_domain), labelExpr=_RATE))  # fmt: skip
    used = ("achieved_flop_per_s", "intensity_eager", "intensity_min", "utilisation", "mfu")
    points = lean(own, *used).sort_values(["model", "batch_size"]).assign(batch=own["batch_size"].astype(str))
    pick = alt.selection_point(name=_parameter_name(" ".join(title)), fields=["model"], on="click", empty=True)
    visible = alt.when(pick).then(alt.value(1.0)).otherwise(alt.value(0.06))
    base = alt.Chart(points)
    tooltip = ["model", "batch_size", "n", alt.Tooltip("achieved_flop_per_s", format=".4s"),
               alt.Tooltip("intensity_eager", format=".3g"), alt.Tooltip("intensity_min", format=".3g"),
               alt.Tooltip("utilisation", format=".1%"), alt.Tooltip("mfu", format=".1%")]  # fmt: skip
    layers = [
        *_roof_lines(roof, x_domain, y_domain),
        base.mark_rule(strokeWidth=0.7, opacity=0.45, color=theme.NEUTRAL).encode(x=x, y=y, x2="intensity_min"),
        base.mark_line(strokeWidth=1.1, color="#8A8A8A").encode(
            x=x, y=y, detail="model:N", order="batch_size:Q", opacity=visible
        ),
        base.mark_circle(size=34).encode(
            x=x, y=y, tooltip=tooltip, opacity=visible,
            color=alt.Color("batch:N", title="batch size", scale=batch_colours(batches)),
        ),
    ]  # fmt: skip
    if len(points):
        layers += _path_labels(points, x_domain, y_domain, width, height, x, y)
    chart = alt.layer(*layers).properties(width=width, height=height, title=alt.Title(title, fontSize=12))
    return chart.add_params(pick)


def _parameter_name(title: str) -> str:
    return "pick_" + re.sub(r"\W+", "_", title)


def _path_labels(points: pd.DataFrame, x_domain, y_domain, width: int, height: int, x: alt.X, y: alt.Y) -> list:
    """A network's name at the end of its path, clear of all the points and paths."""
    ends = points.groupby("model", sort=False).tail(1)
    paths = [
        list(zip(group["intensity_eager"], group["achieved_flop_per_s"], strict=True))
        for _, group in points.groupby("model", sort=False)
    ]
    named = labels.place(
        ends, "intensity_eager", "achieved_flop_per_s", "model", x_domain=x_domain, y_domain=y_domain, width=width,
        height=height, font_size=FONT_SIZE, lines=paths,
    )  # fmt: skip
    base = alt.Chart(named)
    return [
        base.transform_filter("datum.label_distance_px > 9")
        .mark_rule(strokeWidth=0.6, color="#999999")
        .encode(x=x, y=y, x2="leader_x", y2="leader_y"),
        base.mark_text(fontSize=FONT_SIZE, color=theme.INK).encode(
            x=alt.X("label_x:Q", title=x.to_dict()["title"]), y=alt.Y("label_y:Q", title="achieved"), text="model"
        ),
    ]


def _roof_lines(roof: pd.Series, x_domain: tuple[float, float], y_domain: tuple[float, float]) -> list[alt.Chart]:
    """The achievable roof (solid) and the datasheet's (dashed), cut to the panel, each with its rate written on it."""
    lines = []
    for kind, dash, width in (("achievable", [1, 0], 1.8), ("peak", [5, 3], 1.2)):
        flop_per_s, byte_per_s = roof[f"{kind}_flop_per_s"], roof[f"{kind}_byte_per_s"]
        if not np.isfinite(flop_per_s):
            continue
        if np.isfinite(byte_per_s):
            ridge = flop_per_s / byte_per_s
            left = max(x_domain[0], y_domain[0] / byte_per_s)
            corners = [(left, left * byte_per_s), (ridge, flop_per_s), (x_domain[1], flop_per_s)]
        else:
            corners = [
                (roof["achievable_flop_per_s"] / roof["achievable_byte_per_s"], flop_per_s),
                (x_domain[1], flop_per_s),
            ]
        corner = pd.DataFrame(corners, columns=["intensity_eager", "achieved_flop_per_s"])
        base = alt.Chart(corner)
        lines.append(
            base.mark_line(color=theme.INK, strokeWidth=width, strokeDash=dash, clip=True).encode(
                x="intensity_eager:Q", y="achieved_flop_per_s:Q"
            )
        )
    return lines


def utilisation(shown: pd.DataFrame, batches: Sequence[int]) -> alt.TopLevelMixin:
    """Utilisation (left, with its whisker to that at minimum bytes) and MFU (right), one row a network, logarithmic.

    Without a datasheet peak there is no right panel. The line at 100 % is the roof.
    """
    table = lean(shown, "utilisation", "utilisation_min", "mfu").assign(batch=shown["batch_size"].astype(str))
    values = pd.concat([table["utilisation"], table["utilisation_min"], table["mfu"], pd.Series([1.0])])
    domain = decades(values, 1.15, 1.1)
    panels = []
    names = list(dict.fromkeys(table["series"]))
    for name in names:
        own = table[table["series"] == name]
        columns = [("utilisation", "utilisation (achieved / attainable)")]
        if own["mfu"].notna().any():
            columns.append(("mfu", "MFU (achieved / peak)"))
        width = (theme.WIDTH - 40 - 14 * (len(columns) - 1)) / len(columns)
        both = [
            _share_panel(own, column, title, domain, batches, width, index == 0)
            for index, (column, title) in enumerate(columns)
        ]
        heading = alt.Title(name if len(names) > 1 else "", fontSize=12)
        panels.append(alt.hconcat(*both, spacing=14).properties(title=heading))
    return alt.vconcat(*panels, spacing=12) if len(panels) > 1 else panels[0]


def _share_panel(
    own: pd.DataFrame, column: str, title: str, domain, batches: Sequence[int], width: float, has_names: bool
) -> alt.LayerChart:
    models = list(dict.fromkeys(own["model"]))
    x = alt.X(f"{column}:Q", title=title, scale=log_scale(domain), axis=alt.Axis(values=ticks(domain, 7), format="~%"))
    base = alt.Chart(own).encode(
        y=alt.Y("model:N", sort=models, title=None, axis=alt.Axis(labels=has_names, ticks=False, grid=True)),
        yOffset=alt.YOffset("batch:N", sort=[str(batch) for batch in batches]),
        color=alt.Color("batch:N", title="batch size", scale=batch_colours(batches)),
    )
    tooltip = [
        "model",
        "batch_size",
        *(alt.Tooltip(name, format=".1%") for name in ("utilisation", "utilisation_min", "mfu")),
    ]
    layers = [alt.Chart(pd.DataFrame({column: [1.0]})).mark_rule(color=theme.INK, strokeWidth=1.2).encode(x=x)]
    if column == "utilisation":
        layers.append(base.mark_rule(strokeWidth=1).encode(x=x, x2="utilisation_min"))
    layers.append(base.mark_circle(size=28, opacity=1).encode(x=x, tooltip=tooltip))
    return alt.layer(*layers).properties(width=width, height=max(16, 6 * len(batches)) * len(models))


def causes(table: pd.DataFrame, batches: Sequence[int]) -> alt.TopLevelMixin:
    """Measured time of each network split into causes, as stacked bars; a panel per series and batch size.

    Grey is time at the roof, colour is time lost, by layer type where that is known; each bar is the whole latency.
    """
    named = {**{f"{kind}": CAUSE_COLOURS[kind] for kind in (COMPUTE, MEMORY, DISPATCH)},
             **{f"below roof: {kind}": theme.LAYER_COLOURS[kind] for kind in LAYER_TYPES},
             UNDIVIDED: CAUSE_COLOURS[LOST], REST: CAUSE_COLOURS[REST]}  # fmt: skip
    part = np.where(table["layer_type"] != "", "below roof: " + table["layer_type"], table["cause"])
    part = np.where(part == LOST, UNDIVIDED, part)
    parts = table.assign(part=part)
    parts = parts[parts["share"] > 0]
    order = [name for name in named if name in set(parts["part"])]
    parts = parts.assign(position=parts["part"].map(order.index))
    models = list(dict.fromkeys(table["model"]))
    series = list(dict.fromkeys(table["series"]))
    width = (theme.WIDTH - 20 - 12 * (len(batches) - 1)) / len(batches)
    step = 17 if len(series) == 1 else max(11, min(17, PAGE_HEIGHT // (len(series) * len(models)) - 2))
    rows = []
    for name in series:
        panels = []
        for index, batch in enumerate(batches):
            own = parts[(parts["series"] == name) & (parts["batch_size"] == batch)]
            panels.append(
                alt.Chart(own if len(own) else parts.iloc[:0])
                .mark_bar()
                .encode(
                    x=alt.X("share:Q", title="share of measured time" if name == series[-1] else None, stack="zero",
                            scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="~%", tickCount=4)),
                    y=alt.Y("model:N", sort=None, scale=alt.Scale(domain=models), title=None,
                            axis=alt.Axis(labels=index == 0, ticks=False)),
                    color=alt.Color("part:N", title=None, sort=order,
                                    scale=alt.Scale(domain=order, range=[named[name] for name in order]),
                                    legend=alt.Legend(columns=3, symbolType="square")),
                    order=alt.Order("position:Q"),
                    tooltip=["model", "batch_size", "part", alt.Tooltip("share", format=".1%"),
                             alt.Tooltip("time_s", format=".4s"), alt.Tooltip("latency_s", format=".4s")],
                )
                .properties(width=width, height=step * len(models),
                            title=alt.Title(f"batch {batch}", fontSize=11))
            )  # fmt: skip
        heading = alt.Title(name if len(series) > 1 else "", fontSize=12)
        rows.append(alt.hconcat(*panels, spacing=12).properties(title=heading))
    return alt.vconcat(*rows, spacing=10) if len(rows) > 1 else rows[0]


def precision_gain(gains: pd.DataFrame, batches: Sequence[int]) -> alt.TopLevelMixin:
    """Speed at other precisions relative to the common one, one row a network, one panel a series, logarithmic.

    ``gains`` is that of `src.findings.utilisation.precision_gains`. The solid line is no gain, the dashed line what the
    achievable roof gains.
    """
    table = gains.assign(batch=gains["batch_size"].astype(str))
    domain = decades(pd.concat([table["low"], table["high"], table["roof_gain"], pd.Series([1.0])]), 1.08, 1.08)
    scale, series = log_scale(domain), list(dict.fromkeys(table["series"]))
    used = [str(batch) for batch in batches if batch in set(table["batch_size"])]
    panels = []
    for index, name in enumerate(series):
        own = table[table["series"] == name]
        models = list(dict.fromkeys(own["model"]))
        x = alt.X("gain:Q", title="times as fast", scale=scale, axis=alt.Axis(values=ticks(domain, 8), format="~g"))
        colour = alt.Color("batch:N", title="batch size", scale=batch_colours(batches), legend=alt.Legend(values=used))
        base = alt.Chart(own).encode(
            y=alt.Y("model:N", sort=models, title=None, axis=alt.Axis(labels=index % 2 == 0, ticks=False, grid=True)),
            yOffset=alt.YOffset("batch:N", sort=[str(batch) for batch in batches]),
            color=colour,
        )
        marks = [(1.0, [1, 0]), (float(own["roof_gain"].iloc[0]), [5, 3])]
        layers = [
            alt.Chart(pd.DataFrame({"gain": [at]})).mark_rule(color=theme.INK, strokeDash=dash).encode(x=x)
            for at, dash in marks
        ]
        layers += [
            base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, title="times as fast"), x2="high"),
            base.mark_circle(size=28, opacity=1).encode(
                x=x, tooltip=["model", "batch_size", *(alt.Tooltip(c, format=".3g") for c in ("gain", "low", "high"))]
            ),
        ]
        heading = alt.Title(name if len(series) > 1 else "", fontSize=12)
        size = {"width": theme.WIDTH - 40 if len(series) == 1 else 250, "height": 17 * len(models)}
        panels.append(alt.layer(*layers).properties(title=heading, **size))
    return alt.concat(*panels, columns=2, spacing=14) if len(panels) > 1 else panels[0]


def no_gain(common: str) -> alt.TopLevelMixin:
    """A line of text in place of `precision_gain` where no other precision was measured."""
    words = pd.DataFrame({"words": [f"No precision but {common} was measured."]})
    return (
        alt.Chart(words).mark_text(fontSize=12, color=theme.INK).encode(text="words").properties(width=400, height=30)
    )
