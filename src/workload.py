"""What a network asks for: FLOPs, parameters, activations, bytes moved and live memory, counted on the meta device.

`count` traces a network once and returns a `Workload`; nothing is allocated, computed or downloaded, so that the cost
does not depend on the batch size. Definitions:

* ``flop``: model FLOPs, those of matrix products, convolutions and attention; a multiply-accumulate is 2. Causal
  attention counts the whole square of scores, as every counter does.
* ``other_flop``: element-wise, normalisation, pooling and bias work, nominal (`src.formulas`); never part of ``flop``.
* ``param_count``: parameters that the trace reads; a shared parameter counts once. Inference leaves auxiliary heads
  out: ``unused_param_count``. ``param_byte`` holds both, for both occupy memory.
* ``activation_count``: elements written by the operations that have model FLOPs (fvcore's definition, and attention).
* ``bytes_min``: the parameters that are read, the input and the output, each moved once, as perfect fusion would. Of
  an embedding table only the rows that are looked up.
* ``bytes_eager``: every operation reads its inputs and weights and writes its outputs. A view moves nothing, an
  in-place operation reads and writes, an expanded dimension is read once.
* ``peak_memory_byte``: parameters, buffers, input and the most that the trace holds at once. A training step adds what
  it saves for the backward pass, gradients, and the optimiser's state. Kernels' workspaces are not in it.

Needs torch and torchvision alone; pandas only for `frame` and `operation_frame`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import nn

from src import models, schema
from src.models import Network, UnknownModelError
from src.trace import Operation, Trace, UntraceableError, record

__all__ = ["Operation", "UntraceableError", "Workload", "by", "count", "frame", "operation_frame", "row", "rows"]

PRECISIONS = {
    "fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
"""Precisions that a network can be traced in, and the type that its tensors have then."""

OPTIMIZER_STATES = {"sgd": 0, "momentum": 1, "adam": 2}
"""Optimisers and how many values each keeps per parameter."""

GROUPINGS = {"type": "layer_type", "module": "module", "op": "name"}


@dataclass(frozen=True)
class Workload:
    """What one network asks for at one batch size and precision, in one mode.

    ``training`` False: one inference, operations of the phase "inference". True: forward and backward of one training
    step, operations of these two phases; auxiliary heads and dropout then take part.
    """

    model: str
    family: str
    unit: str
    batch_size: int
    precision: str
    training: bool
    operations: tuple[Operation, ...]
    param_count: int
    unused_param_count: int
    param_byte: int
    buffer_byte: int
    input_byte: int
    output_byte: int
    read_param_byte: int
    activation_peak_byte: int
    optimizer_state_byte: int
    held_byte: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def forward(self) -> tuple[Operation, ...]:
        """Operations of the forward pass."""
        return tuple(operation for operation in self.operations if operation.phase != "backward")

    @cached_property
    def backward(self) -> tuple[Operation, ...]:
        """Operations of the backward pass; none in inference."""
        return tuple(operation for operation in self.operations if operation.phase == "backward")

    @property
    def flop(self) -> int:
        """Model FLOPs of the forward pass."""
        return sum(operation.flop for operation in self.forward)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass: half of its FLOPs."""
        return self.flop // 2

    @property
    def other_flop(self) -> int:
        """Nominal element-wise, normalisation and pooling FLOPs of the forward pass."""
        return sum(operation.other_flop for operation in self.forward)

    @property
    def backward_flop(self) -> int:
        """Model FLOPs of the backward pass; 0 in inference."""
        return sum(operation.flop for operation in self.backward)

    @property
    def backward_other_flop(self) -> int:
        """Nominal other FLOPs of the backward pass."""
        return sum(operation.other_flop for operation in self.backward)

    @property
    def activation_count(self) -> int:
        """Elements that the forward pass's operations with model FLOPs write."""
        return sum(operation.output_count for operation in self.forward if operation.flop)

    @property
    def bytes_min(self) -> int:
        """Bytes of the forward pass if it were perfectly fused: parameters, input and output once."""
        return self.read_param_byte + self.input_byte + self.output_byte

    @property
    def bytes_eager(self) -> int:
        """Bytes of the forward pass if each operation reads its inputs and writes its outputs."""
        return sum(operation.bytes_moved for operation in self.forward)

    @property
    def backward_bytes_min(self) -> int:
        """Bytes of a perfectly fused backward pass: parameters, input and output gradient read, gradients written."""
        return 2 * self.read_param_byte + self.input_byte + self.output_byte if self.training else 0

    @property
    def backward_bytes_eager(self) -> int:
        """Bytes of the backward pass under the eager model."""
        return sum(operation.bytes_moved for operation in self.backward)

    @property
    def intensity_max(self) -> float:
        """FLOP per byte of the forward pass under the minimum model: no execution can exceed it."""
        return self.flop / self.bytes_min

    @property
    def intensity_eager(self) -> float:
        """FLOP per byte of the forward pass under the eager model."""
        return self.flop / self.bytes_eager

    @property
    def peak_memory_byte(self) -> int:
        """Parameters, buffers, input, optimiser state and the most that the trace held beside them."""
        resident = self.param_byte + self.buffer_byte + self.input_byte + self.optimizer_state_byte
        return resident + self.activation_peak_byte

    @property
    def uncounted(self) -> tuple[dict, ...]:
        """Operations without a formula: name, how often, bytes and share of the eager bytes, largest first."""
        total = sum(operation.bytes_moved for operation in self.operations)
        groups = by((operation for operation in self.operations if not operation.has_formula), "op")
        listed = [
            {"name": g["group"], "count": g["count"], "bytes": g["bytes_moved"], "share": g["bytes_moved"] / total}
            for g in groups
        ]
        return tuple(sorted(listed, key=lambda item: -item["bytes"]))


