"""The processes that measure: each takes tasks from a supervisor, writes samples as they come, and answers.

On a CPU every case gets a process of its own, on an accelerator one that lives until a case breaks it. A case that
runs out of memory or crashes thus ends its process at most, and the sweep goes on.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src import machine, store, timing
from src.schema import Case
from src.steps import classify, time_case

MEMORY_SHARE = 0.92
"""A CPU case may allocate this share of the memory available at its start: beyond it, it fails by itself, before the
system starts to kill processes."""


@dataclass(frozen=True)
class Task:
    """One visit to a case for a worker: where its samples belong, and when to stop."""

    case: Case
    plan: timing.Plan
    folder: str
    environment: str
    first_index: int = 0
    attempt: int = 1


def sample_rows(task: Task, taken: timing.Sample) -> Iterator[dict]:
    """The rows of `schema.SAMPLES` that one sample makes: one a phase."""
    for phase, latency_s in taken.latency_s.items():
        yield {"environment": task.environment, **asdict(task.case), "phase": phase, "index": taken.index,
               "is_warmup": taken.is_warmup, "latency_s": latency_s, "iterations": taken.iterations,
               "host_latency_s": taken.host_latency_s, "started_at": taken.started_at,
               "attempt": task.attempt if task.attempt > 1 else None}  # fmt: skip


def run_task(task: Task) -> dict[str, object]:
    """Time one case in this process, writing samples to its folder; returns the columns of its outcome.

    Whatever the case raises becomes a status; only a folder that can't be written raises (`store.StoreError`).
    """
    with store.appender(Path(task.folder), "samples.jsonl") as out:

        def record(taken: timing.Sample) -> None:
            for row in sample_rows(task, taken):
                out.append(row)

        try:
            sampled, memory = time_case(task.case, task.plan, record, task.first_index)
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
            if callable(task):  # what another measuring module has done in a process of its own
                answer = task()
            elif isinstance(task, str):
                answer = time_reference(task)
            else:
                answer = run_task(task)
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
        context.set_forkserver_preload(["torch", "torchvision", "src.models", "src.precision", "src.workers"])
        return context
    return multiprocessing.get_context("spawn")
