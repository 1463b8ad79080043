"""Inference and training sweeps over networks, batch sizes, precisions, memory formats and compile modes.

This process supervises: it holds the folder's lock, hands cases to the processes that measure (`src.workers`), writes
how each ended, and decides where time is spent. Samples are on disk as they come, so that a run killed at any moment
carries on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src import command, machine, schema, store, timing, workers
from src.command import Progress, add_case_arguments, add_common_arguments, measuring
from src.schema import Case
from src.workers import Task, Worker, WorkerEnded

BATCH_SIZES = (1, 64, 256)
STEPS_BETWEEN = (4, 16)
TRAINING_BATCH_SIZE = {"cpu": 16, "mps": 16, "cuda": 64}
"""Large enough that per-step overhead does not dominate and batch normalisation makes sense; small enough that a
step of the largest network takes seconds on a few CPU cores and its saved activations fit into a few gigabytes."""

PATIENCE = 6.0
"""A slow case may take this many times its budget to reach the minimum number of samples."""
SLOWEST_CASE_S = 60.0
FINISHED = frozenset({"ok", "out_of_memory", "unsupported", "failed"})
"""Statuses that a later run does not take up again."""


# Which cases


def _cases(
    names: Iterable[str], sweep: str, batch_sizes: Iterable[int], device: str, precision: str,
    memory_format: str = "contiguous", compile_mode: str = "eager",
) -> list[Case]:  # fmt: skip
    names = list(names)
    return [
        Case(name, sweep, batch_size, device, precision, memory_format, compile_mode)
        for batch_size in batch_sizes
        for name in names
    ]


def default_cases(sweep: str, device: str, names: Sequence[str] | None = None) -> list[Case]:
    """The full set of a machine, the most wanted first: fp32 at every batch size, then the variants."""
    from src import models

    names = list(models.MEASURED if names is None else names)
    networks = {name: models.get(name) for name in names}
    spatial = [name for name in names if networks[name].unit == "image"]
    if sweep == "training":
        trainable = [name for name in names if networks[name].trainable]
        batch = (TRAINING_BATCH_SIZE[device],)
        found = _cases(trainable, sweep, batch, device, "fp32")
        if device == "cuda":
            found += _cases(trainable, sweep, batch, device, "tf32") + _cases(trainable, sweep, batch, device, "bf16")
        return found
    found = _cases(names, sweep, BATCH_SIZES, device, "fp32")
    if device == "cuda":
        for precision in ("tf32", "bf16"):
            found += _cases(names, sweep, BATCH_SIZES, device, precision)
        for precision in ("fp32", "tf32", "bf16"):
            found += _cases(names, sweep, (*STEPS_BETWEEN, 1024), device, precision)
        found += _cases(names, sweep, (1, 16), device, "fp32", compile_mode="cuda_graph")
        found += _cases(spatial, sweep, (1, 64, 256), device, "bf16", "channels_last")
        found += _cases(names, sweep, (1, 64), device, "fp32", compile_mode="compile")
        return found
    found += _cases(names, sweep, STEPS_BETWEEN, device, "fp32")
    for sizes in (BATCH_SIZES[:2], BATCH_SIZES[2:]):
        found += _cases(names, sweep, sizes, device, "bf16")
        found += _cases(spatial, sweep, sizes, device, "fp32", "channels_last")
    return found


def chosen_cases(options: argparse.Namespace, sweep: str, device: str) -> list[Case]:
    """The cases that a command asks for: the default set, or every combination of what it names."""
    if not (options.batch_sizes or options.precision or options.memory_format or options.compile_mode):
        return default_cases(sweep, device, options.models)
    from src import models

    names = list(options.models or models.MEASURED)
    if sweep == "training":
        names = [name for name in names if models.get(name).trainable]
    sizes = options.batch_sizes or (BATCH_SIZES if sweep == "inference" else (TRAINING_BATCH_SIZE[device],))
    return [
        case
        for precision in options.precision or ["fp32"]
        for memory_format in options.memory_format or ["contiguous"]
        for compile_mode in options.compile_mode or ["eager"]
        for case in _cases(names, sweep, sizes, device, precision, memory_format, compile_mode)
        # Channels-last says how images lie in memory: to sequences it makes no difference.
        if memory_format != "channels_last" or models.get(case.model).unit == "image"
    ]


# Sweeping


@dataclass
class Sweep:
    """One run over cases: where it writes, how much time it has, and what is known so far."""

    folder: Path
    environment: Mapping[str, object]
    identifier: str
    device: str
    budget_s: float
    case_budget_s: float
    patience_s: float | None
    target: float
    log: Callable[[str], None]
    progress: Progress
    make_worker: Callable[[], Any]
    began: float = field(default_factory=time.monotonic)
    worker: Any = None
    seconds_per_input: dict[tuple, float] = field(default_factory=dict)

    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - (time.monotonic() - self.began)


def sweep(
    folder: Path,
    cases: Sequence[Case],
    device: str,
    *,
    budget_s: float = math.inf,
    case_budget_s: float = command.CASE_BUDGET_S,
    patience_s: float | None = None,
    target: float = timing.TARGET,
    environment: Mapping[str, object] | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    make_worker: Callable[[], Any] | None = None,
) -> dict[Case, dict]:
    """Measure cases into a folder whose lock the caller holds; returns the last outcome of each case that has one.

    Cases that earlier runs finished are not measured again. First every case gets up to ``case_budget_s`` seconds, or
    an even share of what is left of ``budget_s`` if that is less; a slow one gets ``patience_s`` to reach the minimum
    number of samples (by default six times its budget, and a minute at least). Time that remains then goes, a case at
    a time, to the one whose interval a second narrows most. Raises `store.StoreError` if the folder can't be written.
    """
    described = dict(environment or machine.describe("cuda" if device == "cuda" else None))
    run = Sweep(
        folder, described, store.add_environment(folder, described), device, budget_s, case_budget_s,
        patience_s, target, log,
        progress or Progress(log), make_worker or (lambda: Worker(device, int(described["threads"]))),
    )  # fmt: skip
    try:
        return _sweep(run, list(dict.fromkeys(cases)))
    finally:
        if run.worker is not None:
            run.worker.close()
        run.progress.close()


def _sweep(run: Sweep, cases: list[Case]) -> dict[Case, dict]:
    known = store.progress(run.folder, run.identifier)
    for fault in known.faults:
        run.log(f"left out: {fault}")
    outcomes = {case: known.outcomes[case] for case in cases if case in known.outcomes}
    totals = {case: _totals(known.samples.get(case, [])) for case in cases}
    for case in cases:
        _learn(run, case, totals[case])
    pending = [case for case in cases if outcomes.get(case, {}).get("status") not in FINISHED]
    first = [case for case in pending if case not in outcomes or outcomes[case]["status"] == "over_budget"]
    if not pending:
        return outcomes
    run.progress.start(len(first))
    _reference(run, "start")
    middle = len(first) // 2
    for position, case in enumerate(first):
        if position == middle and position > 0:
            _reference(run, "middle")
        if run.left_s() <= 1.0:
            run.log(f"time is up: {len(first) - position} cases left for another run")
            break
        share = max(2.0, 1.5 * run.left_s() / (len(first) - position))
        budget_s = min(run.case_budget_s, share)
        outcomes[case] = _measure_case(run, case, budget_s, _patience(run, budget_s), totals)
    else:
        _deepen(run, cases, outcomes, totals)
    _reference(run, "end")
    return outcomes


def _patience(run: Sweep, budget_s: float) -> float:
    wanted_s = max(PATIENCE * budget_s, SLOWEST_CASE_S) if run.patience_s is None else run.patience_s
    return min(wanted_s, max(run.left_s(), budget_s))


def _totals(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds of each kept sample, its phases together."""
    found: dict[int, float] = {}
    for row in rows:
        if not row["is_warmup"]:
            found[row["index"]] = found.get(row["index"], 0.0) + row["latency_s"]
    return list(found.values())


