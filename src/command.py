"""What all measuring commands share: their options, the folder they lock, and how they show where things stand."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src import machine, schema, store, timing
from src.schema import Case

CASE_BUDGET_S = 20.0
AGAIN = ("busy", "noisy", "all")
"""Which measured cases a run takes up anew: those whose machine was busy, those with an interval wider than the target
or too few samples, or every one."""


class Progress:
    """What is running, how many are left, when it will end: a line that renews itself on a terminal, else a log."""

    def __init__(self, log: Callable[[str], None], stream: Any = None):
        self.stream = sys.stderr if stream is None else stream
        self.is_terminal = bool(getattr(self.stream, "isatty", lambda: False)())
        self.log = log
        self.total = self.finished = 0
        self.began = self.case_began = time.monotonic()
        self.line = ""

    def start(self) -> None:
        """The first case is about to begin."""
        self.total, self.finished, self.began = 0, 0, time.monotonic()

    def expect(self, ahead: int) -> None:
        """So many visits to cases are ahead, whatever was thought before."""
        self.total = self.finished + ahead

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
    parser.add_argument("--again", choices=AGAIN, help="measure cases anew: on a busy machine, noisy, or all")
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
