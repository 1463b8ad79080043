"""Set the book's counts beside other counters', name the operations that make them differ, and time them all.

The counters: `src.workload` ("book"), `torch.utils.flop_counter` ("torch"), fvcore, torchinfo, and the numbers that
torchvision publishes with its weights ("metadata"). All are compared in multiply-accumulates at batch size 1. fvcore
and torchinfo are imported only here; the measuring modules do not need them.
"""

from __future__ import annotations

import argparse
import csv
import logging
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from src import models, schema, workload
from src.models import Network

TIMED = ("alexnet", "squeezenet1_1", "shufflenet_v2_x1_0", "resnet18")
"""Networks of the benchmark: those whose forward pass at batch 256, which fvcore and torchinfo run, takes seconds."""

TIMED_BATCH = 256

_FVCORE_PRODUCTS = {"conv", "linear", "addmm", "matmul", "bmm", "einsum", "baddbmm"}
_TORCH_GROUPS = {
    "convolution": "convolution", "convolution_backward": "grouped convolution's weight gradient", "mm": "linear",
    "addmm": "linear", "bmm": "attention", "baddbmm": "attention",
}  # fmt: skip


def reconcile(name: str) -> list[dict]:
    """Rows of `schema.COUNTERS` for one network: each counter's total, and what makes it differ from the book's.

    The differences of a counter add up to its total less the book's exactly; what no operation explains would be
    listed as "unexplained".
    """
    network = models.get(name)
    counted = workload.count(network)
    rows = [_row(name, "book", "total", counted.macs)]
    rows += _rows(name, "torch", _torch(network, counted, backward=False), counted.macs)
    rows += _rows(name, "fvcore", _fvcore(network, counted), counted.macs)
    rows += _rows(name, "torchinfo", _torchinfo(network, counted), counted.macs)
    if name in models.torchvision_names():
        published = round(models.torchvision_weights(name).meta["_ops"] * 1e9)
        rows += _rows(
            name, "metadata", (published, {"rounding to three decimals": published - counted.macs}), counted.macs
        )
    if network.trainable:
        training = workload.count(network, network.minimum_training_batch, backward=True)
        macs = training.backward_flop // 2
        rows.append(_row(name, "book", "total", macs, "backward"))
        rows += _rows(name, "torch", _torch(network, training, backward=True), macs, "backward")
    return rows


def _row(model: str, counter: str, operation: str, macs: int, which: str = "forward") -> dict:
    return {"model": model, "counter": counter, "pass": which, "operation": operation, "macs": macs}


def _rows(model: str, counter: str, found: tuple[int, dict[str, int]], book: int, which: str = "forward") -> list[dict]:
    total, causes = found
    left = total - book - sum(causes.values())
    named = {operation: macs for operation, macs in (*causes.items(), ("unexplained", left)) if macs}
    return [_row(model, counter, operation, macs, which) for operation, macs in (("total", total), *named.items())]


def _difference(theirs: Counter, ours: Counter) -> dict[str, int]:
    return {key: theirs[key] - ours[key] for key in {**theirs, **ours} if theirs[key] != ours[key]}


def _torch(network: Network, counted: workload.Workload, backward: bool) -> tuple[int, dict[str, int]]:
    """torch's own counter on the meta device."""
    module, inputs = network.build_meta().train(backward), network.inputs(counted.batch_size, "meta")
    with FlopCounterMode(display=False) as forward:
        output = module(*inputs)
    if backward:
        loss = network.loss(output, inputs)
        with FlopCounterMode(display=False) as counter:
            loss.backward()
    else:
        counter = forward
    theirs, ours = Counter(), Counter()
    for packet, flop in counter.get_flop_counts()["Global"].items():
        theirs[_TORCH_GROUPS[packet.__name__]] += flop // 2
    for operation in counted.backward if backward else counted.forward:
        if operation.flop:
            short = operation.name.removeprefix("aten.")
            ours[_TORCH_GROUPS.get(short, "attention")] += operation.flop // 2
    return sum(theirs.values()), _difference(theirs, ours)


def _fvcore(network: Network, counted: workload.Workload) -> tuple[int, dict[str, int]]:
    """fvcore, which traces a real forward pass; its "flops" are multiply-accumulates of products, and other things."""
    module, inputs = network.build().eval(), network.inputs(1)
    analysis = _fvcore_analysis(module, inputs)
    found = analysis.by_operator()
    causes = {operation: int(macs) for operation, macs in found.items() if operation not in _FVCORE_PRODUCTS}
    if "aten::scaled_dot_product_attention" in analysis.unsupported_ops():
        fused = [o.flop for o in counted.operations if "_scaled_dot_product" in o.name]
        causes["scaled_dot_product_attention"] = -sum(fused) // 2
    return int(analysis.total()), causes


def _fvcore_analysis(module: nn.Module, inputs: tuple[torch.Tensor, ...]):
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis.total()
    return analysis


