"""Where the time of a training step goes: each operation timed, forward and backward, and summed by layer type.

Method. A first pass runs under the recorder that also counts a network's FLOPs (`src.trace`), on the device itself. It
notes which operations the device is asked for, in order, and the layer type of each: a forward operation has that of
the module that asks for it, a backward operation that of the forward operation whose autograd node it runs in, found
by autograd's own sequence number. The order never changes from pass to pass, so later passes need no bookkeeping: each
operation is timed below autograd, from its call to its return, and matched by its place. A pass whose operations differ
is refused.

Each repeat runs two passes, one undisturbed and timed as a whole, one with every operation timed. The operations' times
add up to less than the undisturbed pass; the difference is time between operations: Python, autograd's engine, memory
given back. It is shown as a slice of its own and never spread over the layers.

On CUDA an operation's time lies between two events in its stream. A short wait is queued before each, so that the host
has asked for all of the operation's kernels before the first of them starts: the time is the device's alone.

Needs torch, torchvision and NumPy alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src import benchmark, command, machine, models, precision, schema, steps, store, timing, trace, workers, workload
from src.models import Network
from src.schema import Case
from src.trace import Operation

MODELS = (
    "alexnet", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16",
    "swin_t", "gpt2_prefill",
)  # fmt: skip
"""The networks that the book breaks down: of each family of `src.models` those that differ most in their layers."""

OUTSIDE = "outside layers"
"""What belongs to no layer: of a pass's time that between operations, of its memory the input and the buffers."""

MINIMUM_REPEATS = 3
MAXIMUM_REPEATS = 20
CASE_BUDGET_S = 20.0
SLOWEST_CASE_S = 300.0
"""How much longer than its budget a case may take to reach the minimum number of repeats."""

PHASES = ("forward", "backward")
HOLD_CYCLES = 400_000
"""Clock cycles that a CUDA stream waits before each operation: some 0.2 ms, longer than the host needs to queue one."""


class BreakdownError(RuntimeError):
    """A pass that can't be broken down; the message says why."""


class Step:
    """One training step of a network on a device, as the calls that are timed."""

    def __init__(self, network: Network, batch_size: int, device: str, precision_name: str):
        dtype = precision.dtype(precision_name)
        torch.manual_seed(models.SEED)
        self.network = network
        self.module = network.build().to(device, dtype).train()
        self.inputs = network.inputs(batch_size, device, dtype)
        self._loss: torch.Tensor | None = None

    def forward(self) -> None:
        """The forward pass and the loss."""
        self._loss = self.network.loss(self.module(*self.inputs), self.inputs)

    def backward(self) -> None:
        """The backward pass of what `forward` left."""
        assert self._loss is not None, "backward follows forward"
        self._loss.backward()

    def clear(self) -> None:
        """Drop the gradients and what the graph still holds, so that every step starts alike."""
        self._loss = None
        self.module.zero_grad(set_to_none=True)

    @property
    def calls(self) -> dict[str, Callable[[], None]]:
        return {"forward": self.forward, "backward": self.backward}


