"""What this machine can reach: FLOP/s per precision, bandwidth per memory level, and the cost of an empty operation.

`measure` tries many kernels and shapes and writes raw timings; the functions below it read them back as ceilings:
the best kernel's median rate. No kernel is trusted alone, because which library call is fastest differs between
machines: the matrix product is not always the best way to reach a machine's matrix units.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src import machine, schema, store, timing

if TYPE_CHECKING:
    import pandas as pd

PRECISIONS = {
    "cpu": ("fp32", "bf16", "int8", "fp64", "fp16"),
    "cuda": ("fp32", "tf32", "bf16", "fp16", "int8", "fp64", "fp8"),
    "mps": ("fp32", "bf16", "fp16"),
}
"""Precisions tried on each device, the most wanted first; those that it refuses leave no rows."""

PROBE = timing.Plan(budget_s=0.5, minimum=3, maximum=3, minimum_sample_s=0.002)
FINAL = timing.Plan(budget_s=3.0, minimum=5, maximum=20, minimum_sample_s=0.01)
FINALISTS = 4
CURVE = timing.Plan(budget_s=0.6, minimum=5, maximum=5, minimum_sample_s=0.0005)
LONGEST_CALL_S = 0.5
"""A shape is skipped if, at the best rate seen so far for its kernel and precision, one call would take longer."""

REPEATED_BYTES = 8e6
"""A bandwidth kernel on a small working set passes over it again within one call, until about so many bytes have
moved: else the cost of dispatching the call would hide the cache."""

CACHE_LINE_BYTE = 64
TRIAD_SCALAR = 3.0


@dataclass(frozen=True)
class Candidate:
    """A kernel and shape: ``build(device)`` makes the call, whose operands are allocated only then."""

    kind: str
    kernel: str
    shape: str
    precision: str
    build: Callable[[str], Callable[[], object]]
    flop: float = 0.0
    bytes_moved: float = 0.0
    working_set_byte: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies it among the rows of one device."""
        return self.kind, self.precision, self.kernel, self.shape


# Arithmetic


def _random(shape: tuple[int, ...], precision: str, device: str):
    import torch

    from src.precision import dtype

    generator = torch.Generator().manual_seed(0)
    if precision == "int8":
        return torch.randint(-8, 8, shape, generator=generator, dtype=torch.int8).to(device)
    return torch.randn(shape, generator=generator).to(device, dtype(precision))


def _matrix(kernel: str, m: int, k: int, n: int, precision: str) -> Candidate:
    def build(device: str) -> Callable[[], object]:
        import torch
        import torch.nn.functional as F

        left = _random((m, k), precision, device)
        if kernel == "linear":
            weight = _random((n, k), precision, device)
            return lambda: F.linear(left, weight)
        if kernel == "int_mm":
            # The second operand is laid out by columns: the layout that cuBLASLt's int8 products ask for.
            right = _random((n, k), precision, device).t()
            return lambda: torch._int_mm(left, right)
        if kernel == "scaled_mm":
            right = _random((n, k), precision, device).t()
            one = torch.ones((), device=device)
            return lambda: torch._scaled_mm(left, right, one, one, out_dtype=torch.bfloat16)
        if kernel == "addmm":
            right, bias = _random((k, n), precision, device), _random((n,), precision, device)
            return lambda: torch.addmm(bias, left, right)
        right = _random((k, n), precision, device)
        out = torch.empty((m, n), dtype=left.dtype, device=device)
        return lambda: torch.mm(left, right, out=out)

    return Candidate("compute", kernel, f"{m}x{k}x{n}", precision, build, flop=2.0 * m * k * n)


def _convolution(n: int, c: int, size: int, out: int, kernel: int, memory_format: str, precision: str) -> Candidate:
    """A convolution without padding, so that every multiplication counted is one that is done."""

    def build(device: str) -> Callable[[], object]:
        import torch
        import torch.nn.functional as F

        layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        around = size + kernel - 1
        images = _random((n, c, around, around), precision, device).to(memory_format=layout)
        weight = _random((out, c, kernel, kernel), precision, device).to(memory_format=layout)
        return lambda: F.conv2d(images, weight)

    name = f"convolution {kernel}x{kernel}" + (", channels-last" if memory_format == "channels_last" else "")
    flop = 2.0 * n * size * size * c * out * kernel * kernel
    return Candidate("compute", name, f"{n}x{c}x{size}x{size} to {out}", precision, build, flop=flop)


