"""Chapter 3's figures: one function each, from a tidy table of `src.findings.latency` to a chart."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from src import labels, theme

FONT_SIZE = 10
PAGE_HEIGHT = 780
"""CSS pixels of panels that fit on a page of the PDF beneath each other, captions and axes aside."""

CROSSED = {"out_of_memory": "out of memory", "over_budget": "over budget", "unsupported": "unsupported",
           "failed": "failed"}  # fmt: skip
AXIS_TITLES = {
    "flop": "FLOPs of the batch", "param_count": "parameters", "activation_count": "activations of the batch",
    "bytes_eager": "eager bytes of the batch",
}  # fmt: skip
_SECONDS = (
    "datum.value >= 1 ? format(datum.value, 'd') + ' s' : datum.value >= 1e-3 ? format(datum.value * 1e3, 'd') + ' ms'"
    " : format(datum.value * 1e6, 'd') + ' µs'"
)
_UNITS = {"flop": "FLOP", "bytes_eager": "B", "param_count": "", "activation_count": ""}


def batch_colours(batches: Sequence[int]) -> alt.Scale:
    """The book's colour of each batch size; a size that it has none for takes that of the next smaller one."""
    known = theme.BATCH_COLOURS
    colours = [known[max((size for size in known if size <= batch), default=min(known))] for batch in batches]
    return alt.Scale(domain=[str(batch) for batch in batches], range=colours)


def series_colours(series: Sequence[str], devices: Mapping[str, str]) -> alt.Scale:
    """A colour per series: its device's, and further ones where several share a device."""
    spare = iter(("#56B4E9", "#E69F00", "#CC79A7", "#7F7F7F", "#D55E00"))
    used: set[str] = set()
    colours = []
    for name in series:
        colour = theme.DEVICE_COLOURS[devices[name]]
        colours.append(next(spare, theme.NEUTRAL) if colour in used else colour)
        used.add(colour)
    return alt.Scale(domain=list(series), range=colours)


BASE_COLUMNS = (
    "series", "model", "batch_size", "status", "message", "n", "latency_s", "latency_low_s", "latency_high_s",
)  # fmt: skip
"""What every chart of cases carries, for its tooltips."""


