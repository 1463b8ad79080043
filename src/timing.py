"""The one timing loop: synchronise, warm up, sample until the interval is tight or the budget is spent.

Everything that this book times, whether a network, a training step or a microbenchmark, passes through `sample`. What
differs between devices is the `Clock`: how a moment is marked in the device's own order of work, and how the host
waits for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

METHOD_VERSION = 1
"""Raised whenever a change here or in `src.benchmark` makes new samples incomparable with old ones."""

TARGET = 0.02
"""Sampling stops once the interval of the median reaches no further than this share from the median."""

MINIMUM_SAMPLES = 5
MAXIMUM_SAMPLES = 200
CONFIDENCE = 0.95
RESAMPLES = 1000
CLOCK_COST_RATIO = 100
"""A sample lasts at least this many times what reading the clock costs: calls shorter than that are repeated inside
one sample, so that the clock takes less than 1 % of it."""

SETTLED = 0.03
"""Warm-up ends when a sample is no longer faster than all earlier ones by more than this share."""

WARMUP_SHARE = 0.3
"""Warm-up takes at most this share of a case's budget (but always at least one call)."""

LONG_CALL_S = 10.0
"""A first call that lasts this long is kept as a sample: what settles in it (kernels prepared, memory mapped) takes
tenths of a second, less than the target, and warming up would double the cost of the slowest cases."""

CHECK_GROWTH = 1.15
"""The interval is computed again when the number of samples has grown by this factor: bootstrapping after every
sample would cost more than many samples do."""


class Clock(Protocol):
    """How moments are marked on a device.

    ``mark`` notes a moment in the device's order of work and returns at once; ``synchronise`` waits until the device
    has done all that was asked of it; ``elapsed_s`` is the time in s between two marks, valid after ``synchronise``.
    ``cost_s`` is what one pair of marks costs, or the clock's resolution if that is coarser. ``is_asynchronous`` tells
    whether work goes on after the call that asked for it has returned.
    """

    cost_s: float
    is_asynchronous: bool

    def mark(self) -> Any: ...

    def synchronise(self) -> None: ...

    def elapsed_s(self, start: Any, end: Any) -> float: ...


class CpuClock:
    """A monotonic clock; calls on a CPU have done their work when they return."""

    is_asynchronous = False

    def __init__(self):
        self.cost_s = _cost(self)

    def mark(self) -> int:
        return time.perf_counter_ns()

    def synchronise(self) -> None:
        pass

    def elapsed_s(self, start: int, end: int) -> float:
        return (end - start) * 1e-9


class CudaClock:
    """Events recorded in the current stream of a CUDA device: time as the device sees it, idle gaps included."""

    is_asynchronous = True
    cost_s = 2e-6  # An event pair on an idle stream; events resolve about 0.5 us (CUDA C++ programming guide).

    def __init__(self, cuda: Any = None):
        """``cuda`` stands in for ``torch.cuda`` in tests."""
        if cuda is None:
            import torch.cuda as cuda
        self._cuda = cuda

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def synchronise(self) -> None:
        self._cuda.synchronize()

    def elapsed_s(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) * 1e-3


class MpsClock(CudaClock):
    """Events on Apple's Metal device."""

    def __init__(self, mps: Any = None):
        if mps is None:
            import torch.mps as mps
            from torch.mps import event

            mps = _MpsModule(event.Event, mps.synchronize)
        super().__init__(mps)


@dataclass(frozen=True)
class _MpsModule:
    Event: Callable
    synchronize: Callable


def clock_for(device: str) -> Clock:
    """The clock of a device of `schema.DEVICES`."""
    return {"cpu": CpuClock, "cuda": CudaClock, "mps": MpsClock}[device]()


def _cost(clock: Clock, pairs: int = 1000) -> float:
    """Seconds that a pair of marks takes, or the smallest step that the clock can show if that is longer."""
    differences = []
    for _ in range(pairs):
        start = clock.mark()
        differences.append(clock.elapsed_s(start, clock.mark()))
    resolution = min((difference for difference in differences if difference > 0), default=1e-7)
    return max(float(np.median(differences)), resolution)


