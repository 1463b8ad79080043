"""How far the measurements can be trusted: the same quantities, measured by other means or a second time.

Five comparisons, each with both sides in one run and in turn, so that drift of the machine meets both alike:

* ``bandwidth``: this book's kernels against a C STREAM triad, built here with full optimisation;
* ``operations``: every convolution and linear layer of the measured networks alone, against the measured ceiling;
* ``timers``: `src.timing` against ``torch.utils.benchmark``, call by call;
* ``stopping``: the same two, in the time that each needs to narrow its interval;
* ``overhead``: what the timing loop adds to a call that does nothing.

``repeat`` measures a part of the inference sweep a second time, into the folder ``repeat`` of the machine's folder.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src import benchmark, ceilings, command, schema, steps, store, timing
from src.schema import Case

COMPARISONS = ("overhead", "bandwidth", "timers", "stopping", "operations", "repeat")

C_SOURCE = Path(__file__).with_name("stream_triad.c")
C_FLAGS = ("-O3", "-march=native", "-fopenmp")
C_TRIAD = "C STREAM triad"
ARRAY_BYTE = 2**28
"""Bytes of each of the three arrays; where four times the last cache is more, that."""
BANDWIDTH_ROUNDS = 8
PASSES = 5

OUR_TIMER, OTHER_TIMER = "src.timing", "torch.utils.benchmark"
TIMER_CASES = (("shufflenet_v2_x1_0", 1), ("resnet18", 1), ("mobilenet_v2", 1), ("vit_b_16", 1), ("gpt2_decode", 1),
               ("resnet18", 16))  # fmt: skip
"""Networks of several kinds, from some milliseconds to some tenths of a second a call on a few cores."""
TIMER_LIMIT = 0.03
"""How far the two timers' medians may lie apart, as a share."""
TIMER_PAIRS = (50, 400)
TIMER_CASE_S = 240.0
"""Pairs of single calls, one by each timer: at least the first number, and then until the interval of the medians'
ratio reaches no further than the limit (a wider one could not tell), the second number, or these seconds a case."""
STOPPING_ROUNDS = 5
OTHER_TIMES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Running times that ``blocked_autorange`` is asked for, its default first: it has no rule to stop at an interval's
width, so that the shortest time that reaches the width counts, as if its user had known it beforehand."""

OPERATION_BATCH_SIZE = 16
OPERATION_MINIMUM_FLOP = 2e8
"""Smaller products last so short that dispatch is part of their time; they can't come near a ceiling."""
OPERATION_PLAN = timing.Plan(budget_s=0.4, minimum=3, maximum=5, minimum_sample_s=0.005)

REPEAT_BATCH_SIZES = (1, 4, 16)
REPEAT_CASE_BUDGET_S = 9.0

SHORTEST_S = 750.0
"""All comparisons but the second run take about so long on a machine of a few cores."""


