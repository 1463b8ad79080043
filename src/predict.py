"""Latency from the roofline of each operation, how far to trust that, and measured time split into its causes.

The prediction fits nothing: an operation takes as long as the slower of its arithmetic at the achievable FLOP/s and
its eager traffic at the bandwidth achievable from where its data can be (Williams, Waterman and Patterson, 2009), a
network the sum of its operations, plus the dispatch of each. `leave_one_out` fits a few numbers to measured networks
and is judged on the network that it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from src.schema import LAYER_TYPES

Bandwidth = Callable[[np.ndarray], np.ndarray]
"""From working sets in byte to the achievable bandwidth in byte/s at each."""

COMPUTE, MEMORY, DISPATCH = "compute-bound at the roof", "memory-bound at the roof", "dispatch and launch"
LOST, REST = "kernels below their roof", "rest"
CAUSES = (COMPUTE, MEMORY, DISPATCH, LOST, REST)
"""What measured time is split into, in the order in which it is given out."""


@dataclass(frozen=True)
class Hardware:
    """What an operation may count on: FLOP/s, bandwidth by working set, and the cost of handing over one operation.

    ``overlaps`` is True where the device computes while the host prepares the next operation, as accelerators do.
    """

    achievable_flop_per_s: float
    bandwidth: Bandwidth
    overhead_s: float
    overlaps: bool


def constant_bandwidth(byte_per_s: float) -> Bandwidth:
    """The same bandwidth, in byte/s, whatever the working set."""
    return lambda working_set_byte: np.full(np.shape(working_set_byte), byte_per_s, dtype=float)


def bandwidth_of_curve(curve: pd.DataFrame) -> Bandwidth:
    """The best measured bandwidth by working set, from rows with ``working_set_byte`` and ``bandwidth_byte_per_s``.

    Interpolated on logarithmic axes. A smaller set is never slower than a larger one: where the measurement says so,
    it timed the call rather than the memory. Raises ValueError on an empty curve.
    """
    if curve.empty:
        raise ValueError("a bandwidth curve needs at least one point")
    best = curve.groupby("working_set_byte")["bandwidth_byte_per_s"].max().sort_index()
    sizes = np.log(best.index.to_numpy(float))
    rates = np.log(np.maximum.accumulate(best.to_numpy(float)[::-1])[::-1])

    def bandwidth(working_set_byte: np.ndarray) -> np.ndarray:
        return np.exp(np.interp(np.log(np.maximum(working_set_byte, 1.0)), sizes, rates))

    return bandwidth


def operation_times(operations: pd.DataFrame, hardware: Hardware) -> pd.DataFrame:
    """The least time of each operation at the roof of the memory levels that its data can be in.

    ``operations`` are a whole network's, with ``flop``, ``bytes_read`` and ``bytes_written`` (eager traffic) and
    ``param_bytes`` (the part of what is read that is parameters). Activations were written just before, so they may
    still be in the level that the operation's own data fit in. A parameter was last read one inference ago: it can be
    in no level smaller than all parameters together. Adds ``compute_s``, ``memory_s``, ``roof_s`` (the longer) and
    ``is_compute_bound``.
    """
    moved = (operations["bytes_read"] + operations["bytes_written"]).to_numpy(float)
    parameters = operations["param_bytes"].to_numpy(float)
    compute = operations["flop"].to_numpy(float) / hardware.achievable_flop_per_s
    memory = (moved - parameters) / hardware.bandwidth(moved)
    memory += parameters / hardware.bandwidth(np.maximum(moved, parameters.sum()))
    return operations.assign(
        compute_s=compute, memory_s=memory, roof_s=np.maximum(compute, memory), is_compute_bound=compute >= memory
    )


def components(times: pd.DataFrame) -> dict[str, float]:
    """A network's time at the roof in s, of its compute-bound and its memory-bound operations, and their number."""
    bound = times["is_compute_bound"].to_numpy(bool)
    roof = times["roof_s"].to_numpy(float)
    return {
        "compute_roof_s": math.fsum(roof[bound]),
        "memory_roof_s": math.fsum(roof[~bound]),
        "operation_count": len(times),
    }


def latency_s(parts: Mapping[str, float], hardware: Hardware) -> float:
    """Predicted latency in s from a network's `components`, with nothing fitted.

    Dispatch adds to the work where the host does both, and hides behind it where the device works on by itself.
    """
    roof = parts["compute_roof_s"] + parts["memory_roof_s"]
    dispatch = parts["operation_count"] * hardware.overhead_s
    return max(roof, dispatch) if hardware.overlaps else roof + dispatch


