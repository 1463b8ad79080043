"""What the chip table says: tables for the figures, and the values and sentences that chapter and appendix quote.

Everything here takes the data frame of `src.chips.load` and computes; nothing is drawn and nothing typed in. Where a
sentence compares, its comparative word comes from the data, and a sentence that only one outcome allows is guarded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd

from src import chips, references, report, roofline
from src.report import Text
from src.schema import CHIP_KINDS, PATHS, PRECISION_BYTES

GROUPS = {
    "data centre": ("data centre",),
    "desktop, workstation and laptop": ("desktop", "workstation", "laptop"),
    "mobile and edge": ("mobile", "edge"),
}
"""The segments that share a roofline figure."""

FORMATS = {"fp32 vector": ("fp32 vector",), "16-bit matrix": ("bf16 matrix", "fp16 matrix")}
"""The two kinds of arithmetic whose history is told: plain single precision, and what networks are trained in."""

EXAMPLES = {
    "CPU": ("AMD EPYC 9654", "fp32", "vector"),
    "GPU": ("NVIDIA H200 SXM 141GB", "bf16", "matrix"),
    "ASIC": ("Google TPU v5e", "bf16", "matrix"),
    "SoC": ("NVIDIA Jetson AGX Orin 64GB", "fp16", "matrix"),
}
"""The rows whose derivation the chapter shows in full."""

INTENSITIES = (0.03, 3e4)
"""Arithmetic intensities in FLOP/byte between which roofs are drawn."""

_DROPPED = ("NVIDIA", "AMD", "Intel", "Google", "Apple", "Tesla", "GeForce", "Instinct", "Radeon", "Qualcomm", "Core",
            "Generation", "Platinum", "Data Center GPU", "Blackwell", "Tenstorrent", "Graphcore", "Ryzen", "AWS")  # fmt: skip


def short_name(chip: str) -> str:
    """A chip's name as a label in a figure, without vendor and memory size: "NVIDIA H100 SXM5 80GB" -> "H100 SXM5"."""
    name = re.sub(r"\((?!CPU|GPU|NPU|board|package|one|P-|E-)[^)]*\)", "", chip)
    for word in _DROPPED:
        name = re.sub(rf"\b{word}\b(?! \d{{1,3}}$)", "", name) if name.replace(word, "").strip() else name
    name = re.sub(r"\b\d+ ?GB\b", "", name)
    name = re.sub(r"\(one of (its )?2 (\w+?)s?\)", r"(1 \2)", name)
    name = re.sub(r"\(one [^)]*\)|\(\s*\)", "", name)
    return re.sub(r"\s+", " ", name).strip(" ,")


