"""How far the measurements can be trusted, from the comparisons that `src.trust` recorded and from the runs themselves.

Tables for the figures and the values and sentences that the appendix quotes. Every machine with data takes part; one
on which a comparison was not run is named as such.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from src import benchmark, ceilings, machine, metrics, report, schema, store, timing
from src.report import Estimate, Text
from src.trust import C_TRIAD, OTHER_TIMER, OUR_TIMER, TIMER_LIMIT, ratio_of_medians

BANDWIDTH_LIMIT = 0.95
REPEAT_LIMIT = 0.99

KERNEL_NAMES = {"update": "update (torch)", "copy": "copy (torch)", "triad": "triad (torch)", "sum": "sum (torch)",
                "dot": "dot product (torch)"}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What the appendix shows: a frame a figure or table, and ``say`` with what it quotes."""

    bandwidth: pd.DataFrame
    timers: pd.DataFrame
    repeats: pd.DataFrame
    drift: pd.DataFrame
    machines: pd.DataFrame
    say: SimpleNamespace


def find(root: Path | None = None) -> Found:
    """Everything that the appendix shows, from the machines' folders under ``root`` (default: the book's data)."""
    measured = _measured(root)
    bandwidth = _stacked([_bandwidth(one) for one in measured], BANDWIDTH_COLUMNS)
    timers = _stacked([_timers(one) for one in measured], TIMER_COLUMNS)
    repeats = _stacked([_repeats(one) for one in measured], REPEAT_COLUMNS)
    drift = _stacked([_drift(one) for one in measured], DRIFT_COLUMNS)
    say = SimpleNamespace(
        **_machine_sentences(measured),
        **_bandwidth_sentences(bandwidth, measured),
        **_operation_sentences(measured),
        **_timer_sentences(timers, measured),
        **_visit_sentences(measured),
        **_repeat_sentences(repeats, measured),
        **_overhead_sentences(measured),
        **_state_sentences(drift, measured),
    )
    return Found(bandwidth, timers, repeats, drift, _machine_table(measured), say)


def _measured(root: Path | None) -> list[store.Measured]:
    with warnings.catch_warnings():
        # What a folder leaves out is told in the prose (`_state_sentences`).
        warnings.simplefilter("ignore", store.StoreWarning)
        return [store.load(name, root) for name in store.machines(root)]


