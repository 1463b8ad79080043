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
from dataclasses import asdict, dataclass, field, replace
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
ROUNDS = {"cpu": 3, "mps": 1, "cuda": 1}
"""A sweep spreads a case's budget over so many visits, minutes apart. On a CPU each is a process of its own: where its
memory and threads lie, and what else the machine is doing in those seconds, stays with all of its samples."""

SAMPLED = frozenset({"ok", "noisy", "too_few"})
"""Statuses of cases that have samples."""

SHORTEST_VISIT = 3
"""A further visit to a case has time for at least so many calls; for one, the warm-up would take half of it."""

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
    again: str | None
    log: Callable[[str], None]
    progress: Progress
    make_worker: Callable[[], Any]
    rounds: int
    began: float = field(default_factory=time.monotonic)
    worker: Any = None
    outcomes: dict[Case, dict] = field(default_factory=dict)
    attempts: dict[Case, int] = field(default_factory=dict)
    totals: dict[Case, list[float]] = field(default_factory=dict)
    indices: dict[Case, list[int]] = field(default_factory=dict)
    next_index: dict[Case, int] = field(default_factory=dict)
    seconds_per_input: dict[tuple, float] = field(default_factory=dict)
    follower: store.Follower = field(init=False)

    def __post_init__(self):
        self.follower = store.Follower(self.folder / "samples.jsonl", schema.SAMPLES)

    def read_samples(self) -> None:
        """Take in what the workers wrote since the last call: each case's kept totals in s, and its next index."""
        grown: dict[Case, dict[int, float]] = {}
        for row in self.follower.rows():
            if row["environment"] != self.identifier:
                continue
            case = schema.case_of(row)
            if (row["attempt"] or 1) != self.attempts.get(case, 1):
                continue
            self.next_index[case] = max(self.next_index.get(case, 0), row["index"] + 1)
            if not row["is_warmup"]:
                samples = grown.setdefault(case, {})
                samples[row["index"]] = samples.get(row["index"], 0.0) + row["latency_s"]
        for case, samples in grown.items():
            self.totals.setdefault(case, []).extend(samples.values())
            self.indices.setdefault(case, []).extend(samples)
            self.seconds_per_input[_series(case)] = float(np.median(self.totals[case])) / case.batch_size

    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - (time.monotonic() - self.began)

    def visits(self, case: Case) -> np.ndarray:
        """Which visit each total of a case is of, (n,)."""
        return timing.visits(self.indices.get(case, []))

    def sampled(self, case: Case) -> dict | None:
        """The outcome of a case that has samples which count; None for others."""
        row = self.outcomes.get(case)
        is_current = row is not None and (row.get("attempt") or 1) == self.attempts.get(case, 1)
        return row if is_current and row["status"] in SAMPLED and self.totals.get(case) else None