def _torchinfo(network: Network, counted: workload.Workload) -> tuple[int, dict[str, int]]:
    """torchinfo, which multiplies each layer's parameters by its output's size; causes are classes of layers."""
    import torchinfo

    module, inputs = network.build_meta().eval(), network.inputs(1, "meta")
    summary = torchinfo.summary(module, input_data=list(inputs), verbose=0, device="meta")
    paths = {id(part): path for path, part in module.named_modules()}
    classes = {path: type(part).__name__ for path, part in module.named_modules()}
    theirs, ours = Counter(), Counter()
    for layer in summary.summary_list:
        if layer.is_leaf_layer:
            theirs[paths[id(layer.module)]] += layer.macs
    for operation in counted.operations:
        ours[operation.module] += operation.flop // 2
    causes: Counter = Counter()
    for path, macs in _difference(theirs, ours).items():
        causes[classes[path]] += macs
    return int(summary.total_mult_adds), dict(causes)


def load() -> list[dict]:
    """The committed rows of `schema.COUNTERS`. Raises `schema.SchemaError` on a broken table."""
    return schema.read_csv(schema.COUNTERS_PATH, schema.COUNTERS)


def load_times() -> list[dict]:
    """The committed rows of `schema.COUNTER_TIMES`. Raises `schema.SchemaError` on a broken table."""
    return schema.read_csv(schema.COUNTER_TIMES_PATH, schema.COUNTER_TIMES)


def write(path: Path, table: schema.Table, rows: Iterable[dict]) -> None:
    """Write rows as a CSV file with a table's columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def benchmark(names: Sequence[str] = TIMED, batch_size: int = TIMED_BATCH) -> list[dict]:
    """Rows of `schema.COUNTER_TIMES`: the book's on all of torchvision, then every counter on the same networks.

    The book's time includes building the network, on the meta device; fvcore and torchinfo get one that is built, and
    run it, as their documentation shows. The book's is the median of five, each from nothing; theirs are single runs,
    which take seconds.
    """
    rows = [_time_all()]  # first, while this process has not yet filled the memory
    for name in names:
        network = models.get(name)
        for batch in (1, batch_size):
            rows.append(_timed(name, "book", batch, lambda n=network, b=batch: _from_nothing(n, b, False), 5))
        step = _timed(name, "book, with backward", batch_size, lambda n=network: _from_nothing(n, batch_size, True), 5)
        rows.append(step)
        module, inputs = network.build().eval(), network.inputs(batch_size)
        rows.append(_timed(name, "torchinfo", batch_size, lambda m=module, x=inputs: _run_torchinfo(m, x)))
        rows.append(_timed(name, "fvcore", batch_size, lambda m=module, x=inputs: _fvcore_analysis(m, x)))
    return rows


def _from_nothing(network: Network, batch_size: int, backward: bool) -> None:
    workload._build.cache_clear()
    workload._count.cache_clear()
    workload.count(network, batch_size, backward=backward)


def _run_torchinfo(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    import torchinfo

    torchinfo.summary(module, input_data=list(inputs), verbose=0, device="cpu")


def _timed(model: str, counter: str, batch_size: int, action: Callable[[], object], repeats: int = 1) -> dict:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return _time_row(model, counter, batch_size, statistics.median(times))


def _time_row(model: str, counter: str, batch_size: int, time_s: float, memory: int | None = None) -> dict:
    values = {"model": model, "counter": counter, "batch_size": batch_size, "time_s": round(time_s, 4)}
    return values | {"peak_memory_byte": memory}


_COUNT_ALL = """
import contextlib, io, resource, sys
from src import workload
with contextlib.redirect_stdout(io.StringIO()):
    workload.main(["--all-torchvision", "--json"])
try:
    print(next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
"""Counts all of torchvision and prints its peak memory in bytes. On Linux ru_maxrss would include the parent's."""


def _time_all() -> dict:
    """One process that counts all of torchvision, forward and backward, from its start to its end."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_ALL], cwd=schema.ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    elapsed = time.perf_counter() - start
    return _time_row("all of torchvision", "book, with backward", 1, elapsed, int(done.stdout))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m src.reconcile",
        description="Compare the book's counts with other counters, per network and operation, in GMAC.",
    )
    parser.add_argument("network", nargs="*", help="networks (default: the book's)")
    parser.add_argument("--benchmark", action="store_true", help="time the counters instead")
    parser.add_argument("--write", action="store_true", help="write data/counters.csv or data/counter_times.csv")
    options = parser.parse_args(arguments)
    try:
        names = [models.get(name).name for name in options.network]
    except models.UnknownModelError as error:
        parser.error(str(error))
    if options.benchmark:
        rows, table, path = benchmark(names or TIMED), schema.COUNTER_TIMES, schema.COUNTER_TIMES_PATH
    else:
        rows = [row for name in names or models.MEASURED for row in reconcile(name)]
        table, path = schema.COUNTERS, schema.COUNTERS_PATH
    if options.write:
        write(path, table, rows)
    for row in rows:
        print("  ".join(f"{_shown(row[name]):>12}" for name in table.names))
    return 0


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and abs(value) > 256:
        return f"{value / 1e9:,.6f}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
