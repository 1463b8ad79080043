"""Chapter 5's tables and sentences: forward against backward, where a step's time goes, and what it holds in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from src import breakdown, ceilings, metrics, models, predict, report, schema, store, timing, workload
from src.breakdown import OUTSIDE, PHASES
from src.findings.measured import hardware_name, roofs
from src.report import Estimate, Text

GATHERED = "smaller slices"
SMALL_SHARE = 0.04
"""Slices of a pie below this share are gathered into one."""

QUANTITIES = {"latency": "latency", "flop": "FLOPs", "memory": "memory"}
COMPONENTS = ("parameters", "optimiser state", "activations", "gradients", "input and buffers")
"""What memory holds at the moment when a training step holds most."""

SGD_PASSES = 5
"""Times that a step of SGD with momentum moves a parameter's bytes at the least: it reads parameter, gradient and
momentum, and writes parameter and momentum."""

RESAMPLES = 2000
NEAR_ROOF = 0.5
"""From this share of an achievable rate on, prose says that the rate sets the time."""

KNOWN_SHARE = 0.01
"""A layer type below this share of a pass's time is left out of rates: its time is mostly that of calling it."""


class NothingMeasured(RuntimeError):
    """No machine has what a section needs; the message says how to measure it."""


@dataclass(frozen=True)
class Series:
    """One device of one machine, at one precision and for training in eager mode."""

    machine: str
    device: str
    precision: str
    label: str


@dataclass(frozen=True)
class Found:
    """What the chapter shows (tidy tables, one a figure) and says (named sentences).

    ``ratios`` has a row per series and network of the training sweep; ``causes`` what each layer type adds to the
    ratio of latencies beyond that of FLOPs; ``slices`` a row per series, network, phase, layer type and quantity;
    ``points`` the rates of layer types and ``roof_lines`` the roofs above them; ``kinds`` the layer types over all
    networks of the first series; ``held`` memory by component.
    """

    ratios: pd.DataFrame
    causes: pd.DataFrame
    slices: pd.DataFrame
    points: pd.DataFrame
    roof_lines: pd.DataFrame
    kinds: pd.DataFrame
    held: pd.DataFrame
    say: SimpleNamespace


def find(root: Path | None = None) -> Found:
    """Everything that chapter 5 shows and says, from the machines in ``root`` (default: ``data/machines/``)."""
    steps, whole, hardware, roof_lines = [], [], {}, []
    series = _series(root)
    for one in series:
        machine = store.load(one.machine, root)
        row = next(iter(roofs(machine, [one.device], {one.precision})), None)
        if row is not None:
            hardware[one.label] = row[1]
            roof_lines.append(row[0] | {"series": one.label, "cache_byte_per_s": _cache_bandwidth(machine, one.device)})
        steps.append(step_table(machine, one, hardware.get(one.label)))
        whole += [(one, found) for found in breakdowns(machine, one)]
    ratios = pd.concat(steps, ignore_index=True) if steps else pd.DataFrame()
    if ratios.empty:
        raise NothingMeasured("data/machines/ holds no training steps; `make measure` times some")
    if not whole:
        raise NothingMeasured("data/machines/ holds no breakdown; `make measure OPTIONS='--parts breakdown'` makes one")
    roof_table = pd.DataFrame(roof_lines)
    slices = slice_table(whole)
    causes = cause_table(whole)
    points = point_table(whole)
    kinds = kind_table(slices, points, whole[0][0].label, roof_table)
    held = held_table(ratios)
    return Found(
        ratios, causes, slices, points, roof_table, kinds, held,
        SimpleNamespace(
            **_introduction(series, ratios, whole),
            **_ratio_sentences(ratios),
            **_cause_sentences(causes, ratios),
            **_optimizer_sentences(ratios, roof_table),
            **_accounting_sentences(whole),
            **_slice_sentences(slices),
            **_kind_sentences(kinds, points, roof_table, whole[0][0].label),
            **_memory_sentences(ratios, held),
        ),
    )  # fmt: skip


# What was measured


def _series(root: Path | None) -> list[Series]:
    """Devices with training data, CPUs first; of several precisions fp32 if it is there, else the widest."""
    found = []
    for name in store.machines(root):
        machine = store.load(name, root)
        trained = machine.outcomes[machine.outcomes["sweep"].isin(["training", "breakdown"])]
        for device in sorted(set(trained["device"]), key=schema.DEVICES.index):
            measured = set(trained.loc[trained["device"] == device, "precision"])
            precision = "fp32" if "fp32" in measured else max(measured, key=lambda p: schema.PRECISION_BYTES[p])
            found.append(Series(name, device, precision, hardware_name(machine.environment, device)))
    labels = [one.label for one in found]
    told_apart = [
        Series(one.machine, one.device, one.precision, f"{one.label} [{one.machine}]")
        if labels.count(one.label) > 1 else one
        for one in found
    ]  # fmt: skip
    return sorted(told_apart, key=lambda one: (one.device != "cpu", one.machine))


def _of(frame: pd.DataFrame, one: Series, sweep: str) -> pd.DataFrame:
    """The eager, contiguous rows of a series and sweep."""
    return frame[
        (frame["sweep"] == sweep) & (frame["device"] == one.device) & (frame["precision"] == one.precision)
        & (frame["compile_mode"] == "eager") & (frame["memory_format"] == "contiguous")
    ]  # fmt: skip


def _cache_bandwidth(machine: store.Measured, device: str) -> float:
    """The highest bandwidth of any working set, in byte/s: that of the fastest cache."""
    curve = ceilings.bandwidth_curve(machine.ceilings)
    return float(curve.loc[curve["device"] == device, "bandwidth_byte_per_s"].max())


def counted(model: str, batch_size: int, precision: str) -> workload.Workload:
    """The counts of a training step."""
    return workload.count(model, batch_size, precision, backward=True)


@lru_cache(maxsize=128)
def is_countable(model: str) -> bool:
    """Whether a network that was measured elsewhere is known here: a reader's own may not be."""
    try:
        workload.count(model, 1, backward=True)
    except (models.UnknownModelError, workload.UntraceableError, ValueError):
        return False
    return True


