"""Inference and training sweeps over networks, batch sizes, precisions, memory formats and compile modes.

Each case is timed in a process of its own (on a CPU) or in one that lives until a case breaks it (on an accelerator),
so that a case which runs out of memory or crashes becomes a row and the sweep goes on. The process that measures
writes each raw sample as it comes; the one that supervises holds the folder's lock, writes outcomes, and shows where
things stand.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src import machine, schema, store, timing
from src.schema import Case

BATCH_SIZES = (1, 64, 256)
STEPS_BETWEEN = (4, 16)
TRAINING_BATCH_SIZE = {"cpu": 16, "mps": 16, "cuda": 64}
"""Large enough that per-step overhead does not dominate and batch normalisation makes sense; small enough that a
step of the largest network takes seconds on a few CPU cores and its saved activations fit into a few gigabytes."""

LEARNING_RATE = 1e-4
MOMENTUM = 0.9
"""SGD with momentum: the optimiser these image networks were published with. The rate is small so that random labels
don't drive values out of range, where arithmetic may slow down."""

CASE_BUDGET_S = 20.0
PATIENCE = 6.0
"""A slow case may take this many times its budget to reach the minimum number of samples."""
SLOWEST_CASE_S = 60.0
MEMORY_SHARE = 0.92
"""A CPU case may allocate this share of the memory available at its start: beyond it, it fails by itself, before the
system starts to kill processes."""

FINISHED = frozenset({"ok", "out_of_memory", "unsupported", "failed"})
"""Statuses that a later run does not take up again."""


# What one case does


def _module(case: Case, device: Any) -> tuple[Any, Any, tuple]:
    """The network, its module ready on the device, and its inputs."""
    import torch

    from src import models
    from src.precision import dtype

    network = models.get(case.model)
    torch.manual_seed(models.SEED)
    kind = dtype(case.precision)
    if not kind.is_floating_point:
        raise NotImplementedError(
            f"{case.precision} networks are not supported: weights and inputs are cast as a whole"
        )
    layout = torch.channels_last if case.memory_format == "channels_last" else torch.contiguous_format
    module = network.build().to(device=device, dtype=kind, memory_format=layout)
    inputs = network.inputs(case.batch_size, device, kind)
    if case.memory_format == "channels_last":
        inputs = tuple(value.to(memory_format=layout) if value.dim() == 4 else value for value in inputs)
    return network, module, inputs


def inference_step(case: Case, device: Any) -> dict[str, Callable[[], object]]:
    """The one step of inference: forward in ``eval()``; call it under ``inference_mode``."""
    import torch

    _, module, inputs = _module(case, device)
    module.eval()
    if case.compile_mode == "compile":
        compiled = torch.compile(module)
        return {"inference": lambda: compiled(*inputs)}
    if case.compile_mode == "cuda_graph":
        return {"inference": capture(lambda: module(*inputs), torch.cuda).replay}
    return {"inference": lambda: module(*inputs)}


def capture(function: Callable[[], object], cuda: Any, warmups: int = 3) -> Any:
    """A CUDA graph of a call, captured after warming up on a side stream, as torch asks for.

    ``cuda`` is ``torch.cuda`` or what stands in for it in tests. The graph owns its output.
    """
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(warmups):
            function()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        graph.output = function()  # kept: its memory belongs to the graph
    return graph


def training_steps(case: Case, device: Any) -> dict[str, Callable[[], object]]:
    """The three steps of training, which share a state: forward with the loss, backward, and the optimiser's."""
    import torch

    network, module, inputs = _module(case, device)
    if not network.trainable:
        raise NotImplementedError(f"{case.model} has no training step")
    if case.compile_mode == "cuda_graph":
        raise NotImplementedError("training under a CUDA graph is not measured")
    module.train()
    call = torch.compile(module) if case.compile_mode == "compile" else module
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    state: dict[str, Any] = {}

    def forward() -> None:
        state["loss"] = network.loss(call(*inputs), inputs)

    def backward() -> None:
        state.pop("loss").backward()

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"forward": forward, "backward": backward, "optimizer": step}