class _Stopwatch(TorchDispatchMode):
    """Marks the start and end of every operation, below autograd, and does nothing else."""

    def __init__(self, clock: timing.Clock, hold: Callable[[], None] | None):
        super().__init__()
        self._mark, self._hold = clock.mark, hold
        self.marks: list[tuple[object, object, object]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._hold is not None:
            self._hold()
        start = self._mark()
        out = func(*args, **(kwargs or {}))
        end = self._mark()
        self.marks.append((func, start, end))
        return out


@dataclass(frozen=True)
class Repeat:
    """One repeat: seconds of each phase undisturbed and instrumented, and of each operation in the latter."""

    index: int
    whole_s: Mapping[str, float]
    instrumented_s: Mapping[str, float]
    operations: tuple[tuple[Operation, float], ...]
    started_at: float


def repeats(step: Step, clock: timing.Clock, hold: Callable[[], None] | None = None) -> Iterator[Repeat]:
    """Repeats without end. The pass that notes the operations, which runs first, warms up and is no repeat.

    ``hold`` is called before each operation of the instrumented passes. Raises `BreakdownError` if the operations of
    two passes differ.
    """
    survey = trace.record(step.module, step.inputs, step.network.loss)
    index = 0
    while True:
        started_at = time.time()
        step.clear()
        whole, _ = timing.time_once(step.calls, clock)
        step.clear()
        with _Stopwatch(clock, hold) as stopwatch:
            instrumented, _ = timing.time_once(step.calls, clock)
        operations = _matched(survey, stopwatch.marks, clock)
        yield Repeat(index, whole, instrumented, operations, started_at)
        index += 1


def _matched(survey: trace.Trace, marks: Sequence[tuple], clock: timing.Clock) -> tuple[tuple[Operation, float], ...]:
    """Each recorded operation with its seconds, matched by place and name; views, which move nothing, fall away."""
    if len(marks) != len(survey.calls):
        raise BreakdownError(f"{len(survey.calls)} operations in one pass, {len(marks)} in the next")
    matched = []
    for (name, place), (func, start, end) in zip(survey.calls, marks, strict=True):
        if str(func) != name:
            raise BreakdownError(f"operations differ from pass to pass: {name} in one, {func} in the next")
        if place is not None:
            matched.append((survey.operations[place], clock.elapsed_s(start, end)))
    return tuple(matched)


def hold_for(device: str) -> Callable[[], None] | None:
    """What keeps a device waiting until the host has queued an operation; None where calls return when done.

    Raises `BreakdownError` where the device's waiting for the host can't be kept out of an operation's time.
    """
    if device == "cpu":
        return None
    if device == "cuda":
        return lambda: torch.cuda._sleep(HOLD_CYCLES)
    raise BreakdownError(f"operations can't be timed one by one on {device}: its idle time would count as theirs")


def rows(repeat: Repeat, case: Case, environment: str = "") -> list[dict]:
    """A repeat as rows of `schema.BREAKDOWN`: operations summed by phase, layer type and name, and the two passes."""
    common = {
        "environment": environment, **vars(case), "index": repeat.index, "is_warmup": False,
        "started_at": repeat.started_at,
    }  # fmt: skip
    sums: dict[tuple[str, str, str], list] = {}
    for operation, latency_s in repeat.operations:
        entry = sums.setdefault((operation.phase, operation.layer_type, operation.name), [0, 0.0])
        entry[0] += 1
        entry[1] += latency_s
    listed = [
        common
        | {"phase": phase, "part": "operations", "layer_type": layer_type, "operation": name}
        | {"count": count, "latency_s": latency_s}
        for (phase, layer_type, name), (count, latency_s) in sums.items()
    ]
    for part, latencies in (("whole", repeat.whole_s), ("instrumented", repeat.instrumented_s)):
        listed += [common | {"phase": p, "part": part, "count": 1, "latency_s": s} for p, s in latencies.items()]
    return listed


# From rows to the table of one network: what the command prints and the chapter shows


@dataclass(frozen=True)
class Slice:
    """What one layer type takes of one phase.

    ``latency_s`` is the median over repeats, with its interval; of `OUTSIDE` it is what the whole pass takes beyond its
    operations, which may come out below 0 where that is nothing. ``memory_byte`` is what it owns when the phase holds
    most. Each quantity's values add up to the whole: ``latency_s`` to the median of the undisturbed pass, FLOPs and
    memory to those of `workload.Workload`, exactly.
    """

    phase: str
    layer_type: str
    latency_s: float
    latency_low_s: float
    latency_high_s: float
    flop: int
    other_flop: int
    bytes_moved: int
    memory_byte: int

    @property
    def intensity(self) -> float:
        """Model FLOPs per byte, each operation reading its inputs and writing its outputs."""
        return self.flop / self.bytes_moved if self.bytes_moved else 0.0


@dataclass(frozen=True)
class Breakdown:
    """The slices of one network's training step, and how the passes that they came from compare, in s per phase."""

    case: Case
    slices: tuple[Slice, ...]
    whole_s: Mapping[str, float]
    whole_interval_s: Mapping[str, tuple[float, float]]
    instrumented_s: Mapping[str, float]
    repeats: int

    def of(self, phase: str) -> tuple[Slice, ...]:
        """The slices of one phase."""
        return tuple(part for part in self.slices if part.phase == phase)

    def outside_share(self, phase: str) -> float:
        """Share of the undisturbed pass that lies between operations."""
        return next(s.latency_s for s in self.of(phase) if s.layer_type == OUTSIDE) / self.whole_s[phase]

    def overhead_share(self, phase: str) -> float:
        """How much longer the instrumented pass takes than the undisturbed one, as a share of the latter."""
        return self.instrumented_s[phase] / self.whole_s[phase] - 1


def summarise(found: Iterable[Mapping], counted: workload.Workload) -> Breakdown:
    """One network's slices per phase, from rows of `schema.BREAKDOWN` of one case and the counts of its training step.

    Warm-ups are left out. Layer types come in the order of `schema.LAYER_TYPES`, `OUTSIDE` last. Raises ValueError if
    there is no kept repeat.
    """
    kept = [row for row in found if not row["is_warmup"]]
    if not kept:
        raise ValueError(f"no repeat of {counted.model} is kept")
    whole = {phase: _latencies(kept, phase, "whole") for phase in PHASES}
    instrumented = {phase: float(np.median(_latencies(kept, phase, "instrumented"))) for phase in PHASES}
    slices = [part for phase in PHASES for part in _slices(kept, counted, phase, float(np.median(whole[phase])))]
    return Breakdown(
        case=schema.case_of(kept[0]),
        slices=tuple(slices),
        whole_s={phase: float(np.median(values)) for phase, values in whole.items()},
        whole_interval_s={phase: timing.median_interval(values) for phase, values in whole.items()},
        instrumented_s=instrumented,
        repeats=len(whole["forward"]),
    )


def _latencies(kept: Sequence[Mapping], phase: str, part: str) -> list[float]:
    return [row["latency_s"] for row in kept if row["phase"] == phase and row["part"] == part]


def _slices(kept: Sequence[Mapping], counted: workload.Workload, phase: str, whole_s: float) -> Iterator[Slice]:
    sums: dict[str, dict[int, float]] = {}
    for row in kept:
        if row["phase"] == phase and row["part"] == "operations":
            by_repeat = sums.setdefault(row["layer_type"], {})
            by_repeat[row["index"]] = by_repeat.get(row["index"], 0.0) + row["latency_s"]
    asked = {g["group"]: g for g in workload.by(getattr(counted, phase), "type")}
    owned = memory(counted, phase)
    left = whole_s
    for layer_type in schema.LAYER_TYPES:
        if layer_type not in sums and layer_type not in asked and not owned.get(layer_type):
            continue
        values = list(sums.get(layer_type, {0: 0.0}).values())
        median = float(np.median(values))
        left -= median
        group = asked.get(layer_type, {})
        counts = [group.get(name, 0) for name in ("flop", "other_flop", "bytes_moved")]
        yield Slice(phase, layer_type, median, *timing.median_interval(values), *counts, owned.get(layer_type, 0))
    yield Slice(phase, OUTSIDE, left, left, left, 0, 0, 0, owned[OUTSIDE])


def memory(counted: workload.Workload, phase: str) -> dict[str, int]:
    """Bytes that each layer type owns at the moment when a phase holds most; they add up to all that it holds then.

    A layer type owns the parameters that its operations read first, their optimiser state, and the activations and
    gradients that its operations wrote and that are still alive. The input and the buffers are `OUTSIDE`. The larger
    of the two phases' sums is `Workload.peak_memory_byte`.
    """
    owned = parameters(counted)
    states = counted.optimizer_state_byte // counted.param_byte if counted.param_byte else 0
    owned = {layer_type: (1 + states) * size for layer_type, size in owned.items()}
    for (_, layer_type), size in counted.held_byte[phase].items():
        owned[layer_type] = owned.get(layer_type, 0) + size
    owned[OUTSIDE] = counted.input_byte + counted.buffer_byte
    return owned


def parameters(counted: workload.Workload) -> dict[str, int]:
    """Bytes of parameters by the layer type that reads them first; any that nothing reads are "other"."""
    element = schema.PRECISION_BYTES[counted.precision]
    owned: dict[str, int] = {}
    for operation in counted.operations:
        if operation.param_count:
            size = int(operation.param_count * element)
            owned[operation.layer_type] = owned.get(operation.layer_type, 0) + size
    unread = counted.param_byte - sum(owned.values())
    if unread:
        owned["other"] = owned.get("other", 0) + unread
    return owned


# Measuring


def case_for(network: Network, device: str, precision_name: str = "fp32", batch_size: int | None = None) -> Case:
    """The case that a network's breakdown is kept under; the batch size is `default_batch` unless given."""
    return Case(network.name, "breakdown", batch_size or default_batch(network, device), device, precision_name)


def default_batch(network: Network, device: str) -> int:
    """Inputs in a batch: those of the training sweep, and a quarter as many sequences as images.

    A sequence of 512 positions is as much work as several images, and its logits over the whole vocabulary are
    hundreds of MB.
    """
    return benchmark.TRAINING_BATCH_SIZE[device] // (1 if network.unit == "image" else 4)


def time_case(
    case: Case, budget_s: float = 20.0, *, record: Callable[[Repeat], None] = lambda repeat: None, first_index: int = 0
) -> timing.Sampled:
    """Break one case down in this process until the median of the whole step is known or the time is spent.

    At least `MINIMUM_REPEATS` are kept, whatever they take. ``record`` gets each repeat as it comes, numbered from
    ``first_index``. Exceptions of the network pass through.
    """
    began = time.monotonic()
    network = models.get(case.model)
    if not network.trainable:
        raise BreakdownError(f"{case.model} has no training step")
    clock, hold = timing.clock_for(case.device), hold_for(case.device)
    plan = timing.Plan(budget_s, minimum=MINIMUM_REPEATS, maximum=MAXIMUM_REPEATS)
    totals: list[float] = []
    with precision.settings(case.precision):
        for repeat in repeats(Step(network, case.batch_size, case.device, case.precision), clock, hold):
            record(replace(repeat, index=first_index + repeat.index))
            totals.append(sum(repeat.whole_s.values()))
            spent_s = time.monotonic() - began
            reason = _reason_to_stop(totals, plan, spent_s, spent_s / (repeat.index + 2))  # the survey counts as one
            if reason is not None:
                break
    return timing.summarise((), totals, plan, reason, time.monotonic() - began)


def _reason_to_stop(totals: Sequence[float], plan: timing.Plan, spent_s: float, one_s: float) -> str | None:
    """A stop reason of `schema`, or None to go on; ``one_s`` is what one more repeat takes."""
    if len(totals) < plan.minimum:
        return None
    if len(totals) >= timing.MINIMUM_SAMPLES and timing.relative_half_width(totals) <= plan.target:
        return "interval"
    if len(totals) >= plan.maximum:
        return "maximum"
    return "budget" if spent_s + one_s > plan.budget_s else None


def measure(
    folder: Path,
    device: str,
    *,
    names: Sequence[str] | None = None,
    budget_s: float = math.inf,
    environment: Mapping[str, object] | None = None,
    log: Callable[[str], None] = lambda line: None,
    make_worker: Callable[[], Any] | None = None,
) -> None:
    """Break networks down into a folder whose lock the caller holds; what is done already is not measured again.

    ``names`` are `MODELS` unless given; ``budget_s`` is shared among those that are left. Each case runs in a process
    of its own, whose failure becomes a row.
    """
    described = dict(environment or machine.describe(device))
    identifier = store.add_environment(folder, described)
    new_worker = make_worker or (lambda: workers.Worker(device, int(described["threads"])))
    done = store.progress(folder, identifier).outcomes
    networks = [models.get(name) for name in names or MODELS]
    cases = [case_for(network, device) for network in networks if network.trainable]
    left = [case for case in cases if done.get(case, {}).get("status") not in {*benchmark.FINISHED, "noisy"}]
    deadline = time.monotonic() + budget_s
    for position, case in enumerate(left):
        left_s = deadline - time.monotonic()
        if left_s <= 1:
            log(f"time is up: {len(left) - position} networks left for another run")
            return
        share_s = min(CASE_BUDGET_S, left_s / (len(left) - position))
        row = _measure_case(folder, case, identifier, int(described["logical_cores"]), share_s, new_worker)
        note = f" ({row['message']})" if row.get("message") else ""
        log(f"{position + 1}/{len(left)} {command.describe(case)}: {row['status']}{note} [{row['elapsed_s']:.0f} s]")


def _measure_case(
    folder: Path, case: Case, environment: str, cores: int, budget_s: float, new_worker: Callable[[], Any]
) -> dict:
    """Have a process measure one case, and append its outcome; returns that row."""
    began, started_at = time.monotonic(), time.time()
    worker = new_worker()
    before = machine.usage([worker.pid])
    task = partial(run_case, folder, case, environment, budget_s, _next_index(folder, case, environment))
    limit_s = budget_s + SLOWEST_CASE_S
    try:
        outcome = worker.run(task, limit_s)
        if isinstance(outcome, Exception):
            outcome = {"status": "failed", "message": str(outcome)}
    except TimeoutError:
        outcome = {"status": "over_budget", "message": f"ended after {limit_s:.0f} s"}
    except workers.WorkerEnded as ended:
        outcome = dict(zip(("status", "message"), ended.outcome(), strict=True))
    seen = machine.busyness(before, machine.usage([worker.pid]))
    worker.close()
    row = {
        "environment": environment, **vars(case), **outcome, "steal_share": seen.steal_share,
        "other_load": seen.other_load, "is_busy": seen.is_busy(cores), "started_at": started_at,
        "elapsed_s": time.monotonic() - began,
    }  # fmt: skip
    with store.appender(folder, "outcomes.jsonl") as out:
        out.append(row)
    return row


def run_case(folder: Path, case: Case, environment: str, budget_s: float, first_index: int) -> dict[str, object]:
    """Measure one case in this process, writing its repeats to the folder; returns the columns of its outcome.

    Whatever the case raises becomes a status; only a folder that can't be written raises (`store.StoreError`).
    """
    with store.appender(folder, "breakdown.jsonl") as out:

        def record(repeat: Repeat) -> None:
            for row in rows(repeat, case, environment):
                out.append(row)

        try:
            sampled = time_case(case, budget_s, record=record, first_index=first_index)
        except store.StoreError:
            raise
        except Exception as error:
            status, message = steps.classify(error)
            return {"status": "unsupported" if isinstance(error, BreakdownError) else status, "message": message}
    return {"status": sampled.status, "stop_reason": sampled.stop_reason}


def _next_index(folder: Path, case: Case, environment: str) -> int:
    """The number of the first new repeat: a run that was killed may have left some."""
    found, _ = store.read_rows(folder / "breakdown.jsonl", schema.BREAKDOWN)
    mine = (row["index"] for row in found if row["environment"] == environment and schema.case_of(row) == case)
    return max(mine, default=-1) + 1


# The command


_QUANTITIES = ("latency_s", "flop", "memory_byte")


def lines(found: Breakdown, phases: Sequence[str] = PHASES) -> list[str]:
    """The table of a breakdown as text: per phase and layer type latency, FLOPs and memory, each with its share."""
    case = found.case
    listed = []
    for phase in phases:
        slices = found.of(phase)
        totals = {name: sum(getattr(part, name) for part in slices) for name in _QUANTITIES}
        listed.append(f"{case.model}, {phase}, batch {case.batch_size}, {case.precision}, {case.device}")
        listed.append(
            f"{'layer type':<22}{'latency':>11}{'':>8}{'FLOPs':>13}{'':>8}{'memory':>12}{'':>8}{'FLOP/byte':>11}"
        )
        for part in sorted(slices, key=lambda part: (part.layer_type == OUTSIDE, -part.latency_s)):
            listed.append(_line(part.layer_type, part, totals) + f"{part.intensity:>11.1f}")
        listed.append(_line("whole pass", None, totals))
        listed.append(
            f"medians of {found.repeats} repeats; timing each operation lengthened the pass by "
            f"{100 * found.overhead_share(phase):.1f} %, which is in none of these times"
        )
        listed.append("")
    return listed[:-1]


def _line(name: str, part: Slice | None, totals: Mapping[str, float]) -> str:
    values = totals if part is None else {key: getattr(part, key) for key in _QUANTITIES}
    shares = {key: 100 * values[key] / totals[key] if totals[key] else 0.0 for key in _QUANTITIES}
    return (
        f"{name:<22}{1e3 * values['latency_s']:>8.2f} ms{shares['latency_s']:>6.1f} %"
        f"{values['flop'] / 1e9:>8.2f} GFLOP{shares['flop']:>6.1f} %{values['memory_byte'] / 1e6:>9.1f} MB"
        f"{shares['memory_byte']:>6.1f} %"
    )


def as_dict(found: Breakdown, phases: Sequence[str] = PHASES) -> dict:
    """A breakdown as plain values, for JSON; seconds, FLOP and byte."""
    return {
        **vars(found.case),
        "repeats": found.repeats,
        "phases": {
            phase: {
                "whole_s": found.whole_s[phase],
                "whole_interval_s": list(found.whole_interval_s[phase]),
                "instrumented_s": found.instrumented_s[phase],
                "outside_share": found.outside_share(phase),
                "layer_types": [vars(part) | {"intensity": part.intensity} for part in found.of(phase)],
            }
            for phase in phases
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.breakdown",
        description="Time, FLOPs and memory of a training step by layer type: of one network, printed; or of the "
        "book's networks, as raw samples in a machine's folder.",
    )
    parser.add_argument("network", nargs="?", help="a name of the registry, of torchvision, or package.module:callable")
    parser.add_argument("--all", action="store_true", help="measure the book's networks into the machine's folder")
    parser.add_argument("--models", nargs="+", help="measure these into the machine's folder")
    parser.add_argument("--phase", choices=PHASES, help="default: both")
    parser.add_argument("--batch-size", type=command.batch_size, help="default: that of the training sweep")
    parser.add_argument("--precision", choices=tuple(workload.PRECISIONS), default="fp32")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_common_arguments(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Print the breakdown of one network, or write those of the book's networks into a machine's folder."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.network is None) != (options.all or options.models is not None):
        parser.error("name one network to print, or give --all or --models to measure into a folder")
    if options.network is None:
        with command.measuring(options, parser) as run:
            measure(run.folder, run.device, names=options.models, budget_s=options.budget,
                    environment=run.environment, log=run.log)  # fmt: skip
        return 0
    device = options.device or machine.default_device()
    if device != "cpu" and device != machine.default_device():
        parser.error(f"torch finds no {device} device here")
    try:
        network = models.get(options.network)
    except models.UnknownModelError as error:
        parser.error(str(error))
    try:
        case = case_for(network, device, options.precision, options.batch_size)
        found = now(case, min(options.budget, CASE_BUDGET_S))
    except (RuntimeError, MemoryError, ValueError) as error:
        print(f"{parser.prog}: {steps.classify(error)[1]}", file=sys.stderr)
        return 1
    phases = (options.phase,) if options.phase else PHASES
    print(json.dumps(as_dict(found, phases), indent=1) if options.json else "\n".join(lines(found, phases)))
    return 0


def now(case: Case, budget_s: float = 20.0) -> Breakdown:
    """Measure one case here and now and summarise it; nothing is kept. Exceptions of torch pass through."""
    counted = workload.count(case.model, case.batch_size, case.precision, backward=True)
    taken: list[dict] = []
    time_case(case, budget_s, record=lambda repeat: taken.extend(rows(repeat, case, "here")))
    return summarise(taken, counted)


if __name__ == "__main__":
    # Under its importable name, so that what workers receive is of the same classes.
    from src.breakdown import main as imported_main

    sys.exit(imported_main())
