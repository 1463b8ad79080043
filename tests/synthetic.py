"""A made-up machine folder for tests, written through the store's own writer. Never under data/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from src import schema, store
from src.schema import Case

STARTED_AT = 1_700_000_000.0


def environment(**changes: object) -> dict:
    """A plausible environment of a machine that does not exist."""
    base = {
        "machine": "synthetic-cpu", "method_version": 1, "system": "Linux 6.0", "architecture": "x86_64",
        "processor": "Synthetic CPU 1000", "processor_vendor": "SyntheticVendor", "processor_family": 1,
        "processor_model": 2, "processor_stepping": 0, "sockets": 1, "physical_cores": 2, "logical_cores": 2,
        "caches": [
            {"level": 1, "type": "Data", "size_byte": 32768, "count": 2},
            {"level": 2, "type": "Unified", "size_byte": 1048576, "count": 2},
            {"level": 3, "type": "Unified", "size_byte": 33554432, "count": 1},
        ],
        "simd": "avx2 avx512f", "memory_byte": 16 * 2.0**30, "is_virtual": False, "python_version": "3.11",
        "torch_version": "2.6.0", "torchvision_version": "0.21.0", "numpy_version": "2.0.0", "threads": 2,
        "interop_threads": 2, "recorded_at": STARTED_AT, "load_average": 0.1, "clock_seen_hz": 3e9,
    }  # fmt: skip
    return base | changes


def gpu(**changes: object) -> dict:
    """A plausible environment with an accelerator that does not exist."""
    accelerator = {
        "machine": "synthetic-gpu", "accelerator": "Synthetic GPU 9", "accelerator_memory_byte": 80 * 2.0**30,
        "accelerator_units": 100, "accelerator_driver": "1.0", "accelerator_power_limit_w": 500.0,
    }  # fmt: skip
    return environment(**accelerator | changes)


def cases(
    models: Iterable[str], batch_sizes: Iterable[int] = (1, 64, 256), device: str = "cpu", precision: str = "fp32"
) -> list[Case]:
    """Inference cases, batch sizes within models."""
    return [Case(model, "inference", batch_size, device, precision) for model in models for batch_size in batch_sizes]


def write(
    root: Path,
    environment: Mapping[str, object],
    latency_s: Mapping[Case, float | None],
    *,
    n: int = 8,
    spread: float = 0.01,
    flop_per_s: Mapping[tuple[str, str], float] | None = None,
    byte_per_s: float = 40e9,
    seed: int = 0,
    phase_share: Mapping[str, float] | None = None,
    status: Callable[[Case], str] = lambda case: "ok",
) -> Path:
    """Write a machine folder under ``root``; returns it.

    ``latency_s`` gives each case's median in s; None makes it an out-of-memory row without samples. A training case's
    latency is shared among its phases by ``phase_share``. ``flop_per_s`` maps (device, precision) to the rate of a
    made-up matrix product; ``byte_per_s`` is the bandwidth of working sets beyond 32 MiB on "cpu", caches being two and
    four times as fast.
    """
    random = np.random.default_rng(seed)
    folder = root / str(environment["machine"])
    with store.lock(folder):
        name = store.add_environment(folder, environment)
        with store.appender(folder, "samples.jsonl") as samples, store.appender(folder, "outcomes.jsonl") as outcomes:
            for case, median in latency_s.items():
                _write_case(samples, outcomes, name, case, median, n, spread, random, phase_share, status(case))
        rates = flop_per_s or {("cpu", "fp32"): 400e9}
        with store.appender(folder, "ceilings.jsonl") as ceilings:
            for row in _ceilings(name, rates, byte_per_s):
                ceilings.append(row)
        with store.appender(folder, "drift.jsonl") as drift:
            for index, position in enumerate(("start", "middle", "end")):
                drift.append({"environment": name, "device": "cpu", "position": position, "kernel": "reference",
                              "index": index, "latency_s": 0.01, "started_at": STARTED_AT + index})  # fmt: skip
    return folder


def _write_case(samples, outcomes, name, case, median, n, spread, random, phase_share, status) -> None:
    key = {"environment": name} | vars(case)
    outcome = {"is_busy": False, "started_at": STARTED_AT, "elapsed_s": 1.0}
    if median is None:
        outcomes.append(key | outcome | {"status": "out_of_memory", "message": "made up for a test"})
        return
    shares = {"inference": 1.0}
    if case.sweep == "training":
        shares = phase_share or {"forward": 0.3, "backward": 0.6, "optimizer": 0.1}
    for index in range(n + 1):
        slower = 2.0 if index == 0 else float(1 + spread * random.standard_normal())
        for phase, share in shares.items():
            samples.append(key | {"phase": phase, "index": index, "is_warmup": index == 0, "iterations": 1,
                                  "latency_s": median * share * slower,
                                  "started_at": STARTED_AT + index})  # fmt: skip
    outcomes.append(key | outcome | {"status": status, "stop_reason": "interval", "peak_memory_byte": 1e9,
                                     "memory_kind": "resident" if case.device == "cpu" else "allocated"})  # fmt: skip


def _ceilings(name: str, rates: Mapping[tuple[str, str], float], byte_per_s: float) -> Iterable[dict]:
    base = {"environment": name, "is_warmup": False, "iterations": 1, "started_at": STARTED_AT}
    zero = {"flop": 0.0, "bytes_moved": 0.0, "working_set_byte": 0.0}
    for (device, precision), rate in rates.items():
        for kernel, share in (("mm", 0.5), ("conv1x1", 1.0)):
            for index in range(5):
                yield base | zero | {
                    "kind": "compute", "device": device, "precision": precision, "kernel": kernel, "shape": "1024",
                    "index": index, "flop": 2e9, "latency_s": 2e9 / (rate * share),
                }  # fmt: skip
    for device in sorted({device for device, _ in rates}):
        for kind in ("read", "copy", "triad"):
            for power in range(14, 30):
                size = 2.0**power
                rate = byte_per_s * (4 if size <= 2**19 else 2 if size <= 2**25 else 1)
                for index in range(5):
                    yield base | {
                        "kind": kind, "device": device, "precision": "fp32", "kernel": kind, "shape": str(int(size)),
                        "index": index, "flop": 0.0, "bytes_moved": size, "working_set_byte": size,
                        "latency_s": size / rate,
                    }  # fmt: skip
        for index in range(5):
            yield base | zero | {
                "kind": "overhead", "device": device, "precision": "fp32", "kernel": "empty add", "shape": "0",
                "index": index, "latency_s": 1e-6,
            }  # fmt: skip


def identity_fields() -> list[str]:
    """Names of the fields in which two environments must agree."""
    return [column.name for column in schema.IDENTITY]