_MATRICES = {
    "cpu": ((512, 512, 512), (1024, 1024, 1024), (768, 3072, 768), (2048, 2048, 2048), (6272, 256, 1024),
            (12544, 768, 768), (4096, 4096, 4096)),
    "cuda": ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096), (50432, 768, 3072), (8192, 8192, 8192),
             (16384, 8192, 8192), (16384, 16384, 16384)),
}  # fmt: skip
_CONVOLUTIONS = {
    "cpu": ((8, 64, 56, 256, 1), (8, 256, 28, 512, 1), (8, 1024, 14, 256, 1), (4, 512, 28, 512, 1),
            (16, 64, 56, 64, 3), (8, 64, 56, 64, 3), (8, 128, 28, 128, 3), (8, 256, 14, 256, 3), (2, 128, 112, 128, 3),
            (4, 256, 56, 256, 3), (4, 512, 28, 512, 3), (8, 256, 14, 256, 1)),
    "cuda": ((64, 256, 56, 256, 1), (256, 512, 28, 512, 1), (256, 1024, 14, 1024, 1), (256, 64, 56, 64, 3),
             (256, 128, 28, 128, 3), (256, 256, 14, 256, 3), (256, 512, 28, 512, 3), (64, 256, 56, 256, 3)),
}  # fmt: skip
"""Sizes that networks use, and larger ones; images, channels, size, output channels, kernel."""


def compute_candidates(device: str, precision: str) -> list[Candidate]:
    """Every kernel and shape tried for a precision, the cheapest first."""
    sizes = "cpu" if device == "cpu" else "cuda"
    if precision == "int8":
        kernels: tuple[str, ...] = ("int_mm",)
    elif precision == "fp8":
        kernels = ("scaled_mm",)
    else:
        kernels = ("mm", "linear", "addmm")
    found = [_matrix(kernel, *shape, precision) for kernel in kernels for shape in _MATRICES[sizes]]
    if precision not in ("int8", "fp8"):
        found += [
            _convolution(*shape, memory_format, precision)
            for shape in _CONVOLUTIONS[sizes]
            for memory_format in schema.MEMORY_FORMATS
        ]
    return sorted(found, key=lambda candidate: candidate.flop)


# Bandwidth


def working_sets(device: str, memory_byte: float, last_cache_byte: float) -> list[int]:
    """Sizes in byte over which bandwidth is measured: two an octave, from well within the first cache to well out of
    the last."""
    if device == "cpu":
        low, high = 2**14, min(max(2.0**29, 8 * last_cache_byte), memory_byte / 8)
    else:
        low, high = 2**20, min(2.0**33, memory_byte / 8)
    steps = int(np.floor(2 * np.log2(high / low)))
    return [int(low * 2 ** (step / 2)) for step in range(steps + 1)]


_STREAMS = {
    # kind: (arrays, accesses per element of one array set)
    "read": (1, 1),
    "update": (1, 2),
    "copy": (2, 2),
    "triad": (3, 3),
}
_READERS = ("sum", "dot")