FITTED = ("compute_roof_s", "memory_roof_s", "operation_count")


def leave_one_out(table: pd.DataFrame, columns: Sequence[str] = FITTED, group: str = "model") -> pd.Series:
    """Latency in s of each row, predicted by a fit to the rows of all other networks.

    The fit is latency = sum of column x coefficient with coefficients that are not negative, one per column, least
    squares of the relative error. ``table`` has ``latency_s``, the columns and ``group``; rows are NaN where fewer
    networks than coefficients remain.
    """
    predicted = pd.Series(np.nan, index=table.index)
    for name in table[group].unique():
        held, rest = table[table[group] == name], table[table[group] != name]
        if rest[group].nunique() < len(columns):
            continue
        predicted[held.index] = held[list(columns)].to_numpy(float) @ fit(rest, columns)
    return predicted


def fit(table: pd.DataFrame, columns: Sequence[str] = FITTED) -> np.ndarray:
    """Coefficients, none negative, that minimise the squared relative error of sum(column x coefficient)."""
    latency = table["latency_s"].to_numpy(float)
    design = table[list(columns)].to_numpy(float) / latency[:, None]
    # Columns differ by many orders of magnitude (s and counts).
    scale = np.where((peak := np.abs(design).max(axis=0)) > 0, peak, 1.0)
    return nnls(design / scale, np.ones(len(table)))[0] / scale


def error_factor(predicted: pd.Series, measured: pd.Series) -> pd.Series:
    """How many times a prediction is off, in either direction: 1 is exact, 2 is half or double."""
    return np.exp(np.abs(np.log(predicted / measured)))


def decompose(
    latency: float, times: pd.DataFrame, hardware: Hardware, measured: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Split a measured latency in s into causes that add up to it.

    In this order each cause takes its time from what is left: compute-bound operations at the roof, memory-bound
    operations at the roof, dispatch of every operation (on a device that overlaps, only what the roof time can't
    hide). What then remains was lost to kernels below their roof. With ``measured``, seconds per layer type of the
    same case from an instrumented run, that loss is told apart by layer type, and what no layer type accounts for is
    the rest; without it, it is one part, whose ``layer_type`` is "".

    Rows: ``cause``, ``layer_type``, ``time_s``. ``attrs["is_capped"]`` is True if the roof estimate alone is longer
    than the latency, so that a cause was cut short: caches or fusion spared traffic that the eager model counts.
    """
    parts = components(times)
    left = latency
    rows: list[tuple[str, str, float]] = []

    def take(cause: str, wanted: float, layer_type: str = "") -> None:
        nonlocal left
        given = min(max(wanted, 0.0), left)
        left -= given
        rows.append((cause, layer_type, given))

    roof = parts["compute_roof_s"] + parts["memory_roof_s"]
    take(COMPUTE, parts["compute_roof_s"])
    take(MEMORY, parts["memory_roof_s"])
    dispatch = parts["operation_count"] * hardware.overhead_s
    take(DISPATCH, dispatch - roof if hardware.overlaps else dispatch)
    if measured is None:
        take(LOST, left)
    else:
        for layer_type, lost in _losses(times, hardware, measured, left):
            take(LOST, lost, layer_type)
    rows.append((REST, "", left))
    table = pd.DataFrame(rows, columns=["cause", "layer_type", "time_s"])
    table.attrs["is_capped"] = roof > latency
    return table


def _losses(
    times: pd.DataFrame, hardware: Hardware, measured: Mapping[str, float], left: float
) -> Iterable[tuple[str, float]]:
    """What each layer type took beyond its roof and its dispatch, in s, scaled down to what is left to explain."""
    groups = times.groupby("layer_type")["roof_s"]
    roofs, counts = groups.sum(), groups.size()
    lost = {}
    for layer_type in LAYER_TYPES:
        dispatch = 0.0 if hardware.overlaps else counts.get(layer_type, 0) * hardware.overhead_s
        lost[layer_type] = max(measured.get(layer_type, 0.0) - roofs.get(layer_type, 0.0) - dispatch, 0.0)
    total = math.fsum(lost.values())
    scale = min(1.0, left / total) if total > 0 else 0.0
    return ((layer_type, time * scale) for layer_type, time in lost.items() if time > 0)