def time_case(
    case: Case,
    plan: timing.Plan,
    record: Callable[[timing.Sample], None] = lambda sample: None,
    previous: Sequence[float] = (),
    first_index: int = 0,
) -> tuple[timing.Sampled, dict[str, object]]:
    """Build a case's network and time it in this process; returns the samples and the memory columns of its outcome.

    See `timing.sample` for ``plan``, ``record``, ``previous`` and ``first_index``. Exceptions of torch pass through.
    """
    import torch

    from src.precision import settings

    _start_threads(case.device)
    memory = _MEMORY[case.device]()
    clock = timing.clock_for(case.device)
    device = torch.device(case.device)
    with ExitStack() as stack:
        stack.enter_context(settings(case.precision))
        if case.sweep == "inference":
            stack.enter_context(torch.inference_mode())
            steps = inference_step(case, device)
        else:
            steps = training_steps(case, device)
        memory.built()
        sampled = timing.sample(steps, clock, plan, record=record, previous=previous, first_index=first_index)
    return sampled, memory.columns()


def _start_threads(device: str) -> None:
    """Small operations that start torch's threads and load its libraries, which belong to no case's time or memory."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        images = torch.ones(2, 8, 16, 16, device=device)
        convolved = F.conv2d(images, torch.ones(8, 8, 3, 3, device=device))
        F.linear(convolved.flatten(1), torch.ones(8, 8 * 14 * 14, device=device))


class ResidentMemory:
    """Growth of this process's resident memory: what a CPU case needs. Kernel counters, so nothing slows the calls."""

    def __init__(self):
        self.start_byte, self.built_byte = _resident_byte()[0], None

    def built(self) -> None:
        """Note what is resident once the network and inputs exist, and start watching for the peak."""
        self.built_byte = _resident_byte()[0]
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now

    def columns(self) -> dict[str, object]:
        """The memory columns of `schema.OUTCOMES`."""
        _, peak = _resident_byte()
        if self.start_byte is None or self.built_byte is None or peak is None:
            return {}
        return {
            "peak_memory_byte": max(0.0, peak - self.start_byte),
            "model_memory_byte": max(0.0, self.built_byte - self.start_byte),
            "memory_kind": "resident",
        }


def _resident_byte() -> tuple[float | None, float | None]:
    """Resident memory now and at its peak, in byte."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
        return peak, peak
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB", status, re.MULTILINE))
    return float(found["VmRSS"]) * 1024, float(found["VmHWM"]) * 1024


class AllocatedMemory:
    """What torch's allocator handed out on an accelerator."""

    def __init__(self, cuda: Any = None):
        if cuda is None:
            import torch.cuda as cuda
        self._cuda = cuda
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
        self.start_byte, self.built_byte = float(cuda.memory_allocated()), 0.0

    def built(self) -> None:
        self.built_byte = float(self._cuda.memory_allocated())
        self._cuda.reset_peak_memory_stats()

    def columns(self) -> dict[str, object]:
        """The memory columns of `schema.OUTCOMES`."""
        return {
            "peak_memory_byte": max(0.0, float(self._cuda.max_memory_allocated()) - self.start_byte),
            "model_memory_byte": max(0.0, self.built_byte - self.start_byte),
            "memory_kind": "allocated",
        }


class _UnknownMemory:
    def built(self) -> None:
        pass

    def columns(self) -> dict[str, object]:
        return {}


_MEMORY: dict[str, Callable[[], Any]] = {"cpu": ResidentMemory, "cuda": AllocatedMemory, "mps": _UnknownMemory}