def count(
    network: str | Network,
    batch_size: int = 1,
    precision: str = "fp32",
    backward: bool = False,
    optimizer: str = "momentum",
) -> Workload:
    """Count a network, by name or as a `Network`, at a batch size and precision.

    With ``backward`` it counts a training step, whose ``optimizer`` ("sgd", "momentum" or "adam") sets the state that
    memory holds. Raises `UnknownModelError`, `UntraceableError`, and ValueError on a precision or batch size that
    makes no sense or a network without a training step.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"cannot trace in {precision!r}: precision must be one of {', '.join(PRECISIONS)}")
    if optimizer not in OPTIMIZER_STATES:
        raise ValueError(f"unknown optimiser {optimizer!r}: must be one of {', '.join(OPTIMIZER_STATES)}")
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, not {batch_size}")
    if isinstance(network, str):
        network = models.get(network)
    if backward and not network.trainable:
        raise ValueError(f"{network.name} has no training step")
    if backward and batch_size < network.minimum_training_batch:
        raise ValueError(f"{network.name} trains on batches of at least {network.minimum_training_batch}")
    return _count(network, batch_size, precision, backward, optimizer)


@lru_cache(maxsize=32)
def _count(network: Network, batch_size: int, precision: str, training: bool, optimizer: str) -> Workload:
    dtype = PRECISIONS[precision]
    module = _build(network, dtype)
    inputs = network.inputs(batch_size, "meta", dtype)
    try:
        trace = record(module, inputs, network.loss if training else None)
    except UntraceableError as error:
        raise UntraceableError(f"cannot trace {network.name}: {error}") from error
    return _workload(network, module, batch_size, precision, trace, OPTIMIZER_STATES[optimizer] if training else None)


@lru_cache(maxsize=8)
def _build(network: Network, dtype: torch.dtype) -> nn.Module:
    return network.build_meta().to(dtype)


def _workload(
    network: Network, module: nn.Module, batch_size: int, precision: str, trace: Trace, states: int | None
) -> Workload:
    param_byte = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    used = sum(operation.param_count for operation in trace.operations)
    return Workload(
        model=network.name,
        family=network.family,
        unit=network.unit,
        batch_size=batch_size,
        precision=precision,
        training=states is not None,
        operations=trace.operations,
        param_count=used,
        unused_param_count=sum(parameter.numel() for parameter in module.parameters()) - used,
        param_byte=param_byte,
        buffer_byte=sum(buffer.numel() * buffer.element_size() for buffer in module.buffers()),
        input_byte=trace.input_byte,
        output_byte=trace.output_byte,
        read_param_byte=sum(trace.read_byte.values()),
        activation_peak_byte=trace.peak_live_byte,
        optimizer_state_byte=(states or 0) * param_byte,
        held_byte=trace.held_byte,
    )


_SUMMED = (
    "flop", "other_flop", "bytes_read", "bytes_written", "bytes_moved", "param_bytes", "param_count", "output_count",
    "allocated_byte",
)  # fmt: skip


def by(operations: Iterable[Operation], grouping: str, depth: int | None = None) -> list[dict]:
    """Sums over operations per phase and "type", "module" or "op"; the groups add up to the whole exactly.

    Returns one dict per group: phase, group, count, then each quantity of `Operation` that can be added. Types come in
    the order of `schema.LAYER_TYPES`, others as they first occur. ``depth`` cuts module paths to that many parts.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"cannot group by {grouping!r}: must be one of {', '.join(GROUPINGS)}")
    groups: dict[tuple[str, str], dict] = {}
    for operation in operations:
        group = getattr(operation, GROUPINGS[grouping])
        if grouping == "module" and depth is not None:
            group = ".".join(group.split(".")[:depth])
        key = (operation.phase, group)
        sums = groups.setdefault(key, {"phase": key[0], "group": group, "count": 0, **dict.fromkeys(_SUMMED, 0)})
        sums["count"] += 1
        for name in _SUMMED:
            sums[name] += getattr(operation, name)
    listed = list(groups.values())
    if grouping == "type":
        listed.sort(key=lambda g: (schema.PHASES.index(g["phase"]), schema.LAYER_TYPES.index(g["group"])))
    return listed


