"""From raw samples to answers: latency, throughput, utilisation, saturation and rank correlation.

Tables in, tables out; nothing is read or measured. Quantities of a case are computed with the counts of the same
network at the same batch size and precision, never with those of another batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from src import roofline, schema
from src.report import Estimate
from src.timing import MINIMUM_SAMPLES, median_interval, visits

SAMPLED = ("ok", "noisy", "too_few")
"""Statuses of cases that have samples."""

WORKLOAD_KEY = ("model", "batch_size", "precision")
"""What a count and a measurement must share before they are set against each other."""

HARDWARE_KEY = ("machine", "device", "precision")
"""What a ceiling and a measurement must share."""

SATURATION_SHARE = 0.95
TAIL = 0.95
RESAMPLES = 2000
CONFIDENCE = 0.95


class MissingCountError(LookupError):
    """Measured cases for which no count was given; the message names them."""


def latencies(samples: pd.DataFrame, outcomes: pd.DataFrame, phase: str = "inference") -> pd.DataFrame:
    """One row per case of a machine: the median of its samples without warm-ups, its interval and its tail.

    ``samples`` and ``outcomes`` have the columns of `schema.SAMPLES` and `schema.OUTCOMES`; ``phase`` is one of
    `schema.PHASES`. Adds ``n``, ``latency_s`` (median), ``latency_low_s`` and ``latency_high_s`` (95 % bootstrap
    interval, which draws visits of the sweep before samples), ``latency_p95_s`` (the smallest sample that 95 % of them
    do not exceed: the slowest, if there are fewer than 20) and ``host_latency_s``. A case
    without samples keeps its row, with its status, and has no latency.

    Fewer than five samples support no interval of their own: such a case borrows a relative interval that is as wide as
    95 % of those on the same device, and at least spans its samples (``has_own_interval`` is False).
    """
    sweep = "inference" if phase == "inference" else "training"
    key = list(schema.CASE_COLUMNS)
    kept = samples[(samples["phase"] == phase) & ~samples["is_warmup"].astype(bool)]
    summary = [dict(zip(key, case, strict=True)) | _summary(group) for case, group in kept.groupby(key, sort=False)]
    wanted = [*key, "status", "message", "peak_memory_byte", "memory_kind", "power_w", "is_busy", "is_throttled"]
    ended = outcomes.loc[outcomes["sweep"] == sweep, wanted]
    columns = [*key, *_summary(kept.iloc[:0])]
    table = ended.merge(pd.DataFrame(summary, columns=columns), on=key, how="outer", validate="one_to_one")
    table = table.astype({column: float for column in columns if column.endswith("_s")})
    table["n"] = table["n"].fillna(0).astype(int)
    # A run that was killed leaves samples without an outcome: nothing vouches for their interval.
    interrupted = np.where(table["n"] < MINIMUM_SAMPLES, "too_few", "noisy")
    table["status"] = table["status"].where(table["status"].notna(), interrupted)
    unusable = ~table["status"].isin(SAMPLED)
    table.loc[unusable, [column for column in columns if column.endswith("_s")]] = np.nan
    table.loc[unusable, "n"] = 0
    return _borrow_intervals(table).assign(phase=phase)


def _summary(group: pd.DataFrame) -> dict[str, float]:
    if group.empty:
        return dict.fromkeys(
            ("n", "latency_s", "latency_low_s", "latency_high_s", "latency_p95_s", "host_latency_s"), np.nan
        )
    group = group.sort_values("index")
    values = group["latency_s"].to_numpy(float)
    low, high = median_interval(values, visits(group["index"].to_numpy()), CONFIDENCE)
    host = group["host_latency_s"].to_numpy(float, na_value=np.nan)
    return {
        "n": len(values),
        "latency_s": float(np.median(values)),
        "latency_low_s": low,
        "latency_high_s": high,
        "latency_p95_s": float(np.quantile(values, TAIL, method="inverted_cdf")),
        "host_latency_s": float(np.median(host)),
    }


def _borrow_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Intervals of cases with too few samples, as wide as 95 % of the others on the same device are at most."""
    own = table["n"] >= MINIMUM_SAMPLES
    reach = np.maximum(table["latency_high_s"] / table["latency_s"], table["latency_s"] / table["latency_low_s"])
    usual = reach[own].groupby(table["device"][own]).quantile(CONFIDENCE)
    widest = table["device"].map(usual).fillna(reach[own].quantile(CONFIDENCE))
    borrowed = table["latency_s"].notna() & ~own & widest.notna()
    low = np.minimum(table["latency_low_s"], table["latency_s"] / widest)
    high = np.maximum(table["latency_high_s"], table["latency_s"] * widest)
    return table.assign(
        latency_low_s=table["latency_low_s"].where(~borrowed, low),
        latency_high_s=table["latency_high_s"].where(~borrowed, high),
        has_own_interval=own,
    )