def classify(error: BaseException) -> tuple[str, str]:
    """The status and one-line message of a case that raised. No path gets into the message."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    message = re.sub(r"(?<![\w.])/(?:[\w.\-]+/)+", "", text)[:200]
    low = str(error).lower()
    if (
        isinstance(error, MemoryError)
        or "out of memory" in low
        or "allocate memory" in low
        or "not enough memory" in low
    ):
        return "out_of_memory", message
    unsupported = (
        "not implemented",
        "not supported",
        "unsupported",
        "no kernel",
        "doesn't support",
        "does not support",
    )
    if isinstance(error, NotImplementedError) or any(phrase in low for phrase in unsupported):
        return "unsupported", message
    return "failed", message


# The process that measures


@dataclass(frozen=True)
class Task:
    """One case for a worker: what earlier runs left, and when to stop."""

    case: Case
    plan: timing.Plan
    folder: str
    environment: str
    previous: tuple[float, ...] = ()
    first_index: int = 0


def sample_rows(task: Task, taken: timing.Sample) -> Iterator[dict]:
    """The rows of `schema.SAMPLES` that one sample makes: one a phase."""
    for phase, latency_s in taken.latency_s.items():
        yield {"environment": task.environment, **asdict(task.case), "phase": phase, "index": taken.index,
               "is_warmup": taken.is_warmup, "latency_s": latency_s, "iterations": taken.iterations,
               "host_latency_s": taken.host_latency_s, "started_at": taken.started_at}  # fmt: skip


def run_task(task: Task) -> dict[str, object]:
    """Time one case in this process, writing samples to its folder; returns the columns of its outcome.

    Whatever the case raises becomes a status; only a folder that can't be written raises (`store.StoreError`).
    """
    with store.appender(Path(task.folder), "samples.jsonl") as out:

        def record(taken: timing.Sample) -> None:
            for row in sample_rows(task, taken):
                out.append(row)

        try:
            sampled, memory = time_case(task.case, task.plan, record, task.previous, task.first_index)
        except store.StoreError:
            raise
        except Exception as error:
            status, message = classify(error)
            return {"status": status, "message": message}
    return {"status": sampled.status, "stop_reason": sampled.stop_reason, **memory}


REFERENCE = "convolution 3x3, channels-last, 4x128x28x28 to 128, fp32"


def time_reference(device: str) -> list[tuple[float, float]]:
    """(started_at, latency_s) of a fixed operation of some milliseconds, timed ten times: does the machine change?"""
    import torch
    import torch.nn.functional as F

    from src.precision import settings

    with torch.inference_mode(), settings("fp32"):
        generator = torch.Generator().manual_seed(0)
        layout = torch.channels_last
        images = torch.randn((4, 128, 30, 30), generator=generator).to(device).to(memory_format=layout)
        weight = torch.randn((128, 128, 3, 3), generator=generator).to(device).to(memory_format=layout)
        plan = timing.Plan(budget_s=2.0, minimum=10, maximum=10, minimum_sample_s=0.01)
        sampled = timing.sample(lambda: F.conv2d(images, weight), timing.clock_for(device), plan)
    return [(taken.started_at, taken.latency_s["call"]) for taken in sampled.kept]


def _serve(connection: Any, device: str, threads: int | None) -> None:
    """A worker's main loop: answers tasks until the supervisor closes the connection."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what an interrupt means
    import torch

    if threads:
        torch.set_num_threads(threads)
    if device == "cpu":
        _limit_memory()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer = time_reference(task) if isinstance(task, str) else run_task(task)
        except Exception as error:
            answer = error if isinstance(error, store.StoreError) else RuntimeError(classify(error)[1])
        try:
            connection.send(answer)
        except OSError:
            return


