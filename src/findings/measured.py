"""What chapters 3 and 4 have in common: every machine's inference cases, joined with counts and ceilings.

A `Series` is one device of one machine at one precision. Its cases are those in eager mode, in the memory format that
most of its cases have; other formats and modes are kept apart as `Measured.variants`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from src import ceilings, chips, metrics, predict, report, store, workload
from src.models import UnknownModelError
from src.report import Text
from src.schema import PRECISION_BYTES
from src.trace import UntraceableError

LANGUAGE = "language"
DEVICE_NAMES = {"cpu": "CPU", "cuda": "GPU", "mps": "GPU"}
STATUS_WORDS = {
    "out_of_memory": "out of memory", "over_budget": "over its time budget", "unsupported": "unsupported",
    "failed": "failed",
}  # fmt: skip
"""How prose and charts name the ways in which a case ends without a latency."""


@dataclass(frozen=True, order=True)
class Series:
    """One device of one machine at one precision.

    ``rank`` orders CPUs before accelerators; ``hardware`` names the device and ``label`` the series, with its
    precision where several were measured; ``chip`` is its name in the chip table, or "" if it isn't there.
    """

    rank: int
    machine: str
    device: str
    precision: str
    hardware: str
    label: str
    chip: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.machine, self.device, self.precision

    @property
    def is_accelerator(self) -> bool:
        return self.device != "cpu"


@dataclass(frozen=True)
class Measured:
    """Tables of all series together.

    ``cases`` is `metrics.performance`, one row per series, network and batch size, with ``series`` (the label) and
    ``family``, ``unit`` of the network. ``variants`` has the same columns for other memory formats and compile modes.
    ``ceilings`` has one row per series. ``hardware`` gives what `predict` needs. ``uncounted`` names networks that
    were measured but can't be counted here.
    """

    series: tuple[Series, ...]
    cases: pd.DataFrame
    variants: pd.DataFrame
    ceilings: pd.DataFrame
    hardware: Mapping[tuple[str, str, str], predict.Hardware]
    uncounted: tuple[str, ...]

    def of(self, series: Series) -> pd.DataFrame:
        """The cases of one series."""
        cases = self.cases
        return cases[(cases["machine"] == series.machine) & (cases["device"] == series.device)
                     & (cases["precision"] == series.precision)]  # fmt: skip

    def at(self, precision: str) -> Measured:
        """The same with the series of one precision alone."""
        kept = tuple(replace(one, label=one.hardware) for one in self.series if one.precision == precision)
        labels = {one.label: one.hardware for one in self.series}
        frames = {
            name: frame[frame["precision"] == precision].assign(series=lambda f: f["series"].map(labels))
            for name, frame in (("cases", self.cases), ("variants", self.variants), ("ceilings", self.ceilings))
        }
        return replace(self, series=kept, **frames)

    @property
    def common_precision(self) -> str:
        """The precision at which most series were measured; of equals, the widest."""
        precisions = [one.precision for one in self.series]
        return max(PRECISION_BYTES, key=lambda name: (precisions.count(name), PRECISION_BYTES[name]))


class NothingMeasured(RuntimeError):
    """No machine has inference data; the message says how to measure one."""


def load(root: Path | None = None) -> Measured:
    """Everything about inference in ``data/machines/`` (or ``root``). Raises `NothingMeasured` if there is nothing."""
    latencies, rows, hardware, environments = [], [], {}, {}
    for name in store.machines(root):
        machine = store.load(name, root)
        latency = metrics.latencies(machine.samples, machine.outcomes)
        if latency.empty:
            continue
        environments[name] = machine.environment
        latencies.append(latency.assign(machine=name))
        for row, device in roofs(machine, sorted(set(latency["device"])), set(latency["precision"])):
            rows.append(row)
            hardware[row["machine"], row["device"], row["precision"]] = device
    if not latencies:
        raise NothingMeasured("data/machines/ holds no inference measurements; `make measure` makes some")
    latency = pd.concat(latencies, ignore_index=True)
    counts, uncounted = _counts(latency)
    counted = latency.merge(counts[list(metrics.WORKLOAD_KEY)], on=list(metrics.WORKLOAD_KEY))
    ceiling = pd.DataFrame(rows)
    cases = metrics.performance(counted, counts, ceiling)
    series = _series(cases, environments, ceiling)
    labels = {one.key: one.label for one in series}
    cases["series"] = [labels[key] for key in zip(cases["machine"], cases["device"], cases["precision"], strict=True)]
    cases = _ordered(cases, series)
    main = _is_main(cases)
    ceiling["series"] = [
        labels.get(key) for key in zip(ceiling["machine"], ceiling["device"], ceiling["precision"], strict=True)
    ]
    return Measured(
        series, cases[main].reset_index(drop=True), cases[~main].reset_index(drop=True),
        ceiling[ceiling["series"].notna()].reset_index(drop=True), hardware, uncounted,
    )  # fmt: skip


def _ordered(cases: pd.DataFrame, series: Iterable[Series]) -> pd.DataFrame:
    """Cases in the order of the series, then of FLOPs at batch 1, so that every chart lists networks alike."""
    position = {one.key: index for index, one in enumerate(series)}
    order = [position[key] for key in zip(cases["machine"], cases["device"], cases["precision"], strict=True)]
    size = (cases["flop"] / cases["batch_size"]).groupby(cases["model"]).transform("min")
    sorted_cases = cases.assign(_series=order, _size=size).sort_values(["_series", "_size", "model", "batch_size"])
    return sorted_cases.drop(columns=["_series", "_size"])


def _is_main(cases: pd.DataFrame) -> pd.Series:
    """True for eager cases in the memory format that most of the series' eager cases with a latency have."""
    eager = cases[cases["compile_mode"] == "eager"]
    sizes = eager.groupby([*metrics.HARDWARE_KEY, "memory_format"])["latency_s"].count().reset_index(name="count")
    # Of equals, "contiguous": it is torch's default.
    best = sizes.sort_values(["count", "memory_format"], ascending=[True, False]).groupby(list(metrics.HARDWARE_KEY))
    formats = best["memory_format"].last()
    keys = pd.MultiIndex.from_frame(cases[list(metrics.HARDWARE_KEY)])
    return (cases["memory_format"].to_numpy() == formats.reindex(keys).to_numpy()) & (cases["compile_mode"] == "eager")