def common_name(names: Sequence[str]) -> str:
    """One label for chips that share a point: the words with which all their short names begin."""
    words = [short_name(name).split() for name in names]
    shared = []
    for column in zip(*words, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return " ".join(shared) or short_name(names[0])


def arithmetic(row) -> str:
    """What a row computes with, as figures name it: "bf16 matrix"."""
    return f"{row.precision} {row.path}"


def arithmetic_order(present: Iterable[str]) -> list[str]:
    """The present kinds of arithmetic, vector units first, each from wide to narrow."""
    present = set(present)
    return [name for path in PATHS for name in (f"{p} {path}" for p in PRECISION_BYTES) if name in present]


def roofs(table: pd.DataFrame, sources: dict[str, dict]) -> pd.DataFrame:
    """Every roof that can be drawn: one row per chip, precision, path and accumulator with a known bandwidth.

    Adds ``group``, ``arithmetic``, ``label`` (of the chips that share the point), ``ridge_flop_per_byte``, and the
    sentences that hovering shows. Rows of one CPU core have no memory of their own and so no roof.
    """
    known = table[table["bandwidth_byte_per_s"].notna()].copy()
    known["arithmetic"] = [arithmetic(row) for row in known.itertuples()]
    of_segment = {segment: group for group, segments in GROUPS.items() for segment in segments}
    known["group"] = known["segment"].map(of_segment)
    known["unit"] = known["path"] + " unit" + known["accumulator"].map(lambda a: f", {a} accumulation" if a else "")
    known["peak"] = [report.flop_rate(v, p) for v, p in zip(known["peak_flop_per_s"], known["precision"], strict=True)]
    known["bandwidth"] = known["bandwidth_byte_per_s"].map(report.bandwidth) + " " + known["memory_type"]
    known["ridge"] = known["ridge_flop_per_byte"].map(report.intensity)
    known["power"] = [_power(row) for row in known.itertuples()]
    known["derivation"] = [_derivation(row) for row in known.itertuples()]
    known["source"] = [references.plain(sources[key]["title"]) for key in known["compute_source"]]
    points = known.groupby(["group", "arithmetic", "peak_flop_per_s", "bandwidth_byte_per_s"])["chip"]
    known["label"] = points.transform(lambda names: common_name(list(dict.fromkeys(names))))
    return known.reset_index(drop=True)


def _power(row) -> str:
    return "not published" if math.isnan(row.power_w) else f"{report.quantity(row.power_w, 'W')}, {row.power_kind}"


def _derivation(row) -> str:
    if math.isnan(row.derived_peak_flop_per_s):
        return f"printed: {row.stated_peak}"
    unit = chips.operation(row.precision)
    return f"{row.units:g} {row.unit_name} × {row.flop_per_cycle_per_unit:g} {unit}/cycle × {row.clock_hz / 1e9:g} GHz"


def in_group(roofs_: pd.DataFrame, group: str) -> pd.DataFrame:
    """The roofs of one figure. Raises KeyError on a group that `GROUPS` lacks."""
    GROUPS[group]
    return roofs_[roofs_["group"] == group].reset_index(drop=True)


def history(table: pd.DataFrame) -> pd.DataFrame:
    """One row per chip and format of `FORMATS`: its best peak there, its balance and its FLOP/s per watt.

    Chips whose memory is on-chip SRAM keep their efficiency but have no balance here: bytes from SRAM and bytes from
    DRAM are not the same bytes.
    """
    rows = []
    known = table.assign(arithmetic=[arithmetic(row) for row in table.itertuples()])
    known = known[known["scope"] != "core"]
    for name, members in FORMATS.items():
        best = known[known["arithmetic"].isin(members)].sort_values("peak_flop_per_s").groupby("chip").tail(1)
        rows.append(best.assign(format=name))
    best = pd.concat(rows, ignore_index=True)
    best["balance_flop_per_byte"] = best["ridge_flop_per_byte"].where(best["memory_class"] != "SRAM")
    best["label"] = best["chip"].map(short_name)
    columns = ["chip", "label", "kind", "segment", "year", "format", "precision", "memory_class", "peak_flop_per_s",
               "bandwidth_byte_per_s", "power_w", "balance_flop_per_byte", "flop_per_s_per_watt"]  # fmt: skip
    return best[columns]


def trend(history_: pd.DataFrame, column: str, format_: str, kinds: Sequence[str] = CHIP_KINDS) -> SimpleNamespace:
    """How a quantity grew over the years: a straight line through log2(value) by least squares.

    Returns ``per_year`` (doublings a year, a `report.Estimate` with a 95 % bootstrap interval over chips), ``count``,
    ``first`` and ``last`` year, and the ``line`` as a data frame. The chips are a selection, not a sample of all chips:
    the interval says how much the line leans on single chips, no more.
    """
    data = history_[(history_["format"] == format_) & history_["kind"].isin(kinds)].dropna(subset=[column])
    years, values = data["year"].to_numpy(float), np.log2(data[column].to_numpy(float))
    slope, offset = np.polyfit(years, values, 1)
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(data), (2000, len(data)))
    slopes = [np.polyfit(years[d], values[d], 1)[0] for d in draws if np.ptp(years[d]) > 0]
    low, high = np.quantile(slopes, [0.025, 0.975])
    ends = np.array([years.min(), years.max()])
    line = pd.DataFrame({"year": ends.astype(int), column: 2 ** (offset + slope * ends), "format": format_})
    per_year = report.Estimate(float(slope), float(low), float(high))
    return SimpleNamespace(per_year=per_year, count=len(data), first=int(ends[0]), last=int(ends[1]), line=line)


def trend_sentence(name: str, found: SimpleNamespace) -> Text:
    """A trend in words; no direction is claimed where the interval holds zero."""
    over = f"from {found.first} to {found.last}, over {report.plural(found.count, 'chip')}"
    growth = found.per_year
    if growth.low <= 0 <= growth.high:
        return Text(f"{name} shows no clear trend {over}")
    verb = "doubled" if growth.value > 0 else "halved"
    fastest, slowest = sorted(1 / abs(bound) for bound in (growth.low, growth.high))
    years = f"{report.significant(1 / abs(growth.value), 2)} years"
    interval = f"95 % interval {report.significant(fastest, 2)} to {report.significant(slowest, 2)}"
    return Text(f"{name} {verb} about every {years} ({interval}) {over}")