@dataclass
class _Run:
    environment: str
    device: str
    out: store.Appender
    log: Callable[[str], None]
    started: dict[tuple[str, str], int] = field(default_factory=dict)
    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(
        self, comparison: str, subject: str, case: str, round_: int, index: int, latency_s: float, **more: Any
    ) -> None:
        row = {"environment": self.environment, "comparison": comparison, "subject": subject, "case": case,
               "round": self.offset(comparison, case) + round_, "index": index, "latency_s": latency_s,
               "started_at": time.time()}  # fmt: skip
        self.out.append(row | more)

    def take_in(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of earlier runs in the same environment, which those of this one add to."""
        timed: dict[tuple[str, int], dict[str, float]] = {}
        for row in rows:
            key = (row["comparison"], row["case"])
            self.started[key] = max(self.started.get(key, 0), row["round"] + 1)
            if row["comparison"] == "timer":
                timed.setdefault((row["case"], row["round"]), {})[row["subject"]] = row["latency_s"]
        for (case, _), taken in timed.items():
            if len(taken) == 2:
                self.pairs.setdefault(case, []).append((taken[OUR_TIMER], taken[OTHER_TIMER]))

    def offset(self, comparison: str, case: str) -> int:
        """Rounds that earlier runs left, so that a second run adds to them."""
        return self.started.get((comparison, case), 0)


# Bandwidth


def build_triad(folder: Path) -> Path | None:
    """Compile the C triad into a folder; None if there is no C compiler with OpenMP."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "stream_triad"
    built = subprocess.run([compiler, *C_FLAGS, "-o", str(program), str(C_SOURCE)], capture_output=True, text=True)
    return program if built.returncode == 0 else None


def run_triad(program: Path, elements: int, passes: int, threads: int) -> list[float]:
    """Seconds of each pass of the C triad over arrays of so many doubles, the first pass left out."""
    done = subprocess.run(
        [str(program), str(elements), str(passes + 1)], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_PROC_BIND": "true"},
    )  # fmt: skip
    return [float(line) for line in done.stdout.split()][1:]


def _bandwidth(run: _Run, environment: Mapping[str, Any]) -> None:
    last = max((cache["size_byte"] * cache["count"] for cache in environment["caches"]), default=2**25)
    array_byte = max(ARRAY_BYTE, 4 * last)
    threads = int(environment["threads"])
    clock = timing.clock_for("cpu")
    with tempfile.TemporaryDirectory() as folder:
        program = build_triad(Path(folder))
        if program is None:
            run.log("bandwidth: no C compiler with OpenMP here; nothing to compare with")
            return
        for round_ in range(BANDWIDTH_ROUNDS):
            counted = 3.0 * array_byte
            for index, latency_s in enumerate(run_triad(program, array_byte // 8, PASSES, threads)):
                run.add("bandwidth", C_TRIAD, f"{array_byte}", round_, index, latency_s, bytes_moved=counted)
            for candidate in ceilings.bandwidth_candidates("cpu", 3 * array_byte, threads):
                call = candidate.build("cpu")
                call()
                for index in range(PASSES):
                    latency, _ = timing.time_once({"call": call}, clock)
                    run.add("bandwidth", candidate.kernel, f"{array_byte}", round_, index, latency["call"],
                            bytes_moved=candidate.bytes_moved)  # fmt: skip
                del call
            run.log(f"  bandwidth, round {round_ + 1} of {BANDWIDTH_ROUNDS}")


# The networks' own products


def convolution_flop(module: Any, size: Sequence[int], output: Any) -> float:
    """FLOPs of a convolution without the multiplications by its padding's zeros, which fast libraries leave out.

    ``size`` are the input's height and width. The model FLOPs of this book's other chapters count those too, as is
    usual; at 14x14 pixels and a 3x3 kernel they are a tenth of the whole: a layer may seem to exceed the peak.
    """
    taps = [
        sum(0 <= place * stride - padding + tap * dilation < length for place in range(places) for tap in range(kernel))
        for length, places, kernel, stride, padding, dilation in zip(
            size, output.shape[2:], module.kernel_size, module.stride, module.padding, module.dilation, strict=True
        )
    ]
    channels = output.shape[0] * output.shape[1] * module.in_channels // module.groups
    return 2.0 * channels * math.prod(taps)


def _layers(device: str) -> Iterator[tuple[str, float, Callable[[], Callable[[], object]]]]:
    """Each distinct convolution and linear layer of the measured networks: name, FLOPs of a call, and its builder.

    Input shapes are those that the layer sees at `OPERATION_BATCH_SIZE`, found on the meta device.
    """
    import torch
    from torch import nn

    from src import models

    seen: dict[str, tuple[float, Callable[[], Callable[[], object]]]] = {}

    def note(module: nn.Module, inputs: tuple, output: Any) -> None:
        shape = tuple(inputs[0].shape)
        if isinstance(module, nn.Linear):
            flop = 2.0 * math.prod(shape) * module.out_features
            name = f"linear {'x'.join(map(str, shape))} to {module.out_features}"
        else:
            flop = convolution_flop(module, shape[2:], output)
            name = (f"convolution {'x'.join(map(str, module.kernel_size))} {'x'.join(map(str, shape))} to "
                    f"{module.out_channels} stride {module.stride[0]} groups {module.groups}")  # fmt: skip
        if flop >= OPERATION_MINIMUM_FLOP:
            seen.setdefault(name, (flop, lambda: _layer_call(module, shape, device)))

    for name in models.MEASURED:
        network = models.get(name)
        module = network.build().eval().to("meta")  # not built there: RegNets compute their widths with tensors
        hooks = [
            part.register_forward_hook(note)
            for part in module.modules()
            if isinstance(part, nn.Linear | nn.Conv2d)
        ]  # fmt: skip
        with torch.no_grad():
            module(*network.inputs(OPERATION_BATCH_SIZE, "meta"))
        for hook in hooks:
            hook.remove()
    for name, (flop, build) in sorted(seen.items(), key=lambda item: item[1][0]):
        yield name, flop, build


def _layer_call(module: Any, shape: Sequence[int], device: str) -> Callable[[], object]:
    import copy

    import torch

    layer = copy.deepcopy(module).to_empty(device=device)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, 0.02)
    inputs = torch.randn(shape, device=device)
    return lambda: layer(inputs)


def _operations(run: _Run) -> None:
    import torch

    from src.precision import settings

    clock = timing.clock_for(run.device)
    best = ("", 0.0)
    count = 0
    with torch.inference_mode(), settings("fp32"):
        for name, flop, build in _layers(run.device):
            if run.offset("operation", name):
                continue
            sampled = timing.sample(build(), clock, OPERATION_PLAN)
            for index, taken in enumerate(sampled.kept):
                run.add("operation", name.split(" ")[0], name, 0, index, taken.total_s, flop=flop)
            best = max(best, (name, flop / sampled.median_s), key=lambda pair: pair[1])
            count += 1
    run.log(f"  {count} products; the fastest reaches {best[1] / 1e9:.0f} GFLOP/s: {best[0]}")


# Timers


def time_with_ours(call: Callable[[], object], clock: timing.Clock) -> tuple[float, float, float]:
    """Median in s, relative half width and elapsed time in s of this book's loop."""
    began = time.perf_counter()
    sampled = timing.sample(call, clock, timing.Plan(budget_s=OTHER_TIMES_S[-1]))
    elapsed_s = time.perf_counter() - began
    width = timing.relative_half_width([taken.total_s for taken in sampled.kept])
    return sampled.median_s, width, elapsed_s


def time_with_other(call: Callable[[], object], threads: int) -> tuple[float, float, float]:
    """The same of ``torch.utils.benchmark``: the shortest of `OTHER_TIMES_S` whose interval is within the target."""
    from torch.utils import benchmark as torch_benchmark

    timer = torch_benchmark.Timer(stmt="call()", globals={"call": call}, num_threads=threads)
    for seconds in OTHER_TIMES_S:
        began = time.perf_counter()
        measured = timer.blocked_autorange(min_run_time=seconds)
        elapsed_s = time.perf_counter() - began
        width = (
            timing.relative_half_width(measured.times) if len(measured.times) >= timing.MINIMUM_SAMPLES else math.inf
        )
        if width <= timing.TARGET:
            break
    return measured.median, width, elapsed_s


def ratio_of_medians(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of the medians of paired values, (n,) each, and the ends of its bootstrap interval over the pairs."""
    ours, others = np.asarray(ours), np.asarray(others)
    drawn = timing.resample(np.zeros(len(ours)))
    tail = 50 * (1 - timing.CONFIDENCE)
    ends = np.percentile(timing.medians(ours, drawn) / timing.medians(others, drawn), [tail, 100 - tail])
    return float(np.median(ours) / np.median(others)), *map(float, ends)


def _is_settled(pairs: Sequence[tuple[float, float]]) -> bool:
    if len(pairs) < TIMER_PAIRS[0]:
        return False
    _, low, high = ratio_of_medians(*zip(*pairs, strict=True))
    return (high - low) / 2 <= TIMER_LIMIT


def _call_by_call(run: _Run, label: str, call: Callable[[], object], clock: timing.Clock, threads: int) -> None:
    """Single calls timed by both in turn: whatever slows the machine for a moment meets both alike."""
    from torch.utils import benchmark as torch_benchmark

    timer = torch_benchmark.Timer(stmt="call()", globals={"call": call}, num_threads=threads)
    ways = {
        OUR_TIMER: lambda: timing.time_once({"call": call}, clock)[0]["call"],
        OTHER_TIMER: lambda: timer.timeit(1).times[0],
    }
    pairs = run.pairs.setdefault(label, [])
    began = time.monotonic()
    for turn in range(TIMER_PAIRS[1]):
        if time.monotonic() - began > TIMER_CASE_S or (turn % 10 == 0 and _is_settled(pairs)):
            return
        taken = {}
        for subject in ways if turn % 2 == 0 else reversed(ways):
            call()  # each finds the caches as a call of the same network left them
            taken[subject] = ways[subject]()
            run.add("timer", subject, label, turn, 0, taken[subject])
        pairs.append((taken[OUR_TIMER], taken[OTHER_TIMER]))


def _networks(run: _Run) -> Iterator[tuple[str, Callable[[], object]]]:
    """The label and the call of each of `TIMER_CASES`, called once, under the settings of inference in fp32."""
    import torch

    from src.precision import settings

    with torch.inference_mode(), settings("fp32"):
        for name, batch_size in TIMER_CASES:
            case = Case(name, "inference", batch_size, run.device, "fp32")
            call = steps.inference_step(case, torch.device(run.device))["inference"]
            call()
            yield f"{name}, batch {batch_size}", call


def _timers(run: _Run, environment: Mapping[str, Any]) -> None:
    clock = timing.clock_for(run.device)
    for label, call in _networks(run):
        _call_by_call(run, label, call, clock, int(environment["threads"]))
        run.log(f"  timers on {label}")


def _stopping(run: _Run, environment: Mapping[str, Any]) -> None:
    clock = timing.clock_for(run.device)
    timers = {
        OUR_TIMER: lambda call: time_with_ours(call, clock),
        OTHER_TIMER: lambda call: time_with_other(call, int(environment["threads"])),
    }
    for label, call in _networks(run):
        for round_ in range(STOPPING_ROUNDS):
            # Who begins alternates, so that neither always profits from what the other warmed up.
            for subject in timers if round_ % 2 == 0 else reversed(timers):
                median_s, width, elapsed_s = timers[subject](call)
                run.add("stopping", subject, label, round_, 0, median_s, elapsed_s=elapsed_s,
                        relative_half_width=width if math.isfinite(width) else None)  # fmt: skip
        run.log(f"  stopping on {label}")


# Overhead


def _overhead(run: _Run) -> None:
    clock = timing.CpuClock()

    def nothing() -> None:
        pass

    for round_ in range(timing.MINIMUM_SAMPLES):
        sampled = timing.sample(nothing, clock, timing.Plan(budget_s=0.5, minimum=20, maximum=20))
        for index, taken in enumerate(sampled.kept):
            run.add("overhead", "timing loop", "empty function", round_, index, taken.total_s)
        for index, seconds in enumerate(timeit.repeat(nothing, number=100_000, repeat=5)):
            run.add("overhead", "timeit", "empty function", round_, index, seconds / 100_000)
        run.add("overhead", "clock", "pair of readings", round_, 0, timing.CpuClock().cost_s)


# All together


def compare(measuring: command.Measuring, wanted: Sequence[str]) -> None:
    """Run the wanted comparisons (`COMPARISONS`) into a machine's folder, whose lock the caller holds."""
    folder, log = measuring.folder, measuring.log
    name = store.add_environment(folder, measuring.environment)
    earlier = [row for row in store.read_rows(folder / "trust.jsonl", schema.TRUST)[0] if row["environment"] == name]
    with store.appender(folder, "trust.jsonl") as out:
        run = _Run(name, measuring.device, out, log)
        run.take_in(earlier)
        for comparison in wanted:
            log(comparison)
            if comparison == "overhead":
                _overhead(run)
            elif comparison == "bandwidth":
                _bandwidth(run, measuring.environment)
            elif comparison == "timers":
                _timers(run, measuring.environment)
            elif comparison == "stopping":
                _stopping(run, measuring.environment)
            elif comparison == "operations":
                _operations(run)
            elif comparison == "repeat":
                repeat(measuring)


def missing(measuring: command.Measuring) -> list[str]:
    """The comparisons that a full measurement includes and the folder lacks; a second run is made on request alone."""
    name = store.environment_id(measuring.environment)
    rows, _ = store.read_rows(measuring.folder / "trust.jsonl", schema.TRUST)
    present = {row["comparison"] for row in rows if row["environment"] == name}
    recorded = {"overhead": "overhead", "bandwidth": "bandwidth", "operations": "operation", "timers": "timer",
                "stopping": "stopping"}  # fmt: skip
    return [comparison for comparison, kind in recorded.items() if kind not in present]


def repeat(
    measuring: command.Measuring,
    batch_sizes: Sequence[int] = REPEAT_BATCH_SIZES,
    case_budget_s: float = REPEAT_CASE_BUDGET_S,
) -> None:
    """Measure fp32 inference at some batch sizes a second time, into the folder ``repeat``."""
    from src import models

    folder = measuring.folder / "repeat"
    cases = [
        Case(name, "inference", size, measuring.device, "fp32") for size in batch_sizes for name in models.MEASURED
    ]
    with store.lock(folder):
        outcomes = benchmark.sweep(
            folder, cases, measuring.device, case_budget_s=case_budget_s, environment=measuring.environment,
            log=measuring.log,
        )  # fmt: skip
    measuring.log(f"repeat: {benchmark.summary(cases, outcomes)}")


def main(arguments: list[str] | None = None) -> int:
    """Compare this book's way of measuring with others, and with itself a second time."""
    parser = argparse.ArgumentParser(prog="python -m src.trust", description=main.__doc__)
    parser.add_argument(
        "comparisons", nargs="*", metavar="comparison", help=f"of {', '.join(COMPARISONS)}; default: all"
    )
    command.add_common_arguments(parser)
    options = parser.parse_args(arguments)
    for name in options.comparisons:
        if name not in COMPARISONS:
            parser.error(f"no comparison {name!r}: there are {', '.join(COMPARISONS)}")
    with command.measuring(options, parser) as measuring:
        compare(measuring, options.comparisons or COMPARISONS)
    return 0


if __name__ == "__main__":
    from src.trust import main as imported_main

    sys.exit(imported_main())