@dataclass(frozen=True)
class Plan:
    """When to stop: ``target`` relative half width, numbers of samples, and seconds for warm-up and samples together.

    ``patience_s`` is how long reaching the minimum number of samples may take where ``budget_s`` is too short for it
    (None: no longer than the budget). ``minimum_sample_s`` lengthens samples beyond what the clock asks for.
    """

    budget_s: float = 20.0
    patience_s: float | None = None
    target: float = TARGET
    minimum: int = MINIMUM_SAMPLES
    maximum: int = MAXIMUM_SAMPLES
    minimum_sample_s: float = 0.0


@dataclass(frozen=True)
class Sample:
    """One raw timing: seconds per call of each step, averaged over ``iterations`` calls.

    ``host_latency_s`` is the host's time per call until all work was queued; None on a CPU, where it is the same.
    """

    index: int
    is_warmup: bool
    iterations: int
    latency_s: Mapping[str, float]
    host_latency_s: float | None
    started_at: float

    @property
    def total_s(self) -> float:
        """Seconds of all steps together, for one call."""
        return sum(self.latency_s.values())


@dataclass(frozen=True)
class Sampled:
    """The samples of a case and why sampling stopped: a status and stop reason of `src.schema`."""

    samples: tuple[Sample, ...]
    status: str
    stop_reason: str
    median_s: float
    low_s: float
    high_s: float
    elapsed_s: float

    @property
    def kept(self) -> tuple[Sample, ...]:
        """The samples without the warm-ups."""
        return tuple(sample for sample in self.samples if not sample.is_warmup)


def visits(indices: Sequence[int]) -> np.ndarray:
    """Which visit each kept sample of a case belongs to, (n,), counted from zero; ``indices`` (n,) are in order.

    A sweep comes back to a case, each time in a process of its own on a CPU. Every visit warms up, and warm-ups are
    numbered like samples: where a number is missing, another visit began.
    """
    return np.cumsum(np.diff(np.asarray(indices, dtype=int), prepend=indices[0] if len(indices) else 0) > 1)