def bandwidth_candidates(device: str, working_set_byte: int, threads: int) -> list[Candidate]:
    """The streaming kernels for a working set in byte, of all arrays together.

    Bytes are counted as STREAM counts them: what the program reads and writes, without the reads that a write-allocate
    cache adds (McCalpin, "Memory bandwidth and machine balance in current high performance computers", 1995).
    """
    found = []
    for kind, (arrays, accesses) in _STREAMS.items():
        parts = threads if device == "cpu" else 1
        length = max(16, working_set_byte // (4 * arrays * parts) // 16 * 16)
        repeats = int(np.clip(np.sqrt(REPEATED_BYTES / working_set_byte), 1, 32))
        moved = 4.0 * accesses * parts * length * repeats * repeats
        for kernel in _READERS if kind == "read" else (kind,):
            if kernel == "dot" and repeats > 1:
                continue  # needs vectors without overlap
            scale = 2 if kernel == "dot" else 1
            build = _stream(kernel, parts, length // scale, repeats)
            found.append(Candidate(kind, kernel, str(working_set_byte), "fp32", build,
                                   bytes_moved=moved, working_set_byte=float(working_set_byte)))  # fmt: skip
    return found


def _stream(kernel: str, parts: int, length: int, repeats: int) -> Callable[[str], Callable[[], object]]:
    """A kernel over ``parts`` x ``repeats`` x ``repeats`` rows of ``length`` elements.

    Each thread has a part of its own, far from the others', and each repeat starts one cache line further on: a row
    covers almost the same memory as the one before it, and yet torch takes rows for distinct.
    """

    def build(device: str) -> Callable[[], object]:
        import torch

        shift = CACHE_LINE_BYTE // 4
        pitch = length + 2 * shift * (repeats - 1) + 4 * shift

        def array():
            memory = torch.ones(parts * pitch, device=device)
            if repeats == 1 and parts * pitch > 2**22:
                return memory[: parts * length]  # long enough that its ends don't matter: the plain kernel
            return memory.as_strided((parts, repeats, repeats, length), (pitch, shift, shift, 1))

        first = array()
        if kernel == "sum":
            return lambda: first.sum()
        if kernel == "amax":
            return lambda: first.amax()
        if kernel == "update":
            return lambda: first.mul_(1.0)
        second = array()
        if kernel == "dot":
            left, right = first.reshape(-1), second.reshape(-1)
            return lambda: torch.dot(left, right)
        if kernel == "copy":
            return lambda: first.copy_(second)
        third = array()
        return lambda: torch.add(second, third, alpha=TRIAD_SCALAR, out=first)

    return build


# Overhead


def overhead_candidates(device: str) -> list[Candidate]:
    """Operations that do next to nothing: what remains is dispatch, and on an accelerator the launch.

    On a CPU the operand has no element. On an accelerator it has one, for without any nothing would be launched;
    "queued" is the time between operations that follow one another, "waited" adds waiting for each.
    """

    def addition(elements: int, wait: bool = False) -> Callable[[str], Callable[[], object]]:
        def build(device: str) -> Callable[[], object]:
            import torch

            one = torch.ones(elements, device=device)
            out = torch.empty_like(one)
            if not wait:
                return lambda: torch.add(one, one, out=out)
            synchronise = torch.cuda.synchronize if device == "cuda" else torch.mps.synchronize

            def call() -> None:
                torch.add(one, one, out=out)
                synchronise()

            return call

        return build

    def module(elements: int) -> Callable[[str], Callable[[], object]]:
        def build(device: str) -> Callable[[], object]:
            import torch

            identity, one = torch.nn.ReLU(), torch.ones(elements, device=device)
            return lambda: identity(one)

        return build

    if device == "cpu":
        return [
            Candidate("overhead", "add, no elements", "0", "fp32", addition(0)),
            Candidate("overhead", "ReLU module, no elements", "0", "fp32", module(0)),
        ]
    return [
        Candidate("overhead", "add, queued", "1", "fp32", addition(1)),
        Candidate("overhead", "ReLU module, queued", "1", "fp32", module(1)),
        Candidate("overhead", "add, waited", "1", "fp32", addition(1, wait=True)),
    ]


# Measuring


@dataclass
class _Run:
    """Where rows go, and which are there already."""

    environment: str
    device: str
    clock: timing.Clock
    append: Callable[[Mapping[str, object]], None]
    present: dict[tuple, list[dict]]
    deadline: float
    log: Callable[[str], None]

    def time(self, candidate: Candidate, plan: timing.Plan, *, again: bool = False) -> float | None:
        """Time a candidate unless earlier rows suffice; returns its median in s, or None if the device refuses it."""
        import torch

        from src.precision import settings

        rows = self.present.setdefault(candidate.key, [])
        kept = [row["latency_s"] for row in rows if not row["is_warmup"]]
        enough = plan.minimum if not again else FINAL.minimum + PROBE.minimum
        if len(kept) >= enough:
            return float(np.median(kept))
        if time.monotonic() > self.deadline:
            return float(np.median(kept)) if kept else None
        try:
            with torch.inference_mode(), settings(candidate.precision):
                function = candidate.build(self.device)
                first = 1 + max((row["index"] for row in rows), default=-1)
                timing.sample(
                    function, self.clock, plan, record=lambda taken: self._record(candidate, taken), first_index=first
                )
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            if isinstance(error, store.StoreError):
                raise
            self.log(f"  {candidate.kernel} {candidate.shape} {candidate.precision}: {_first_line(error)}")
            return None
        kept = [row["latency_s"] for row in self.present[candidate.key] if not row["is_warmup"]]
        return float(np.median(kept))

    def _record(self, candidate: Candidate, taken: timing.Sample) -> None:
        row = {
            "environment": self.environment, "kind": candidate.kind, "device": self.device,
            "precision": candidate.precision, "kernel": candidate.kernel, "shape": candidate.shape,
            "flop": candidate.flop, "bytes_moved": candidate.bytes_moved,
            "working_set_byte": candidate.working_set_byte, "index": taken.index, "is_warmup": taken.is_warmup,
            "latency_s": taken.latency_s["call"], "iterations": taken.iterations, "started_at": taken.started_at,
        }  # fmt: skip
        self.append(row)
        self.present[candidate.key].append(row)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def measure(
    folder: Path,
    device: str | None = None,
    *,
    precisions: Iterable[str] | None = None,
    parts: Iterable[str] = ("overhead", "bandwidth", "compute"),
    budget_s: float = float("inf"),
    environment: Mapping[str, object] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure the ceilings of a device into a machine's folder; what is there already is not measured again.

    Stops when ``budget_s`` seconds are spent; the same call carries on from there. The folder must be locked by the
    caller (`store.lock`). Raises `store.StoreError` if the folder can't be written.
    """
    device = machine.default_device() if device is None else device
    described = dict(environment or machine.describe("cuda" if device == "cuda" else None))
    name = store.add_environment(folder, described)
    rows, _ = store.read_rows(folder / "ceilings.jsonl", schema.CEILINGS)
    present: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["environment"] == name and row["device"] == device:
            key = (row["kind"], row["precision"], row["kernel"], row["shape"])
            present.setdefault(key, []).append(row)
    chosen = set(parts)
    with store.appender(folder, "ceilings.jsonl") as out:
        deadline = time.monotonic() + budget_s
        run = _Run(name, device, timing.clock_for(device), out.append, present, deadline, log)
        if "overhead" in chosen:
            for candidate in overhead_candidates(device):
                run.time(candidate, FINAL)
        if "bandwidth" in chosen:
            _measure_bandwidth(run, described)
        if "compute" in chosen:
            for precision in precisions or PRECISIONS[device]:
                _measure_compute(run, precision)


def _measure_bandwidth(run: _Run, environment: Mapping[str, object]) -> None:
    memory = (
        environment["memory_byte"] if run.device == "cpu" else environment.get("accelerator_memory_byte") or 2.0**34
    )
    last = max((cache["size_byte"] * cache["count"] for cache in environment["caches"]), default=2**25)
    for size in working_sets(run.device, float(memory), float(last)):
        for candidate in bandwidth_candidates(run.device, size, int(environment["threads"])):
            run.time(candidate, CURVE)
        run.log(f"  bandwidth over {size / 2**20:.3g} MiB")


def _measure_compute(run: _Run, precision: str) -> None:
    """Probe every kernel and shape, then measure the best few well."""
    rates: dict[tuple, tuple[float, Candidate]] = {}
    best_of_kernel: dict[str, float] = {}
    refused: set[str] = set()
    for candidate in compute_candidates(run.device, precision):
        if candidate.kernel in refused:
            continue
        best = best_of_kernel.get(candidate.kernel)
        if best is not None and candidate.flop / best > LONGEST_CALL_S:
            continue
        latency_s = run.time(candidate, PROBE)
        if latency_s is None:
            if time.monotonic() < run.deadline and best is None:
                refused.add(candidate.kernel)  # a kernel that refuses its smallest shape lacks the precision
            continue
        rate = candidate.flop / latency_s
        best_of_kernel[candidate.kernel] = max(best or 0.0, rate)
        rates[candidate.key] = (rate, candidate)
    finalists = sorted(rates.values(), key=lambda pair: -pair[0])[:FINALISTS]
    for _, candidate in finalists:
        run.time(candidate, FINAL, again=True)
    if finalists:
        run.log(f"  {precision}: {finalists[0][0] / 1e9:.0f} GFLOP/s by {finalists[0][1].kernel}")


# Reading ceilings back: pure, frames in and out


def _medians(ceilings: pd.DataFrame) -> pd.DataFrame:
    """One row per kernel, shape and precision: the median latency in s, its interval, and the counts."""
    import pandas as pd

    kept = ceilings[~ceilings["is_warmup"]]
    keys = ["kind", "device", "precision", "kernel", "shape"]
    rows = []
    for key, group in kept.groupby(keys, sort=True):
        low, high = timing.median_interval(group["latency_s"].to_numpy())
        first = group.iloc[0]
        rows.append(dict(zip(keys, key, strict=True)) | {
            "flop": first["flop"], "bytes_moved": first["bytes_moved"],
            "working_set_byte": first["working_set_byte"], "latency_s": group["latency_s"].median(),
            "latency_low_s": low, "latency_high_s": high, "n": len(group),
        })  # fmt: skip
    columns = [*keys, "flop", "bytes_moved", "working_set_byte", "latency_s", "latency_low_s", "latency_high_s", "n"]
    return pd.DataFrame(rows, columns=columns)


def rates(ceilings: pd.DataFrame) -> pd.DataFrame:
    """Every arithmetic kernel and shape: device, precision, kernel, shape, flop, achievable_flop_per_s, low, high, n.

    ``ceilings`` are raw rows (`schema.CEILINGS`). Rates are at the median latency, FLOP/s (OP/s for int8).
    """
    medians = _medians(ceilings[ceilings["kind"] == "compute"])
    medians["achievable_flop_per_s"] = medians["flop"] / medians["latency_s"]
    medians["low_flop_per_s"] = medians["flop"] / medians["latency_high_s"]
    medians["high_flop_per_s"] = medians["flop"] / medians["latency_low_s"]
    columns = ["device", "precision", "kernel", "shape", "flop", "achievable_flop_per_s", "low_flop_per_s",
               "high_flop_per_s", "n"]  # fmt: skip
    return medians[columns].sort_values(["device", "precision", "achievable_flop_per_s"]).reset_index(drop=True)


def _stacked(*frames: pd.DataFrame) -> pd.DataFrame:
    """Frames one below the other, renumbered; empty ones don't count."""
    import pandas as pd

    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def achievable(ceilings: pd.DataFrame) -> pd.DataFrame:
    """The best kernel and shape of each device and precision: the columns of `rates`, one row a precision.

    Only those sampled often enough take part, if there are any: the best of many short probes is partly luck.
    """
    best = rates(ceilings)
    enough = best[best["n"] >= timing.MINIMUM_SAMPLES]
    lacking = best[~best.set_index(["device", "precision"]).index.isin(enough.set_index(["device", "precision"]).index)]
    best = _stacked(enough, lacking)
    best = best.loc[best.groupby(["device", "precision"])["achievable_flop_per_s"].idxmax()]
    order = {name: index for index, name in enumerate(schema.PRECISION_BYTES)}
    return best.sort_values(["device", "precision"], key=lambda c: c.map(lambda v: order.get(v, v))).reset_index(
        drop=True
    )


def bandwidth_curve(ceilings: pd.DataFrame) -> pd.DataFrame:
    """Bandwidth over the working set, the best kernel of each kind: device, kind, kernel, working_set_byte,
    bandwidth_byte_per_s, low_byte_per_s, high_byte_per_s."""
    medians = _medians(ceilings[ceilings["kind"].isin(list(_STREAMS))])
    medians["bandwidth_byte_per_s"] = medians["bytes_moved"] / medians["latency_s"]
    medians["low_byte_per_s"] = medians["bytes_moved"] / medians["latency_high_s"]
    medians["high_byte_per_s"] = medians["bytes_moved"] / medians["latency_low_s"]
    best = medians.groupby(["device", "kind", "working_set_byte"])["bandwidth_byte_per_s"].idxmax()
    columns = [
        "device",
        "kind",
        "kernel",
        "working_set_byte",
        "bandwidth_byte_per_s",
        "low_byte_per_s",
        "high_byte_per_s",
    ]
    return medians.loc[best, columns].sort_values(["device", "kind", "working_set_byte"]).reset_index(drop=True)


def _cache_levels(environment: Mapping[str, object], device: str) -> list[tuple[str, float]]:
    """Names and total bytes of the caches that hold data, innermost first."""
    if device != "cpu":
        return []
    found: dict[int, float] = {}
    for cache in environment["caches"]:
        if cache["type"] != "Instruction":
            found[cache["level"]] = found.get(cache["level"], 0.0) + cache["size_byte"] * cache["count"]
    return [(f"L{level}", size) for level, size in sorted(found.items())]


def bandwidth_levels(ceilings: pd.DataFrame, environment: Mapping[str, object]) -> pd.DataFrame:
    """Achievable bandwidth of each memory level: device, level, kind, working_set_byte, achievable_byte_per_s.

    A cache level's figure is the best among working sets that fill no more than three quarters of it and don't fit
    the level before; the memory's is the median among those of at least four times the last cache, so that no part of
    it comes from a cache. The cache sizes are those that the system reports; an accelerator's levels are found from
    its curve (`_accelerator_levels`). Levels without a working set of their own have no row.
    """
    import pandas as pd

    curve = bandwidth_curve(ceilings)
    rows = []
    for (device, kind), group in curve.groupby(["device", "kind"], sort=False):
        for level, low, high in _level_bounds(environment, str(device), group):
            inside = group[(group["working_set_byte"] > low) & (group["working_set_byte"] <= high)]
            if inside.empty:
                continue
            is_memory = high == np.inf
            rate = inside["bandwidth_byte_per_s"]
            rows.append({"device": device, "level": level, "kind": kind,
                         "working_set_byte": inside["working_set_byte"].iloc[-1 if is_memory else int(rate.argmax())],
                         "achievable_byte_per_s": rate.median() if is_memory else rate.max()})  # fmt: skip
    return pd.DataFrame(rows, columns=["device", "level", "kind", "working_set_byte", "achievable_byte_per_s"])


def _level_bounds(
    environment: Mapping[str, object], device: str, curve: pd.DataFrame
) -> Iterator[tuple[str, float, float]]:
    levels = _cache_levels(environment, device) if device == "cpu" else _accelerator_levels(curve)
    below = 0.0
    for level, size in levels:
        yield level, below, 0.75 * size
        below = size
    yield ("DRAM" if device == "cpu" else "memory"), 4 * below - 1, np.inf


def _accelerator_levels(curve: pd.DataFrame) -> list[tuple[str, float]]:
    """The cache of an accelerator, whose size no portable call tells: it ends at the largest working set that still
    runs at more than midway (geometrically) between the fastest and the last point."""
    rate, size = curve["bandwidth_byte_per_s"].to_numpy(), curve["working_set_byte"].to_numpy()
    if len(rate) < 4 or rate.max() < 1.3 * rate[-1]:
        return []
    inside = np.flatnonzero(rate > np.sqrt(rate.max() * rate[-1]))
    return [("L2", float(size[inside[-1]]))]


def achievable_byte_per_s(ceilings: pd.DataFrame, environment: Mapping[str, object], device: str) -> float:
    """The roof's slope: the best bandwidth from a device's memory over all kinds, in byte/s. Raises ValueError if it
    was not measured."""
    levels = bandwidth_levels(ceilings, environment)
    memory = levels[(levels["device"] == device) & levels["level"].isin(["DRAM", "memory"])]
    if memory.empty:
        raise ValueError(f"no bandwidth from memory was measured on {device}")
    return float(memory["achievable_byte_per_s"].max())


def overhead(ceilings: pd.DataFrame) -> pd.DataFrame:
    """Cost of an operation that does nothing: device, kernel, overhead_s, low_s, high_s."""
    medians = _medians(ceilings[ceilings["kind"] == "overhead"])
    names = {"latency_s": "overhead_s", "latency_low_s": "low_s", "latency_high_s": "high_s"}
    return medians.rename(columns=names)[["device", "kernel", "overhead_s", "low_s", "high_s"]]


def datasheet_peak(environment: Mapping[str, object], device: str, precision: str) -> float | None:
    """The peak of this machine's chip in FLOP/s by the chip table, its best path; None if the table doesn't know it.

    A CPU's peak is that of the cores in use, at the clock that was seen under load.
    """
    from src import chips

    table = chips.rows()
    if device == "cuda":
        chip = chips.match(str(environment["accelerator"]), table)
    else:
        identity = "{processor_vendor} family {processor_family} model {processor_model}".format(**environment)
        chip = chips.match(str(environment["processor"]), table) or chips.match(identity, table)
    peaks = []
    for row in table:
        if row["chip"] != chip or row["precision"] != precision:
            continue
        if device == "cuda":
            peaks.append(row["peak_flop_per_s"])
            continue
        cores = environment["physical_cores"] or environment["logical_cores"]
        try:
            peaks.append(chips.machine_peak(row, float(cores), environment["clock_estimated_hz"]))
        except ValueError:
            continue
    return max(peaks, default=None)


def summary(ceilings: pd.DataFrame, environment: Mapping[str, object]) -> str:
    """What was measured, as lines of text, beside the datasheet's peak where the chip is in the table."""
    from src import report

    lines = []
    for row in achievable(ceilings).itertuples():
        peak = datasheet_peak(environment, row.device, row.precision)
        share = (
            ""
            if peak is None
            else f", {row.achievable_flop_per_s / peak:.0%} of {report.flop_rate(peak, row.precision)}"
        )
        rate = report.flop_rate(row.achievable_flop_per_s, row.precision)
        lines.append(f"{row.device} {row.precision}: {rate}{share} ({row.kernel}, {row.shape})")
    levels = bandwidth_levels(ceilings, environment)
    for (device, level), group in levels.groupby(["device", "level"], sort=False):
        each = ", ".join(f"{row.kind} {report.bandwidth(row.achievable_byte_per_s)}" for row in group.itertuples())
        lines.append(f"{device} {level}: {each}")
    lines += [
        f"{row.device} {row.kernel}: {report.duration(row.overhead_s)}" for row in overhead(ceilings).itertuples()
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure what this machine can reach: FLOP/s per precision, bandwidth per memory level, dispatch overhead."""
    from src import command

    parser = argparse.ArgumentParser(prog="python -m src.ceilings", description=main.__doc__)
    command.add_common_arguments(parser)
    parser.add_argument("--precision", nargs="+", choices=list(schema.PRECISION_BYTES), help="default: all")
    parser.add_argument("--parts", nargs="+", choices=("overhead", "bandwidth", "compute"),
                        default=["overhead", "bandwidth", "compute"])  # fmt: skip
    options = parser.parse_args(arguments)
    with command.measuring(options, parser) as run:
        measure(
            run.folder, run.device, precisions=options.precision, parts=options.parts, budget_s=options.budget,
            environment=run.environment, log=run.log,
        )  # fmt: skip
    if importlib.util.find_spec("pandas") is None:
        return 0  # a bare machine measures; the book's own reads
    identifier = store.environment_id(run.environment)
    found = store.load(run.folder.name, run.folder.absolute().parent, identifier)
    if len(found.ceilings):
        print(summary(found.ceilings, found.environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