def performance(latency: pd.DataFrame, counts: pd.DataFrame, ceilings: pd.DataFrame) -> pd.DataFrame:
    """Each case's latency set against what it asked for and what its hardware can do.

    ``latency`` is `latencies` with a column ``machine``. ``counts`` has one row per `WORKLOAD_KEY` with ``flop``,
    ``param_count``, ``activation_count``, ``bytes_min`` and ``bytes_eager``. ``ceilings`` has one row per
    `HARDWARE_KEY` with ``achievable_flop_per_s``, ``achievable_byte_per_s`` and, where a datasheet is known,
    ``peak_flop_per_s`` (else NaN).

    Adds ``throughput_per_s`` (inputs/s), ``latency_per_input_s``, ``achieved_flop_per_s`` (model FLOPs / median
    latency), the two arithmetic intensities and what the achievable roof allows at each, ``utilisation`` (achieved /
    attainable at eager intensity), ``utilisation_min`` (at minimum-bytes intensity), ``mfu`` (achieved / datasheet
    peak) and ``roof_latency_s`` (the time below which the case can't fall: the roof at minimum bytes).
    Raises `MissingCountError` if a case has no count.
    """
    table = latency.merge(counts, on=list(WORKLOAD_KEY), how="left", validate="many_to_one", indicator="_counted")
    missing = table.loc[table.pop("_counted") != "both", list(WORKLOAD_KEY)].drop_duplicates()
    if not missing.empty:
        names = "; ".join(f"{model}, batch {batch}, {precision}" for model, batch, precision in missing.to_numpy())
        raise MissingCountError(f"no counts for: {names}")
    table = table.merge(ceilings, on=list(HARDWARE_KEY), how="left", validate="many_to_one")
    table["throughput_per_s"] = table["batch_size"] / table["latency_s"]
    table["latency_per_input_s"] = table["latency_s"] / table["batch_size"]
    table["achieved_flop_per_s"] = table["flop"] / table["latency_s"]
    # Not `roofline.attainable_flop_per_s`, which refuses the NaN of a precision whose ceiling wasn't measured.
    for traffic in ("eager", "min"):
        table[f"intensity_{traffic}"] = table["flop"] / table[f"bytes_{traffic}"]
        table[f"attainable_{traffic}_flop_per_s"] = np.minimum(
            table["achievable_flop_per_s"], table["achievable_byte_per_s"] * table[f"intensity_{traffic}"]
        )
    table["utilisation"] = table["achieved_flop_per_s"] / table["attainable_eager_flop_per_s"]
    table["utilisation_min"] = table["achieved_flop_per_s"] / table["attainable_min_flop_per_s"]
    table["mfu"] = table["achieved_flop_per_s"] / table["peak_flop_per_s"]
    table["roof_latency_s"] = np.maximum(
        table["flop"] / table["achievable_flop_per_s"], table["bytes_min"] / table["achievable_byte_per_s"]
    )
    return table


def above_roof(table: pd.DataFrame) -> list[str]:
    """Names of the points that lie above the achievable roof, each with what it reached and what the roof allows.

    The roof is taken at minimum-bytes intensity, the only one that no cache can lift a network over, and a point
    counts as above it if its whole interval does. ``table`` is that of `performance`.
    """
    beyond = table[table["latency_high_s"] < table["roof_latency_s"]]
    return [
        f"{row.model} at batch {row.batch_size}, {row.precision} on {row.machine} ({row.device}): "
        f"{row.achieved_flop_per_s:.4g} FLOP/s, roof {row.attainable_min_flop_per_s:.4g} FLOP/s"
        for row in beyond.itertuples()
    ]


def estimate(row: Mapping[str, float] | pd.Series, quantity: str = "latency_s") -> Estimate:
    """A case's ``latency_s``, ``latency_per_input_s``, ``throughput_per_s``, ``utilisation`` ... with its interval.

    The interval is that of the latency, carried over: all of these are the latency times or over a constant.
    """
    value, latency = float(row[quantity]), float(row["latency_s"])
    ends = (float(row["latency_low_s"]) / latency, float(row["latency_high_s"]) / latency)
    if quantity.startswith("latency"):
        return Estimate(value, value * ends[0], value * ends[1])
    return Estimate(value, value / ends[1], value / ends[0])