def resample(visits: Sequence[int] | np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Which samples each bootstrap resample draws: indices (resamples, width), -1 where a resample is shorter.

    ``visits`` (n,) tells which visit each sample belongs to. Samples of one visit are alike: what a process finds when
    it starts (where its memory and threads lie, what else the machine is doing) stays with it. So visits are drawn
    first, with replacement, and then samples within each of them: a nonparametric bootstrap of a nested design
    (Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013). With one visit it is the plain bootstrap.
    The seed is fixed, so that the same samples always give the same interval.
    """
    visits = np.asarray(visits)
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(visits == visit) for visit in np.unique(visits)]
    if len(members) == 1:
        return random.integers(len(visits), size=(resamples, len(visits)))
    sizes = np.array([len(member) for member in members])
    table = np.full((len(members), sizes.max()), -1)
    for row, member in zip(table, members, strict=True):
        row[: len(member)] = member
    chosen = random.integers(len(members), size=(resamples, len(members), 1))
    places = (random.random((resamples, len(members), sizes.max())) * sizes[chosen]).astype(int)
    drawn = np.where(np.arange(sizes.max()) < sizes[chosen], table[chosen, places], -1)
    return drawn.reshape(resamples, -1)


def medians(values: Sequence[float], drawn: np.ndarray) -> np.ndarray:
    """The median of each resample, (resamples,); ``drawn`` is that of `resample`."""
    values = np.asarray(values, dtype=float)
    if not (drawn < 0).any():
        return np.median(values[drawn], axis=1)
    taken = np.sort(np.where(drawn < 0, np.inf, values[drawn]), axis=1)
    count, rows = (drawn >= 0).sum(axis=1), np.arange(len(drawn))
    return (taken[rows, (count - 1) // 2] + taken[rows, count // 2]) / 2


def median_interval(
    values: Sequence[float],
    visits: Sequence[int] | np.ndarray | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the median, in the values' unit, of samples that `visits` tells apart.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13; for several visits, see
    `resample`. Raises ValueError on no values.
    """
    if len(values) == 0:
        raise ValueError("no values")
    drawn = resample(np.zeros(len(values)) if visits is None else visits, resamples)
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(medians(values, drawn), [tail, 100 - tail])
    return float(low), float(high)


def relative_half_width(values: Sequence[float], visits: Sequence[int] | np.ndarray | None = None) -> float:
    """How far the interval of the median reaches from the median, as a share of it; infinite for under two values."""
    if len(values) < 2:
        return math.inf
    median = float(np.median(values))
    low, high = median_interval(values, visits)
    return max(high - median, median - low) / median if median > 0 else math.inf


def time_once(
    steps: Mapping[str, Callable[[], object]], clock: Clock, iterations: int = 1
) -> tuple[dict[str, float], float]:
    """Seconds per call of each step, and the host's seconds per call until all of them were queued.

    The device is idle at the first mark, each later mark lies between two steps in the device's own order, and nothing
    waits in between. Repeats the steps ``iterations`` times between two marks if there is one step.
    """
    names = list(steps)
    if len(names) == 1:
        function = steps[names[0]]
        clock.synchronise()
        host_start = time.perf_counter_ns()
        start = clock.mark()
        for _ in range(iterations):
            function()
        end = clock.mark()
        host_end = time.perf_counter_ns()
        clock.synchronise()
        return {names[0]: clock.elapsed_s(start, end) / iterations}, (host_end - host_start) * 1e-9 / iterations
    if iterations != 1:
        raise ValueError("several steps can't be repeated within one sample")
    clock.synchronise()
    host_start = time.perf_counter_ns()
    marks = [clock.mark()]
    for function in steps.values():
        function()
        marks.append(clock.mark())
    host_end = time.perf_counter_ns()
    clock.synchronise()
    latencies = {name: clock.elapsed_s(start, end) for name, start, end in zip(names, marks, marks[1:], strict=False)}
    return latencies, (host_end - host_start) * 1e-9


@dataclass
class _Loop:
    """The state of one call of `sample`."""

    steps: Mapping[str, Callable[[], object]]
    clock: Clock
    plan: Plan
    record: Callable[[Sample], None]
    now: Callable[[], float]
    index: int
    iterations: int = 1
    samples: list[Sample] = field(default_factory=list)
    next_check: int = 0

    def take(self, is_warmup: bool) -> Sample:
        started_at = time.time()
        latencies, host_s = time_once(self.steps, self.clock, self.iterations)
        host = host_s if self.clock.is_asynchronous else None
        if is_warmup and not self.samples and sum(latencies.values()) >= LONG_CALL_S:
            is_warmup = False
        taken = Sample(self.index, is_warmup, self.iterations, latencies, host, started_at)
        self.index += 1
        self.samples.append(taken)
        self.record(taken)
        return taken

    def warm_up(self, deadline: float) -> None:
        """Run until samples stop getting faster, and find how many calls one sample needs."""
        fastest = math.inf
        while True:
            taken = self.take(is_warmup=True)
            if not taken.is_warmup:
                return
            lengthened = self._lengthen(taken)
            settled = taken.total_s >= fastest * (1 - SETTLED) and not lengthened
            fastest = min(fastest, taken.total_s)
            if settled or self.now() + taken.total_s * self.iterations > deadline:
                return

    def reason_to_stop(self, totals: Sequence[float], began: float) -> str | None:
        """A stop reason of `schema.STOP_REASONS`, or None if another sample is wanted."""
        if len(totals) >= max(self.plan.minimum, self.next_check):
            if relative_half_width(totals) <= self.plan.target:
                return "interval"
            self.next_check = math.ceil(len(totals) * CHECK_GROWTH)
        if len(totals) >= self.plan.maximum:
            return "maximum"
        allowed_s = self.plan.budget_s
        if len(totals) < self.plan.minimum:
            allowed_s = max(allowed_s, self.plan.patience_s or 0.0)
        last = self.samples[-1]
        return "budget" if self.now() - began + last.total_s * last.iterations > allowed_s else None

    def _lengthen(self, taken: Sample) -> bool:
        shortest = max(self.plan.minimum_sample_s, CLOCK_COST_RATIO * self.clock.cost_s)
        lasted = taken.total_s * taken.iterations
        if len(self.steps) > 1 or lasted >= shortest:
            return False
        # At most a hundredfold at once: a first call may look short because the clock's step is coarse.
        self.iterations = math.ceil(self.iterations * min(100.0, 1.2 * shortest / max(lasted, 1e-9)))
        return True


def sample(
    steps: Mapping[str, Callable[[], object]] | Callable[[], object],
    clock: Clock,
    plan: Plan | None = None,
    *,
    record: Callable[[Sample], None] = lambda sample: None,
    first_index: int = 0,
    now: Callable[[], float] = time.monotonic,
) -> Sampled:
    """Time a call, or several steps that follow one another, until the median is known well enough.

    Warms up until samples stop getting faster. Then takes samples until the bootstrap interval of the median of their
    totals lies within ``plan.target`` of it, ``plan.budget_s`` seconds are spent, or ``plan.maximum`` are kept; the
    budget never stops it before one sample is kept. ``record`` gets each sample as it comes, warm-ups included;
    ``first_index`` numbers the first. ``now`` stands in for the host's clock in tests. Exceptions of the calls pass
    through.
    """
    plan = plan or Plan()
    if callable(steps):
        steps = {"call": steps}
    began = now()
    loop = _Loop(steps, clock, plan, record, now, first_index)
    loop.warm_up(began + plan.budget_s * WARMUP_SHARE)
    totals = [taken.total_s for taken in loop.samples if not taken.is_warmup]
    reason = None if loop.samples[-1].is_warmup else loop.reason_to_stop(totals, began)
    while reason is None:
        totals.append(loop.take(is_warmup=False).total_s)
        reason = loop.reason_to_stop(totals, began)
    return summarise(loop.samples, totals, plan, reason, now() - began)


def summarise(
    samples: Sequence[Sample],
    totals: Sequence[float],
    plan: Plan,
    reason: str,
    elapsed_s: float,
    visits: Sequence[int] | np.ndarray | None = None,
) -> Sampled:
    """The status that totals in s deserve: "too_few" under the minimum, "noisy" if wider than the target, or "ok"."""
    median = float(np.median(totals))
    low, high = median_interval(totals, visits)
    width = relative_half_width(totals, visits)
    status = "too_few" if len(totals) < plan.minimum else "noisy" if width > plan.target else "ok"
    return Sampled(tuple(samples), status, "interval" if status == "ok" else reason, median, low, high, elapsed_s)


def sample_in_turn(
    functions: Mapping[str, Callable[[], object]], clock: Clock, rounds: int, minimum_sample_s: float = 0.0
) -> Iterator[tuple[str, Sample]]:
    """Time several calls alternately, one sample of each a round, so that drift meets all of them alike.

    The first two rounds are marked as warm-ups. For comparisons; `sample` is for measuring.
    """
    plan = Plan(minimum_sample_s=minimum_sample_s)
    loops = {
        name: _Loop({name: function}, clock, plan, lambda sample: None, time.monotonic, 0)
        for name, function in functions.items()
    }
    for loop in loops.values():
        loop.warm_up(time.monotonic() + 1.0)
    for turn in range(rounds + 2):
        for name, loop in loops.items():
            yield name, replace(loop.take(is_warmup=turn < 2), index=turn)
