"""Every table's columns, units, types and allowed values, named once.

A column is declared as a `Column`; a table as a `Table` of columns with the key that identifies a row. Whoever reads
a table validates it here, so that a fault is reported with its file, row and column before anything is computed from
it. Columns carry their unit in SI base (``latency_s``, ``bandwidth_byte_per_s``); scaling to G, T or ms happens only in
display (`src.report`).

This module needs the standard library alone: the measuring modules import it on bare machines.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The book's root folder: the one that holds ``_quarto.yml``."""

CHIPS_PATH = ROOT / "data" / "chips.csv"
MACHINES_PATH = ROOT / "data" / "machines"
REFERENCES_PATH = ROOT / "references.bib"

PRECISION_BYTES = {
    "fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp6": 0.75, "fp4": 0.5, "int4": 0.5,
}  # fmt: skip
"""Bytes that one element occupies in memory. TF32 rounds only inside the multiplier: its operands are stored as fp32."""

INTEGER_PRECISIONS = frozenset({"int8", "int4"})
"""Precisions whose peak counts OP/s rather than FLOP/s."""

CHIP_KINDS = ("CPU", "GPU", "ASIC", "SoC")
SEGMENTS = ("data centre", "workstation", "desktop", "laptop", "mobile", "edge")
SCOPES = ("core", "die", "chip", "board", "superchip")
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
        return f"{self.file}:{self.line}: column {self.column!r}: {self.value!r}: {self.rule}"


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
        if self.type is str:
            value: object = text
        elif self.type is int:
            if not re.fullmatch(r"[+-]?\d+", text):
                raise ValueError("must be a whole number")
            value = int(text)
        else:
            try:
                value = float(text)
            except ValueError:
                raise ValueError(f"must be a number{f' in {self.unit}' if self.unit else ''}") from None
            if not math.isfinite(value):
                raise ValueError("must be a finite number")
        if self.allowed is not None and value not in self.allowed:
            raise ValueError(f"must be one of {', '.join(map(str, self.allowed))}")
        if self.type is not str and not self.low <= value <= self.high:  # type: ignore[operator]
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

CHIP_LEVEL = (
    "vendor", "kind", "segment", "year", "scope", "system_match", "microarchitecture", "memory_class", "memory_type",
    "memory_capacity_byte", "bandwidth_byte_per_s", "memory_channels", "memory_channel_width_bit",
    "memory_transfer_per_s", "memory_note", "power_w", "power_kind", "memory_source", "power_source",
)  # fmt: skip
"""Columns that belong to the chip and so must agree in all of its rows."""


def read_csv(path: Path, table: Table, check: Callable[[int, dict], Iterable[Fault]] | None = None) -> list[dict]:
    """Read and validate a CSV file against a table.

    ``check(line, row)`` adds rules across a row's columns; it runs on the rows whose cells all parse. Returns one dict
    per row with parsed values (None for an empty optional cell). Raises `SchemaError` with every fault at once, each
    with file, line and column, and OSError if the file can't be read.
    """
    file = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    faults: list[Fault] = []
    rows: list[dict] = []
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
            faults.append(Fault(file, line, table.key[0], " / ".join(map(str, key)), f"repeats line {seen[key]}"))
            continue
        if table.key:
            seen[key] = line
        if check is not None:
            faults.extend(check(line, row))
        rows.append(row)
    if faults:
        raise SchemaError(faults)
    return rows


def _records(path: Path, file: str, table: Table, faults: list[Fault]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each record of a CSV file with the line on which it starts; header and shape faults are added to `faults`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        faults.append(Fault(file, 1, "", "", f"must be UTF-8 text (byte {error.start} is not)"))
        return
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = next(reader, [])
        for name in table.names:
            if name not in header:
                faults.append(Fault(file, 1, name, "", "column is missing"))
        for name in header:
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
        faults.append(Fault(file, reader.line_num, "", "", f"is not valid CSV: {error}"))