def kinds_table(table: pd.DataFrame, history_: pd.DataFrame) -> pd.DataFrame:
    """Medians by kind, over chips with off-chip memory (DRAM or HBM) and of scopes that are sold: no single cores."""
    whole = table[(table["scope"] != "core") & (table["memory_class"] != "SRAM")]
    per_chip = whole.drop_duplicates("chip")
    rows = []
    for kind in CHIP_KINDS:
        own = per_chip[per_chip["kind"] == kind]
        row = {"kind": kind, "chips": len(own), "bandwidth_byte_per_s": own["bandwidth_byte_per_s"].median()}
        row["power_w"] = own["power_w"].median()
        for name in FORMATS:
            best = history_[
                (history_["kind"] == kind) & (history_["format"] == name) & (history_["memory_class"] != "SRAM")
            ]
            for column in ("peak_flop_per_s", "balance_flop_per_byte", "flop_per_s_per_watt"):
                row[f"{column} {name}"] = best[column].median()
            row[f"count {name}"] = len(best)
        rows.append(row)
    return pd.DataFrame(rows).set_index("kind")


def kinds_display(kinds: pd.DataFrame) -> pd.DataFrame:
    """`kinds_table` as the chapter prints it."""

    def shown(value, form) -> str:
        return "–" if math.isnan(value) else str(form(value))

    rows = []
    for kind, row in kinds.iterrows():
        cells = {"Kind": kind, "Chips": int(row["chips"]), "Bandwidth": shown(row["bandwidth_byte_per_s"], report.bandwidth)}
        for name in FORMATS:
            cells[f"Peak, {name}"] = shown(row[f"peak_flop_per_s {name}"], report.flop_rate)
            cells[f"FLOP/byte, {name}"] = shown(row[f"balance_flop_per_byte {name}"], report.significant)
        efficiency = row["flop_per_s_per_watt fp32 vector"]
        cells["FLOP/s per watt, fp32"] = shown(efficiency, lambda value: report.quantity(value, "FLOP/s/W"))
        rows.append(cells)
    return pd.DataFrame(rows)


# Derivations as equations.


def _number(value: float) -> str:
    return report.significant(value, 4).rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def _scientific(value: float) -> str:
    """A number as LaTeX: 1.83e9 -> 1.83 \\times 10^{9}."""
    mantissa, exponent = f"{value:.4g}e0".split("e")[0], 0
    if value >= 1e5:
        exponent = math.floor(math.log10(value))
        mantissa = f"{value / 10**exponent:.4g}"
    return mantissa + (rf" \times 10^{{{exponent}}}" if exponent else "")


def _unit(text: str) -> str:
    return rf"\,\text{{{text}}}"


def peak_equation(row) -> str:
    """units x operations per cycle and unit x clock = peak, as LaTeX with the row's numbers in."""
    operation = chips.operation(row.precision)
    return (
        rf"P_\text{{peak}} = {row.units:g}{_unit(row.unit_name)} \times "
        rf"{row.flop_per_cycle_per_unit:g}{_unit(f'{operation}/cycle/{row.unit_name}')} \times "
        rf"{_scientific(row.clock_hz)}{_unit('cycle/s')} = "
        rf"{_scientific(row.derived_peak_flop_per_s)}{_unit(f'{operation}/s')}"
    )


def bandwidth_equation(row) -> str:
    """channels x bytes per transfer x transfers per second = bandwidth, as LaTeX with the row's numbers in."""
    return (
        rf"B = {row.memory_channels:g}{_unit('channels')} \times "
        rf"\frac{{{row.memory_channel_width_bit:g}\,\text{{bit}}}}{{8\,\text{{bit/byte}}}} \times "
        rf"{_scientific(row.memory_transfer_per_s)}{_unit('transfer/s')} = "
        rf"{_scientific(row.derived_bandwidth_byte_per_s)}{_unit('byte/s')}"
    )


def example(table: pd.DataFrame, kind: str):
    """The row whose derivation the chapter shows for a kind. Raises KeyError if the table lacks it."""
    chip, precision, path = EXAMPLES[kind]
    found = table[(table["chip"] == chip) & (table["precision"] == precision) & (table["path"] == path)]
    if found.empty:
        raise KeyError(f"the table has no row {chip}, {precision}, {path}")
    return next(found.itertuples(index=False))