def saturation(table: pd.DataFrame, by: Sequence[str] = ("machine", "device", "precision", "model")) -> pd.DataFrame:
    """Per network and device, the smallest batch that reaches 95 % of the best throughput measured.

    ``is_rising`` is True where that is the largest batch measured: throughput may go on growing beyond it.
    """
    rows = []
    for key, group in table[table["throughput_per_s"].notna()].groupby(list(by), sort=False):
        best = group["throughput_per_s"].max()
        enough = group[group["throughput_per_s"] >= SATURATION_SHARE * best]
        chosen = enough.loc[enough["batch_size"].idxmin()]
        rows.append(
            dict(zip(by, key, strict=True))
            | {
                "saturation_batch_size": int(chosen["batch_size"]),
                "saturation_throughput_per_s": float(chosen["throughput_per_s"]),
                "best_throughput_per_s": float(best),
                "largest_batch_size": int(group["batch_size"].max()),
                "is_rising": bool(chosen["batch_size"] == group["batch_size"].max()),
            }
        )
    names = ("saturation_batch_size", "saturation_throughput_per_s", "best_throughput_per_s", "largest_batch_size")
    return pd.DataFrame(rows, columns=[*by, *names, "is_rising"])


def rank_correlations(
    table: pd.DataFrame, variables: Iterable[str], by: str = "batch_size", resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Spearman's and Kendall's rank correlation of each pair of columns, apart for each value of ``by``.

    ``table`` has one row per network and value of ``by``. A pair uses the networks that have both values, ``n`` of
    them; with fewer than three, or one column constant, there is no correlation (NaN). The intervals are 95 %
    percentile bootstrap intervals over networks: they tell how much the answer hangs on which networks were chosen.
    Kendall's is tau-b.
    """
    variables = list(variables)
    rows = []
    for value, group in table.groupby(by):
        for i, left in enumerate(variables):
            for right in variables[i + 1 :]:
                x, y = group[[left, right]].dropna().to_numpy(float).T
                rows.append({by: value, "left": left, "right": right} | _correlate(x, y, resamples))
    names = [f"{name}{end}" for name in ("spearman", "kendall") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[by, "left", "right", "n", *names])


def _correlate(x: np.ndarray, y: np.ndarray, resamples: int) -> dict[str, float]:
    result: dict[str, float] = {"n": len(x)}
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return result
    result["spearman"] = float(stats.spearmanr(x, y).statistic)
    result["kendall"] = float(stats.kendalltau(x, y).statistic)
    drawn = np.random.default_rng(0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples).astype(float)
    for name, values in (("spearman", _spearman(x, y, drawn)), ("kendall", _kendall(x, y, drawn))):
        tail = 50 * (1 - CONFIDENCE)
        low, high = np.nanpercentile(values, [tail, 100 - tail])
        result |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return result


def _spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation in each resample; ``weights`` (resamples, n) is how often each network was drawn."""

    def ranks(values: np.ndarray) -> np.ndarray:
        # The average rank of a tied group lies half its size above all that are smaller.
        below = (values[:, None] < values[None, :]) + 0.5 * (values[:, None] == values[None, :])
        return weights @ below

    total = weights.sum(axis=1, keepdims=True)
    rx, ry = ranks(x), ranks(y)
    dx, dy = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in (rx, ry))
    spread = np.sqrt((weights * dx**2).sum(axis=1) * (weights * dy**2).sum(axis=1))
    return _ratio((weights * dx * dy).sum(axis=1), spread)


def _kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b in each resample: pairs in order less pairs out of order, over the pairs that aren't tied."""
    sx, sy = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])

    def pairs(matrix: np.ndarray) -> np.ndarray:
        return ((weights @ matrix) * weights).sum(axis=1)

    return _ratio(pairs(sx * sy), np.sqrt(pairs(np.abs(sx)) * pairs(np.abs(sy))))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN for a resample in which one variable is constant."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 1e-12)


def is_memory_bound(table: pd.DataFrame, traffic: str = "eager") -> pd.Series:
    """True where the achievable roof's slope is what limits the case at that intensity; ``traffic`` is eager or min."""
    ridge = roofline.ridge_point(
        table["achievable_flop_per_s"].to_numpy(float), table["achievable_byte_per_s"].to_numpy(float)
    )
    return table[f"intensity_{traffic}"] < ridge