def row(inference: Workload, training: Workload | None = None) -> dict:
    """A row of `schema.WORKLOADS`: inference, and beside it a training step if that was counted."""
    total = inference.bytes_eager
    values = {name: getattr(inference, name) for name in _INFERENCE_COLUMNS}
    return values | {
        "training_forward_flop": training.flop if training else None,
        "backward_flop": training.backward_flop if training else None,
        "backward_other_flop": training.backward_other_flop if training else None,
        "backward_bytes_eager": training.backward_bytes_eager if training else None,
        "training_peak_memory_byte": training.peak_memory_byte if training else None,
        "uncounted_bytes_share": sum(o.bytes_moved for o in inference.operations if not o.has_formula) / total,
    }


_TRAINING_COLUMNS = (
    "training_forward_flop", "backward_flop", "backward_other_flop", "backward_bytes_eager",
    "training_peak_memory_byte", "uncounted_bytes_share",
)  # fmt: skip
_INFERENCE_COLUMNS = tuple(name for name in schema.WORKLOADS.names if name not in _TRAINING_COLUMNS)


def rows(
    networks: Iterable[str | Network],
    batch_sizes: Sequence[int] = (1,),
    precisions: Sequence[str] = ("fp32",),
    training: bool = True,
    optimizer: str = "momentum",
) -> list[dict]:
    """Rows of `schema.WORKLOADS` for each network, batch size and precision.

    ``training`` adds the backward pass where the network can be trained on such a batch (`Network`).
    """
    listed = []
    for network in networks:
        found = models.get(network) if isinstance(network, str) else network
        for precision in precisions:
            for batch_size in batch_sizes:
                step = None
                if training and found.trainable and batch_size >= found.minimum_training_batch:
                    step = count(found, batch_size, precision, True, optimizer)
                values = row(count(found, batch_size, precision), step)
                listed.append({name: values[name] for name in schema.WORKLOADS.names})
    return listed


def frame(
    networks: Iterable[str | Network],
    batch_sizes: Sequence[int] = (1,),
    precisions: Sequence[str] = ("fp32",),
    training: bool = True,
):
    """The same rows as a pandas DataFrame with the columns of `schema.WORKLOADS`."""
    import pandas as pd

    return pd.DataFrame(rows(networks, batch_sizes, precisions, training), columns=schema.WORKLOADS.names)