def _learn(run: Sweep, case: Case, totals: Sequence[float]) -> None:
    if totals:
        key = (case.model, case.sweep, case.precision, case.memory_format, case.compile_mode)
        run.seconds_per_input[key] = float(np.median(totals)) / case.batch_size


def predicted_s(run: Sweep, case: Case) -> float | None:
    """Seconds that one call will take, from another batch size of the same network; None if there is none yet."""
    key = (case.model, case.sweep, case.precision, case.memory_format, case.compile_mode)
    per_input = run.seconds_per_input.get(key)
    return None if per_input is None else per_input * case.batch_size


def _deepen(run: Sweep, cases: Sequence[Case], outcomes: dict[Case, dict], totals: dict[Case, list[float]]) -> None:
    """Spend what is left of a limited budget where a second narrows an interval most."""
    tried: dict[Case, int] = {}
    while run.left_s() > 5.0 and run.budget_s < math.inf:
        open_ = [case for case in cases if outcomes[case]["status"] in ("noisy", "too_few") and tried.get(case, 0) < 3]
        gains = {case: narrowing_per_s(totals[case], run.target) for case in open_}
        affordable = [case for case in open_ if 3 * float(np.median(totals[case])) < run.left_s()]
        if not affordable:
            return
        case = max(affordable, key=gains.__getitem__)
        tried[case] = tried.get(case, 0) + 1
        median = float(np.median(totals[case]))
        budget_s = min(max(run.case_budget_s, 8 * median), run.left_s())
        run.progress.extend()
        outcomes[case] = _measure_case(run, case, budget_s, budget_s, totals)