def _counts(latency: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Counts of each network, batch size and precision measured, and the networks that can't be counted here."""
    rows, uncounted = [], []
    wanted = latency[list(metrics.WORKLOAD_KEY)].drop_duplicates()
    for model, batch_size, precision in wanted.itertuples(index=False, name=None):
        try:
            counted = workload.count(model, int(batch_size), precision)
        except (UnknownModelError, UntraceableError, ValueError):
            uncounted.append(model)
            continue
        names = ("flop", "param_count", "activation_count", "bytes_min", "bytes_eager", "family", "unit")
        rows.append(
            {"model": model, "batch_size": batch_size, "precision": precision, "operation_count": len(counted.forward)}
            | {name: getattr(counted, name) for name in names}
        )
    return pd.DataFrame(rows), tuple(dict.fromkeys(uncounted))


def roofs(
    machine: store.Measured, devices: Iterable[str], precisions: set[str]
) -> Iterable[tuple[dict, predict.Hardware]]:
    """Per device and precision: a row of ceilings, and the hardware as `predict` takes it."""
    best = ceilings.achievable(machine.ceilings).set_index(["device", "precision"])
    curves, overheads = ceilings.bandwidth_curve(machine.ceilings), ceilings.overhead(machine.ceilings)
    for device in devices:
        try:
            byte_per_s = ceilings.achievable_byte_per_s(machine.ceilings, machine.environment, device)
        except ValueError:
            continue
        curve = curves[curves["device"] == device]
        own = overheads.loc[(overheads["device"] == device) & ~overheads["kernel"].str.contains("wait"), "overhead_s"]
        overhead = float(own.min()) if len(own) else 0.0
        chip = chip_of(machine.environment, device)
        for precision in sorted(precisions & set(best.loc[device].index if device in best.index else ())):
            roof = best.loc[(device, precision)]
            flop_per_s = float(roof["achievable_flop_per_s"])
            row = {
                "machine": machine.name, "device": device, "precision": precision,
                "achievable_flop_per_s": flop_per_s, "achievable_kernel": roof["kernel"],
                "achievable_byte_per_s": byte_per_s, "overhead_s": overhead, "chip": chip or "",
                "is_hidden": device == "cpu" and chips.match(str(machine.environment["processor"])) is None,
                **datasheet(chip, precision, machine.environment, device),
            }  # fmt: skip
            hardware = predict.Hardware(flop_per_s, predict.bandwidth_of_curve(curve), overhead, device != "cpu")
            yield row, hardware


def chip_of(environment: Mapping[str, object], device: str) -> str | None:
    """The chip table's name for a device of a machine, or None if the table doesn't have it.

    Where a hypervisor hides the processor's model, its vendor, family and model number stand in.
    """
    if device != "cpu":
        return chips.match(str(environment.get("accelerator") or ""))
    family = "{processor_vendor} family {processor_family} model {processor_model}".format_map(dict(environment))
    return chips.match(str(environment["processor"])) or chips.match(family)


def datasheet(chip: str | None, precision: str, environment: Mapping[str, object], device: str) -> dict[str, float]:
    """``peak_flop_per_s`` and ``peak_byte_per_s`` of a device as its datasheet gives them; NaN where unknown.

    A machine that sees some of a processor's cores has their share of its peak, at the clock that the machine was
    seen to run at (a datasheet's base clock is lower than what few busy cores sustain); what share of the memory
    bandwidth it may use is not known. Of several paths at a precision the fastest is taken, unless its accumulator is
    narrower than fp32.
    """
    unknown = {"peak_flop_per_s": np.nan, "peak_byte_per_s": np.nan}
    found = [row for row in chips.find(chip) if row["precision"] == precision] if chip else []
    found = [row for row in found if row["accumulator"] != "fp16"] or found
    if not found:
        return unknown
    if device != "cpu":
        row = max(found, key=lambda row: row["peak_flop_per_s"])
        return {"peak_flop_per_s": row["peak_flop_per_s"], "peak_byte_per_s": row["bandwidth_byte_per_s"] or np.nan}
    cores = environment.get("physical_cores") or environment["logical_cores"]
    clock = environment.get("clock_estimated_hz") or environment.get("clock_seen_hz")
    try:
        return unknown | {"peak_flop_per_s": max(chips.machine_peak(row, float(cores), clock) for row in found)}
    except ValueError:
        return unknown


@lru_cache(maxsize=512)
def operations(model: str, batch_size: int, precision: str) -> pd.DataFrame:
    """A network's operations in order, with what `predict.operation_times` needs and their ``layer_type``."""
    names = ("name", "layer_type", "flop", "bytes_read", "bytes_written", "param_bytes")
    counted = workload.count(model, batch_size, precision).forward
    return pd.DataFrame({name: [getattr(operation, name) for operation in counted] for name in names})


def shown_batches(cases: pd.DataFrame) -> list[int]:
    """The batch sizes of the labelled figures: 1, 64 and 256 where measured, else the least, middle and largest."""
    measured = sorted(int(size) for size in set(cases.loc[cases["latency_s"].notna(), "batch_size"]))
    usual = [size for size in (1, 64, 256) if size in measured]
    if len(usual) >= min(2, len(measured)):
        return usual
    return sorted({measured[0], measured[len(measured) // 2], measured[-1]})


def _series(cases: pd.DataFrame, environments: Mapping[str, dict], ceiling: pd.DataFrame) -> tuple[Series, ...]:
    keys = list(dict.fromkeys(zip(cases["machine"], cases["device"], cases["precision"], strict=True)))
    names = {key: hardware_name(environments[key[0]], key[1]) for key in keys}
    known = {tuple(row): chip for *row, chip in ceiling[[*metrics.HARDWARE_KEY, "chip"]].itertuples(index=False)}
    several = len({key[2] for key in keys}) > 1
    listed = []
    for key in keys:
        machine, device, precision = key
        label = names[key]
        # Two machines with the same processor are told apart by their folders' names.
        if any(names[other] == label and other[0] != machine for other in keys):
            label += f" [{machine}]"
        full = f"{label}, {precision}" if several else label
        listed.append(Series(int(device != "cpu"), machine, device, precision, label, full, known.get(key, "")))
    return tuple(
        sorted(listed, key=lambda one: (one.rank, one.machine, -PRECISION_BYTES[one.precision], one.precision))
    )


def hardware_name(environment: Mapping[str, object], device: str) -> str:
    """What prose and charts call a device: an accelerator as its driver names it, a processor with its cores."""
    if device != "cpu":
        return str(environment.get("accelerator") or "accelerator")
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*$|\b\d+-Core\b", "", str(environment["processor"]))
    threads = environment["threads"]
    return f"{' '.join(name.split())} CPU ({threads} thread{'s' if threads != 1 else ''})"


def outcome_sentence(cases: pd.DataFrame) -> Text:
    """How many cases there are and how they ended, with every case that has no latency named."""
    usable = cases["latency_s"].notna()
    words = [f"Of {report.plural(len(cases), 'case')}, {report.number(int((cases['status'] == 'ok').sum()))} reached "
             "the interval aimed at"]  # fmt: skip
    for status, phrase in (("noisy", "stayed noisy"), ("too_few", "allowed fewer than five samples")):
        if count := int((cases["status"] == status).sum()):
            words.append(f"{report.number(count)} {phrase}")
    missing, absent = missing_cases(cases), absent_cases(cases)
    if usable.all():
        return Text(
            f"{report.listing(words)}; {'none is missing' if absent == 'none' else f'not attempted: {absent}'}."
        )
    words.append(f"{report.number(int((~usable).sum()))} {'has' if (~usable).sum() == 1 else 'have'} no latency")
    more = "" if absent == "none" else f". Not attempted: {absent}"
    return Text(f"{report.listing(words)}: {missing}{more}.")


def absent_cases(cases: pd.DataFrame) -> Text:
    """The batch sizes of a series that were measured for other networks, but never begun for these."""
    parts = []
    for series, group in cases.groupby("series", sort=False):
        begun = set(zip(group["model"], group["batch_size"], strict=True))
        models = list(dict.fromkeys(group["model"]))
        for batch in sorted(set(group["batch_size"])):
            lacking = [model for model in models if (model, batch) not in begun]
            if lacking:
                parts.append(f"{report.listing(lacking)} at batch {batch} on the {series}")
    return report.listing(parts)


def missing_cases(cases: pd.DataFrame) -> Text:
    """The cases without a latency, by reason and batch size: "out of memory: vgg16 at batch 256 on X"."""
    parts = []
    for (series, status), group in cases[cases["latency_s"].isna()].groupby(["series", "status"], sort=False):
        batches = [f"{report.listing(some['model'])} at batch {batch}" for batch, some in group.groupby("batch_size")]
        parts.append(f"{STATUS_WORDS.get(status, status)} on the {series}: {report.listing(batches)}")
    return Text("; ".join(parts) or "none")


def accelerator_sentence(measured: Measured) -> Text:
    """Which devices were measured, and plainly that no accelerator was where none was."""
    processors = list(dict.fromkeys(one.hardware for one in measured.series if not one.is_accelerator))
    accelerators = list(dict.fromkeys(one.hardware for one in measured.series if one.is_accelerator))
    if not accelerators:
        return Text(
            f"The data come from {report.listing(f'the {name}' for name in processors)} alone. No accelerator was "
            "measured, so nothing here says how these networks run on a GPU; measuring on a machine that has one "
            "adds it to every figure and sentence."
        )
    if not processors:
        return Text(
            f"The data come from {report.listing(f'the {name}' for name in accelerators)}; no CPU was measured."
        )
    return Text(
        f"The data come from {report.listing(f'the {name}' for name in processors)} and, as "
        f"{'an accelerator' if len(accelerators) == 1 else 'accelerators'}, "
        f"{report.listing(f'the {name}' for name in accelerators)}."
    )
