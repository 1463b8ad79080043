"""The figures of the appendix on trust: tidy tables from `src.findings.trust` in, Altair charts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from src import theme

if TYPE_CHECKING:
    import altair as alt

ROW_HEIGHT = 26


def _nothing(words: str) -> alt.Chart:
    """A chart that says that there is nothing to draw."""
    import altair as alt

    text = alt.Chart(pd.DataFrame({"words": [words]})).mark_text(fontSize=12, color=theme.NEUTRAL)
    return text.encode(text="words:N").properties(width=theme.WIDTH, height=60)


def _by_machine(chart: alt.Chart, frame: pd.DataFrame) -> alt.TopLevelMixin:
    """One chart below the other where there are several machines."""
    if frame["machine"].nunique() == 1:
        return chart
    return chart.facet(row={"field": "machine", "type": "nominal", "title": None}).resolve_scale(y="independent")


def bandwidth(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Bandwidth of each kernel with its interval, the C program's as a rule across."""
    import altair as alt

    if frame.empty:
        return _nothing("not compared on any machine")
    base = alt.Chart(frame).transform_calculate(
        gigabytes="datum.bandwidth_byte_per_s / 1e9",
        low="datum.low_byte_per_s / 1e9",
        high="datum.high_byte_per_s / 1e9",
    )
    subject = alt.Y("subject:N", title=None, sort=alt.EncodingSortField("bandwidth_byte_per_s", order="descending"))
    colour = alt.Color(
        "source:N", title=None, scale=alt.Scale(range=[theme.DEVICE_COLOURS["cpu"], theme.BATCH_COLOURS[64]])
    )
    base = base.transform_calculate(source="datum.is_reference ? 'C program' : 'this book'")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("gigabytes:Q", title="Bandwidth in GB/s", scale=alt.Scale(zero=True)), y=subject, color=colour,
        tooltip=["subject:N", alt.Tooltip("gigabytes:Q", format=".2f"), alt.Tooltip("share:Q", format=".1%")],
    )  # fmt: skip
    spans = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=subject, color=colour)
    rule = (
        base.transform_filter("datum.is_reference")
        .mark_rule(strokeDash=[4, 3], color=theme.NEUTRAL)
        .encode(x="gigabytes:Q")
    )
    rows = frame.groupby("machine")["subject"].nunique().max()
    chart = alt.layer(rule, spans, points, data=frame).properties(
        width=theme.WIDTH - 120, height=int(rows) * ROW_HEIGHT
    )
    return _by_machine(chart, frame)


def timers(frame: pd.DataFrame, limit: float) -> alt.TopLevelMixin:
    """Ratio of the two timers' medians per case, with the limit as a band."""
    import altair as alt

    if frame.empty:
        return _nothing("not compared on any machine")
    reach = max(limit * 1.6, (frame[["low", "high"]] - 1).abs().to_numpy().max() * 1.1)
    base = alt.Chart(frame).transform_calculate(least=str(1 - limit), most=str(1 + limit))
    axis = alt.X("ratio:Q", title="Median by this book's loop / by torch.utils.benchmark",
                 scale=alt.Scale(domain=[1 - reach, 1 + reach], zero=False))  # fmt: skip
    case = alt.Y("case:N", title=None, sort=list(frame["case"].unique()))
    band = base.mark_rect(opacity=0.02, color=theme.BOUND_COLOURS["either"]).encode(
        x=alt.X("least:Q"), x2="most:Q"
    )  # fmt: skip
    one = base.mark_rule(strokeDash=[4, 3], color=theme.NEUTRAL).encode(x=alt.datum(1.0))
    spans = base.mark_rule(strokeWidth=2, color=theme.DEVICE_COLOURS["cpu"]).encode(x="low:Q", x2="high:Q", y=case)
    points = base.mark_point(filled=True, size=70, opacity=1, color=theme.DEVICE_COLOURS["cpu"]).encode(
        x=axis, y=case, tooltip=[alt.Tooltip("case:N"), alt.Tooltip("ratio:Q", format=".4f"), alt.Tooltip("pairs:Q")]
    )
    rows = frame.groupby("machine")["case"].nunique().max()
    chart = alt.layer(band, one, spans, points, data=frame).properties(
        width=theme.WIDTH - 120, height=int(rows) * ROW_HEIGHT
    )
    return _by_machine(chart, frame)


def repeats(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Second over first median of each case, against latency, coloured by batch size."""
    import altair as alt

    if frame.empty:
        return _nothing("no machine was measured twice")
    rule = alt.Chart(frame).mark_rule(strokeDash=[4, 3], color=theme.NEUTRAL).encode(y=alt.datum(1.0))
    points = alt.Chart(frame).mark_point(filled=True, size=55, opacity=0.9).encode(
        x=alt.X("first_s:Q", title="Median latency of the first run in s", scale=alt.Scale(type="log")),
        y=alt.Y("ratio:Q", title="Second / first median", scale=alt.Scale(zero=False)),
        color=alt.Color("batch_size:O", title="Batch", scale=theme.scale(theme.BATCH_COLOURS, frame["batch_size"])),
        shape=alt.Shape("busy:N", title="Machine",
                        scale=alt.Scale(domain=["quiet", "busy"], range=["circle", "cross"])),
        tooltip=[alt.Tooltip("model:N"), alt.Tooltip("batch_size:O"), alt.Tooltip("ratio:Q", format=".3f")],
    ).transform_calculate(busy="datum.is_busy ? 'busy' : 'quiet'")  # fmt: skip
    chart = alt.layer(rule, points, data=frame).properties(width=theme.WIDTH, height=280)
    return _by_machine(chart, frame)


def drift(frame: pd.DataFrame, limit: float) -> alt.TopLevelMixin:
    """The reference's median over time, with the limit as rules."""
    import altair as alt

    if frame.empty:
        return _nothing("the reference has not been timed")
    base = alt.Chart(frame)
    rules = [
        base.mark_rule(strokeDash=[4, 3], color=theme.NEUTRAL).encode(y=alt.datum(value))
        for value in (1 - limit, 1 + limit)
    ]
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("hours:Q", title="Hours since the first timing"),
        y=alt.Y("relative:Q", title="Reference, relative to its median", scale=alt.Scale(zero=False)),
        color=alt.Color("device:N", title="Device", scale=theme.scale(theme.DEVICE_COLOURS, frame["device"])),
        shape=alt.Shape("position:N", title="Position in the run", sort=["start", "middle", "end"]),
        tooltip=[alt.Tooltip("position:N"), alt.Tooltip("run:O"), alt.Tooltip("relative:Q", format=".3f")],
    )
    return _by_machine(alt.layer(*rules, points, data=frame).properties(width=theme.WIDTH, height=220), frame)