def step_table(machine: store.Measured, one: Series, hardware: predict.Hardware | None) -> pd.DataFrame:
    """One row per network of the training sweep: counts, latencies by phase with intervals, and their ratios.

    ``ratio`` is the median of backward over that of forward, its interval a bootstrap over visits and steps, which
    keeps the two of one step together. ``roof_ratio`` is what the roofline of each operation expects.
    """
    samples, outcomes = _of(machine.samples, one, "training"), _of(machine.outcomes, one, "training")
    if outcomes.empty:
        return pd.DataFrame()
    phases = {phase: metrics.latencies(samples, outcomes, phase) for phase in ("forward", "backward", "optimizer")}
    table = phases["forward"][["model", "batch_size", "status", "n", "peak_memory_byte", "memory_kind"]]
    for phase, latency in phases.items():
        columns = {f"latency{end}_s": f"{phase}{end}_s" for end in ("", "_low", "_high")}
        table = table.merge(latency[["model", "batch_size", *columns]].rename(columns=columns),
                            on=["model", "batch_size"])  # fmt: skip
    rows = []
    for row in table[table["model"].map(is_countable)].to_dict("records"):
        asked = counted(row["model"], int(row["batch_size"]), one.precision)
        paired = samples[(samples["model"] == row["model"]) & ~samples["is_warmup"].astype(bool)]
        rows.append(
            row | _counts(asked, hardware) | _ratio(row, paired) | {"series": one.label, "precision": one.precision}
        )
    found = pd.DataFrame(rows)
    if found.empty:
        return found
    found = _borrow_intervals(found)
    position = {name: index for index, name in enumerate(models.MEASURED)}
    order = found["model"].map(lambda name: position.get(name, len(position)))
    return found.assign(_order=order).sort_values("_order").drop(columns="_order").reset_index(drop=True)


def _counts(asked: workload.Workload, hardware: predict.Hardware | None) -> dict[str, object]:
    spared = spared_flop(asked)
    return {
        "family": asked.family, "flop": asked.flop, "backward_flop": asked.backward_flop,
        "flop_ratio": asked.backward_flop / asked.flop, "spared_share": sum(spared.values()) / asked.flop,
        "spared_layers": ", ".join(spared), "param_byte": asked.param_byte,
        "roof_ratio": _roof_s(asked.backward, hardware) / _roof_s(asked.forward, hardware) if hardware else np.nan,
    }  # fmt: skip


def spared_flop(asked: workload.Workload) -> dict[str, int]:
    """By layer, the FLOPs that backward spares against twice the layer's forward: the input gradient nobody needs."""
    forward: dict[str, int] = {}
    backward: dict[str, int] = {}
    for sums, operations in ((forward, asked.forward), (backward, asked.backward)):
        for operation in operations:
            sums[operation.module] = sums.get(operation.module, 0) + operation.flop
    return {
        name: 2 * flop - backward.get(name, 0) for name, flop in forward.items() if 2 * flop > backward.get(name, 0)
    }


def _roof_s(operations: Iterable[workload.Operation], hardware: predict.Hardware) -> float:
    """Seconds that operations take at the least, each at its own roof, and to dispatch them."""
    names = ("flop", "bytes_read", "bytes_written", "param_bytes")
    frame = pd.DataFrame([{name: getattr(o, name) for name in names} for o in operations], columns=list(names))
    return predict.latency_s(predict.components(predict.operation_times(frame, hardware)), hardware)


def _ratio(row: Mapping, samples: pd.DataFrame) -> dict[str, float]:
    """The ratio of medians; its interval, if there are steps enough for a bootstrap, else the range of the steps."""
    if not row["n"]:
        return dict.fromkeys(("ratio", "ratio_low", "ratio_high"), np.nan)
    value = row["backward_s"] / row["forward_s"]
    steps = samples.pivot_table(index="index", columns="phase", values="latency_s")[list(PHASES)].dropna()
    if len(steps) < timing.MINIMUM_SAMPLES:
        each = steps["backward"] / steps["forward"]
        return {"ratio": value, "ratio_low": min(each.min(), value), "ratio_high": max(each.max(), value)}
    drawn = timing.resample(timing.visits(steps.index.to_numpy()), RESAMPLES)
    forward, backward = (timing.medians(steps[phase].to_numpy(), drawn) for phase in PHASES)
    low, high = np.percentile(backward / forward, [2.5, 97.5])
    return {"ratio": value, "ratio_low": min(float(low), value), "ratio_high": max(float(high), value)}


def _borrow_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Intervals of ratios of too few steps, as wide as the widest of the same series, and at least their range."""
    own = table["n"] >= timing.MINIMUM_SAMPLES
    reach = np.maximum(table["ratio_high"] / table["ratio"], table["ratio"] / table["ratio_low"])[own].max()
    if np.isnan(reach):
        return table
    low = np.minimum(table["ratio_low"], table["ratio"] / reach)
    high = np.maximum(table["ratio_high"], table["ratio"] * reach)
    return table.assign(ratio_low=table["ratio_low"].where(own, low), ratio_high=table["ratio_high"].where(own, high))


def breakdowns(machine: store.Measured, one: Series) -> list[breakdown.Breakdown]:
    """The breakdown of each network of a series that has one, in the registry's order."""
    frame = _of(machine.breakdown, one, "breakdown")
    found = []
    for (model, batch_size), rows in frame.groupby(["model", "batch_size"], sort=False):
        kept = rows[~rows["is_warmup"].astype(bool)]
        if set(kept["phase"]) == set(PHASES) and is_countable(model):
            found.append(breakdown.summarise(rows.to_dict("records"), counted(model, int(batch_size), one.precision)))
    known = {name: index for index, name in enumerate(models.MEASURED)}
    return sorted(found, key=lambda one: known.get(one.case.model, len(known)))


Whole = Sequence[tuple[Series, breakdown.Breakdown]]