def lean(cases: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The cases with the columns that a chart uses and no others: the HTML holds all that a chart is given."""
    return cases[list(dict.fromkeys([*BASE_COLUMNS, *columns]))].assign(message=cases["message"].fillna(""))


def decades(values: pd.Series, low: float = 1.0, high: float = 1.0) -> tuple[float, float]:
    """A logarithmic domain that holds the values with a margin in factors below and above."""
    usable = values.dropna()
    usable = usable[usable > 0]
    return float(usable.min() / low), float(usable.max() * high)


def log_scale(domain: tuple[float, float]) -> alt.Scale:
    return alt.Scale(type="log", domain=list(domain), nice=False)


def ticks(domain: tuple[float, float], most: int = 8) -> list[float]:
    """Powers of ten within a domain, and round multiples of them where it spans few decades."""
    first, last = math.floor(math.log10(domain[0])), math.ceil(math.log10(domain[1]))
    span = math.log10(domain[1] / domain[0])
    steps = (1, 1.5, 2, 3, 4, 5, 7) if span < 0.8 else (1, 2, 5) if span < 1.4 else (1, 3) if span < 2.4 else (1,)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    inside = [value for value in values if domain[0] <= value <= domain[1]]
    return inside[:: math.ceil(len(inside) / most)]


def percents(domain: tuple[float, float]) -> list[float]:
    """Ticks about 100 % on a logarithmic axis, as coarse as the domain needs."""
    span = domain[1] / domain[0]
    if span < 1.3:
        step = 0.01 if span < 1.06 else 0.02 if span < 1.12 else 0.05
        first = math.ceil(domain[0] / step)
        return [step * index for index in range(first, math.floor(domain[1] / step) + 1)]
    values = (0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10) if span < 6 else (0.1, 0.3, 1, 3, 10, 30)
    return [value for value in values if domain[0] <= value <= domain[1]]


def scatter(cases: pd.DataFrame, quantity: str, lines: pd.DataFrame) -> alt.TopLevelMixin:
    """Latency against a count, logarithmic: one panel per series and batch size, each network labelled.

    ``cases`` are those of the batch sizes to show, with ``series``, ``model``, ``batch_size``, ``latency_s`` with its
    interval, ``status`` and the ``quantity`` (a key of `AXIS_TITLES`). ``lines`` gives ``second_per_unit`` per
    ``series`` and ``quantity``: the ceiling. A case without a latency is a cross at the top edge.
    """
    series = list(dict.fromkeys(cases["series"]))
    batches = sorted(set(cases["batch_size"]))
    columns = 1 if len(series) == 1 else 2
    rows = len(batches) * math.ceil(len(series) / columns)
    width, height = (theme.WIDTH, 232) if columns == 1 else (304, max(150, PAGE_HEIGHT // rows - 50))
    colours = batch_colours(batches)
    slopes = lines[lines["quantity"] == quantity].set_index("series")["second_per_unit"]
    panels = [
        _scatter_panel(
            cases[(cases["series"] == name) & (cases["batch_size"] == batch)], quantity, slopes.get(name), colours,
            f"batch {batch}" + (f", {name}" if len(series) > 1 else ""), width, height,
        )
        for first in range(0, len(series), columns)
        for batch in batches
        for name in series[first : first + columns]
    ]  # fmt: skip
    return alt.concat(*[panel for panel in panels if panel is not None], columns=columns, spacing=14)


def _scatter_panel(
    cases: pd.DataFrame, quantity: str, slope: float | None, colours: alt.Scale, title: str, width: int, height: int
) -> alt.LayerChart | None:
    measured = cases["latency_s"].notna()
    if not measured.any():
        return None
    x_domain = decades(cases[quantity], 1.5, 1.8)
    bottom = cases["latency_s"].dropna()
    if slope is not None and np.isfinite(slope):
        # The line is cut at the panel's foot rather than stretch the panel far below its points.
        bottom = pd.concat([bottom, pd.Series([max(slope * x_domain[0] * 3, bottom.min() / 4)])])
    y_domain = decades(bottom, 1.3, 2.6 if not measured.all() else 1.7)
    at_top = y_domain[1] / (y_domain[1] / y_domain[0]) ** 0.05
    points = lean(cases, quantity).assign(
        batch=cases["batch_size"].astype(str),
        y=cases["latency_s"].fillna(at_top),
        is_measured=measured,
    )
    has_line = slope is not None and np.isfinite(slope)
    line = [(value, value * slope) for value in x_domain] if has_line else []
    placed = labels.place(
        points, quantity, "y", "model", x_domain=x_domain, y_domain=y_domain, width=width, height=height,
        font_size=FONT_SIZE, lines=[line],
    )  # fmt: skip
    x = alt.X(
        f"{quantity}:Q", title=AXIS_TITLES[quantity], scale=log_scale(x_domain), axis=_count_axis(x_domain, quantity)
    )
    y = alt.Y(
        "y:Q", title="latency", scale=log_scale(y_domain), axis=alt.Axis(values=ticks(y_domain), labelExpr=_SECONDS)
    )
    base = alt.Chart(placed)
    tooltip = ["model", "batch_size", "status", alt.Tooltip("latency_s", format=".4s"),
               alt.Tooltip("latency_low_s", format=".4s"), alt.Tooltip("latency_high_s", format=".4s"),
               alt.Tooltip(quantity, format=".4s"), "n"]  # fmt: skip
    far = base.transform_filter("datum.label_distance_px > 9")
    layers = [
        *([_ceiling(slope, quantity, x_domain, y_domain)] if has_line else []),
        far.mark_rule(strokeWidth=0.6, color="#999999").encode(x=x, y=y, x2="leader_x", y2="leader_y"),
        base.transform_filter("datum.is_measured")
        .mark_circle(size=42, opacity=1)
        .encode(x=x, y=y, tooltip=tooltip, color=alt.Color("batch:N", title="batch size", scale=colours)),
        base.transform_filter("!datum.is_measured")
        .mark_point(shape="cross", angle=45, size=60, filled=True, opacity=1, color="#D55E00")
        .encode(x=x, y=y, tooltip=["model", "status", "message"]),
        base.mark_text(fontSize=FONT_SIZE, color=theme.INK).encode(x="label_x", y="label_y", text="model"),
    ]
    return alt.layer(*layers).properties(width=width, height=height, title=alt.Title(title, fontSize=12))


def _count_axis(domain: tuple[float, float], quantity: str) -> alt.Axis:
    unit = _UNITS[quantity]
    # "1G" becomes "1 GFLOP".
    shown = f"replace(format(datum.value, '~s'), regexp('([kMGTPE]?)$'), ' $1{unit}')"
    return alt.Axis(values=ticks(domain), labelExpr=shown)


def _ceiling(slope: float, quantity: str, x_domain: tuple[float, float], y_domain: tuple[float, float]) -> alt.Chart:
    """The line of the least time that a count allows, clipped to the panel; solid where nothing can undercut it."""
    left = max(x_domain[0], y_domain[0] / slope)
    right = min(x_domain[1], y_domain[1] / slope)
    ends = pd.DataFrame({quantity: [left, right], "y": [left * slope, right * slope]})
    dash = [1, 0] if quantity == "flop" else [5, 3]
    return (
        alt.Chart(ends[ends["y"] >= 0] if left < right else ends.iloc[:0])
        .mark_line(color=theme.INK, strokeWidth=1.6, strokeDash=dash, clip=True)
        .encode(x=f"{quantity}:Q", y="y:Q")
    )


def correlation(correlations: pd.DataFrame, variables: Sequence[str]) -> alt.TopLevelMixin:
    """Rank correlations as heat maps, one per batch size: Spearman below the diagonal, Kendall above.

    ``correlations`` is that of `metrics.rank_correlations`; each cell has the value and beneath it the interval.
    """
    order = list(variables)
    cells = []
    for row in correlations.itertuples():
        for name, (x, y) in (("spearman", (row.left, row.right)), ("kendall", (row.right, row.left))):
            value = getattr(row, name)
            missing = math.isnan(value)
            cells.append({
                "batch": row.batch_size, "coefficient": name, "x": x, "y": y, "n": row.n,
                "value": None if missing else value, "shown": "–" if missing else _signed(value),
                "interval": "too few" if missing else
                f"{_signed(getattr(row, f'{name}_low'))} to {_signed(getattr(row, f'{name}_high'))}",
            })  # fmt: skip
    table = pd.DataFrame(cells)
    step_x = theme.WIDTH / len(order)
    panels = [
        _heat_map(table[table["batch"] == batch], order, step_x, 34 if len(order) > 6 else 38, batch)
        for batch in sorted(set(table["batch"]))
    ]
    return alt.vconcat(*panels, spacing=10)


def _heat_map(table: pd.DataFrame, order: list[str], step_x: float, step_y: float, batch: int) -> alt.LayerChart:
    across = {
        name: [line for part in name.split(", ") for line in textwrap.wrap(part, max(8, int(step_x // 6.2)))]
        for name in order
    }
    down = {name: name.split(", ") for name in order}
    x = alt.X("x:N", sort=order, title=None, axis=alt.Axis(
        labelAngle=0, labelExpr=f"({json.dumps(across)})[datum.label]",
        labelFontSize=10, labelLimit=step_x, ticks=False))  # fmt: skip
    y = alt.Y("y:N", sort=order, title=None, axis=alt.Axis(
        labelExpr=f"({json.dumps(down)})[datum.label]", labelFontSize=10, labelLimit=150, ticks=False))  # fmt: skip
    colour = alt.Color(
        "value:Q", title="rank correlation",
        scale=alt.Scale(domain=[-1, 0, 1], range=["#D55E00", "#FFFFFF", "#0072B2"], interpolate="rgb"),
        legend=alt.Legend(orient="bottom", gradientLength=200, gradientThickness=10, values=[-1, -0.5, 0, 0.5, 1]),
    )  # fmt: skip
    base = alt.Chart(table).encode(x=x, y=y)
    ink = alt.condition("abs(datum.value) > 0.6", alt.value("white"), alt.value(theme.INK))
    tooltip = ["x", "y", "coefficient", "shown", "interval", "n"]
    return alt.layer(
        base.mark_rect(stroke="white", strokeWidth=2).encode(color=colour, tooltip=tooltip),
        base.mark_text(fontSize=12, dy=-6, fontWeight="bold").encode(text="shown", color=ink),
        base.mark_text(fontSize=10, dy=8).encode(text="interval", color=ink),
    ).properties(width=step_x * len(order), height=step_y * len(order), title=alt.Title(f"batch {batch}", fontSize=12))


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def tail(cases: pd.DataFrame, batches: Sequence[int]) -> alt.TopLevelMixin:
    """Latency per input, and how far its interval and its 95th percentile reach from the median; a panel a series.

    Left the medians on a logarithmic axis, right interval (thick) and 95th percentile (tick) relative to the median.
    """
    table = lean(cases, "latency_per_input_s").assign(
        per_input=cases["latency_per_input_s"],
        low=cases["latency_low_s"] / cases["latency_s"],
        high=cases["latency_high_s"] / cases["latency_s"],
        p95=cases["latency_p95_s"] / cases["latency_s"],
        at=1.0,
        batch=cases["batch_size"].astype(str),
    )
    domain = decades(table["per_input"], 1.2, 1.2)
    reach = decades(pd.concat([table["low"], table["high"], table["p95"]]), 1.02, 1.02)
    relative = log_scale(reach)
    panels = []
    for name, own in table.groupby("series", sort=False):
        base = _rows(own, batches)
        left = base.mark_circle(size=26, opacity=1).encode(
            x=alt.X("per_input:Q", title="median latency per input", scale=log_scale(domain),
                    axis=alt.Axis(values=ticks(domain, 6), labelExpr=_SECONDS)),
            tooltip=_tooltip("latency_per_input_s", "low", "high", "p95"),
        )  # fmt: skip
        bare = base.encode(y=alt.Y("model:N", sort=list(dict.fromkeys(own["model"])), title=None,
                                   axis=alt.Axis(labels=False, ticks=False, grid=True)))  # fmt: skip
        title = "interval and 95th percentile / median"
        x = alt.X("low:Q", title=title, scale=relative,
                  axis=alt.Axis(values=percents(reach), format="~%"))  # fmt: skip
        right = alt.layer(
            bare.mark_rule(strokeWidth=0.8).encode(x=x, x2="p95"),
            bare.mark_rule(strokeWidth=3).encode(x=x, x2="high"),
            bare.mark_tick(thickness=1.8, size=7).encode(
                x=alt.X("p95:Q", scale=relative, title=title), tooltip=_tooltip("low", "high", "p95")
            ),
        )
        height = _row_height(batches) * own["model"].nunique()
        both = (left.properties(width=330, height=height), right.properties(width=210, height=height))
        heading = alt.Title(name if table["series"].nunique() > 1 else "", fontSize=12)
        panels.append(alt.hconcat(*both, spacing=12).properties(title=heading))
    return alt.vconcat(*panels, spacing=12) if len(panels) > 1 else panels[0]


def prediction(cases: pd.DataFrame, batches: Sequence[int]) -> alt.TopLevelMixin:
    """Measured latency over the roofline's estimate, one row a network, one panel a series, coloured by batch."""
    table = cases[cases["latency_s"].notna() & cases["estimate_s"].notna()]
    table = lean(table, "estimate_s").assign(
        ratio=table["latency_s"] / table["estimate_s"],
        low=table["latency_low_s"] / table["estimate_s"],
        high=table["latency_high_s"] / table["estimate_s"],
        batch=table["batch_size"].astype(str),
    )
    domain = decades(pd.concat([table["low"], table["high"], pd.Series([1.0])]), 1.1, 1.1)
    series = list(dict.fromkeys(table["series"]))
    width = theme.WIDTH - 40 if len(series) == 1 else 250
    scale = log_scale(domain)
    panels = []
    for index, name in enumerate(series):
        own = table[table["series"] == name]
        base = _rows(own, batches, labels=index % 2 == 0)
        title = "measured / roofline estimate"
        x = alt.X("ratio:Q", title=title, scale=scale,
                  axis=alt.Axis(values=ticks(domain, 8), format="~g"))  # fmt: skip
        layers = [
            alt.Chart(pd.DataFrame({"ratio": [1.0]})).mark_rule(color=theme.INK, strokeWidth=1.2).encode(x=x),
            base.mark_rule(strokeWidth=2.2).encode(x=alt.X("low:Q", scale=scale, title=title), x2="high"),
            base.mark_circle(size=26, opacity=1).encode(x=x, tooltip=_tooltip("ratio", "latency_s", "estimate_s")),
        ]
        height = _row_height(batches) * own["model"].nunique()
        heading = alt.Title(name if len(series) > 1 else "", fontSize=12)
        panels.append(alt.layer(*layers).properties(width=width, height=height, title=heading))
    return alt.concat(*panels, columns=2, spacing=14) if len(panels) > 1 else panels[0]


def _rows(table: pd.DataFrame, batches: Sequence[int], labels: bool = True) -> alt.Chart:
    """One row a network, its batch sizes beneath each other within it, in the batch's colour."""
    order = [str(batch) for batch in batches]
    return alt.Chart(table).encode(
        y=alt.Y("model:N", sort=list(dict.fromkeys(table["model"])), title=None,
                axis=alt.Axis(labels=labels, ticks=False, grid=True)),
        yOffset=alt.YOffset("batch:N", sort=order),
        color=alt.Color("batch:N", title="batch size", scale=batch_colours(batches)),
    )  # fmt: skip


def _row_height(batches: Sequence[int]) -> int:
    return max(16, min(24, 6 * len(batches)))


def _tooltip(*columns: str) -> list:
    return ["model", "batch_size", "n", *(alt.Tooltip(column, format=".4s") for column in columns)]


def throughput(cases: pd.DataFrame, saturation: pd.DataFrame, devices: Mapping[str, str]) -> alt.TopLevelMixin:
    """Throughput against batch size, a small panel per network, coloured by series.

    The batch that saturates (``saturation``) is ringed; a batch without a result is a cross at the panel's foot.
    ``devices`` gives each series' device.
    """
    series = list(dict.fromkeys(cases["series"]))
    models = list(dict.fromkeys(cases["model"]))
    batches = sorted(set(int(size) for size in cases["batch_size"]))
    rings = saturation.rename(columns={"saturation_batch_size": "batch_size"})[["series", "model", "batch_size"]]
    table = lean(cases, "throughput_per_s").merge(
        rings.assign(is_saturation=True), on=["series", "model", "batch_size"], how="left"
    )
    # Room below the lines for the crosses, if there are any.
    domain = decades(table["throughput_per_s"], 3.2 if table["throughput_per_s"].isna().any() else 1.6, 1.6)
    table = table.assign(
        is_saturation=table["is_saturation"].eq(True),
        is_measured=table["throughput_per_s"].notna(),
        foot=domain[0] * (domain[1] / domain[0]) ** 0.06,
        ended=table["status"].map(lambda status: CROSSED.get(status, status)),
    )
    columns = 4
    width = 134
    height = 96
    x_scale = log_scale((batches[0] / 1.5, batches[-1] * 1.5))
    x_axis = alt.Axis(values=batches, labelFontSize=10, labelOverlap=True, format="d")
    y_ticks = ticks(domain, 5)
    panels = []
    for index, model in enumerate(models):
        base = alt.Chart(table[table["model"] == model])
        x = alt.X("batch_size:Q", title="batch size" if index + columns >= len(models) else None, scale=x_scale,
                  axis=x_axis)  # fmt: skip
        y = alt.Y("throughput_per_s:Q", title="inputs/s" if index % columns == 0 else None,
                  scale=log_scale(domain), axis=alt.Axis(values=y_ticks, format="~s", labelFontSize=10,
                                                    labels=index % columns == 0))  # fmt: skip
        legend = None if len(series) == 1 else alt.Legend(orient="top", labelLimit=300)
        colour = alt.Color("series:N", title=None, scale=series_colours(series, devices), legend=legend)
        tooltip = ["series", "model", "batch_size", alt.Tooltip("throughput_per_s", format=".4s"), "status"]
        measured = base.transform_filter("datum.is_measured")
        panels.append(
            alt.layer(
                measured.mark_line(strokeWidth=1.4).encode(x=x, y=y, color=colour),
                measured.mark_circle(size=22, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip),
                measured.transform_filter("datum.is_saturation")
                .mark_point(size=90, strokeWidth=1.6, fill=None)
                .encode(x=x, y=y, color=colour, tooltip=tooltip),
                base.transform_filter("!datum.is_measured")
                .mark_point(shape="cross", angle=45, size=45, filled=True, opacity=1)
                .encode(x=x, y="foot:Q", color=colour, tooltip=["series", "model", "batch_size", "ended", "message"]),
            ).properties(width=width, height=height, title=alt.Title(model, fontSize=10.5))
        )
    return alt.concat(*panels, columns=columns, spacing={"row": 6, "column": 8})
