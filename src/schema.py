"""Every table's columns, units, types and allowed values, named once.

A column is declared as a `Column`; a table as a `Table` of columns with the key that identifies a row. Whoever reads
a table validates it here, so that a fault is reported with its file, row and column before anything is computed from
it. Columns carry their unit in SI base (``latency_s``, ``bandwidth_byte_per_s``); scaling to G, T or ms happens only in
display (`src.report`).

This module needs the standard library alone: the measuring modules import it on bare machines.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The book's root folder: the one that holds ``_quarto.yml``."""

DATA_VARIABLE = "ROOFLINE_DATA"
"""Environment variable that names a folder to read and write in place of ``data/``."""

DATA_PATH = Path(os.environ.get(DATA_VARIABLE) or ROOT / "data").absolute()
CHIPS_PATH = DATA_PATH / "chips.csv"
MACHINES_PATH = DATA_PATH / "machines"
COUNTERS_PATH = ROOT / "data" / "counters.csv"
COUNTER_TIMES_PATH = ROOT / "data" / "counter_times.csv"
REFERENCES_PATH = ROOT / "references.bib"

PRECISION_BYTES = {
    "fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp6": 0.75, "fp4": 0.5, "int4": 0.5,
}  # fmt: skip
"""Bytes that one element occupies in memory. TF32 rounds inside the multiplier alone: operands are stored as fp32."""

INTEGER_PRECISIONS = frozenset({"int8", "int4"})
"""Precisions whose peak counts OP/s rather than FLOP/s."""

CHIP_KINDS = ("CPU", "GPU", "ASIC", "SoC")
SEGMENTS = ("data centre", "workstation", "desktop", "laptop", "mobile", "edge")
SCOPES = ("core", "die", "chip", "board", "superchip", "wafer")
PATHS = ("vector", "matrix")
CLOCKS = ("base", "boost", "max", "matrix", "unspecified")
MEMORY_CLASSES = ("DRAM", "HBM", "SRAM")

LAYER_TYPES = (
    "convolution", "pointwise convolution", "depthwise convolution", "linear", "attention", "normalisation",
    "activation", "pooling", "element-wise", "data movement", "other",
)  # fmt: skip
"""Layer types, in the order in which every table and figure shows them. "convolution" is any that is neither
pointwise (1x1 kernel, one group) nor depthwise (one group per channel); "element-wise" holds additions and products
outside of activations (residual sums, gates); "data movement" copies, concatenates, pads, shuffles or reshapes."""

DEVICES = ("cpu", "cuda", "mps")
MEMORY_FORMATS = ("contiguous", "channels_last")
COMPILE_MODES = ("eager", "compile", "cuda_graph")
PHASES = ("inference", "forward", "backward", "optimizer")
"""What one sample timed. "inference" runs under ``inference_mode`` and ``eval()``; the other three are the parts of
one training step under ``train()``."""

STATUSES = ("ok", "noisy", "too_few", "out_of_memory", "unsupported", "over_budget", "failed")
"""How a case ended. The first three have samples: "noisy" means that the interval was wider than the target when the
time ran out, "too_few" fewer than five samples. The others have none, and a message that says why."""


@dataclass(frozen=True, order=True)
class Case:
    """What is measured, apart from its measurement: the key of every sample.

    ``sweep`` is "inference" or "training"; ``batch_size`` counts inputs (images, or sequences of a language model).
    """

    model: str
    sweep: str
    batch_size: int
    device: str
    precision: str
    memory_format: str = "contiguous"
    compile_mode: str = "eager"


@dataclass(frozen=True)
class Fault:
    """One broken rule, where it was found and what was expected."""

    file: str
    line: int
    column: str
    value: str
    rule: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return ": ".join([where, *([f"column {self.column!r}"] if self.column else []), f"{self.value!r}", self.rule])