def sweep(
    folder: Path,
    cases: Sequence[Case],
    device: str,
    *,
    budget_s: float = math.inf,
    case_budget_s: float = command.CASE_BUDGET_S,
    patience_s: float | None = None,
    target: float = timing.TARGET,
    again: str | None = None,
    environment: Mapping[str, object] | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    make_worker: Callable[[], Any] | None = None,
    rounds: int | None = None,
) -> dict[Case, dict]:
    """Measure cases into a folder whose lock the caller holds; returns the last outcome of each case that has one.

    Cases that earlier runs finished are not measured again, but for those that ``again`` (`command.AGAIN`) names: they
    are measured anew, and their older samples no longer count. Every case gets up to ``case_budget_s`` seconds, or an
    even share of what is left of ``budget_s`` if that is less, spread over ``rounds`` (default: `ROUNDS`); a slow one
    gets ``patience_s`` to reach the minimum number of samples (by default six times its budget, and a minute at least).
    Time that remains then goes, a case at a time, to the one whose interval a second narrows most. Raises
    `store.StoreError` if the folder can't be written.
    """
    described = dict(environment or machine.describe("cuda" if device == "cuda" else None))
    run = Sweep(
        folder, described, store.add_environment(folder, described), device, budget_s, case_budget_s,
        patience_s, target, again, log,
        progress or Progress(log), make_worker or (lambda: Worker(device, int(described["threads"]))),
        ROUNDS[device] if rounds is None else rounds,
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
    run.outcomes = dict(known.outcomes)
    anew = {case for case in cases if is_wanted_again(run.outcomes.get(case), run.again)}
    run.attempts = {case: (row.get("attempt") or 1) + (case in anew) for case, row in run.outcomes.items()}
    run.read_samples()
    statuses = {case: run.outcomes[case]["status"] if case in run.outcomes else None for case in cases}
    statuses |= dict.fromkeys(anew)
    first = [case for case, status in statuses.items() if status in (None, "over_budget")]
    owed = [case for case in cases if _share_s(run, case, 1) is not None]
    if first or owed or not FINISHED.issuperset(statuses.values()):
        run.progress.start()
        _reference(run, "start")
        if _visit(run, cases, first):
            _deepen(run, cases)
        _reference(run, "end")
    return {case: run.outcomes[case] for case in cases if case in run.outcomes}


def is_wanted_again(outcome: Mapping[str, Any] | None, again: str | None) -> bool:
    """Whether a case that was measured is to be measured anew, as `AGAIN` says."""
    if outcome is None or again is None:
        return False
    return {"busy": bool(outcome["is_busy"]), "noisy": outcome["status"] in ("noisy", "too_few"), "all": True}[again]


def _visit(run: Sweep, cases: Sequence[Case], first: Sequence[Case]) -> bool:
    """Measure the cases that come first, and go round again; False if time ran out before the last."""
    for turn in range(run.rounds):
        wanted = first if turn == 0 else [case for case in cases if _share_s(run, case, turn) is not None]
        run.progress.expect(len(wanted) * (run.rounds - turn))
        for position, case in enumerate(wanted):
            if turn == run.rounds // 2 and position == len(wanted) // 2 and position > 0:
                _reference(run, "middle")
            left_s = run.left_s()
            if left_s <= 1.0:
                run.log(f"time is up: {len(wanted) - position} cases left for another run")
                return False
            visits = len(wanted) * (run.rounds - turn) - position
            even_s = max(2.0, 1.5 * left_s / visits)
            share_s = run.case_budget_s / run.rounds if turn == 0 else _share_s(run, case, turn)
            budget_s = min(share_s, even_s)
            _measure_case(run, case, budget_s, _patience(run, budget_s * run.rounds) if turn == 0 else budget_s)
    return True


def _share_s(run: Sweep, case: Case, turn: int) -> float | None:
    """Seconds that a case gets on its next visit; None if it has no samples, enough visits, or too long calls."""
    outcome = run.sampled(case)
    if outcome is None or run.visits(case)[-1] >= turn or turn >= run.rounds:
        return None
    share_s = (run.case_budget_s - outcome["elapsed_s"]) / (run.rounds - turn)
    return share_s if share_s >= SHORTEST_VISIT * float(np.median(run.totals[case])) else None


def _patience(run: Sweep, budget_s: float) -> float:
    wanted_s = max(PATIENCE * budget_s, SLOWEST_CASE_S) if run.patience_s is None else run.patience_s
    return min(wanted_s, max(run.left_s(), budget_s))


def _series(case: Case) -> tuple:
    """What cases that differ in their batch size alone have in common."""
    return case.model, case.sweep, case.device, case.precision, case.memory_format, case.compile_mode


def predicted_s(run: Sweep, case: Case) -> float | None:
    """Seconds that one call will take, from another batch size of the same network; None if there is none yet."""
    per_input = run.seconds_per_input.get(_series(case))
    return None if per_input is None else per_input * case.batch_size


def _deepen(run: Sweep, cases: Sequence[Case]) -> None:
    """Spend what is left of a limited budget where a second narrows an interval most."""
    tried: dict[Case, int] = {}
    while 5.0 < run.left_s() < math.inf:
        open_ = [
            case
            for case in cases
            if run.outcomes[case]["status"] in ("noisy", "too_few") and run.totals.get(case) and tried.get(case, 0) < 3
        ]
        affordable = [case for case in open_ if 3 * float(np.median(run.totals[case])) < run.left_s()]
        if not affordable:
            return
        case = max(affordable, key=lambda case: narrowing_per_s(run.totals[case], run.target, run.visits(case)))
        tried[case] = tried.get(case, 0) + 1
        budget_s = min(max(run.case_budget_s, 8 * float(np.median(run.totals[case]))), run.left_s())
        run.progress.expect(1)
        _measure_case(run, case, budget_s, budget_s)


RESTART_S = 3.0
"""What taking up a case again costs before its first sample: building the network and warming up."""


def narrowing_per_s(totals: Sequence[float], target: float, visits: Sequence[int] | np.ndarray | None = None) -> float:
    """By how much of the median, per second spent, the interval's half width is expected to shrink towards the target.

    A half width falls as the square root of the number of samples. ``totals`` (n,) are the samples so far, in s, and
    ``visits`` (n,) tells which visit each is of.
    """
    n, median = len(totals), float(np.median(totals))
    width = timing.relative_half_width(totals, visits)
    if n < timing.MINIMUM_SAMPLES:
        width = 1.0  # so few say nothing about their spread
    if width <= target and n >= timing.MINIMUM_SAMPLES:
        return 0.0
    needed = max(math.ceil(n * (width / target) ** 2), timing.MINIMUM_SAMPLES)
    more = min(needed - n, max(timing.MINIMUM_SAMPLES, 2 * n))
    narrower = width * math.sqrt(n / (n + more))
    return (width - max(narrower, target)) / (RESTART_S + (more + 2) * median)


def _measure_case(run: Sweep, case: Case, budget_s: float, patience_s: float) -> None:
    """Measure one case and write its outcome."""
    run.progress.show(case, run.left_s())
    began, started_at = time.monotonic(), time.time()
    base = {"environment": run.identifier, **asdict(case), "started_at": started_at}
    expected = predicted_s(run, case)
    if lacking := lacking_memory(case, run.outcomes, run.device):
        outcome = {"status": "out_of_memory", "message": lacking}
    elif expected is not None and 2 * expected > run.left_s():
        if case in run.outcomes:
            return  # what an earlier run found holds
        message = f"one call takes about {expected:.3g} s; {run.left_s():.0f} s left"
        outcome = {"status": "over_budget", "message": message}
    else:
        plan = timing.Plan(budget_s=budget_s, patience_s=patience_s, target=run.target)
        earlier = run.sampled(case)
        outcome = _supervise(run, case, plan)
        if earlier and outcome["status"] not in SAMPLED:
            run.log(f"another visit to {command.describe(case)} ended as {outcome['status']}; its samples stay")
            return
        if earlier:
            outcome, began = _joined(earlier, outcome), began - earlier["elapsed_s"]
        if len(run.totals.get(case, ())) and outcome["status"] in SAMPLED:
            outcome |= _judged(run, case, plan, outcome["stop_reason"])
    attempt = run.attempts.get(case, 1)
    base["attempt"] = attempt if attempt > 1 else None
    row = {"is_busy": False} | outcome | base | {"elapsed_s": time.monotonic() - began}
    with store.appender(run.folder, "outcomes.jsonl") as out:
        out.append(row)
    run.outcomes[case] = row
    run.progress.done(case, row, run.totals.get(case, []))


def _joined(earlier: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict:
    """The outcome of a case after another visit: the worse of what the machine did, and the largest memory."""
    joined = dict(earlier) | {name: value for name, value in outcome.items() if value is not None}
    for name in ("peak_memory_byte", "model_memory_byte", "steal_share", "other_load", "is_busy", "is_throttled"):
        values = [row[name] for row in (earlier, outcome) if row.get(name) is not None]
        if values:
            joined[name] = max(values)
    return joined


def _judged(run: Sweep, case: Case, plan: timing.Plan, reason: str) -> dict[str, str]:
    """Status and stop reason by all samples of a case. That one visit's interval was tight is no reason to stop."""
    found = timing.summarise((), run.totals[case], plan, reason, 0.0, run.visits(case))
    return {
        "status": found.status,
        "stop_reason": "budget" if found.status != "ok" and found.stop_reason == "interval" else found.stop_reason,
    }


def lacking_memory(case: Case, outcomes: Mapping[Case, Mapping[str, Any]], device: str) -> str | None:
    """Why a CPU case is not worth trying: a smaller batch of it already needed so much that this one can't fit.

    What a batch adds to the network's own memory is taken to grow with the batch size, which is exact for activations
    and too low for inputs. Computing for minutes up to the allocation that fails would tell no more. None if it may
    fit, or if no smaller batch was measured; accelerators refuse an allocation at once, so there every case is tried.
    """
    available = machine.available_memory_byte()
    smaller = [
        (other.batch_size, row)
        for other, row in outcomes.items()
        if replace(other, batch_size=case.batch_size) == case and other.batch_size < case.batch_size
        and row.get("peak_memory_byte") and row.get("model_memory_byte")
    ]  # fmt: skip
    if device != "cpu" or available is None or not smaller:
        return None
    batch_size, row = max(smaller, key=lambda pair: pair[0])
    own = row["model_memory_byte"]
    needed = own + (row["peak_memory_byte"] - own) * case.batch_size / batch_size
    if needed <= available:
        return None
    return f"not tried: going by batch {batch_size}, it needs {needed / 1e9:.1f} GB; {available / 1e9:.1f} GB are free"


def _supervise(run: Sweep, case: Case, plan: timing.Plan) -> dict:
    """Have a worker time one case; returns the columns of its outcome, whatever became of the worker."""
    if run.worker is None:
        run.worker = run.make_worker()
    before_visit = len(run.totals.get(case, ()))
    first_index, attempt = run.next_index.get(case, 0), run.attempts.get(case, 1)
    task = Task(case, plan, str(run.folder), run.identifier, first_index, attempt)
    states: list[dict] = []
    watch = (lambda: states.append(machine.accelerator_state())) if run.device == "cuda" else run.progress.tick
    limit_s = min(max(plan.budget_s, plan.patience_s or 0.0) * 1.5, run.left_s()) + 30.0
    before = machine.usage([run.worker.pid])
    try:
        outcome = run.worker.run(task, limit_s, watch)
        seen = machine.busyness(before, machine.usage([run.worker.pid]))
        if isinstance(outcome, Exception):
            outcome = {"status": "failed", "message": str(outcome)}
    except (TimeoutError, WorkerEnded) as ended:
        # What a process used is unknown once it is gone, so others' share of the machine is too.
        outcome, seen = _cut_short(ended, limit_s), machine.Busyness(None, None)
    if run.device == "cpu" or outcome["status"] in ("over_budget", "out_of_memory", "failed"):
        run.worker.close()
        run.worker = None
    run.read_samples()
    if outcome["status"] == "over_budget" and len(run.totals.get(case, ())) > before_visit:
        # Cut off while sampling: what was sampled counts.
        outcome = {"status": "too_few", "stop_reason": "budget", "message": outcome["message"]}
    busy = seen.is_busy(int(run.environment["logical_cores"]))
    state = {"steal_share": seen.steal_share, "other_load": seen.other_load, "is_busy": busy}
    clock = {"clock_hz": machine.clock_seen_hz()} if run.device == "cpu" else {}
    return outcome | state | clock | _mean_state(states)


def _cut_short(ended: Exception, limit_s: float) -> dict:
    """The outcome of a case whose worker did not answer."""
    if isinstance(ended, WorkerEnded):
        status, message = ended.outcome()
        return {"status": status, "message": message}
    return {"status": "over_budget", "message": f"ended after {limit_s:.0f} s"}


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
            out.append({"environment": run.identifier, "device": run.device, "position": position,
                        "kernel": workers.REFERENCE, "index": index, "latency_s": latency_s, "started_at": started_at,
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
            patience_s=options.patience, target=options.target, again=options.again, environment=run.environment,
            log=run.log,
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
