"""The chip table: load and check it, derive each peak and bandwidth from its factors, and find a chip by its name.

``data/chips.csv`` holds one row per chip, precision, execution path and (where the rate depends on it) accumulator; its
columns are named in `src.schema`. Nothing is read from it unchecked: `rows` and `load` apply every rule below and list
all faults at once. pandas is imported only by `load`, so that measuring modules can look chips up without it.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from src import references, report
from src.schema import (
    CHIP_KINDS,
    CHIP_LEVEL,
    CHIPS,
    CHIPS_PATH,
    INTEGER_PRECISIONS,
    PATHS,
    PRECISION_BYTES,
    REFERENCES_PATH,
    SEGMENTS,
    Fault,
    SchemaError,
    display_path,
    read_csv,
)

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 0.02
"""How far a stated figure may lie from its derivation without a note; covers rounding to two or three digits."""

NOTE_LIMIT = 1.5
"""The ratio of stated to derived figure that a note can still explain. Beyond it lie the slips that no note excuses:
a factor of 2 (sparse for dense, FLOP for multiply-add, MHz for MT/s, two dies for one), 8 (bit for byte) or 1000."""

DERIVED = ("derived_peak_flop_per_s", "derived_bandwidth_byte_per_s", "ridge_flop_per_byte", "flop_per_s_per_watt")
"""The columns that `rows` and `load` add to those of the file."""

SLIPS = {
    2.0: "a sparse rate, or two parts for one?",
    0.5: "multiply-adds, MHz for MT/s, or one part of two?",
    1000.0: "a unit prefix?",
    0.001: "a unit prefix?",
    8.0: "bits for bytes?",
    2**30 / 1e9: "GiB for GB?",
    1e9 / 2**30: "GB for GiB?",
}
"""What a ratio of stated to derived figure usually means."""

MEMORY_GENERATIONS = {
    "DRAM": ("DRAM", 0.0, math.inf),
    "DDR3": ("DRAM", 0.8e9, 2.2e9),
    "DDR4": ("DRAM", 1.6e9, 3.6e9),
    "DDR5": ("DRAM", 3.2e9, 8.8e9),
    "LPDDR2": ("DRAM", 0.4e9, 1.1e9),
    "LPDDR3": ("DRAM", 0.8e9, 2.2e9),
    "LPDDR4": ("DRAM", 1.6e9, 4.3e9),
    "LPDDR4X": ("DRAM", 1.6e9, 4.3e9),
    "LPDDR5": ("DRAM", 3.2e9, 6.4e9),
    "LPDDR5X": ("DRAM", 6.4e9, 9.6e9),
    "GDDR5": ("DRAM", 3.6e9, 9.0e9),
    "GDDR5X": ("DRAM", 9.0e9, 12e9),
    "GDDR6": ("DRAM", 10e9, 20e9),
    "GDDR6X": ("DRAM", 18e9, 24e9),
    "GDDR7": ("DRAM", 24e9, 36e9),
    "HBM": ("HBM", 0.9e9, 1.1e9),
    "HBM2": ("HBM", 1.2e9, 2.5e9),
    "HBM2e": ("HBM", 2.0e9, 3.7e9),
    "HBM3": ("HBM", 3.6e9, 6.6e9),
    "HBM3e": ("HBM", 6.0e9, 9.8e9),
    "HBM4": ("HBM", 6.4e9, 12e9),
    "SRAM": ("SRAM", 0.0, math.inf),
}  # fmt: skip
"""Class of each memory generation, and the transfers per second per pin between which its products lie (JEDEC's speed
grades and the vendors' own beyond them). A clock in MHz put for MT/s falls below the range. "DRAM" is for chips whose
maker does not say which."""

BANDWIDTH_RANGE = {"DRAM": (1e9, 2.5e12), "HBM": (1e11, 3e13), "SRAM": (1e11, 1e17)}
"""Bandwidth in byte/s that the memory of one chip, board or superchip can have. On-chip SRAM entered as DRAM, or GB for
TB, falls outside."""

CORE_FP32_FLOP_PER_CYCLE = {
    "Sandy Bridge": 16, "Ivy Bridge": 16, "Haswell": 32, "Broadwell": 32, "Skylake": 32, "Coffee Lake": 32,
    "Skylake-SP": 64, "Cascade Lake": 64, "Ice Lake-SP": 64, "Sapphire Rapids": 64, "Emerald Rapids": 64,
    "Granite Rapids": 64, "Zen": 16, "Zen+": 16, "Zen 2": 32, "Zen 3": 32, "Zen 4": 32, "Zen 5": 64,
    "Neoverse N1": 16, "Neoverse V1": 32, "Neoverse N2": 16, "Neoverse V2": 32, "Neoverse V3": 32,
    "Cortex-A72": 8, "Cortex-A76": 16,
}  # fmt: skip
"""FLOP per cycle and core in fp32, fused multiply-adds on all vector pipes, by core generation: it can't be read off
the width of the instruction set (Zen 4 runs 512-bit instructions on 256-bit pipes; Neoverse N1 and V2 are both 128 bits
wide but have two and four pipes). Sources: the optimization guides cited in the table's rows."""

MATRIX_PRECISIONS = {
    "Kepler": "", "Maxwell": "", "Pascal": "",
    "Volta": "fp16", "Turing": "fp16 int8 int4",
    "Ampere": "fp64 tf32 bf16 fp16 int8 int4", "Ada Lovelace": "tf32 bf16 fp16 fp8 int8 int4",
    "Hopper": "fp64 tf32 bf16 fp16 fp8 int8", "Blackwell": "fp64 tf32 bf16 fp16 fp8 fp6 fp4 int8",
    "CDNA": "fp32 bf16 fp16 int8", "CDNA 2": "fp64 fp32 bf16 fp16 int8",
    "CDNA 3": "fp64 fp32 tf32 bf16 fp16 fp8 int8", "CDNA 4": "fp64 fp32 bf16 fp16 fp8 fp6 fp4 int8",
    "Sapphire Rapids": "bf16 int8", "Emerald Rapids": "bf16 int8", "Granite Rapids": "bf16 fp16 int8",
}  # fmt: skip
"""Input precisions that the matrix units of a microarchitecture have, space-separated (NVIDIA: PTX ISA, mma
instructions by target; AMD: the MFMA instructions of each CDNA ISA guide; Intel: AMX extensions)."""

FORM_FACTORS = {
    r"\b(P100|V100|A100|H100|H200|H800|A800)\b": r"SXM|PCIe|NVL",
    r"\bGaudi": r"HL-\d|OAM|PCIe",
}
"""Chips sold in several forms with different clocks and power; the name must say which one a row means."""

MULTI_PART = {
    r"\bK80\b": "one board has two GPUs",
    r"\bMI250": "one package has two dies",
    r"\b(GH|GB)\d{3}\b|Superchip": "one superchip has several chips",
    r"\bTPU v[2-5]": "one chip has one or two cores, one board several chips",
}
"""Products whose figures are quoted for different scopes; a row must say in its note what its numbers count."""

SOURCES = ("compute_source", "flop_per_cycle_source", "memory_source", "power_source")
"""Columns that hold a key of the bibliography."""

DESIGN_POWER = r"\bc?TDP|\bTBP|\bTGP|\bMTP|\bPBP|\bPPT|maximum|limit|budget|(base|board|card) power"
OBSERVED_POWER = r"measured|typical|average"
"""What a ``power_kind`` must mention. FLOP/s per watt is computed from limits alone: a chip's peak over the power that
it drew in some run would compare two different things."""

ENGINES = r"\b(CPU|GPU|NPU|DSP|TPU|ANE|Neural Engine|[PE]-core|core|MAC|DLA|SM|tensor)"
"""What a SoC's ``unit_name`` must mention: the one engine that a row counts."""


class UnknownChipError(LookupError):
    """A name that no chip in the table, or more than one, answers to."""

    def __init__(self, name: str, message: str, suggestions: Sequence[str]):
        self.name, self.suggestions = name, tuple(suggestions)
        super().__init__(message + (f": {'; '.join(suggestions)}" if suggestions else ""))


def operation(precision: str) -> str:
    """What a peak at this precision counts: "FLOP", or "OP" for integers."""
    return "OP" if precision in INTEGER_PRECISIONS else "FLOP"


def derived_peak(row: Mapping) -> float | None:
    """units x operations per cycle and unit x clock, in FLOP/s (OP/s for integers); None where a factor is unknown."""
    factors = (row["units"], row["flop_per_cycle_per_unit"], row["clock_hz"])
    return None if None in factors else math.prod(factors)


def derived_bandwidth(row: Mapping) -> float | None:
    """channels x width / 8 x transfers per second, in byte/s; None where a factor is unknown."""
    factors = (row["memory_channels"], row["memory_channel_width_bit"], row["memory_transfer_per_s"])
    return None if None in factors else math.prod(factors) / 8


def machine_peak(row: Mapping, cores: float, clock_hz: float | None = None) -> float:
    """The peak of a machine that sees only some of a CPU's cores, in FLOP/s (OP/s for integers).

    ``row`` is one of `rows`; ``cores`` counts physical cores (two hardware threads share one); ``clock_hz`` replaces
    the row's clock. Raises ValueError where the row counts no cores or lacks a factor.
    """
    if not cores > 0:
        raise ValueError(f"cores must be positive, not {cores!r}")
    per_cycle, clock = row["flop_per_cycle_per_unit"], clock_hz or row["clock_hz"]
    if "core" not in (row["unit_name"] or "") or per_cycle is None or clock is None:
        raise ValueError(f"{row['chip']} at {row['precision']}: operations per cycle and core are not known")
    return cores * per_cycle * clock


def rows(path: Path = CHIPS_PATH, references_path: Path = REFERENCES_PATH) -> list[dict]:
    """The checked table as one dict per row, with the columns of `DERIVED` added (None where unknown).

    Raises `SchemaError` with every fault of the table and of the sources that it names, and OSError if a file can't be
    read.
    """
    file = display_path(path)
    faults: list[Fault] = []
    try:
        sources = references.load(references_path)
    except SchemaError as error:
        faults, sources = list(error.faults), None

    def check_row(line: int, row: dict) -> Iterator[Fault]:
        return (Fault(file, line, column, _shown(row[column]), rule) for column, rule in _row_faults(row, sources))

    def check_table(lines_and_rows: list[tuple[int, dict]]) -> Iterator[Fault]:
        for line, row, column, rule in _table_faults(lines_and_rows):
            yield Fault(file, line, column, _shown(row[column]), rule)
        cited = [row for _, row in lines_and_rows]
        yield from _bibliography_faults(cited, sources or {}, display_path(references_path))

    try:
        table = read_csv(path, CHIPS, check_row, check_table)
    except SchemaError as error:
        faults += error.faults
    if faults:
        raise SchemaError(faults)
    return [row | _derive(row) for row in table]


def load(path: Path = CHIPS_PATH, references_path: Path = REFERENCES_PATH) -> pd.DataFrame:
    """The checked table as a data frame, with the columns of `DERIVED` added; raises as `rows` does."""
    import pandas as pd

    frame = pd.DataFrame(rows(path, references_path), columns=[*CHIPS.names, *DERIVED])
    numeric = [column.name for column in CHIPS.columns if column.type is float] + list(DERIVED)
    return frame.astype(dict.fromkeys(numeric, float))


def _derive(row: Mapping) -> dict[str, float | None]:
    peak, bandwidth = row["peak_flop_per_s"], row["bandwidth_byte_per_s"]
    ridge = peak / bandwidth if bandwidth else None
    efficiency = peak / row["power_w"] if _power_is_its_own(row) else None
    return dict(zip(DERIVED, (derived_peak(row), derived_bandwidth(row), ridge, efficiency), strict=True))


def _power_is_its_own(row: Mapping) -> bool:
    """Whether the stated power is a limit and covers just what the row counts, not one engine of several."""
    if row["power_w"] is None or re.search(OBSERVED_POWER, row["power_kind"], re.IGNORECASE):
        return False
    return row["kind"] != "SoC" and not re.search(r"\b[PE]-core", row["unit_name"] or "")


def _shown(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# Rules on one row: each yields (column, rule) for what it finds broken.


def _row_faults(row: dict, sources: Mapping[str, Mapping] | None) -> Iterator[tuple[str, str]]:
    for check in (_peak_faults, _stated_faults, _memory_faults, _capacity_faults, _power_faults, _name_faults):
        yield from check(row)
    if sources is not None:
        yield from _source_faults(row, sources)


def _close(value: float, other: float, note: str | None) -> bool:
    """Whether two figures agree, or are close enough for a note to explain."""
    ratio = value / other
    return abs(ratio - 1) <= TOLERANCE or bool(note and 1 / NOTE_LIMIT < ratio < NOTE_LIMIT)


def _deviation(stated: float, derived: float, note: str | None, formula: str) -> str | None:
    """The rule that a stated figure breaks against its derivation, or None."""
    if _close(stated, derived, note):
        return None
    ratio = stated / derived
    hint = next((f" ({slip})" for factor, slip in SLIPS.items() if abs(ratio / factor - 1) <= TOLERANCE), "")
    needed = "and no note explains so much" if note else "and no note says why"
    return f"is {ratio:.3g} times {formula} = {derived:g}{hint}, {needed}"


def _peak_faults(row: dict) -> Iterator[tuple[str, str]]:
    derived = derived_peak(row)
    if derived is not None:
        rule = _deviation(
            row["peak_flop_per_s"], derived, row["peak_note"], "units x flop_per_cycle_per_unit x clock_hz"
        )
        if rule:
            yield "peak_flop_per_s", rule
    if row["units"] is not None and not row["unit_name"]:
        yield "unit_name", "must say what `units` counts"
    if row["kind"] == "SoC":
        name = row["unit_name"] or ""
        if not re.search(ENGINES, name) or re.search(r"\+|&|,|\band\b", name):
            yield "unit_name", "must name the one engine of the SoC that the row counts"
    width = CORE_FP32_FLOP_PER_CYCLE.get(row["microarchitecture"])
    if width and row["path"] == "vector" and row["precision"] in ("fp32", "fp64") and row["unit_name"] == "core":
        expected = width * (1 if row["precision"] == "fp32" else 0.5)
        if row["flop_per_cycle_per_unit"] not in (None, expected) and not row["peak_note"]:
            yield "flop_per_cycle_per_unit", f"must be {expected:g} for a {row['microarchitecture']} core"
    known = MATRIX_PRECISIONS.get(re.sub(r" \(.*", "", row["microarchitecture"] or ""))
    if row["path"] == "matrix" and known is not None and row["precision"] not in known.split():
        yield "precision", f"matrix units of {row['microarchitecture']} have {known or 'none'}"


_RATE = r"([EPTGM])(?:era|eta|iga|xa|ega)?[\s-]?(?:FL)?OP(?:s\b|S\b|/s|s?\b)"
_PREFIX = {"M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


def stated_rates(text: str) -> list[float]:
    """The dense rates in FLOP/s or OP/s that a printed figure can mean.

    "1,979 TFLOPS (with sparsity)" means 989.5e12; "312/624 TFLOPS, second figure with sparsity" means 312e12;
    "36 PFLOPS for 8 GPUs, with sparsity" means 2.25e15. A figure without a unit is read as tera.
    """
    prefixes = {_PREFIX[letter.upper()] for letter in re.findall(_RATE, text, re.IGNORECASE)} or {1e12}
    parts = re.search(
        r"(?:\bfor |\bof |\bfrom |\()(\d+|two|four|eight) (?:\w+ )?(?:GPU|IPU|chip|die|board|device)s?", text
    )
    share = {"two": 2, "four": 4, "eight": 8}.get(parts[1]) or int(parts[1]) if parts else 1
    body = text[: parts.start()] + text[parts.end() :] if parts else text
    numbers = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", body)]
    rates = {number * prefix / share for number in numbers for prefix in prefixes}
    if re.search(r"spars", text, re.IGNORECASE):
        doubles = {rate for rate in rates if any(math.isclose(rate, 2 * other, rel_tol=5e-3) for other in rates)}
        says_dense = re.search(r"without|dense|non-spars|no spars", text, re.IGNORECASE)
        rates = rates - doubles if doubles else (rates if says_dense else set()) | {rate / 2 for rate in rates}
    return sorted(rates)


def _stated_faults(row: dict) -> Iterator[tuple[str, str]]:
    stated, peak = row["stated_peak"], row["peak_flop_per_s"]
    if not stated:
        if derived_peak(row) is None:
            yield "stated_peak", "must quote the source's figure where the factors of the peak are not all known"
        return
    rates = stated_rates(stated)
    if not rates:
        yield "stated_peak", "must hold a figure"
    elif not any(_close(peak, rate, row["peak_note"]) for rate in rates):
        dense = " or ".join(f"{rate:g}" for rate in rates)
        excuse = "no note explains so much" if row["peak_note"] else "peak_note says why not"
        yield "peak_flop_per_s", f"must be the dense rate that {stated!r} means, {dense}, or {excuse}"
    counts_operations = re.search(r"\b[GTP]?OPS?\b", stated, re.IGNORECASE)
    names_float = re.search(r"\b(MX)?(FP|BF|TF)\d", stated, re.IGNORECASE)
    if row["precision"] not in INTEGER_PRECISIONS and counts_operations and not names_float and not row["peak_note"]:
        yield "stated_peak", "counts integer operations, or names no precision"


def memory_generation(memory_type: str) -> str | None:
    """The generation that a memory's name begins with, a key of `MEMORY_GENERATIONS`: "DDR5-4800" -> "DDR5"."""
    name = re.match(r"[A-Za-z]+\d?[A-Za-z]?", memory_type)
    known = {generation.lower(): generation for generation in MEMORY_GENERATIONS}
    return known.get(name[0].lower()) if name else None


def _memory_faults(row: dict) -> Iterator[tuple[str, str]]:
    bandwidth, memory_type = row["bandwidth_byte_per_s"], row["memory_type"]
    if bandwidth is None:
        return
    for column in ("memory_class", "memory_type", "memory_source"):
        if row[column] is None:
            yield column, "must not be empty where there is a bandwidth"
    low, high = BANDWIDTH_RANGE.get(row["memory_class"], (0, math.inf))
    if not low <= bandwidth <= high:
        yield "bandwidth_byte_per_s", f"must lie between {low:g} and {high:g} byte/s for {row['memory_class']}"
    derived = derived_bandwidth(row)
    if derived is not None:
        formula = "memory_channels x memory_channel_width_bit / 8 x memory_transfer_per_s"
        rule = _deviation(bandwidth, derived, row["memory_note"], formula)
        if rule:
            yield "bandwidth_byte_per_s", rule
    if memory_type is None:
        return
    generation = memory_generation(memory_type)
    if generation is None:
        yield "memory_type", f"must begin with one of {', '.join(MEMORY_GENERATIONS)}"
        return
    memory_class, slowest, fastest = MEMORY_GENERATIONS[generation]
    if row["memory_class"] not in (None, memory_class):
        yield "memory_class", f"must be {memory_class} for {memory_type}"
    transfers = row["memory_transfer_per_s"]
    if transfers is not None:
        named = re.search(r"-(\d{3,5})\b", memory_type)
        if named and abs(transfers / (int(named[1]) * 1e6) - 1) > TOLERANCE:
            yield "memory_transfer_per_s", f"must be the {named[1]} MT/s that {memory_type} names"
        if not slowest * (1 - TOLERANCE) <= transfers <= fastest * (1 + TOLERANCE):
            rule = f"must lie between {slowest:g} and {fastest:g} transfer/s for {generation} (MHz for MT/s?)"
            yield "memory_transfer_per_s", rule


def _capacity_faults(row: dict) -> Iterator[tuple[str, str]]:
    capacity = row["memory_capacity_byte"]
    if capacity is None:
        return
    named = re.search(r"\b(\d+) ?GB\b", row["chip"])
    # Vendors print "80 GB" for 80e9 and for 80 x 2^30 alike, so either is what the name means.
    if named and capacity not in (int(named[1]) * 1e9, int(named[1]) * 2**30):
        yield "memory_capacity_byte", f"must be the {named[1]} GB that the chip's name says"
    if not any(math.isclose(capacity / unit, round(capacity / unit), abs_tol=1e-6) for unit in (1e6, 2**20)):
        yield "memory_capacity_byte", "must be a whole number of MB or MiB"


def _power_faults(row: dict) -> Iterator[tuple[str, str]]:
    for column in ("power_kind", "power_source"):
        if (row["power_w"] is None) != (row[column] is None):
            yield column, "must be given with power_w, and only with it"
    if row["power_kind"] and not re.search(f"{DESIGN_POWER}|{OBSERVED_POWER}", row["power_kind"], re.IGNORECASE):
        yield "power_kind", "must say whether this is a limit (TDP, TBP, TGP, maximum) or was measured or is typical"


def _name_faults(row: dict) -> Iterator[tuple[str, str]]:
    for pattern, forms in FORM_FACTORS.items():
        if re.search(pattern, row["chip"]) and not re.search(forms, row["chip"]):
            yield "chip", f"must name its form: {forms.replace('|', ', ')}"
    for pattern, parts in MULTI_PART.items():
        if re.search(pattern, row["chip"]) and not row["note"]:
            yield "note", f"must say what the numbers count: {parts}"
    if re.search("superchip", row["chip"], re.IGNORECASE) and row["scope"] != "superchip":
        yield "scope", "must be superchip, as the name says"
    try:
        re.compile(row["system_match"] or "")
    except re.error as error:
        yield "system_match", f"must be a regular expression: {error}"


def _source_faults(row: dict, sources: Mapping[str, Mapping]) -> Iterator[tuple[str, str]]:
    for column in SOURCES:
        key = row[column]
        if key is None:
            continue
        if key not in sources:
            near = difflib.get_close_matches(key, sources, n=1)
            yield column, "is not in the bibliography" + (f"; is {near[0]} meant?" if near else "")
        elif sources[key].get("urldate", "9999")[:4] < str(row["year"]):
            yield column, f"was last seen in {sources[key]['urldate'][:4]}, before the chip's launch in {row['year']}"


def _bibliography_faults(table: Iterable[Mapping], sources: Mapping[str, Mapping], file: str) -> Iterator[Fault]:
    """What the entries that the table cites lack; each entry once, at its own line of the bibliography."""
    for key in sorted({row[column] for row in table for column in SOURCES} & set(sources)):
        lacking = references.missing(sources[key])
        if lacking:
            yield Fault(
                file, int(sources[key]["line"]), "", key, f"the source of a chip lacks {report.listing(lacking)}"
            )


# Rules across the rows of one chip: each yields (line, row, column, rule).


def _table_faults(lines_and_rows: Sequence[tuple[int, dict]]) -> Iterator[tuple[int, dict, str, str]]:
    chips: dict[str, list[tuple[int, dict]]] = defaultdict(list)
    for line, row in lines_and_rows:
        chips[row["chip"]].append((line, row))
    for group in chips.values():
        for check in (_agreement_faults, _accumulator_faults, _clock_faults, _order_faults):
            yield from check(group)
    yield from _folded_name_faults(chips)
    yield from _system_match_faults(chips)


def _agreement_faults(group: Sequence[tuple[int, dict]]) -> Iterator[tuple[int, dict, str, str]]:
    first_line, first = group[0]
    for line, row in group[1:]:
        for column in CHIP_LEVEL:
            if row[column] != first[column]:
                rule = f"must be the same in every row of a chip; line {first_line} has {_shown(first[column])!r}"
                yield line, row, column, rule


def _accumulator_faults(group: Sequence[tuple[int, dict]]) -> Iterator[tuple[int, dict, str, str]]:
    rates: dict[tuple, dict[str | None, float]] = defaultdict(dict)
    for _, row in group:
        rates[row["precision"], row["path"]][row["accumulator"]] = row["peak_flop_per_s"]
    for line, row in group:
        named = rates[row["precision"], row["path"]]
        if row["accumulator"] is None and len(named) > 1:
            yield line, row, "accumulator", "must be named in each row where a precision has several"
        # GeForce tensor cores halve their rate with fp32 accumulation; data-centre parts don't.
        geforce = "GeForce" in row["chip"] and row["path"] == "matrix" and row["precision"] in ("fp16", "fp8")
        if geforce and row["accumulator"] is None:
            yield line, row, "accumulator", "must be named: the rate of this GeForce tensor core depends on it"
        if row["accumulator"] == "fp32" and named.get("fp16", math.inf) < row["peak_flop_per_s"]:
            yield line, row, "peak_flop_per_s", "must not exceed the rate with fp16 accumulation"


def _clock_faults(group: Sequence[tuple[int, dict]]) -> Iterator[tuple[int, dict, str, str]]:
    seen: dict[tuple, tuple[int, dict]] = {}
    for line, row in group:
        clocked = row["unit_name"], row["clock"]
        first_line, first = seen.setdefault(clocked, (line, row))
        if None not in (row["clock_hz"], first["clock_hz"]) and row["clock_hz"] != first["clock_hz"]:
            had = f"line {first_line} has {first['clock_hz']:g}"
            rule = f"a chip's {row['clock']} clock must be the same in every row; {had}"
            yield line, row, "clock_hz", rule


def _order_faults(group: Sequence[tuple[int, dict]]) -> Iterator[tuple[int, dict, str, str]]:
    """A matrix unit is no slower than the vector unit, and a narrower float no slower than a wider one."""
    for (_, left), (line, row) in combinations(group, 2):
        for slow, fast in ((left, row), (row, left)):
            if fast["peak_flop_per_s"] >= slow["peak_flop_per_s"] * (1 - TOLERANCE) or fast["peak_note"]:
                continue
            if (fast["path"], slow["path"]) == ("matrix", "vector") and fast["precision"] == slow["precision"]:
                yield (
                    line,
                    row,
                    "peak_flop_per_s",
                    f"the matrix rate at {row['precision']} must not be below the vector rate",
                )
            floats = not {fast["precision"], slow["precision"]} & (INTEGER_PRECISIONS | {"tf32"})
            narrower = PRECISION_BYTES[fast["precision"]] < PRECISION_BYTES[slow["precision"]]
            if floats and narrower and fast["path"] == slow["path"]:
                faster = f"{fast['path']} {fast['precision']}"
                rule = f"{faster} must not be slower than {slow['precision']}, or peak_note says why"
                yield line, row, "peak_flop_per_s", rule


def _folded_name_faults(chips: Mapping[str, Sequence[tuple[int, dict]]]) -> Iterator[tuple[int, dict, str, str]]:
    seen: dict[str, str] = {}
    for name, group in chips.items():
        other = seen.setdefault(re.sub(r"\W+", "", name).lower(), name)
        if other != name:
            yield *group[0], "chip", f"is another spelling of {other!r}"


def _system_match_faults(chips: Mapping[str, Sequence[tuple[int, dict]]]) -> Iterator[tuple[int, dict, str, str]]:
    seen: dict[str, str] = {}
    for name, group in chips.items():
        pattern = group[0][1]["system_match"]
        if pattern and seen.setdefault(pattern, name) != name:
            yield *group[0], "system_match", f"is that of {seen[pattern]!r} as well"


# Looking chips up.


def names(table: Iterable[Mapping]) -> list[str]:
    """The chips of a table in its order, each once."""
    return list(dict.fromkeys(row["chip"] for row in table))


def match(system_name: str, table: Sequence[Mapping] | None = None) -> str | None:
    """The chip that a system's own name for its processor means (a CUDA device name, a CPU brand string), or None.

    Case does not count. Where several patterns match, the one that matches the most of the name wins.
    """
    found = []
    for row in rows() if table is None else table:
        hit = re.search(row["system_match"], system_name, re.IGNORECASE) if row["system_match"] else None
        if hit:
            found.append((hit.end() - hit.start(), row["chip"]))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def find(name: str, table: Sequence[Mapping] | None = None) -> list[Mapping]:
    """The rows of the chip that a name means: the whole name, a system's name for it, or words that only it has.

    Case and punctuation don't count. Raises `UnknownChipError`, with the nearest names, if none or several answer.
    """
    table = rows() if table is None else table
    known = names(table)
    candidates = [chip for chip in known if _words(chip) == _words(name)]
    if not candidates and name.strip():
        vendors = {row["vendor"] for row in table}
        matched = {match(spelling, table) for spelling in (name, *(f"{vendor} {name}" for vendor in vendors))} - {None}
        candidates = sorted(matched) or [chip for chip in known if set(_words(name)) <= set(_words(chip))]
    if len(candidates) == 1:
        return [row for row in table if row["chip"] == candidates[0]]
    if candidates:
        raise UnknownChipError(name, f"{name!r} could be any of {len(candidates)} chips", candidates)
    nearest = _nearest(name, known)
    raise UnknownChipError(name, f"no chip is called {name!r}" + ("; the nearest are" if nearest else ""), nearest)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9.+]+", name.lower())


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """The known names most like a mistyped one, compared whole and word by word; equal first letters count more."""

    def ratio(left: str, right: str) -> float:
        return difflib.SequenceMatcher(None, left, right).ratio() + 0.1 * (left[:1] == right[:1])

    def likeness(chip: str) -> float:
        words = [max((ratio(word, other) for other in _words(chip)), default=0) for word in _words(name)]
        return max(ratio(name.lower(), chip.lower()), sum(words) / len(words) if words else 0)

    scores = {chip: likeness(chip) for chip in known}
    return sorted((chip for chip in known if scores[chip] >= 0.6), key=lambda chip: -scores[chip])[:5]


# The command line.


def derivation(row: Mapping) -> dict[str, str]:
    """How a row's peak and bandwidth follow from their factors, as equations with the numbers in; "" where unknown."""
    equations = {"peak": "", "bandwidth": ""}
    unit = operation(row["precision"])
    if derived_peak(row) is not None:
        equations["peak"] = (
            f"{row['units']:g} {row['unit_name']} x {row['flop_per_cycle_per_unit']:g} {unit}/cycle x "
            f"{row['clock_hz'] / 1e9:g} GHz ({row['clock']}) = {report.flop_rate(derived_peak(row), row['precision'])}"
        )
    if derived_bandwidth(row) is not None:
        equations["bandwidth"] = (
            f"{row['memory_channels']:g} channels x {row['memory_channel_width_bit']:g} bit / 8 x "
            f"{row['memory_transfer_per_s'] / 1e9:g} GT/s = {report.bandwidth(derived_bandwidth(row))}"
        )
    return equations


def describe(chip_rows: Sequence[Mapping], sources: Mapping[str, Mapping]) -> str:
    """One chip in plain text: its memory and power, then each row's peak, ridge point, derivation and source."""
    first = chip_rows[0]
    lines = [
        f"{first['chip']}: {first['kind']}, {first['segment']}, {first['year']}; numbers are per {first['scope']}",
        *_memory_lines(first, sources),
    ]
    if first["power_w"] is not None:
        lines.append(f"  power      {report.quantity(first['power_w'], 'W')} ({first['power_kind']})")
    for row in chip_rows:
        lines += ["", *_peak_lines(row, sources)]
    return "\n".join(lines).replace("\u00a0", " ").replace("\u202f", " ")


def _memory_lines(row: Mapping, sources: Mapping[str, Mapping]) -> list[str]:
    if row["bandwidth_byte_per_s"] is None:
        return ["  bandwidth  not known from a trustworthy source"]
    lines = [
        f"  bandwidth  {report.bandwidth(row['bandwidth_byte_per_s'])} ({row['memory_type']}, {row['memory_class']})"
    ]
    equation = derivation(row)["bandwidth"]
    lines += [f"  derived    {equation}"] if equation else []
    lines += [f"  note       {row['memory_note']}"] if row["memory_note"] else []
    return [*lines, f"  source     {_cited(row['memory_source'], sources)}"]


def _peak_lines(row: Mapping, sources: Mapping[str, Mapping]) -> list[str]:
    accumulator = f", {row['accumulator']} accumulation" if row["accumulator"] else ""
    lines = [
        f"{row['precision']}, {row['path']} unit{accumulator}",
        f"  peak       {report.flop_rate(row['peak_flop_per_s'], row['precision'])}, dense, at {row['clock']} clock",
    ]
    if row["ridge_flop_per_byte"] is not None:
        ridge = report.significant(row["ridge_flop_per_byte"])
        lines.append(f"  ridge      {ridge} {operation(row['precision'])}/byte of {row['memory_class']} traffic")
    equation = derivation(row)["peak"]
    lines += [f"  derived    {equation}"] if equation else []
    lines += [f"  printed    {row['stated_peak']}"] if row["stated_peak"] else []
    lines += [f"  note       {note}" for note in (row["peak_note"], row["note"]) if note]
    return [*lines, f"  source     {_cited(row['compute_source'], sources)}"]


def _cited(key: str, sources: Mapping[str, Mapping]) -> str:
    source = sources[key]
    return f"{references.plain(source['title'])} <{references.address(source)}>, seen {source['urldate']} [{key}]"


def _listing(table: Sequence[Mapping]) -> str:
    """The table in plain text, one line a row."""
    header = ("chip", "kind", "precision", "path", "peak", "bandwidth", "memory", "FLOP/byte", "power")
    lines = [header]
    for row in table:
        precision = row["precision"] + (f"/{row['accumulator']}" if row["accumulator"] else "")
        peak = report.flop_rate(row["peak_flop_per_s"], row["precision"])
        bandwidth = report.bandwidth(row["bandwidth_byte_per_s"]) if row["bandwidth_byte_per_s"] else "-"
        ridge = report.significant(row["ridge_flop_per_byte"]) if row["ridge_flop_per_byte"] else "-"
        power = report.quantity(row["power_w"], "W") if row["power_w"] else "-"
        lines.append(
            (
                row["chip"],
                row["kind"],
                precision,
                row["path"],
                peak,
                bandwidth,
                row["memory_class"] or "-",
                ridge,
                power,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(padded).replace("\u00a0", " ").replace("\u202f", " ")


def _write_csv(table: Sequence[Mapping]) -> None:
    writer = csv.DictWriter(sys.stdout, [*CHIPS.names, *DERIVED], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m src.chips",
        description="List the chip table, or show one chip's peak, bandwidth, ridge point, derivation and source.",
    )
    parser.add_argument("chip", nargs="*", help="a chip: its name, or words that only it has (H200)")
    parser.add_argument("--precision", choices=tuple(PRECISION_BYTES), help="only rows at this precision")
    parser.add_argument("--path", choices=PATHS, help="only rows of this execution path")
    parser.add_argument("--kind", choices=CHIP_KINDS, help="only chips of this kind")
    parser.add_argument("--segment", choices=SEGMENTS, help="only chips of this segment")
    parser.add_argument("--table", type=Path, default=CHIPS_PATH, help="the chip table (default: data/chips.csv)")
    parser.add_argument("--references", type=Path, default=REFERENCES_PATH, help="the bibliography (references.bib)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write the rows as JSON")
    form.add_argument("--csv", action="store_true", help="write the rows as CSV")
    return parser.parse_args(arguments)


def _selected(table: Sequence[Mapping], options: argparse.Namespace) -> list[Mapping]:
    """The rows that the command line asks for. Raises LookupError with a sentence if there are none."""
    chosen = find(" ".join(options.chip), table) if options.chip else list(table)
    available = sorted({row["precision"] for row in chosen})
    for column in ("precision", "path", "kind", "segment"):
        wanted = getattr(options, column)
        chosen = [row for row in chosen if wanted in (None, row[column])]
    if not chosen and options.chip:
        raise LookupError(f"the table has no such row of this chip; its precisions are {', '.join(available)}")
    if not chosen:
        raise LookupError("no row of the table answers to all of these options")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, print what it asks for, and return the exit status: 2 on wrong arguments."""
    options = _arguments(arguments)
    try:
        table = rows(options.table, options.references)
        chosen = _selected(table, options)
    except LookupError as error:
        print(f"chips: {error}", file=sys.stderr)
        return 2
    except (OSError, SchemaError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        json.dump(chosen, sys.stdout, indent=2, ensure_ascii=False)
        print()
    elif options.csv:
        _write_csv(chosen)
    elif options.chip:
        print(describe(chosen, references.load(options.references)))
    else:
        print(_listing(chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