def _die_with_parent() -> None:
    """Ask Linux to end this process when the one that forked it goes, so that nothing measures on unattended."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("900")  # if memory ends, this process goes, not the supervisor


def _limit_memory() -> None:
    """Make allocations beyond the memory at hand fail as exceptions rather than by the system's killing."""
    available = machine.available_memory_byte()
    if available is None or sys.platform != "linux":
        return
    import resource

    data = re.search(r"^VmData:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    limit = int((float(data[1]) * 1024 if data else 0.0) + MEMORY_SHARE * available)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


class Worker:
    """A process that measures for this one. ``run`` answers a task, or says how the process ended."""

    def __init__(self, device: str, threads: int | None = None, target: Callable[..., None] = _serve):
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, device, threads), daemon=True)
        with _without_main():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def run(self, task: Any, limit_s: float, watch: Callable[[], None] = lambda: None, watch_s: float = 1.0) -> Any:
        """The worker's answer to a task. Raises `store.StoreError` if it couldn't write, `WorkerEnded` if it died,
        TimeoutError if it took longer than ``limit_s`` seconds. ``watch`` is called about every ``watch_s`` seconds."""
        deadline = time.monotonic() + limit_s
        try:
            self._connection.send(task)
            while not self._connection.poll(max(0.0, min(watch_s, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    raise TimeoutError
                watch()
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            self._process.join(5)
            raise WorkerEnded(self._process.exitcode) from None
        if isinstance(answer, store.StoreError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process: by closing its connection, and by force if it does not go."""
        self._connection.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)


class WorkerEnded(RuntimeError):
    """The process that measured is gone."""

    def __init__(self, exitcode: int | None):
        self.exitcode = exitcode
        super().__init__(f"exit code {exitcode}")

    def outcome(self) -> tuple[str, str]:
        """Status and message: Linux ends processes with SIGKILL when memory is exhausted."""
        if self.exitcode is not None and self.exitcode < 0:
            name = signal.Signals(-self.exitcode).name
            if -self.exitcode == signal.SIGKILL:
                return "out_of_memory", f"the process that measured was ended by {name}, as when memory is exhausted"
            return "failed", f"the process that measured was ended by {name}"
        return "failed", f"the process that measured ended with exit code {self.exitcode}"


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from running the program's main module again in each worker, which needs nothing of it."""
    module = sys.modules["__main__"]
    hidden = {name: module.__dict__.pop(name) for name in ("__spec__", "__file__") if name in module.__dict__}
    module.__spec__ = None
    try:
        yield
    finally:
        module.__dict__.update(hidden)


def _context() -> Any:
    """How workers start: on Linux forked from a clean process that has loaded torch, which takes milliseconds."""
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torchvision", "src.models", "src.precision", "src.benchmark"])
        return context
    return multiprocessing.get_context("spawn")


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
    case_budget_s: float = CASE_BUDGET_S,
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
            out.append({"environment": run.identifier, "device": run.device, "position": position, "kernel": REFERENCE,
                        "index": index, "latency_s": latency_s, "started_at": started_at,
                        "steal_share": seen.steal_share, "other_load": seen.other_load})  # fmt: skip
    median = float(np.median([latency_s for _, latency_s in timed]))
    first = run.seconds_per_input.setdefault(("reference",), median)
    if abs(median / first - 1) > machine.DRIFT_LIMIT:
        run.log(f"the machine drifts: the reference takes {median / first:.2f} times as long as at the start")


# Where things stand


class Progress:
    """What is running, how many are left, when it will end: a line that renews itself on a terminal, else a log."""

    def __init__(self, log: Callable[[str], None], stream: Any = None):
        self.stream = sys.stderr if stream is None else stream
        self.is_terminal = bool(getattr(self.stream, "isatty", lambda: False)())
        self.log = log
        self.total = self.finished = 0
        self.began = self.case_began = time.monotonic()
        self.line = ""

    def start(self, total: int) -> None:
        """Begin with so many cases ahead."""
        self.total, self.finished, self.began = total, 0, time.monotonic()

    def extend(self) -> None:
        """One case more than was thought."""
        self.total += 1

    def show(self, case: Case, left_s: float) -> None:
        """A case begins; ``left_s`` seconds of the budget are left."""
        self.case_began = time.monotonic()
        rest = self.total - self.finished
        pace = (time.monotonic() - self.began) / self.finished if self.finished else None
        end_s = min(left_s, pace * rest if pace is not None else math.inf)
        end = time.strftime(", ends about %H:%M", time.localtime(time.time() + end_s)) if end_s < math.inf else ""
        bar = "#" * int(20 * self.finished / max(1, self.total))
        self.line = f"[{bar:<20}] {self.finished + 1}/{self.total} {describe(case)}, {rest} left{end}"
        self.tick()

    def tick(self) -> None:
        """Renew the line on a terminal."""
        if self.is_terminal:
            print(
                f"\r\x1b[K{self.line} ({time.monotonic() - self.case_began:.0f} s)"[:200],
                end="",
                file=self.stream,
                flush=True,
            )

    def done(self, case: Case, row: Mapping[str, Any], totals: Sequence[float]) -> None:
        """A case ended as its outcome row says."""
        self.finished += 1
        if self.is_terminal:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
        timed = f" {np.median(totals) * 1e3:.4g} ms, {len(totals)} samples" if len(totals) else ""
        note = f" ({row['message']})" if row.get("message") else ""
        busy = ", busy machine" if row.get("is_busy") else ""
        took = f"[{row['elapsed_s']:.0f} s]"
        self.log(f"{self.finished}/{self.total} {describe(case)}: {row['status']}{timed}{busy}{note} {took}")

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.is_terminal:
            print("\r\x1b[K", end="", file=self.stream, flush=True)


def describe(case: Case) -> str:
    """A case in words."""
    parts = [case.model, case.sweep, f"batch {case.batch_size}", case.device, case.precision]
    if case.memory_format != "contiguous":
        parts.append(case.memory_format)
    if case.compile_mode != "eager":
        parts.append(case.compile_mode)
    return " ".join(parts)


# The command line, shared by all measuring commands


def duration_s(text: str) -> float:
    """Seconds of a duration such as 90s, 20m, 1.5h or 45. Raises argparse's error on others."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 20m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def batch_size(text: str) -> int:
    """A batch size. Raises argparse's error on anything but a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no batch size: a positive whole number is needed")
    return int(text)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every measuring command."""
    parser.add_argument("--device", choices=schema.DEVICES, help="default: the accelerator if torch finds one")
    parser.add_argument("--out", type=Path, help="folder for the data; default: data/machines/NAME of this machine")
    parser.add_argument(
        "--budget", type=duration_s, default=math.inf, help="whole time, as 90s or 20m; default: no limit"
    )
    parser.add_argument("--wait", type=duration_s, default=0.0, help="how long to wait for another run in the folder")


def add_case_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose cases."""
    parser.add_argument("--models", nargs="+", help="names in the registry; default: the measured set")
    parser.add_argument("--batch-sizes", nargs="+", type=batch_size)
    parser.add_argument("--precision", nargs="+", choices=("fp64", "fp32", "tf32", "bf16", "fp16"))
    parser.add_argument("--memory-format", nargs="+", choices=schema.MEMORY_FORMATS)
    parser.add_argument("--compile-mode", nargs="+", choices=schema.COMPILE_MODES)
    parser.add_argument("--case-budget", type=duration_s, default=CASE_BUDGET_S, help="time for one case; default: 20s")
    parser.add_argument(
        "--patience", type=duration_s, help="time for a slow case to reach five samples; default: six times its budget"
    )
    parser.add_argument("--target", type=float, default=timing.TARGET,
                        help="half width of the median's interval, as a share of it; default: %(default)s")  # fmt: skip


@dataclass(frozen=True)
class Measuring:
    """A folder that is locked and an environment that is known."""

    folder: Path
    device: str
    environment: dict
    log: Callable[[str], None]


def log_line(line: str) -> None:
    """A line of the plain log, with the time of day."""
    print(time.strftime("%H:%M:%S ") + line, file=sys.stderr, flush=True)


@contextmanager
def measuring(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Iterator[Measuring]:
    """Lock the folder that a command measures into, and turn what goes wrong with it into one sentence and exit 1."""
    _check(options, parser)
    try:
        found = machine.default_device()
        device = options.device or found
        if device not in ("cpu", found):
            parser.error(f"torch finds no {device} device here")
        environment = machine.describe(device if device != "cpu" else found)
        folder = options.out or schema.MACHINES_PATH / str(environment["machine"])
        with store.lock(folder, wait_s=options.wait):
            log_line(f"measuring {environment['machine']} on {device} into {os.path.relpath(folder)}")
            yield Measuring(folder, device, environment, log_line)
    except store.StoreError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped; the same command carries on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if getattr(options, "models", None):
        from src import models

        for name in options.models:
            try:
                models.get(name)
            except models.UnknownModelError as error:
                parser.error(str(error))
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        parser.error(f"{options.out} is no folder")
    if not 0 < getattr(options, "target", 1.0) <= 1:
        parser.error("--target must lie between 0 and 1")


def main(arguments: list[str] | None = None) -> int:
    """Time networks: every raw sample goes to data/machines/NAME/."""
    parser = argparse.ArgumentParser(prog="python -m src.benchmark", description=main.__doc__)
    parser.add_argument("sweep", choices=schema.SWEEPS)
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