RESTART_S = 3.0
"""What taking up a case again costs before its first sample: building the network and warming up."""


def narrowing_per_s(totals: Sequence[float], target: float) -> float:
    """By how much of the median, per second spent, the interval's half width is expected to shrink towards the target.

    A half width falls as the square root of the number of samples. ``totals`` are the samples so far, in s.
    """
    n, median = len(totals), float(np.median(totals))
    width = timing.relative_half_width(totals)
    if not math.isfinite(width):
        width = 1.0
    if width <= target and n >= timing.MINIMUM_SAMPLES:
        return 0.0
    needed = max(math.ceil(n * (width / target) ** 2), timing.MINIMUM_SAMPLES)
    more = min(needed - n, max(timing.MINIMUM_SAMPLES, 2 * n))
    narrower = width * math.sqrt(n / (n + more))
    return (width - max(narrower, target)) / (RESTART_S + (more + 2) * median)


def _measure_case(run: Sweep, case: Case, budget_s: float, patience_s: float, totals: dict[Case, list[float]]) -> dict:
    """Measure one case and write its outcome; returns the row."""
    run.progress.show(case, run.left_s())
    began, started_at = time.monotonic(), time.time()
    base = {"environment": run.identifier, **asdict(case), "started_at": started_at}
    expected = predicted_s(run, case)
    if expected is not None and 2 * expected > run.left_s():
        outcome = {
            "status": "over_budget",
            "message": f"one call takes about {expected:.3g} s; {run.left_s():.0f} s left",
        }
    else:
        plan = timing.Plan(budget_s=budget_s, patience_s=patience_s, target=run.target)
        outcome = _supervise(run, case, plan, totals)
    row = base | {"is_busy": False} | outcome | {"elapsed_s": time.monotonic() - began}
    with store.appender(run.folder, "outcomes.jsonl") as out:
        out.append(row)
    run.progress.done(case, row, totals.get(case, []))
    return row