class SchemaError(ValueError):
    """A table that breaks its schema; the message lists every fault, one a line."""

    def __init__(self, faults: Sequence[Fault]):
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True)
class Column:
    """One column: its name, unit, type and the rule that its values obey.

    ``unit`` is SI base ("byte/s") or empty for a name or a pure number. ``required`` means that an empty cell is a
    fault. ``allowed`` lists the permitted values, or None. ``low`` and ``high`` bound a number, inclusively.
    """

    name: str
    type: type = str
    unit: str = ""
    required: bool = True
    allowed: tuple | None = None
    low: float = -math.inf
    high: float = math.inf
    doc: str = ""

    def parse(self, text: str) -> object:
        """The value of a cell, or None if it is empty. Raises ValueError with the rule that the text breaks."""
        text = text.strip()
        if not text:
            if self.required:
                raise ValueError("must not be empty")
            return None
        if not text.isprintable():
            raise ValueError("must not hold control characters")
        if self.type is str:
            value: object = text
        elif self.type is int:
            if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
                raise ValueError("must be a whole number")
            value = int(text)
        else:
            # float() alone would also take "1_000", "nan", "Infinity" and digits of other scripts.
            if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
                raise ValueError(f"must be a number{f' in {self.unit}' if self.unit else ''}")
            value = float(text)
            if not math.isfinite(value):
                raise ValueError("must be a finite number")
        return self._within(value)

    def accept(self, value: object) -> object:
        """A value that arrived typed (from JSON), checked; None if absent. Raises ValueError as `parse` does."""
        if value is None:
            if self.required:
                raise ValueError("must not be empty")
            return None
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.type) or (isinstance(value, bool) and self.type is not bool):
            raise ValueError(f"must be of type {self.type.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return self._within(value)

    def _within(self, value: object) -> object:
        if self.allowed is not None and value not in self.allowed:
            raise ValueError(f"must be one of {', '.join(map(str, self.allowed))}")
        if self.type in (int, float) and not self.low <= value <= self.high:  # type: ignore[operator]
            raise ValueError(f"must lie between {self.low:g} and {self.high:g}{f' {self.unit}' if self.unit else ''}")
        return value


@dataclass(frozen=True)
class Table:
    """A named list of columns and the key that no two rows may share."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    _by_name: Mapping[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_by_name", {column.name: column for column in self.columns})

    def __getitem__(self, name: str) -> Column:
        return self._by_name[name]

    @property
    def names(self) -> list[str]:
        return list(self._by_name)


def _column(name: str, type_: type = str, unit: str = "", doc: str = "", *, optional: bool = False, **rules) -> Column:
    return Column(name, type_, unit, not optional, doc=doc, **rules)


CHIPS = Table(
    "chips",
    (
        _column("chip", doc="name with all that tells it from its siblings"),
        _column("vendor"),
        _column("kind", allowed=CHIP_KINDS),
        _column("segment", allowed=SEGMENTS),
        _column("year", int, low=2000, high=2100, doc="first year of availability"),
        _column("scope", allowed=SCOPES, doc="what the numbers count"),
        _column("system_match", optional=True, doc="regular expression on the name that a system reports"),
        _column("microarchitecture", optional=True),
        _column("precision", allowed=tuple(PRECISION_BYTES)),
        _column("accumulator", optional=True, allowed=("fp64", "fp32", "fp16", "int32")),
        _column("path", allowed=PATHS, doc="vector (SIMD) or matrix (tensor core, systolic array) unit"),
        _column("peak_flop_per_s", float, "FLOP/s", "dense peak; OP/s for integers", low=1e8, high=1e19),
        _column("stated_peak", optional=True, doc="the figure as its source prints it"),
        _column("clock", allowed=CLOCKS, doc="which clock the peak holds at"),
        _column("unit_name", optional=True, doc="what `units` counts"),
        _column("units", float, optional=True, low=1, high=1e7),
        _column("flop_per_cycle_per_unit", float, "FLOP/cycle", optional=True, low=0.25, high=1e9),
        _column("clock_hz", float, "Hz", optional=True, low=1e7, high=1e10),
        _column("peak_note", optional=True, doc="why stated and derived peak differ by more than 2 %"),
        _column("memory_class", allowed=MEMORY_CLASSES, optional=True),
        _column("memory_type", optional=True),
        _column("memory_capacity_byte", float, "byte", optional=True, low=1e6, high=1e14),
        _column("bandwidth_byte_per_s", float, "byte/s", optional=True, low=1e8, high=1e18),
        _column("memory_channels", float, optional=True, low=1, high=1e6),
        _column("memory_channel_width_bit", float, "bit", optional=True, low=1, high=8192),
        _column("memory_transfer_per_s", float, "transfer/s", optional=True, low=1e8, high=1e11),
        _column("memory_note", optional=True),
        _column("power_w", float, "W", optional=True, low=0.1, high=1e5),
        _column("power_kind", optional=True, doc="what that power means: TDP, board power, ..."),
        _column("compute_source", doc="key in references.bib"),
        _column("flop_per_cycle_source", optional=True, doc="key in references.bib, where it is another document"),
        _column("memory_source", optional=True, doc="key in references.bib"),
        _column("power_source", optional=True, doc="key in references.bib"),
        _column("note", optional=True),
    ),
    key=("chip", "precision", "path", "accumulator"),
)
"""The chip table: one row per chip, precision, execution path and (where the rate depends on it) accumulator."""

WORKLOADS = Table(
    "workloads",
    (
        _column("model"),
        _column("family", doc="convolutional, mobile, transformer, language or own"),
        _column("unit", allowed=("image", "sequence"), doc="what the batch size counts"),
        _column("batch_size", int, low=1),
        _column("precision", allowed=tuple(PRECISION_BYTES)),
        _column("flop", int, "FLOP", "model FLOPs of the forward pass in inference", low=0),
        _column("other_flop", int, "FLOP", "element-wise, normalisation and pooling work of it, nominal", low=0),
        _column("training_forward_flop", int, "FLOP", "the same of a training step's forward pass", optional=True),
        _column("backward_flop", int, "FLOP", "model FLOPs of the backward pass", optional=True),
        _column("backward_other_flop", int, "FLOP", "its other work, nominal", optional=True),
        _column("param_count", int, doc="parameters that inference reads", low=0),
        _column("unused_param_count", int, doc="parameters that it does not (auxiliary heads)", low=0),
        _column("activation_count", int, doc="elements that operations with model FLOPs write", low=0),
        _column("param_byte", int, "byte", "all parameters, read or not", low=0),
        _column("buffer_byte", int, "byte", low=0),
        _column("input_byte", int, "byte", low=0),
        _column("output_byte", int, "byte", low=0),
        _column("bytes_min", int, "byte", "parameters, input and output, moved once", low=0),
        _column("bytes_eager", int, "byte", "every operation reads its inputs and weights, writes outputs", low=0),
        _column("backward_bytes_eager", int, "byte", "the same of the backward pass", optional=True),
        _column("intensity_max", float, "FLOP/byte", "flop / bytes_min"),
        _column("intensity_eager", float, "FLOP/byte", "flop / bytes_eager"),
        _column("activation_peak_byte", int, "byte", "most that inference holds beside what resides", low=0),
        _column("peak_memory_byte", int, "byte", "parameters, buffers, input and activation_peak_byte", low=0),
        _column("training_peak_memory_byte", int, "byte", "a training step's, optimiser state included", optional=True),
        _column("uncounted_bytes_share", float, "", "share of bytes_eager in operations without a formula", low=0),
    ),
    key=("model", "batch_size", "precision"),
)
"""What networks ask for: one row per network, batch size and precision. Training columns are empty where a network
has no training step, or where it was not counted."""

OPERATIONS = Table(
    "operations",
    (
        _column("model"),
        _column("batch_size", int, low=1),
        _column("precision", allowed=tuple(PRECISION_BYTES)),
        _column("index", int, doc="place in the trace", low=0),
        _column("name", doc="operation as torch names it"),
        _column("module", optional=True, doc="path of the layer; empty for the network's own forward()"),
        _column("layer_type", allowed=LAYER_TYPES),
        _column("phase", allowed=PHASES),
        _column("flop", int, "FLOP", low=0),
        _column("other_flop", int, "FLOP", low=0),
        _column("bytes_read", int, "byte", low=0),
        _column("bytes_written", int, "byte", low=0),
        _column("bytes_moved", int, "byte", "bytes_read + bytes_written", low=0),
        _column("intensity", float, "FLOP/byte", "flop / bytes_moved", low=0),
        _column("param_bytes", int, "byte", "part of bytes_read that reads parameters", low=0),
        _column("param_count", int, doc="parameters that no earlier operation read", low=0),
        _column("output_count", int, doc="elements written", low=0),
        _column("allocated_byte", int, "byte", "storage made for the results", low=0),
        _column("live_byte", int, "byte", "storage alive after it, beside what resides", low=0),
        _column("has_formula", bool, doc="False where FLOPs are unknown and so 0"),
    ),
    key=("model", "batch_size", "precision", "phase", "index"),
)
"""What each operation of a network asks for; sums over a network's rows are its workload exactly."""

COUNTERS = Table(
    "counters",
    (
        _column("model"),
        _column("counter", allowed=("book", "torch", "fvcore", "torchinfo", "metadata")),
        _column("pass", allowed=("forward", "backward")),
        _column("operation", doc="'total', or what makes the total differ from the book's"),
        _column("macs", int, "MAC", "the total, or the part of the difference (total less book) that it causes"),
    ),
    key=("model", "counter", "pass", "operation"),
)
"""What several counters say of one network at batch size 1, and which operations make them differ."""

COUNTER_TIMES = Table(
    "counter_times",
    (
        _column("model", doc="a network, or 'all of torchvision'"),
        _column("counter", allowed=("book", "book, with backward", "fvcore", "torchinfo")),
        _column("batch_size", int, low=1),
        _column("time_s", float, "s", "wall clock", low=0),
        _column("peak_memory_byte", int, "byte", "of the whole process", optional=True, low=0),
    ),
    key=("model", "counter", "batch_size"),
)
"""How long counting takes: every counter on the same networks in one run of `src.reconcile`."""

CHIP_LEVEL = (
    "vendor", "kind", "segment", "year", "scope", "system_match", "microarchitecture", "memory_class", "memory_type",
    "memory_capacity_byte", "bandwidth_byte_per_s", "memory_channels", "memory_channel_width_bit",
    "memory_transfer_per_s", "memory_note", "power_w", "power_kind", "memory_source", "power_source",
)  # fmt: skip
"""Columns that belong to the chip and so must agree in all of its rows."""


# What is measured on one machine: JSON Lines under data/machines/NAME/, written and read by `src.store`.

SWEEPS = ("inference", "training", "breakdown")
"""Kinds of case. "breakdown" times each operation of a training step beside the step as a whole."""
STOP_REASONS = ("interval", "budget", "maximum")
"""Why sampling stopped: the interval is within its target, the time is spent, or enough samples are kept."""

_ENVIRONMENT = _column("environment", doc="identifier of the environment that it was measured in")
_CASE = (
    _column("model", doc="name in the registry"),
    _column("sweep", allowed=SWEEPS),
    _column("batch_size", int, low=1, high=1_000_000),
    _column("device", allowed=DEVICES),
    _column("precision", allowed=tuple(PRECISION_BYTES)),
    _column("memory_format", allowed=MEMORY_FORMATS),
    _column("compile_mode", allowed=COMPILE_MODES),
)
CASE_COLUMNS = tuple(column.name for column in _CASE)
"""The columns of `Case`, in its order."""

_LATENCY = _column("latency_s", float, "s", "of one call: a sample's duration / iterations", low=0, high=1e6)
_STARTED_AT = _column("started_at", float, "s", "seconds since 1970-01-01 UTC", low=0, high=1e11)
_STEAL = _column(
    "steal_share", float, doc="processor time that the hypervisor gave to others", optional=True, low=0, high=1
)
_LOAD = _column("other_load", float, doc="processors kept busy by other processes", optional=True, low=0, high=1e6)

_ATTEMPT = _column("attempt", int, optional=True, low=1, high=1e6, doc="the last holds; absent in the first")

SAMPLES = Table(
    "samples",
    (
        _ENVIRONMENT,
        *_CASE,
        _column("phase", allowed=PHASES),
        _column("index", int, doc="order within the case, warm-ups included", low=0, high=1e9),
        _column("is_warmup", bool),
        _LATENCY,
        _column("iterations", int, doc="calls timed together", low=1, high=1e9),
        _column("host_latency_s", float, "s", "until the host had queued the call", optional=True, low=0, high=1e6),
        _STARTED_AT,
        _ATTEMPT,
    ),
    key=("environment", *CASE_COLUMNS, "attempt", "phase", "index"),
)
"""Raw timings of networks: one sample of one phase a row. A case that is measured anew keeps its older rows, under
their own attempt."""

OUTCOMES = Table(
    "outcomes",
    (
        _ENVIRONMENT,
        *_CASE,
        _column("status", allowed=STATUSES),
        _column("stop_reason", optional=True, allowed=STOP_REASONS),
        _column("message", optional=True, doc="what went wrong, in one line"),
        _column("peak_memory_byte", float, "byte", optional=True, low=0, high=1e15),
        _column(
            "memory_kind",
            optional=True,
            allowed=("allocated", "resident"),
            doc="on the accelerator, or growth of resident memory over that of a process that has loaded torch",
        ),
        _column(
            "model_memory_byte", float, "byte", "the same once the network was built", optional=True, low=0, high=1e15
        ),
        _column("power_w", float, "W", "mean board power while sampling", optional=True, low=0, high=1e5),
        _column(
            "clock_hz", float, "Hz", "processor or accelerator clock while sampling", optional=True, low=1e6, high=1e11
        ),
        _column("temperature_c", float, "degree Celsius", optional=True, low=-50, high=200),
        _STEAL,
        _LOAD,
        _column("is_busy", bool, doc="other work took more of the machine than the limit while sampling"),
        _column("is_throttled", bool, optional=True, doc="the accelerator reported that it lowered its clock"),
        _STARTED_AT,
        _column("elapsed_s", float, "s", "whole time spent on the case", low=0, high=1e7),
        _ATTEMPT,
    ),
    key=("environment", *CASE_COLUMNS),
)
"""How each case ended. A case may be taken up again with more time: its last row holds."""

BREAKDOWN_PARTS = ("operations", "whole", "instrumented")
BREAKDOWN = Table(
    "breakdown",
    (
        _ENVIRONMENT,
        *_CASE,
        _column("phase", allowed=("forward", "backward")),
        _column("index", int, doc="order of the repeats within the case, warm-ups included", low=0, high=1e9),
        _column("is_warmup", bool),
        _column(
            "part",
            allowed=BREAKDOWN_PARTS,
            doc="operations of one name and layer type, the whole pass, or the whole pass while each is timed",
        ),
        _column("layer_type", optional=True, allowed=LAYER_TYPES),
        _column("operation", optional=True, doc="as torch names it"),
        _column("count", int, doc="operations, or passes, that the time holds", low=1, high=1e7),
        _LATENCY,
        _STARTED_AT,
    ),
    key=("environment", *CASE_COLUMNS, "phase", "index", "part", "layer_type", "operation"),
)
"""Raw timings of operations in training: per repeat the sums by layer type and operation, and the same pass timed as
a whole, once undisturbed and once while its operations were timed."""

CEILING_KINDS = ("compute", "read", "update", "copy", "triad", "overhead")
CEILINGS = Table(
    "ceilings",
    (
        _ENVIRONMENT,
        _column("kind", allowed=CEILING_KINDS, doc="what is counted: FLOPs, bytes in one of four patterns, or calls"),
        _column("device", allowed=DEVICES),
        _column("precision", allowed=tuple(PRECISION_BYTES)),
        _column("kernel", doc="which operation"),
        _column("shape", doc="its sizes"),
        _column("flop", float, "FLOP", "per call; 0 if none are counted", low=0, high=1e18),
        _column(
            "bytes_moved",
            float,
            "byte",
            "per call, as STREAM counts: no write-allocate; 0 if not counted",
            low=0,
            high=1e15,
        ),
        _column("working_set_byte", float, "byte", "all arrays of a bandwidth kernel together", low=0, high=1e15),
        _column("index", int, low=0, high=1e9),
        _column("is_warmup", bool),
        _LATENCY,
        _column("iterations", int, low=1, high=1e9),
        _STARTED_AT,
    ),
    key=("environment", "kind", "device", "precision", "kernel", "shape", "index"),
)
"""Raw timings of microbenchmarks. A shape that the device refuses has no row."""

DRIFT = Table(
    "drift",
    (
        _ENVIRONMENT,
        _column("device", allowed=DEVICES),
        _column("position", allowed=("start", "middle", "end"), doc="in the run"),
        _column("kernel", doc="the reference: a fixed operation of fixed shape"),
        _column("index", int, low=0, high=1e9),
        _LATENCY,
        _STARTED_AT,
        _STEAL,
        _LOAD,
    ),
)
"""A reference timed at the start, middle and end of each run, to tell whether the machine itself changed."""

COMPARISONS = ("bandwidth", "operation", "timer", "stopping", "overhead")
TRUST = Table(
    "trust",
    (
        _ENVIRONMENT,
        _column(
            "comparison",
            allowed=COMPARISONS,
            doc="memory bandwidth against C STREAM, rates of the networks' own "
            "products against the ceiling, single calls against torch.utils.benchmark, time to a narrow interval "
            "against the same, cost of the loop itself",
        ),
        _column("subject", doc="what was used: a kernel, or a way of timing"),
        _column("case", doc="what it was used on"),
        _column("round", int, doc="subjects take turns within a round", low=0, high=1e6),
        _column("index", int, doc="order within the subject's turn", low=0, high=1e9),
        _LATENCY,
        _column("flop", float, "FLOP", "per call", optional=True, low=0, high=1e18),
        _column("bytes_moved", float, "byte", "per call, as STREAM counts", optional=True, low=0, high=1e15),
        _column("relative_half_width", float, doc="of the median's interval", optional=True, low=0, high=1e6),
        _column("elapsed_s", float, "s", "whole time that the subject took for it", optional=True, low=0, high=1e6),
        _STARTED_AT,
    ),
    key=("environment", "comparison", "subject", "case", "round", "index"),
)
"""This book's way of measuring against others: raw timings, except for ``stopping``: medians."""

IDENTITY = (
    _column("machine", doc="short name, of the folder"),
    _column("method_version", int, doc="version of the way of measuring", low=1, high=1e6),
    _column("system", doc="operating system and its release"),
    _column("architecture"),
    _column("processor", doc="as the system names it"),
    _column("processor_vendor", optional=True),
    _column("processor_family", int, optional=True, low=0, high=1e4),
    _column("processor_model", int, optional=True, low=0, high=1e6),
    _column("processor_stepping", int, optional=True, low=0, high=1e4),
    _column("sockets", int, optional=True, low=1, high=1e4),
    _column("physical_cores", int, optional=True, low=1, high=1e6),
    _column("logical_cores", int, doc="those that this process may use", low=1, high=1e6),
    _column("caches", list, doc="one object a cache level and type: level, type, size_byte (of one), count"),
    _column("simd", doc="vector instruction sets, separated by spaces"),
    _column("memory_byte", float, "byte", "rounded to GiB", low=1e6, high=1e15),
    _column("is_virtual", bool, optional=True, doc="runs under a hypervisor"),
    _column("hypervisor", optional=True),
    _column("accelerator", optional=True, doc="as the driver names it"),
    _column("accelerator_memory_byte", float, "byte", optional=True, low=1e6, high=1e15),
    _column("accelerator_units", int, optional=True, doc="streaming multiprocessors", low=1, high=1e6),
    _column("accelerator_driver", optional=True),
    _column("accelerator_power_limit_w", float, "W", optional=True, low=1, high=1e5),
    _column("accelerator_clock_max_hz", float, "Hz", optional=True, low=1e6, high=1e11),
    _column("python_version", doc="major and minor"),
    _column("torch_version"),
    _column("torchvision_version", optional=True),
    _column("numpy_version"),
    _column("blas", optional=True, doc="library behind torch.mm, with version"),
    _column("onednn_version", optional=True),
    _column("openmp_version", optional=True),
    _column("cuda_version", optional=True),
    _column("cudnn_version", optional=True),
    _column("cpu_capability", optional=True, doc="instruction set that torch dispatches to"),
    _column("threads", int, doc="intra-operator threads", low=1, high=1e6),
    _column("interop_threads", int, low=1, high=1e6),
)
"""What must agree before samples are merged: its digest is the environment's identifier."""

STATE = (
    _column("recorded_at", float, "s", "seconds since 1970-01-01 UTC", low=0, high=1e11),
    _column("commit", optional=True, doc="of the tree that measured; ends in + if it had changes"),
    _column(
        "clock_seen_hz",
        float,
        "Hz",
        "as the system reports it, highest over the cores",
        optional=True,
        low=1e6,
        high=1e11,
    ),
    _column(
        "clock_estimated_hz",
        float,
        "Hz",
        "from a chain of dependent additions of known length",
        optional=True,
        low=1e6,
        high=1e11,
    ),
    _column("clock_policy", optional=True, doc="frequency governor, and whether boost is on"),
    _column("load_average", float, optional=True, low=0, high=1e6),
    _column("available_memory_byte", float, "byte", optional=True, low=0, high=1e15),
    _column("accelerator_clock_hz", float, "Hz", optional=True, low=0, high=1e11),
    _column("accelerator_temperature_c", float, "degree Celsius", optional=True, low=-50, high=200),
    _column("precision_settings", optional=True, doc="torch's defaults before a case sets its own"),
    _column("environment_variables", optional=True, doc="those that steer threads and libraries"),
    _column("build_flags", optional=True, doc="torch's build settings that bear on speed"),
)
"""What may differ from run to run in one environment."""

ENVIRONMENTS = Table("environments", (_ENVIRONMENT, *IDENTITY, *STATE))
"""One row a run: where, with what and in which state it measured."""


def case_of(row: Mapping[str, object]) -> Case:
    """The case that a row of samples or outcomes belongs to."""
    return Case(**{name: row[name] for name in CASE_COLUMNS})  # type: ignore[arg-type]


def display_path(path: Path) -> str:
    """The path as messages show it: relative to the book's root where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def read_csv(
    path: Path,
    table: Table,
    check: Callable[[int, dict], Iterable[Fault]] | None = None,
    check_all: Callable[[list[tuple[int, dict]]], Iterable[Fault]] | None = None,
) -> list[dict]:
    """Read and validate a CSV file against a table.

    ``check(line, row)`` adds rules across a row's columns; it runs on the rows whose cells all parse.
    ``check_all(lines_and_rows)`` adds rules across those rows. Returns one dict per row with parsed values (None for an
    empty optional cell). Raises `SchemaError` with every fault at once, each with file, line and column, and OSError if
    the file can't be read.
    """
    file = display_path(path)
    faults: list[Fault] = []
    rows: list[tuple[int, dict]] = []
    seen: dict[tuple, int] = {}
    for line, cells in _records(path, file, table, faults):
        row, broken = {}, False
        for column in table.columns:
            try:
                row[column.name] = column.parse(cells[column.name])
            except ValueError as error:
                faults.append(Fault(file, line, column.name, cells[column.name], str(error)))
                broken = True
        if broken:
            continue
        key = tuple(row[name] for name in table.key)
        if key in seen:
            shown = " / ".join(str(value) for value in key if value is not None)
            faults.append(Fault(file, line, ", ".join(table.key), shown, f"repeats line {seen[key]}"))
            continue
        if table.key:
            seen[key] = line
        if check is not None:
            faults.extend(check(line, row))
        rows.append((line, row))
    if check_all is not None:
        faults.extend(check_all(rows))
    if faults:
        raise SchemaError(sorted(faults, key=lambda fault: fault.line))
    return [row for _, row in rows]


def _records(path: Path, file: str, table: Table, faults: list[Fault]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each record of a CSV file with the line on which it starts; header and shape faults are added to `faults`."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.append(Fault(file, line, "", f"byte 0x{data[error.start]:02x}", "must be UTF-8 text"))
        return
    # Not str.splitlines: it also splits at form feeds and Unicode separators, and so would shift every line number.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        for name in table.names:
            if name not in header:
                faults.append(Fault(file, 1, name, "", "column is missing"))
        for name in dict.fromkeys(header):
            if name not in table.names:
                faults.append(Fault(file, 1, name, "", "unknown column"))
            elif header.count(name) > 1:
                faults.append(Fault(file, 1, name, "", "column is repeated"))
        if faults:
            return
        while True:
            line = reader.line_num + 1
            record = next(reader, None)
            if record is None:
                return
            if not record:
                continue
            if len(record) != len(header):
                faults.append(Fault(file, line, "", f"{len(record)} cells", f"must have {len(header)} cells"))
                continue
            yield line, dict(zip(header, record, strict=True))
    except csv.Error as error:
        # A quote that is never closed is noticed at the end of the file; the record that opened it is the one to mend.
        faults.append(Fault(file, line, "", "", f"is not valid CSV: {error}"))
