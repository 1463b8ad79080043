"""Measure everything on this machine, in pieces, with one budget; the same command carries on where it stopped.

The order is that of need: ceilings first, for every chapter draws them; then inference, training, the time per layer,
and the comparisons with other ways of measuring. An unlimited run measures the full set; a limited one shares its time
among what is not done yet.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from src import benchmark, ceilings, command, trust

SHARES = {"ceilings": 0.15, "inference": 0.5, "training": 0.15, "breakdown": 0.15, "trust": 0.05}
"""How a limited budget is split; what a part leaves over goes to those after it."""


def parts() -> tuple[str, ...]:
    """The parts that this tree can measure, in order."""
    return tuple(name for name in SHARES if name != "breakdown" or importlib.util.find_spec("src.breakdown"))


def allotted_s(left_s: float, part: str, wanted: list[str]) -> float:
    """Seconds for a part: its share of what is left, among the parts from it on. The last gets all that is left."""
    rest = wanted[wanted.index(part) :]
    return left_s * SHARES[part] / sum(SHARES[name] for name in rest)


def measure(
    run: command.Measuring, wanted: list[str], budget_s: float, names: list[str] | None, **options: Any
) -> None:
    """Measure the wanted parts one after the other within ``budget_s`` seconds. ``options`` are those of
    `benchmark.sweep`."""
    deadline = time.monotonic() + budget_s
    for part in wanted:
        allowed_s = allotted_s(deadline - time.monotonic(), part, wanted)
        if allowed_s <= 1:
            run.log(f"time is up before {part}")
            return
        limit = "no limit" if math.isinf(allowed_s) else f"up to {allowed_s:.0f} s"
        run.log(f"{part} ({limit})")
        _PARTS[part](run, allowed_s, names, options)


def _ceilings(run: command.Measuring, budget_s: float, names: list[str] | None, options: dict) -> None:
    devices = dict.fromkeys((run.device, "cpu") if run.device != "cpu" else ("cpu",))
    for device in devices:
        ceilings.measure(
            run.folder, device, budget_s=budget_s / len(devices), environment=run.environment, log=run.log
        )  # fmt: skip


def _sweep(kind: str) -> Callable[..., None]:
    def part(run: command.Measuring, budget_s: float, names: list[str] | None, options: dict) -> None:
        cases = benchmark.default_cases(kind, run.device, names)
        outcomes = benchmark.sweep(
            run.folder, cases, run.device, budget_s=budget_s, environment=run.environment, log=run.log, **options
        )  # fmt: skip
        run.log(f"{kind}: {benchmark.summary(cases, outcomes)}")

    return part


def _breakdown(run: command.Measuring, budget_s: float, names: list[str] | None, options: dict) -> None:
    breakdown = importlib.import_module("src.breakdown")
    breakdown.measure(
        run.folder, run.device, names=names, budget_s=budget_s, environment=run.environment, log=run.log
    )  # fmt: skip


def _trust(run: command.Measuring, budget_s: float, names: list[str] | None, options: dict) -> None:
    if budget_s < trust.SHORTEST_S:
        run.log(f"trust needs {trust.SHORTEST_S:.0f} s: left for another run")
        return
    trust.compare(run, trust.missing(run))


_PARTS = {"ceilings": _ceilings, "inference": _sweep("inference"), "training": _sweep("training"),
          "breakdown": _breakdown, "trust": _trust}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure this machine: ceilings, inference, training, the time per layer, and how far to trust all that."""
    parser = argparse.ArgumentParser(prog="python -m src.measure", description=main.__doc__)
    command.add_common_arguments(parser)
    parser.add_argument("--models", nargs="+", help="names in the registry; default: the measured set")
    parser.add_argument("--case-budget", type=command.duration_s, default=command.CASE_BUDGET_S)
    parser.add_argument("--parts", nargs="+", choices=tuple(SHARES), help="default: all")
    options = parser.parse_args(arguments)
    wanted = [part for part in SHARES if part in (options.parts or parts())]
    if options.parts and set(options.parts) - set(parts()):
        parser.error("this tree has no src/breakdown.py")
    with command.measuring(options, parser) as run:
        measure(run, wanted, options.budget, options.models, case_budget_s=options.case_budget)
    return 0


if __name__ == "__main__":
    from src.measure import main as imported_main

    sys.exit(imported_main())