def _supervise(run: Sweep, case: Case, plan: timing.Plan, totals: dict[Case, list[float]]) -> dict:
    if run.worker is None:
        run.worker = run.make_worker()
    known = store.progress(run.folder, run.identifier).samples.get(case, [])
    first_index = 1 + max((row["index"] for row in known), default=-1)
    task = Task(case, plan, str(run.folder), run.identifier, tuple(_totals(known)), first_index)
    states: list[dict] = []
    watch = (lambda: states.append(machine.accelerator_state())) if run.device == "cuda" else run.progress.tick
    before = machine.usage([run.worker.pid])
    limit_s = max(plan.budget_s, plan.patience_s or 0.0) * 1.5 + 30.0
    try:
        outcome = run.worker.run(task, limit_s, watch)
        if isinstance(outcome, Exception):
            outcome = {"status": "failed", "message": str(outcome)}
    except TimeoutError:
        outcome = {"status": "over_budget", "message": f"ended after {limit_s:.0f} s"}
    except WorkerEnded as ended:
        status, message = ended.outcome()
        outcome = {"status": status, "message": message}
    seen = machine.busyness(before, machine.usage([run.worker.pid]))
    if run.device == "cpu" or outcome["status"] in ("over_budget", "out_of_memory", "failed"):
        run.worker.close()
        run.worker = None
    totals[case] = _totals(store.progress(run.folder, run.identifier).samples.get(case, []))
    _learn(run, case, totals[case])
    if outcome["status"] == "over_budget" and totals[case]:
        # Cut off while sampling: what was sampled counts.
        sampled = timing.summarise((), totals[case], plan, "budget", 0.0)
        outcome = {"status": sampled.status, "stop_reason": sampled.stop_reason, "message": outcome["message"]}
    cores = int(run.environment["logical_cores"])
    state = {"steal_share": seen.steal_share, "other_load": seen.other_load, "is_busy": seen.is_busy(cores)}
    if run.device == "cpu":
        state["clock_hz"] = machine.clock_seen_hz()
    return outcome | state | _mean_state(states)


def _mean_state(states: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Means of what the accelerator reported while a case ran; throttled if it ever was."""
    merged: dict[str, object] = {}
    for name in ("clock_hz", "temperature_c", "power_w"):
        values = [state[name] for state in states if state.get(name) is not None]
        if values:
            merged[name] = float(np.mean(values))
    flags = [state["is_throttled"] for state in states if state.get("is_throttled") is not None]
    return merged | ({"is_throttled": any(flags)} if flags else {})


def _reference(run: Sweep, position: str) -> None:
    """Time the reference, write its rows, and say if the machine differs from the run's start."""
    if run.worker is None:
        run.worker = run.make_worker()
    before = machine.usage([run.worker.pid])
    try:
        timed = run.worker.run(run.device, 120.0)
    except (TimeoutError, WorkerEnded) as error:
        run.log(f"the reference case could not be timed: {error or 'no answer'}")
        timed = None
    seen = machine.busyness(before, machine.usage([run.worker.pid]))
    if run.device == "cpu" or not isinstance(timed, list):
        run.worker.close()
        run.worker = None
    if not isinstance(timed, list):
        return
    with store.appender(run.folder, "drift.jsonl") as out:
        for index, (started_at, latency_s) in enumerate(timed):
            out.append({"environment": run.identifier, "device": run.device, "position": position, "kernel": workers.REFERENCE,
                        "index": index, "latency_s": latency_s, "started_at": started_at,
                        "steal_share": seen.steal_share, "other_load": seen.other_load})  # fmt: skip
    median = float(np.median([latency_s for _, latency_s in timed]))
    first = run.seconds_per_input.setdefault(("reference",), median)
    if abs(median / first - 1) > machine.DRIFT_LIMIT:
        run.log(f"the machine drifts: the reference takes {median / first:.2f} times as long as at the start")


def main(arguments: list[str] | None = None) -> int:
    """Time networks: every raw sample goes to data/machines/NAME/."""
    parser = argparse.ArgumentParser(prog="python -m src.benchmark", description=main.__doc__)
    parser.add_argument("sweep", choices=("inference", "training"))
    add_common_arguments(parser)
    add_case_arguments(parser)
    options = parser.parse_args(arguments)
    with measuring(options, parser) as run:
        cases = chosen_cases(options, options.sweep, run.device)
        outcomes = sweep(
            run.folder, cases, run.device, budget_s=options.budget, case_budget_s=options.case_budget,
            patience_s=options.patience, target=options.target, environment=run.environment, log=run.log,
        )  # fmt: skip
    print(summary(cases, outcomes))
    return 0


def summary(cases: Sequence[Case], outcomes: Mapping[Case, Mapping[str, Any]]) -> str:
    """How many cases ended how, in one line."""
    counts: dict[str, int] = {}
    for case in cases:
        status = outcomes[case]["status"] if case in outcomes else "not yet measured"
        counts[status] = counts.get(status, 0) + 1
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())


if __name__ == "__main__":
    # Under its importable name, so that what workers receive is of the same classes.
    from src.benchmark import main as imported_main

    sys.exit(imported_main())