def derivation_text(table: pd.DataFrame, kind: str) -> Text:
    """One chip's peak and bandwidth in full: two equations with the numbers in, what was printed, and the sources."""
    row = example(table, kind)
    key = kind.lower()
    parts = [
        f"**{kind}: {row.chip}**, {row.precision} on its {row.path} unit, at the {row.clock} clock "
        f"[{_citations(row.compute_source, row.flop_per_cycle_source)}].",
        f"$$ {peak_equation(row)} $$ {{#eq-chips-{key}-peak}}",
        _against("peak", row.peak_flop_per_s, row.derived_peak_flop_per_s, report.flop_rate, row.peak_note),
    ]
    if not math.isnan(row.derived_bandwidth_byte_per_s):
        parts.append(f"Its memory is {row.memory_type} [{_citations(row.memory_source)}].")
        parts.append(f"$$ {bandwidth_equation(row)} $$ {{#eq-chips-{key}-bandwidth}}")
        derived = row.derived_bandwidth_byte_per_s
        parts.append(_against("bandwidth", row.bandwidth_byte_per_s, derived, report.bandwidth, row.memory_note))
    else:
        parts.append(
            f"Its {row.memory_type} gives {report.bandwidth(row.bandwidth_byte_per_s)} "
            f"[{_citations(row.memory_source)}]; the maker publishes no factors to derive that from."
        )
    parts.append(f"The two meet at {report.intensity(row.ridge_flop_per_byte)}.")
    return Text("\n\n".join(part for part in parts if part))


def _against(name: str, stated: float, derived: float, form, note: str | None) -> str:
    """How a stated figure compares with its derivation, in words."""
    difference = stated / derived - 1
    if abs(difference) < 5e-4:
        return f"That is the {name} in the table."
    side = "below" if difference < 0 else "above"
    reason = f" ({note.rstrip('.')})" if isinstance(note, str) and note else ", which is rounding"
    return f"The {name} in the table, {form(stated)}, is {report.percent(abs(difference))} {side} that{reason}."


def _citations(*keys: str | None) -> str:
    return "; ".join(f"@{key}" for key in dict.fromkeys(keys) if isinstance(key, str) and key)


# The appendix.


def appendix_peaks(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Every peak of a kind with its derivation and citation; precisions with equal factors share a row."""
    own = table[table["kind"] == kind]
    columns = ["chip", "path", "accumulator", "peak_flop_per_s", "units", "flop_per_cycle_per_unit", "clock_hz",
               "clock", "compute_source", "flop_per_cycle_source"]  # fmt: skip
    rows, last = [], None
    for values, group in own.groupby(columns, dropna=False, sort=False):
        row = dict(zip(columns, values, strict=True))
        first = next(group.itertuples(index=False))
        precisions = ", ".join(group["precision"]) + f" {first.path}"
        precisions += f" ({first.accumulator} acc.)" if isinstance(first.accumulator, str) and first.accumulator else ""
        rows.append(
            {
                "Chip": first.chip if first.chip != last else "",
                "Arithmetic": precisions,
                "Peak": str(report.flop_rate(first.peak_flop_per_s, first.precision)),
                "Derivation": _appendix_factors(first),
                "Source": f"[{_citations(row['compute_source'], row['flop_per_cycle_source'])}]",
            }
        )
        last = first.chip
    return pd.DataFrame(rows)


def _appendix_factors(row) -> str:
    if math.isnan(row.derived_peak_flop_per_s):
        return f"as printed ({row.clock} clock)" if row.clock != "unspecified" else "as printed"
    return f"{row.units:g} {row.unit_name} × {row.flop_per_cycle_per_unit:g} × {row.clock_hz / 1e9:.4g} GHz {row.clock}"


def appendix_memory(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Every chip of a kind: year, what its numbers count, memory with derivation, power with its meaning, citations."""
    rows = []
    for row in table[table["kind"] == kind].drop_duplicates("chip").itertuples(index=False):
        known = not math.isnan(row.bandwidth_byte_per_s)
        bandwidth = f"{report.bandwidth(row.bandwidth_byte_per_s)}" if known else "–"
        factors = "–"
        if not math.isnan(row.derived_bandwidth_byte_per_s):
            factors = (
                f"{row.memory_channels:g} × {row.memory_channel_width_bit:g} bit × "
                f"{row.memory_transfer_per_s / 1e9:.4g} GT/s"
            )
        power = "–" if math.isnan(row.power_w) else f"{report.quantity(row.power_w, 'W')} {row.power_kind}"
        keys = _citations(row.memory_source if known else None, row.power_source)
        rows.append(
            {
                "Chip": row.chip,
                "Year": str(row.year),
                "Scope": row.scope,
                "Memory": row.memory_type if known else "–",
                "Bandwidth": bandwidth,
                "Derivation": factors,
                "Power": power,
                "Source": f"[{keys}]" if keys else "–",
            }
        )
    return pd.DataFrame(rows)


def notes(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """What a reader must know of each chip of a kind: where a figure departs from its derivation, and the notes."""
    rows = []
    for chip, group in table[table["kind"] == kind].groupby("chip", sort=False):
        texts = [text for column in ("peak_note", "memory_note", "note") for text in group[column].dropna().unique() if text]
        if texts:
            rows.append({"Chip": chip, "Note": " ".join(_sentence(text) for text in dict.fromkeys(texts))})
    return pd.DataFrame(rows)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