def _stacked(frames: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    kept = [frame for frame in frames if len(frame)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(columns))


def title(environment: dict) -> str:
    """A machine as the prose names it: its accelerator, or its processor with the cores that take part."""
    if environment["accelerator"]:
        return str(environment["accelerator"])
    name = str(environment["processor"])
    if not any(letter.isdigit() for letter in name) and environment["processor_family"] is not None:
        name += f" (family {environment['processor_family']}, model {environment['processor_model']})"
    return f"{name}, {report.plural(environment['logical_cores'], 'core')}"


# The machines


def _machine_table(measured: list[store.Measured]) -> pd.DataFrame:
    """One column a machine, one row a property: what a reader needs to repeat the measurements."""
    columns = {title(one.environment): _properties(one.environment) for one in measured}
    table = pd.DataFrame(columns)
    return table.rename_axis("Property").reset_index() if len(columns) else pd.DataFrame(columns=["Property"])


def _properties(environment: dict) -> dict[str, str]:
    data = [cache for cache in environment["caches"] if cache["type"] != "Instruction"]
    sizes = [f"L{c['level']} {c['count']} × {c['size_byte'] // 1024} KiB" for c in data]
    virtual = {True: "yes", False: "no", None: "unknown"}[environment["is_virtual"]]
    found = {
        "Processor": environment["processor"],
        "Vendor, family, model": ", ".join(
            str(environment[f"processor_{name}"] if environment[f"processor_{name}"] is not None else "–")
            for name in ("vendor", "family", "model")
        ),
        "Cores used": str(environment["logical_cores"]),
        "Clock under load": _hz(environment["clock_estimated_hz"] or environment["clock_seen_hz"]),
        "Caches": ", ".join(sizes) or "–",
        "Vector instructions": environment["simd"].replace(" ", ", ") or "–",
        "Memory": f"{environment['memory_byte'] / 2**30:.0f} GiB",
        "Virtual machine": virtual + (f" ({environment['hypervisor']})" if environment["hypervisor"] else ""),
        "Accelerator": environment["accelerator"] or "none",
        "Accelerator driver": environment["accelerator_driver"] or "–",
        "System": environment["system"],
        "Python, torch": f"{environment['python_version']}, {environment['torch_version']}",
        "Libraries": ", ".join(
            str(value) for value in (
                environment["blas"], environment["onednn_version"] and f"oneDNN {environment['onednn_version']}",
                environment["cudnn_version"] and f"cuDNN {environment['cudnn_version']}") if value
        ) or "–",
        "Threads": str(environment["threads"]),
        "Commit": environment["commit"] or "–",
    }  # fmt: skip
    return {name: str(value) for name, value in found.items()}


def _hz(value: float | None) -> str:
    return "–" if value is None else str(report.quantity(value, "Hz"))


def _machine_sentences(measured: list[store.Measured]) -> dict[str, Text]:
    names = [title(one.environment) for one in measured]
    sampled = sum(int((~one.samples["is_warmup"]).sum()) for one in measured)
    cases = sum(len(one.outcomes) for one in measured)
    has_gpu = any(one.environment["accelerator"] for one in measured)
    return {
        "machines": report.listing(names),
        "n_cases": report.number(cases),
        "n_samples": report.number(sampled),
        "accelerator": report.choose(has_gpu, "", "No accelerator was measured for this edition."),
        "target": report.percent(timing.TARGET),
        "minimum": report.number(timing.MINIMUM_SAMPLES),
        "resamples": report.number(timing.RESAMPLES),
        "clock_share": report.percent(1 / timing.CLOCK_COST_RATIO),
        "settled": report.percent(timing.SETTLED),
        "rounds": report.plural(benchmark.ROUNDS["cpu"], "time"),
        "long_call": report.duration(timing.LONG_CALL_S),
        "bandwidth_limit": report.percent(BANDWIDTH_LIMIT),
        "timer_limit": report.percent(TIMER_LIMIT),
        "repeat_limit": report.number(REPEAT_LIMIT),
        "steal_limit": report.percent(machine.BUSY_STEAL_SHARE),
        "load_limit": report.number(machine.BUSY_OTHER_LOAD),
        "drift_limit": report.percent(machine.DRIFT_LIMIT),
    }


def _lacking(measured: list[store.Measured], frame: pd.DataFrame, what: str) -> str:
    """A sentence that names the machines on which a comparison was not run; empty if there is none."""
    present = set(frame["machine"]) if len(frame) else set()
    absent = [title(one.environment) for one in measured if title(one.environment) not in present]
    return f"{what} was not run on {report.listing(absent)}." if absent else ""


def _sentences(*parts: str) -> Text:
    text = " ".join(part for part in parts if part)
    return Text(text or "No machine has data.")


# Bandwidth

BANDWIDTH_COLUMNS = ("machine", "subject", "is_reference", "bandwidth_byte_per_s", "low_byte_per_s",
                     "high_byte_per_s", "share", "n")  # fmt: skip


def _bandwidth(one: store.Measured) -> pd.DataFrame:
    """Each kernel's bandwidth with its interval, and as a share of the C triad's."""
    rows = one.trust[one.trust["comparison"] == "bandwidth"]
    if C_TRIAD not in set(rows["subject"]):
        return pd.DataFrame(columns=list(BANDWIDTH_COLUMNS))
    found = []
    for subject, group in rows.groupby("subject"):
        latency = group["latency_s"].to_numpy()
        low, high = timing.median_interval(latency)
        moved = group["bytes_moved"].iloc[0]
        found.append({
            "machine": title(one.environment), "subject": KERNEL_NAMES.get(subject, subject),
            "is_reference": subject == C_TRIAD, "bandwidth_byte_per_s": moved / np.median(latency),
            "low_byte_per_s": moved / high, "high_byte_per_s": moved / low, "n": len(group),
        })  # fmt: skip
    frame = pd.DataFrame(found)
    reference = frame.loc[frame["is_reference"], "bandwidth_byte_per_s"].iloc[0]
    frame["share"] = frame["bandwidth_byte_per_s"] / reference
    return frame.sort_values("bandwidth_byte_per_s", ascending=False)[list(BANDWIDTH_COLUMNS)]


def _bandwidth_sentences(frame: pd.DataFrame, measured: list[store.Measured]) -> dict[str, Text]:
    sentences = []
    for name, group in frame.groupby("machine", sort=False):
        ours = group[~group["is_reference"]]
        best, triad = ours.iloc[0], group[group["is_reference"]].iloc[0]
        met = best["share"] >= BANDWIDTH_LIMIT
        sentences.append(
            f"On the {name} the C program reaches {report.bandwidth(triad['bandwidth_byte_per_s'])}, and the best of "
            f"this book's kernels, {best['subject']}, {report.bandwidth(best['bandwidth_byte_per_s'])}: "
            f"{report.percent(best['share'])} of it, {'as required' if met else 'less than required'}."
            + _same_pattern(group, triad)
        )
    none = "" if len(frame) else "The comparison needs a C compiler and has not been run."
    lacking = _lacking(measured, frame, "The comparison") if len(frame) else ""
    alt = report.listing(f"{row.subject} {report.bandwidth(row.bandwidth_byte_per_s)}" for row in frame.itertuples())
    return {
        "bandwidth": _sentences(*sentences, none, lacking),
        "alt_bandwidth": Text(f"Bandwidth of each kernel on arrays far larger than the caches: {alt}."),
    }


def _same_pattern(group: pd.DataFrame, triad: pd.Series) -> str:
    same = group[group["subject"] == KERNEL_NAMES["triad"]]
    if same.empty:
        return ""
    ours = Estimate(*same.iloc[0][["bandwidth_byte_per_s", "low_byte_per_s", "high_byte_per_s"]])
    theirs = Estimate(*triad[["bandwidth_byte_per_s", "low_byte_per_s", "high_byte_per_s"]])
    word = report.compare(ours, theirs)
    return f" The same pattern in torch, {report.bandwidth(ours.value)}, is {word} the C program's."


# The networks' own products


def _operation_sentences(measured: list[store.Measured]) -> dict[str, Text]:
    sentences = []
    for one in measured:
        rows = one.trust[one.trust["comparison"] == "operation"]
        roof = ceilings.achievable(one.ceilings)
        device = "cuda" if one.environment["accelerator"] else "cpu"
        roof = roof[(roof["precision"] == "fp32") & (roof["device"] == device)]
        if rows.empty or roof.empty:
            continue
        rates = rows.groupby("case").agg(latency_s=("latency_s", "median"), flop=("flop", "first"))
        rate = rates["flop"] / rates["latency_s"]
        ceiling = roof["achievable_flop_per_s"].iloc[0]
        share = rate.max() / ceiling
        sentences.append(
            f"On the {title(one.environment)} the fastest of {report.number(len(rate))} distinct layers, "
            f"*{rate.idxmax()}*, reaches {report.flop_rate(rate.max())} in fp32: {report.percent(share, 3)} of the "
            f"ceiling, {report.flop_rate(ceiling)} by *{roof['kernel'].iloc[0]}*"
            + (", which therefore stands." if share <= 1 else ": the ceiling is set too low by the difference.")
        )
    return {"operations": Text(" ".join(sentences) or "This comparison has not been run.")}


# Timers

TIMER_COLUMNS = ("machine", "case", "ratio", "low", "high", "elapsed_s", "other_elapsed_s", "pairs")


def _timers(one: store.Measured) -> pd.DataFrame:
    """Each case's median by this book's loop over that by torch.utils.benchmark, and the time each takes to stop."""
    rows, stopping = (one.trust[one.trust["comparison"] == name] for name in ("timer", "stopping"))
    found = []
    for case, group in rows.groupby("case", sort=False):
        pairs = group.pivot(index="round", columns="subject", values="latency_s").dropna()
        elapsed = stopping[stopping["case"] == case].groupby("subject")["elapsed_s"].median()
        if pairs.empty:
            continue
        ratio = Estimate(*ratio_of_medians(pairs[OUR_TIMER], pairs[OTHER_TIMER]))
        found.append({
            "machine": title(one.environment), "case": case, "ratio": ratio.value, "low": ratio.low, "high": ratio.high,
            "elapsed_s": elapsed.get(OUR_TIMER, np.nan), "other_elapsed_s": elapsed.get(OTHER_TIMER, np.nan),
            "pairs": len(pairs),
        })  # fmt: skip
    return pd.DataFrame(found, columns=list(TIMER_COLUMNS))


def _timer_sentences(frame: pd.DataFrame, measured: list[store.Measured]) -> dict[str, Text]:
    sentences = []
    for name, group in frame.groupby("machine", sort=False):
        sentences.append(f"On the {name} the medians {_agreement(group)}.{_stopping_sentence(group)}")
    none = "" if len(frame) else "This comparison has not been run."
    lacking = _lacking(measured, frame, "The comparison") if len(frame) else ""
    alt = report.listing(f"{row.case} {row.ratio:.3f}" for row in frame.itertuples())
    return {
        "timers": _sentences(*sentences, none, lacking),
        "alt_timers": Text(f"Median latency by this book's loop over that by torch.utils.benchmark: {alt}."),
    }


def _agreement(group: pd.DataFrame) -> str:
    """How the two timers' medians compare: a difference counts once its whole interval lies beyond the limit."""
    beyond = group[(group["ratio"] - 1).abs() > TIMER_LIMIT]
    sure = beyond[(beyond["low"] > 1 + TIMER_LIMIT) | (beyond["high"] < 1 - TIMER_LIMIT)]
    largest = f"the largest difference is {report.percent((group['ratio'] - 1).abs().max())}"
    limit, cases = report.percent(TIMER_LIMIT), report.plural(len(group), "case")
    if beyond.empty:
        return f"agree within {limit} on every one of {cases}; {largest}"
    if sure.empty:
        return (
            f"agree within {limit} on {report.number(len(group) - len(beyond))} of {cases}; {largest}, on "
            f"{report.listing(beyond['case'])}, where the intervals are too wide to tell it from an agreement"
        )
    return f"differ by more than {limit} on {report.listing(sure['case'])}; {largest}"


def _stopping_sentence(group: pd.DataFrame) -> str:
    known = group[group["elapsed_s"].notna() & group["other_elapsed_s"].notna()]
    if known.empty:
        return ""
    total, other = known["elapsed_s"].sum(), known["other_elapsed_s"].sum()
    faster = int((known["elapsed_s"] < known["other_elapsed_s"]).sum())
    return (
        f" To come to an interval, for one round of all cases, this book's loop takes {report.duration(total)} and the "
        f"other {report.duration(other)}; it is the quicker one on {report.number(faster)} of "
        f"{report.number(len(known))}."
    )


def timer_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The timers' comparison as finished text."""
    if frame.empty:
        return pd.DataFrame({"Case": ["not run"], "Ratio of medians": ["–"]})
    rows = [
        {"Machine": row.machine, "Case": row.case,
         "Ratio of medians": f"{row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]",
         "This book": str(report.duration(row.elapsed_s)),
         "torch.utils.benchmark": str(report.duration(row.other_elapsed_s))}
        for row in frame.itertuples()
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.drop(columns="Machine") if frame["machine"].nunique() == 1 else table


# Visits


def _visit_sentences(measured: list[store.Measured]) -> dict[str, Text]:
    """How far apart the medians of a case's visits lie, beside the interval that one of them would claim."""
    sentences = []
    for one in measured:
        kept = one.samples[(one.samples["phase"] == "inference") & ~one.samples["is_warmup"].astype(bool)]
        spreads, widths = [], []
        for _, group in kept.sort_values("index").groupby(list(schema.CASE_COLUMNS)):
            visits = [part for _, part in group.groupby(timing.visits(group["index"].to_numpy()))["latency_s"]]
            if len(visits) > 1:
                medians = [part.median() for part in visits]
                spreads.append(max(medians) / min(medians) - 1)
                widths += [timing.relative_half_width(p) for p in visits if len(p) >= timing.MINIMUM_SAMPLES]
        if spreads and widths:
            sentences.append(
                f"On the {title(one.environment)}, {report.plural(len(spreads), 'case')} were visited more than once: "
                f"half of them with visits whose slowest median lies at least {report.percent(np.median(spreads))} "
                f"above the fastest, where a single visit claims, in the median, to be within "
                f"{report.percent(np.median(widths))}."
            )
    return {"visits": Text(" ".join(sentences) or "No case has been visited more than once.")}


# A second run

REPEAT_COLUMNS = ("machine", "model", "batch_size", "first_s", "second_s", "ratio", "overlaps", "is_busy")


def _repeats(one: store.Measured) -> pd.DataFrame:
    """Cases that were measured in both runs: medians, their ratio, and whether the intervals overlap."""
    folder = one.folder / "repeat"
    if not (folder / "environments.jsonl").exists():
        return pd.DataFrame(columns=list(REPEAT_COLUMNS))
    try:
        again = store.load("repeat", one.folder, one.environment["environment"])
    except store.StoreError:
        return pd.DataFrame(columns=list(REPEAT_COLUMNS))  # another environment: not the same machine any more
    both = metrics.latencies(one.samples, one.outcomes).merge(
        metrics.latencies(again.samples, again.outcomes), on=list(schema.CASE_COLUMNS), suffixes=("", "_second")
    )
    both = both[both["latency_s"].notna() & both["latency_s_second"].notna()]
    overlaps = (both["latency_low_s"] <= both["latency_high_s_second"]) & (
        both["latency_low_s_second"] <= both["latency_high_s"]
    )
    busy = both["is_busy"].fillna(False).astype(bool) | both["is_busy_second"].fillna(False).astype(bool)
    return pd.DataFrame({
        "machine": title(one.environment), "model": both["model"], "batch_size": both["batch_size"],
        "first_s": both["latency_s"], "second_s": both["latency_s_second"],
        "ratio": both["latency_s_second"] / both["latency_s"], "overlaps": overlaps, "is_busy": busy,
    })[list(REPEAT_COLUMNS)]  # fmt: skip


def rank_agreement(frame: pd.DataFrame) -> float:
    """Spearman's rank correlation of two runs' medians."""
    return float(frame["first_s"].corr(frame["second_s"], method="spearman"))


def _repeat_sentences(frame: pd.DataFrame, measured: list[store.Measured]) -> dict[str, Text]:
    sentences = []
    for name, group in frame.groupby("machine", sort=False):
        rho = rank_agreement(group)
        size = (group["ratio"] - 1).abs()
        parts = [
            f"at batch {batch_size} {rank_agreement(part):.3f}"
            for batch_size, part in group.groupby("batch_size")
            if len(part) > 2
        ]
        busy = int(group["is_busy"].sum())
        sentences.append(
            f"On the {name} {report.plural(len(group), 'case')} were measured twice. The rank correlation of their "
            f"medians is {rho:.4f} ({', '.join(parts)}), {'as' if rho >= REPEAT_LIMIT else 'less than'} required. Half "
            f"of the medians changed by less than {report.percent(size.median())}, nine in ten by less than "
            f"{report.percent(size.quantile(0.9))}, the worst by {report.percent(size.max())}; the intervals of "
            f"{report.percent(group['overlaps'].mean())} of the cases overlap."
            + (
                f" In {report.plural(busy, 'case')} other work kept the machine busy in one of the runs."
                if busy
                else ""
            )
        )
    none = "" if len(frame) else "No second run has been made."
    lacking = _lacking(measured, frame, "A second run") if len(frame) else ""
    low, high = (frame["ratio"].min(), frame["ratio"].max()) if len(frame) else (np.nan, np.nan)
    return {
        "repeats": _sentences(*sentences, none, lacking),
        "alt_repeats": Text(
            f"Median of the second run over that of the first, against latency: between {low:.2f} and {high:.2f}."
            if len(frame)
            else "No second run has been made."
        ),
    }


# Overhead


def _overhead_sentences(measured: list[store.Measured]) -> dict[str, Text]:
    sentences = []
    for one in measured:
        rows = one.trust[one.trust["comparison"] == "overhead"]
        medians = rows.groupby("subject")["latency_s"].median()
        if not {"timing loop", "timeit", "clock"} <= set(medians.index):
            continue
        difference = medians["timing loop"] - medians["timeit"]
        empty = ceilings.overhead(one.ceilings)
        dispatch = (
            f" The cheapest operation of torch takes {report.duration(empty['overhead_s'].min())}."
            if len(empty)
            else ""
        )
        sentences.append(
            f"On the {title(one.environment)} an empty Python function takes "
            f"{report.duration(medians['timing loop'])} a call in this book's loop and "
            f"{report.duration(medians['timeit'])} in `timeit`, whose loop is as bare as Python allows: "
            f"{'a difference of' if difference >= 0 else 'less by'} {report.duration(abs(difference))}. A pair of "
            f"clock readings costs {report.duration(medians['clock'])} a sample.{dispatch}"
        )
    return {"overhead": Text(" ".join(sentences) or "The overhead has not been measured.")}


# The state of the machine

DRIFT_COLUMNS = ("machine", "device", "run", "position", "hours", "relative", "median_s")


def _drift(one: store.Measured) -> pd.DataFrame:
    """The reference's median at each position of each run, relative to the median of all."""
    rows = one.drift.sort_values("started_at")
    if rows.empty:
        return pd.DataFrame(columns=list(DRIFT_COLUMNS))
    rows = rows.assign(
        turn=(rows["index"] == 0).cumsum(), run=(rows["position"].eq("start") & rows["index"].eq(0)).cumsum()
    )
    keys = ["device", "run", "turn", "position"]
    medians = (
        rows.groupby(keys, sort=False).agg(median_s=("latency_s", "median"), at=("started_at", "min")).reset_index()
    )
    medians["relative"] = medians["median_s"] / medians.groupby("device")["median_s"].transform("median")
    medians["hours"] = (medians["at"] - medians["at"].min()) / 3600
    return medians.assign(machine=title(one.environment))[list(DRIFT_COLUMNS)]


def _state_sentences(drift: pd.DataFrame, measured: list[store.Measured]) -> dict[str, Text]:
    sentences, statuses = [], []
    for one in measured:
        name = title(one.environment)
        mine = drift[drift["machine"] == name]
        if len(mine):
            spread = mine["relative"].max() / mine["relative"].min() - 1
            beyond = (mine["relative"] - 1).abs() > machine.DRIFT_LIMIT
            sentences.append(
                f"On the {name} the reference was timed {report.plural(len(mine), 'time')}; its slowest median lies "
                f"{report.percent(spread)} above its fastest, and {report.number(int(beyond.sum()))} of them more than "
                f"{report.percent(machine.DRIFT_LIMIT)} from the middle one."
            )
        counts = one.outcomes["status"].value_counts()
        busy = int(one.outcomes["is_busy"].sum())
        told = [f"{report.number(int(counts[s]))} {STATUS_WORDS[s]}" for s in schema.STATUSES if s in counts]
        statuses.append(
            f"On the {name}, of {report.plural(len(one.outcomes), 'case')}, {report.listing(told)}; "
            f"{report.number(busy)} ran while other work kept the machine busy."
            + (f" {report.plural(len(one.faults), 'line')} of its data could not be read." if one.faults else "")
            + (" Samples of other environments in its folder are left out." if one.others else "")
        )
    reach = f"between {drift['relative'].min():.2f} and {drift['relative'].max():.2f}" if len(drift) else "unknown"
    return {
        "drift": Text(" ".join(sentences) or "The reference has not been timed."),
        "statuses": Text(" ".join(statuses) or "No machine has data."),
        "alt_drift": Text(f"The reference operation's median over time, relative to the middle one: {reach}."),
    }


STATUS_WORDS = {
    "ok": "reached the target", "noisy": "kept a wider interval", "too_few": "have too few samples",
    "out_of_memory": "did not fit into memory", "unsupported": "are not supported",
    "over_budget": "would have taken too long", "failed": "failed",
}  # fmt: skip