# Tables


def slice_table(whole: Whole) -> pd.DataFrame:
    """Every slice of every pie: ``value`` in s, FLOP or byte and ``share`` of its pie, which add up to 1.

    Where operations took longer than the undisturbed pass, nothing is left for `OUTSIDE`, whose slice then is 0.
    """
    rows = []
    for one, found in whole:
        for phase in PHASES:
            slices = found.of(phase)
            for quantity, name in (("latency", "latency_s"), ("flop", "flop"), ("memory", "memory_byte")):
                values = {part.layer_type: max(0.0, float(getattr(part, name))) for part in slices}
                total = sum(values.values())
                rows += [
                    {"series": one.label, "model": found.case.model, "batch_size": found.case.batch_size,
                     "phase": phase, "quantity": quantity, "layer_type": layer_type, "value": value, "total": total,
                     "share": value / total if total else 0.0, "rank": (*schema.LAYER_TYPES, OUTSIDE).index(layer_type)}
                    for layer_type, value in values.items()
                ]  # fmt: skip
    return pd.DataFrame(rows)


def gathered(slices: pd.DataFrame) -> pd.DataFrame:
    """The slices with those below `SMALL_SHARE` of their pie put together as `GATHERED`, each pie in a fixed order."""
    small = slices["share"] < SMALL_SHARE
    key = ["series", "model", "batch_size", "phase", "quantity", "total"]
    rest = slices[small].groupby(key, sort=False, as_index=False)[["value", "share"]].sum()
    rest = rest[rest["share"] > 0].assign(layer_type=GATHERED, rank=len(schema.LAYER_TYPES) + 1)
    return pd.concat([slices[~small], rest], ignore_index=True)


def cause_table(whole: Whole) -> pd.DataFrame:
    """What each layer type adds to the ratio of latencies, beyond what FLOPs would give.

    With forward and backward times f and b of a layer type and the network's ratio of FLOPs r, it adds (b - r f) / F,
    where F is the whole forward pass: the sum over layer types is the ratio of latencies less r, exactly.
    """
    rows = []
    for one, found in whole:
        asked = counted(found.case.model, found.case.batch_size, found.case.precision)
        ratio = asked.backward_flop / asked.flop
        times = {phase: {part.layer_type: part.latency_s for part in found.of(phase)} for phase in PHASES}
        for layer_type in (*schema.LAYER_TYPES, OUTSIDE):
            forward, backward = (times[phase].get(layer_type, 0.0) for phase in PHASES)
            if forward or backward:
                rows.append({
                    "series": one.label, "model": found.case.model, "layer_type": layer_type,
                    "forward_s": forward, "backward_s": backward, "flop_ratio": ratio,
                    "ratio": found.whole_s["backward"] / found.whole_s["forward"],
                    "added": (backward - ratio * forward) / found.whole_s["forward"],
                })  # fmt: skip
    return pd.DataFrame(rows)


def point_table(whole: Whole) -> pd.DataFrame:
    """What layer types reach: all their arithmetic per byte and per second, and bytes per second.

    All arithmetic is model FLOPs and the nominal other work, for a normalisation has no model FLOPs and yet computes.
    Layer types below `KNOWN_SHARE` of the pass are left out.
    """
    rows = []
    for one, found in whole:
        for part in found.slices:
            work = part.flop + part.other_flop
            known = part.layer_type != OUTSIDE and part.latency_s >= KNOWN_SHARE * found.whole_s[part.phase]
            if known and part.bytes_moved:
                rows.append({
                    "series": one.label, "model": found.case.model, "phase": part.phase, "layer_type": part.layer_type,
                    "intensity": work / part.bytes_moved, "work_per_s": work / part.latency_s,
                    "byte_per_s": part.bytes_moved / part.latency_s,
                    "share": part.latency_s / found.whole_s[part.phase],
                })  # fmt: skip
    return pd.DataFrame(rows)


def kind_table(slices: pd.DataFrame, points: pd.DataFrame, series: str, roof_table: pd.DataFrame) -> pd.DataFrame:
    """Per layer type of one series, medians over the networks that have it: shares of time and FLOPs, and rates.

    ``intensity`` is all arithmetic per byte, both phases together; ``ridge`` the device's; ``bandwidth_share`` and
    ``compute_share`` what the type reaches of the achievable bandwidth of memory and FLOP/s.
    """
    mine, reached = slices[slices["series"] == series], points[points["series"] == series]
    roof = roof_table[roof_table["series"] == series].iloc[0] if len(roof_table) else None
    rows = []
    for layer_type in schema.LAYER_TYPES:
        rates = reached[reached["layer_type"] == layer_type]
        if rates.empty:
            continue
        of_type = mine[(mine["layer_type"] == layer_type) & mine["model"].isin(set(rates["model"]))]
        share = of_type.groupby(["phase", "quantity"])["share"].median()
        row = {"layer_type": layer_type, "networks": rates["model"].nunique(), "intensity": rates["intensity"].median()}
        for phase in PHASES:
            row |= {f"{phase}_{name}": share.get((phase, name), 0.0) for name in ("latency", "flop")}
        if roof is not None:
            ridge = roof["achievable_flop_per_s"] / roof["achievable_byte_per_s"]
            row |= {
                "ridge": ridge, "is_compute_bound": row["intensity"] >= ridge,
                "bandwidth_share": rates["byte_per_s"].median() / roof["achievable_byte_per_s"],
                "compute_share": rates["work_per_s"].median() / roof["achievable_flop_per_s"],
            }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def held_table(ratios: pd.DataFrame) -> pd.DataFrame:
    """Memory at the moment when a training step holds most, by component, beside the measured peak, in byte."""
    rows = []
    for row in ratios.itertuples():
        asked = counted(row.model, int(row.batch_size), row.precision)
        phase = max(asked.held_byte, key=lambda name: sum(asked.held_byte[name].values()))
        held = asked.held_byte[phase]
        gradients = sum(size for (born, _), size in held.items() if born == "backward")
        sizes = {
            "parameters": asked.param_byte, "optimiser state": asked.optimizer_state_byte, "gradients": gradients,
            "activations": sum(held.values()) - gradients, "input and buffers": asked.input_byte + asked.buffer_byte,
        }  # fmt: skip
        inference = workload.count(row.model, int(row.batch_size), asked.precision).peak_memory_byte
        rows += [
            {"series": row.series, "model": row.model, "component": name, "rank": COMPONENTS.index(name),
             "byte": sizes[name], "estimate_byte": asked.peak_memory_byte, "phase": phase, "inference_byte": inference,
             "measured_byte": row.peak_memory_byte, "memory_kind": row.memory_kind}
            for name in COMPONENTS
        ]  # fmt: skip
    return pd.DataFrame(rows)