def operation_frame(workloads: Iterable[Workload]):
    """Every operation of some workloads as a pandas DataFrame with the columns of `schema.OPERATIONS`."""
    import pandas as pd

    listed = [
        {"model": w.model, "batch_size": w.batch_size, "precision": w.precision}
        | asdict(operation)
        | {"bytes_moved": operation.bytes_moved, "intensity": operation.intensity}
        for w in workloads
        for operation in w.operations
    ]
    return pd.DataFrame(listed, columns=schema.OPERATIONS.names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.workload",
        description="Count FLOPs, parameters, bytes moved and memory of networks, without running them.",
    )
    parser.add_argument("network", nargs="*", help="torchvision classification network, gpt2_prefill, gpt2_decode, or "
                        "package.module:callable; without any, the book's networks")  # fmt: skip
    parser.add_argument("--all-torchvision", action="store_true", help="every classification network of torchvision")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], metavar="N", help="inputs per batch (1)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, nargs="+", default=["fp32"], help="type of all tensors (fp32)"
    )
    parser.add_argument("--optimizer", choices=OPTIMIZER_STATES, default="momentum",
                        help="whose state a training step holds (momentum)")  # fmt: skip
    parser.add_argument("--by", choices=GROUPINGS, help="sums per layer type, module or operation instead of totals")
    parser.add_argument("--backward", action="store_true", help="with --by: the forward and backward passes of a "
                        "training step instead of inference; without: show the training columns")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows with every column")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if a network could not be traced, 2 for wrong arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if min(options.batch_size) < 1:
        parser.error(f"--batch-size must be at least 1, not {min(options.batch_size)}")
    names = [*options.network, *(models.torchvision_names() if options.all_torchvision else ())] or models.MEASURED
    try:
        networks = [models.get(name) for name in dict.fromkeys(names)]
    except UnknownModelError as error:
        parser.error(str(error))
    listed, failures = [], []
    for network in networks:
        try:
            listed.extend(_listed(network, options))
        except (UntraceableError, ValueError) as error:
            failures.append(str(error))
    print(json.dumps(listed, indent=1) if options.json else _table(listed, options))
    for failure in failures:
        print(f"python -m src.workload: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _listed(network: Network, options: argparse.Namespace) -> list[dict]:
    if options.by is None:
        return rows([network], options.batch_size, options.precision, True, options.optimizer)
    listed = []
    for precision in options.precision:
        for batch_size in options.batch_size:
            counted = count(network, batch_size, precision, options.backward, options.optimizer)
            head = {"model": network.name, "batch_size": batch_size, "precision": precision}
            listed.extend(head | group for group in by(counted.operations, options.by))
    return listed


_SHOWN = {
    "flop": ("GFLOP", 1e9), "backward_flop": ("backward GFLOP", 1e9), "other_flop": ("other GFLOP", 1e9),
    "param_count": ("params M", 1e6), "activation_count": ("activations M", 1e6), "bytes_min": ("min MB", 1e6),
    "bytes_eager": ("eager MB", 1e6), "bytes_moved": ("eager MB", 1e6), "intensity_max": ("max FLOP/byte", 1),
    "intensity_eager": ("eager FLOP/byte", 1), "peak_memory_byte": ("peak MB", 1e6),
    "training_peak_memory_byte": ("training MB", 1e6), "allocated_byte": ("allocated MB", 1e6),
    "uncounted_bytes_share": ("no formula %", 0.01),
}  # fmt: skip
_PLAIN = ("model", "batch_size", "precision", "phase", "group", "count")
_TRAINING_SHOWN = ("backward_flop", "training_peak_memory_byte")


def _table(listed: Sequence[dict], options: argparse.Namespace) -> str:
    """Rows as aligned text with scaled units."""
    if not listed:
        return "nothing counted"
    names = [*_PLAIN, *_SHOWN]
    hidden = () if options.backward else _TRAINING_SHOWN
    names = [name for name in names if name in listed[0] and name not in hidden]
    header = [name if name in _PLAIN else _SHOWN[name][0] for name in names]
    cells = [header]
    for values in listed:
        cells.append([_cell(name, values[name]) for name in names])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = {0, *(index for index, name in enumerate(names) if name in ("precision", "phase", "group"))}
    return "\n".join(
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    )


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name in _PLAIN:
        return str(value)
    return f"{value / _SHOWN[name][1]:,.3f}"


if __name__ == "__main__":
    sys.exit(main())