# Tables as shown


def ratio_table(ratios: pd.DataFrame) -> pd.DataFrame:
    """The training sweep in words and numbers, one row per series and network."""
    several = ratios["series"].nunique() > 1
    rows = []
    for row in ratios.itertuples():
        shown = {"device": row.series} if several else {}
        shown |= {
            "network": row.model, "FLOPs forward": report.quantity(row.flop, "FLOP"),
            "FLOP ratio": report.significant(row.flop_ratio),
        }  # fmt: skip
        if row.n:
            shown |= {
                "latency forward": report.duration(row.forward_s), "backward": report.duration(row.backward_s),
                "latency ratio": f"{row.ratio:.2f}",
                "interval": f"{row.ratio_low:.2f}\u00a0to\u00a0{row.ratio_high:.2f}",
                "at the roof": report.significant(row.roof_ratio) if row.roof_ratio == row.roof_ratio else "–",
                "optimiser step": report.duration(row.optimizer_s),
            }  # fmt: skip
        else:
            shown |= {"latency forward": row.status.replace("_", " ")}
        rows.append(shown)
    return pd.DataFrame(rows).fillna("–")


def why_table(causes: pd.DataFrame) -> pd.DataFrame:
    """Per network the departure of the latency ratio from that of FLOPs, and the layer types that make most of it."""
    several = causes["series"].nunique() > 1
    rows = []
    for (series, model), group in causes.groupby(["series", "model"], sort=False):
        first = group.iloc[0]
        top = group.reindex(group["added"].abs().sort_values(ascending=False).index).head(3)
        rows.append(({"device": series} if several else {}) | {
            "network": model, "FLOP ratio": report.significant(first["flop_ratio"]),
            "latency ratio": report.significant(first["ratio"]),
            "made by": ", ".join(f"{row.layer_type} {_signed(row.added)}" for row in top.itertuples()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def kinds_table(kinds: pd.DataFrame) -> pd.DataFrame:
    """`kind_table` as shown."""
    rows = []
    for row in kinds.to_dict("records"):
        shown = {
            "layer type": row["layer_type"], "networks": str(row["networks"]),
            **{
                f"time (FLOPs), {phase}":
                    f"{report.percent(row[f'{phase}_latency'])} ({report.percent(row[f'{phase}_flop'])})"
                for phase in PHASES
            },
            "FLOP/B": report.significant(row["intensity"]),
        }  # fmt: skip
        if "ridge" in row:
            shown |= {
                "side of the ridge": "compute" if row["is_compute_bound"] else "memory",
                "of bandwidth": report.percent(row["bandwidth_share"]),
                "of FLOP/s": report.percent(row["compute_share"]),
            }  # fmt: skip
        rows.append(shown)
    return pd.DataFrame(rows)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


# Sentences


def _introduction(series: Sequence[Series], ratios: pd.DataFrame, whole: Whole) -> dict[str, Text]:
    labels = list(dict.fromkeys(ratios["series"]))
    accelerated = [one.label for one in series if one.device != "cpu" and one.label in labels]
    devices = f"The data come from {report.listing(f'the {label}' for label in labels)}"
    if not accelerated:
        devices += (
            " alone: no accelerator was measured, so the comparison of devices waits for a machine that has one, and "
            "every sentence on time speaks of this processor"
        )
    batches = "; ".join(
        f"{report.listing(str(size) for size in sorted(set(group['batch_size'])))} on the {label}"
        for label, group in ratios.groupby("series", sort=False)
    )
    precision = report.listing(dict.fromkeys(one.precision for one in series if one.label in labels))
    own = {
        batch: [found.case.model for _, found in whole if found.case.batch_size == batch]
        for batch in sorted({found.case.batch_size for _, found in whole})
    }
    sizes = "; ".join(f"{size} for {report.listing(dict.fromkeys(names))}" for size, names in own.items())
    return {
        "devices": Text(devices + "."),
        "batch": Text(f"The batch is {batches}, in {precision}."),
        "breakdown_batch": Text(f"Batch sizes here are {sizes}."),
        "n_networks": report.number(ratios.loc[ratios["n"] > 0, "model"].nunique()),
        "n_broken_down": report.number(len({found.case.model for _, found in whole})),
        "missing": _missing(ratios),
        "few_steps": _few_steps(ratios),
        "first_device": Text(whole[0][0].label),
        "small_share": report.percent(SMALL_SHARE),
        "known_share": report.percent(KNOWN_SHARE),
    }


def _missing(ratios: pd.DataFrame) -> Text:
    lost = ratios[ratios["n"] == 0]
    if lost.empty:
        return Text("Every network of the sweep has a latency.")
    parts = [f"{row.model} on the {row.series} ({row.status.replace('_', ' ')})" for row in lost.itertuples()]
    return Text(f"Without a latency: {report.listing(parts)}.")


def _few_steps(ratios: pd.DataFrame) -> Text:
    few = ratios[(ratios["n"] > 0) & (ratios["n"] < timing.MINIMUM_SAMPLES)]
    if few.empty:
        return Text("Every ratio has steps enough for that.")
    several = ratios["series"].nunique() > 1
    names = report.listing(f"{row.model}{f' on the {row.series}' if several else ''}" for row in few.itertuples())
    return Text(
        f"Of {names} there are fewer than {report.number(timing.MINIMUM_SAMPLES)} steps, too few for a "
        "bootstrap: their "
        "intervals are as wide as the widest of the others, and hold every step."
    )


def _ratio_sentences(ratios: pd.DataFrame) -> dict[str, Text]:
    timed = ratios[ratios["n"] > 0]
    counts = ratios.drop_duplicates("model")
    one_layer = bool((counts["spared_layers"].str.count(",") == 0).all())
    lowest, highest = counts.loc[counts["flop_ratio"].idxmin()], counts.loc[counts["flop_ratio"].idxmax()]
    spared = counts.loc[counts["spared_share"].idxmax()]
    spread = []
    for label, group in timed.groupby("series", sort=False):
        low, high = group.loc[group["ratio"].idxmin()], group.loc[group["ratio"].idxmax()]
        below = int((group["ratio_high"] < group["flop_ratio"]).sum())
        above = int((group["ratio_low"] > group["flop_ratio"]).sum())
        spread.append(
            f"On the {label} backward takes between {_ratio_words(low)} and {_ratio_words(high)} as long as forward, "
            f"{report.significant(group['ratio'].median())} times at the median network. Of "
            f"{report.plural(len(group), 'network')}, {report.number(below)} lie below the ratio of their FLOPs with "
            f"their whole interval, {report.number(above)} above it, and {report.number(len(group) - below - above)} "
            "can't be told from it."
        )
    return {
        "flop_ratios": Text(
            f"Counted, backward asks for {report.significant(lowest['flop_ratio'], 4)} ({lowest['model']}) to "
            f"{report.significant(highest['flop_ratio'], 4)} ({highest['model']}) times the FLOPs of forward."
        ),
        "first_layer": Text(
            report.choose(
                one_layer,
                "In every network, what is missing from 2 is the input gradient of one layer at most, the first. ",
                "What is missing from 2 are input gradients that nobody needs. ",
            )
            + f"Most is missing in {spared['model']}, where {spared['spared_layers']} has "
            f"{report.percent(spared['spared_share'])} of the forward FLOPs."
        ),
        "first_layer_none": _no_first_layer(counts),
        "ratio_spread": Text(" ".join(spread)),
        "roof_reading": _roof_reading(timed),
        "devices_differ": _devices_differ(timed),
        "alt_ratio": Text(
            "Ratio of backward to forward per network, by FLOPs and by latency. "
            + "; ".join(
                f"{row.model} {row.flop_ratio:.2f} by FLOPs, {row.ratio:.2f} by latency"
                + (f" on {row.series}" if timed["series"].nunique() > 1 else "")
                for row in timed.itertuples()
            )
            + "."
        ),
        "ratio_takeaway": _ratio_takeaway(timed),
    }


def _ratio_words(row: pd.Series) -> str:
    return f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}] times ({row['model']})"


def _no_first_layer(counts: pd.DataFrame) -> Text:
    none = list(counts.loc[counts["spared_share"] == 0, "model"])
    if not none:
        return Text("Every network here has such a layer.")
    return Text(
        f"{report.listing(none)} {'has' if len(none) == 1 else 'have'} none: the first layer looks rows of a table up, "
        "which costs no FLOPs, so the ratio is 2 exactly."
    )


def _roof_reading(timed: pd.DataFrame) -> Text:
    parts = []
    for label, group in timed[timed["roof_ratio"].notna()].groupby("series", sort=False):
        nearer = (group["ratio"] - group["roof_ratio"]).abs() < (group["ratio"] - group["flop_ratio"]).abs()
        parts.append(
            f"The roofline of the operations expects {report.significant(group['roof_ratio'].min())} to "
            f"{report.significant(group['roof_ratio'].max())} on the {label}, and comes nearer to the clock than FLOPs "
            f"do for {report.number(int(nearer.sum()))} of {report.plural(len(group), 'network')}."
        )
    return Text(" ".join(parts) or "No ceilings were measured, so the roofline expects nothing here.")


def _devices_differ(timed: pd.DataFrame) -> Text:
    labels = list(dict.fromkeys(timed["series"]))
    if len(labels) < 2:
        return Text(
            f"With one device, the {labels[0]}, nothing here tells which of this belongs to the networks and which to "
            "the device."
        )
    table = timed.pivot_table(index="model", columns="series", values="ratio", sort=False)[labels].dropna()
    parts = [f"{report.significant(table[label].median())} on the {label}" for label in labels]
    return Text(
        f"Over the {report.number(len(table))} networks that all devices trained, the median ratio is "
        f"{report.listing(parts)}."
    )


def _ratio_takeaway(timed: pd.DataFrame) -> Text:
    parts = []
    for label, group in timed.groupby("series", sort=False):
        median = group["ratio"].median()
        within = ((group["ratio"] / group["flop_ratio"] - 1).abs() <= 0.1).mean()
        parts.append(
            f"on the {label}, backward takes {report.significant(median, 2)} times as long as forward at the "
            "median, and "
            f"the FLOP ratio foretells that to 10 % for {report.percent(within)} of the networks"
        )
    return Text(f"Count backward as twice forward in FLOPs, less one first layer. In time, {report.listing(parts)}.")


def _cause_sentences(causes: pd.DataFrame, ratios: pd.DataFrame) -> dict[str, Text]:
    total = causes.groupby(["series", "model"], sort=False)
    residual = (total["added"].sum() - (total["ratio"].first() - total["flop_ratio"].first())).abs().max()
    said = []
    for label, group in causes.groupby("series", sort=False):
        by_model = group.loc[group.groupby("model", sort=False)["added"].apply(lambda s: s.abs().idxmax())]
        words = []
        for layer_type, rows in by_model.groupby("layer_type", sort=False):
            ups, downs = rows[rows["added"] > 0], rows[rows["added"] <= 0]
            words += [
                f"{layer_type} {verb} it most for {report.listing(some['model'])}"
                for verb, some in (("raises", ups), ("lowers", downs)) if len(some)
            ]  # fmt: skip
        said.append(f"On the {label}, {report.listing(words)}.")
    said += _type_ratios(causes)
    return {
        "causes": Text(" ".join(said)),
        "causes_add_up": report.claim(bool(residual < 1e-9), "The parts add up to the departure exactly."),
        "alt_causes": Text(
            "What each layer type adds to the ratio of latencies beyond that of FLOPs. Largest parts: "
            + "; ".join(
                f"{model} {row['layer_type']} {_signed(row['added'])}"
                for (_, model), row in (
                    (key, group.loc[group["added"].abs().idxmax()]) for key, group in total
                )
            ) + "."
        ),
    }  # fmt: skip


def _type_ratios(causes: pd.DataFrame) -> list[str]:
    """How long each layer type's backward takes against its own forward, at the median network."""
    known = causes[(causes["layer_type"] != OUTSIDE) & (causes["forward_s"] > 0)]
    heavy = known.groupby("layer_type")["forward_s"].sum() >= KNOWN_SHARE * known["forward_s"].sum()
    known = known[known["layer_type"].map(heavy)]
    parts = []
    for label, group in known.groupby("series", sort=False):
        own = (group["backward_s"] / group["forward_s"]).groupby(group["layer_type"]).median().sort_values()
        words = report.listing(f"{layer_type} {report.significant(value, 2)}" for layer_type, value in own.items())
        parts.append(f"Backward over forward by layer type, at the median network on the {label}: {words}.")
    return parts


def _optimizer_sentences(ratios: pd.DataFrame, roof_table: pd.DataFrame) -> dict[str, Text]:
    timed = ratios[ratios["n"] > 0].copy()
    timed["share"] = timed["optimizer_s"] / (timed["forward_s"] + timed["backward_s"] + timed["optimizer_s"])
    said = []
    for label, group in timed.groupby("series", sort=False):
        low, high = group.loc[group["share"].idxmin()], group.loc[group["share"].idxmax()]
        sentence = (
            f"On the {label} it takes {report.percent(low['share'])} ({low['model']}) to "
            f"{report.percent(high['share'])} "
            f"({high['model']}) of a step"
        )
        roof = roof_table[roof_table["series"] == label] if len(roof_table) else roof_table
        if len(roof):
            least = SGD_PASSES * group["param_byte"] / roof.iloc[0]["achievable_byte_per_s"]
            slower = (group["optimizer_s"] / least).median()
            sentence += (
                f", and at the median network {report.significant(slower, 2)} times what moving those bytes at the "
                "achievable bandwidth takes"
            )
        said.append(sentence + ".")
    return {"optimizer": Text(" ".join(said))}


def _accounting_sentences(whole: Whole) -> dict[str, Text]:
    shares = [(found.outside_share(phase), found.case.model, phase) for _, found in whole for phase in PHASES]
    overheads = [(found.overhead_share(phase), found.case.model, phase) for _, found in whole for phase in PHASES]
    most, least = max(shares), min(shares)
    close = sum(abs(share) <= 0.05 for share, *_ in shares)
    words = (
        f"What lies between operations is {report.percent(max(most[0], 0))} of the pass at most ({most[1]}, {most[2]}) "
        f"and at most 5 % in {report.number(close)} of {report.plural(len(shares), 'pass', 'passes')}."
    )
    if least[0] < 0:
        words += (
            f" In {report.number(sum(share < 0 for share, *_ in shares))} the operations of the instrumented "
            "passes took "
            f"longer than the undisturbed one, by {report.percent(-least[0])} at most ({least[1]}, {least[2]}): noise "
            "between passes, which no slice shows; shares are then those of the operations."
        )
    overhead = float(np.median([share for share, *_ in overheads]))
    worst = max(overheads)
    repeats = sorted({found.repeats for _, found in whole})
    return {
        "accounting": Text(words),
        "overhead": Text(
            f"Timing each operation made a pass {report.percent(abs(overhead))} "
            f"{report.choose(overhead >= 0, 'longer', 'shorter')} at the median and "
            f"{report.percent(abs(worst[0]))} {report.choose(worst[0] >= 0, 'longer', 'shorter')} at worst "
            f"({worst[1]}, "
            f"{worst[2]}); that time is in no slice."
        ),
        "repeats": Text(
            f"Each network was repeated {repeats[0]} to {repeats[-1]} times" if len(repeats) > 1
            else f"Each network was repeated {repeats[0]} times"
        ),
    }  # fmt: skip


def _top(slices: pd.DataFrame, quantity: str, phase: str) -> pd.DataFrame:
    some = slices[(slices["quantity"] == quantity) & (slices["phase"] == phase)]
    return some.loc[some.groupby(["series", "model"], sort=False)["share"].idxmax()]


def _slice_sentences(slices: pd.DataFrame) -> dict[str, Text]:
    said = []
    for label, group in slices.groupby("series", sort=False):
        for phase in PHASES:
            time_, flop = _top(group, "latency", phase), _top(group, "flop", phase)
            same = time_["layer_type"].to_numpy() == flop["layer_type"].to_numpy()
            differ = [
                f"{row.model} (most FLOPs in {other.layer_type}, most time in {row.layer_type})"
                for row, other, equal in zip(time_.itertuples(), flop.itertuples(), same, strict=True)
                if not equal
            ]
            said.append(
                f"In {phase} on the {label}, the layer type with most FLOPs also takes most time in "
                f"{report.number(int(same.sum()))} of {report.plural(len(same), 'network')}"
                + (f"; not in {report.listing(differ)}." if differ else ".")
            )
    return {
        "slice_reading": Text(" ".join(said)),
        "memory_reading": _memory_reading(slices),
        "slice_takeaway": _slice_takeaway(slices),
        "alt_pies": _alt(slices, gathered(slices), "Pie charts of latency, FLOPs and memory by layer type. "),
        "alt_bars": _alt(slices, _top_two(slices), "The same shares as stacked bars. "),
    }


def _slice_takeaway(slices: pd.DataFrame) -> Text:
    """How far the pies of latency are from those of FLOPs: the share of time that lies with other layer types."""
    wide = slices[slices["quantity"].isin(["latency", "flop"])].pivot_table(
        index=["series", "model", "phase", "layer_type"], columns="quantity", values="share", fill_value=0.0, sort=False
    )
    moved = (wide["latency"] - wide["flop"]).clip(lower=0).groupby(["series", "model", "phase"], sort=False).sum()
    parts = []
    for label in dict.fromkeys(slices["series"]):
        mine = moved[label]
        low, high = mine.idxmin(), mine.idxmax()
        parts.append(
            f"on the {label}, {report.percent(mine.median())} of a pass's time at the median lies elsewhere "
            "than its FLOPs "
            f"do, {report.percent(mine.min())} in {low[0]} ({low[1]}), {report.percent(mine.max())} in "
            f"{high[0]} ({high[1]})"
        )
    return Text(f"FLOPs show where the arithmetic is, not where the time is: {report.listing(parts)}.")


def _top_two(slices: pd.DataFrame) -> pd.DataFrame:
    key = ["series", "model", "phase", "quantity"]
    return slices.sort_values("share", ascending=False).groupby(key, sort=False).head(1).sort_index()


def _memory_reading(slices: pd.DataFrame) -> Text:
    memory = slices[(slices["quantity"] == "memory") & (slices["phase"] == "forward")]
    free = memory[
        memory["layer_type"].isin(["normalisation", "activation", "element-wise", "pooling", "data movement"])
    ]
    share = free.groupby(["series", "model"], sort=False)["share"].sum()
    first = share[share.index.get_level_values(0) == share.index[0][0]]
    return Text(
        "Layer types without a FLOP in the count (normalisation, activation, pooling, element-wise work and data "
        f"movement) own {report.percent(first.min())} ({first.idxmin()[1]}) to {report.percent(first.max())} "
        f"({first.idxmax()[1]}) of the memory when forward holds most: what they write is kept for backward as much as "
        "what a convolution writes."
    )


def _alt(slices: pd.DataFrame, shown: pd.DataFrame, intro: str) -> Text:
    several = slices["series"].nunique() > 1
    parts = []
    for (series, model), group in shown.groupby(["series", "model"], sort=False):
        pies = []
        for (phase, quantity), pie in group.sort_values("rank").groupby(["phase", "quantity"], sort=False):
            words = ", ".join(f"{row.layer_type} {report.percent(row.share)}" for row in pie.itertuples())
            pies.append(f"{phase} {QUANTITIES[quantity]}: {words}")
        parts.append(f"{model}{f' on {series}' if several else ''}: {'; '.join(pies)}")
    return Text(intro + ". ".join(parts) + ".")


def _kind_sentences(kinds: pd.DataFrame, points: pd.DataFrame, roof_table: pd.DataFrame, label: str) -> dict[str, Text]:
    known = kinds[kinds["forward_latency"] >= KNOWN_SHARE]
    dearer = known[known["forward_latency"] > 1.25 * known["forward_flop"]].sort_values("forward_latency")[::-1]
    cheaper = known[known["forward_flop"] > 1.25 * known["forward_latency"]].sort_values("forward_flop")[::-1]
    words = [
        f"On the {label}, dearer than their FLOPs in forward, at the median of the networks that have them, are "
        + report.listing(
            f"{row.layer_type} ({report.percent(row.forward_latency)} of time, "
            f"{report.percent(row.forward_flop)} of FLOPs)"
            for row in dearer.itertuples()
        )
        + "."
        if len(dearer)
        else f"On the {label} no layer type takes a larger share of time than of FLOPs by a quarter."
    ]
    if len(cheaper):
        names = report.listing(
            f"{row.layer_type} ({report.percent(row.forward_flop)} of FLOPs, "
            f"{report.percent(row.forward_latency)} of time)"
            for row in cheaper.itertuples()
        )
        words.append(f"Cheaper than their FLOPs: {names}.")
    said = {"kinds": Text(" ".join(words))}
    if "ridge" not in kinds:
        return said | {"ridge": Text("No ceilings were measured, so there is no ridge to compare with."),
                       "kinds_takeaway": Text("Where the time goes follows from no count alone."),
                       "alt_points": Text("Rates of layer types without roofs, for none were measured.")}  # fmt: skip
    left = known[~known["is_compute_bound"].astype(bool)]
    said["ridge"] = Text(
        f"The ridge of the {label} lies at {report.intensity(kinds['ridge'].iloc[0])}. Left of it, by their "
        "eager bytes, "
        "are "
        f"{report.listing(f'{row.layer_type} ({report.significant(row.intensity, 2)})' for row in left.itertuples())}. "
        + _limits(dearer)
        + _above(points, roof_table)
    )
    said["kinds_takeaway"] = _kinds_takeaway(kinds, label)
    said["alt_points"] = Text(
        f"Roofline of layer types on the {label}: median intensity and share of the achievable FLOP/s. "
        + "; ".join(
            f"{row.layer_type} {report.significant(row.intensity, 2)} FLOP/B, {report.percent(row.compute_share)}"
            for row in kinds.itertuples()
        )
        + "."
    )
    return said


def _limits(dearer: pd.DataFrame) -> str:
    """For the types dearer than their FLOPs: is it memory, is it arithmetic, or does the kernel use neither?"""
    if dearer.empty:
        return "No type is dearer than its FLOPs."
    memory = dearer["bandwidth_share"] >= NEAR_ROOF
    compute = ~memory & (dearer["compute_share"] >= NEAR_ROOF)
    words = ["Of the types dearer than their FLOPs,"]
    parts: list[str] = []
    for chosen, share, ending in (
        (memory, "bandwidth_share", "of the achievable bandwidth, so that memory sets the time"),
        (compute, "compute_share", "of the achievable FLOP/s, so that arithmetic sets the time"),
    ):
        some = zip(dearer.loc[chosen, "layer_type"], dearer.loc[chosen, share], strict=True)
        listed = [f"{name} reaches {report.percent(value)}" for name, value in some]
        if listed:
            parts.append(f"{report.listing(listed)} {ending}")
    words.append(f"{'; '.join(parts)}." if parts else f"none reaches {report.percent(NEAR_ROOF)} of either roof.")
    neither = dearer[~memory & ~compute]
    if len(neither):
        best = neither[["bandwidth_share", "compute_share"]].max(axis=1)
        names = report.listing(f"{name} ({report.percent(value)})" for name, value in
                               zip(neither["layer_type"], best, strict=True))  # fmt: skip
        words.append(
            f"Neither roof explains the time of {names}, with the share of the nearer roof in brackets: their "
            "kernels fall "
            "short of what this hardware allows."
        )
    return " ".join(words)


def _above(points: pd.DataFrame, roof_table: pd.DataFrame) -> str:
    """How many points beat the bandwidth of memory, and whether the caches' explains them all."""
    merged = points.merge(roof_table, on="series")
    memory = np.minimum(merged["achievable_flop_per_s"], merged["achievable_byte_per_s"] * merged["intensity"])
    cache = np.minimum(merged["achievable_flop_per_s"], merged["cache_byte_per_s"] * merged["intensity"])
    over, beyond = merged[merged["work_per_s"] > memory], merged[merged["work_per_s"] > cache]
    if over.empty:
        return " No point lies above the roof of memory."
    words = (
        f" {report.plural(len(over), 'point')} of {report.number(len(merged))} "
        f"{'lies' if len(over) == 1 else 'lie'} above the roof of memory: there an operation finds what the "
        "one before it "
        "wrote still in a cache."
    )
    if len(beyond):
        names = dict.fromkeys(f"{row.layer_type} of {row.model} ({row.phase})" for row in beyond.itertuples())
        excess = float((merged["work_per_s"] / cache).max() - 1)
        words += (
            f" Above the caches' roof as well {'is' if len(names) == 1 else 'are'} {report.listing(names)}, by "
            f"{report.percent(excess)} at most: the roof is the best of the kernels that we tried, timed at "
            "another moment "
            "of a machine that does not always run alike."
        )
    return words


def _kinds_takeaway(kinds: pd.DataFrame, label: str) -> Text:
    idle = kinds[(kinds["forward_flop"] < 0.005) & (kinds["forward_latency"] >= KNOWN_SHARE)]
    time_ = report.listing(f"{row.layer_type} {report.percent(row.forward_latency)}" for row in idle.itertuples())
    return Text(
        f"On the {label}, layer types that no FLOP count sees take a share of forward time worth knowing: "
        f"{time_}, each "
        "at the median of the networks that have it."
    )


def _memory_sentences(ratios: pd.DataFrame, held: pd.DataFrame) -> dict[str, Text]:
    totals = held.drop_duplicates(["series", "model"])
    growth = totals["estimate_byte"] / totals["inference_byte"]
    activations = held[held["component"] == "activations"].set_index(["series", "model"])
    share = activations["byte"] / activations["estimate_byte"]
    most, least = share.idxmax()[1], share.idxmin()[1]
    gradients = held[held["component"] == "gradients"].set_index(["series", "model"])
    gradient = gradients["byte"] / gradients["estimate_byte"]
    reading = (
        f"A step holds {report.significant(growth.min(), 2)} to {report.significant(growth.max(), 2)} times "
        "what inference "
        f"holds at the same batch. Activations kept for backward are {report.percent(share.min())} ({least}) to "
        f"{report.percent(share.max())} ({most}) of it. The peak comes in "
        + report.listing(
            f"{phase} for {report.number(len(group))} of {report.plural(len(totals), 'network')}"
            for phase, group in totals.groupby("phase")
        )
        + f". Gradients hold {report.percent(gradient.min())} ({gradient.idxmin()[1]}) to "
        f"{report.percent(gradient.max())} ({gradient.idxmax()[1]}) of it at that moment: they "
        "come as backward lets activations go."
    )
    short = Text(
        f"At the batch trained here, a step holds {report.significant(float(growth.median()), 2)} times what inference "
        f"holds at the median network; {report.percent(share.median())} of it are activations kept for backward."
    )
    said = {"memory": Text(reading), "memory_short": short, "alt_memory": _alt_memory(totals)}
    measured = totals[totals["measured_byte"].notna()]
    if measured.empty:
        return said | {"memory_measured": Text("No peak was measured.")}
    ratio = (measured["measured_byte"] / measured["estimate_byte"]).to_numpy()
    low, high = measured.iloc[ratio.argmin()], measured.iloc[ratio.argmax()]
    kinds = {"resident": "growth of the process's resident memory", "allocated": "what torch's allocator handed out"}
    compared = (
        "Measured "
        f"({report.listing(kinds[kind] for kind in dict.fromkeys(measured['memory_kind']) if kind in kinds)}), "
        f"the peak is {report.significant(ratio.min(), 2)} ({low['model']}) to {report.significant(ratio.max(), 2)} "
        f"({high['model']}) times the estimate, {report.significant(float(np.median(ratio)), 2)} at the "
        "median. What lies "
        "above it are the workspaces of kernels and what the allocator keeps, which no count of tensors holds"
        + (
            "; where the peak lies below, the network never made or never touched a tensor that the count holds."
            if ratio.min() < 0.97
            else "."
        )
    )
    return said | {"memory_measured": Text(compared)}


def _alt_memory(totals: pd.DataFrame) -> Text:
    parts = [
        f"{row.model} estimated {report.size(row.estimate_byte)}"
        + (f", measured {report.size(row.measured_byte)}" if row.measured_byte == row.measured_byte else "")
        for row in totals.itertuples()
    ]
    return Text(f"Memory of a training step by component, with the measured peak. {'; '.join(parts)}.")


def ratio_estimates(ratios: pd.DataFrame) -> list[Estimate]:
    """The ratios of latencies with their intervals."""
    return [Estimate(row.ratio, row.ratio_low, row.ratio_high) for row in ratios.itertuples()]
