"""What the chip table says: tables for the figures, and the values and sentences that chapter and appendix quote.

Everything here takes the data frame of `src.chips.load` and computes; nothing is drawn and nothing typed in. Where a
sentence compares, its comparative word comes from the data, and a sentence that only one outcome allows is guarded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd

from src import chips, labels, references, report, roofline
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
    "ASIC": ("Tenstorrent Wormhole n150", "fp16", "matrix"),
    "SoC": ("NVIDIA Jetson AGX Orin 64GB", "fp16", "matrix"),
}
"""The rows whose derivation the chapter shows in full."""

EXAMPLE_CHIPS = tuple(chip for chip, _, _ in EXAMPLES.values())

MODEL_INTENSITIES = (0.1, 1e4)
"""Arithmetic intensities in FLOP/byte between which the worked example's roof is drawn."""

MARGIN = (5.0, 5.0)
"""How far roofs of one arithmetic are drawn below their lowest and above their highest ridge point, as factors."""

_DROPPED = (
    "NVIDIA", "AMD", "Intel", "Google", "Apple", "Tesla", "GeForce", "Instinct", "Radeon", "Qualcomm", "Core",
    "Generation", "Platinum", "Data Center GPU", "Blackwell", "Tenstorrent", "Graphcore", "AWS", "Workstation Edition",
)  # fmt: skip


def short_name(chip: str) -> str:
    """A chip's name as a label in a figure, without vendor and memory size: "NVIDIA H100 SXM5 80GB" -> "H100 SXM5"."""
    name = re.sub(r"\((?!CPU|GPU|NPU|board|package|one|P-|E-|Super)[^)]*\)|\bX1E-\S+", "", chip)
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
    known = known[[*_ROOF_COLUMNS]].copy()
    points = known.groupby(["group", "arithmetic", "peak_flop_per_s", "bandwidth_byte_per_s"])["chip"]
    known["label"] = points.transform(lambda names: common_name(list(dict.fromkeys(names))))
    # One label at two points would say nothing; the memory size tells such siblings apart.
    same = known.groupby(["group", "arithmetic", "label"])[["peak_flop_per_s", "bandwidth_byte_per_s"]].transform(
        "nunique"
    )
    size = known["chip"].str.extract(r"\b(\d+) ?GB\b")[0]
    twice = (same.max(axis=1) > 1) & size.notna()
    known.loc[twice, "label"] += " " + size[twice] + " GB"
    return known.reset_index(drop=True).rename_axis("roof").reset_index()


_ROOF_COLUMNS = (
    "chip", "kind", "group", "arithmetic", "precision", "unit", "memory_class", "peak_flop_per_s",
    "bandwidth_byte_per_s", "ridge_flop_per_byte", "peak", "derivation", "clock", "bandwidth", "ridge", "power",
    "source",
)  # fmt: skip


def _power(row) -> str:
    return "not published" if math.isnan(row.power_w) else f"{report.quantity(row.power_w, 'W')}, {row.power_kind}"


def _derivation(row) -> str:
    if math.isnan(row.derived_peak_flop_per_s):
        return f"printed: {row.stated_peak}"
    unit = chips.operation(row.precision)
    return f"{row.units:g} {row.unit_name} × {row.flop_per_cycle_per_unit:g} {unit}/cycle × {row.clock_hz / 1e9:g} GHz"


def ridge_points(roofs_: pd.DataFrame) -> pd.DataFrame:
    """The ridge points of every roof, with a label on the lowest and the highest of each arithmetic (else "")."""
    columns = ["chip", "kind", "arithmetic", "memory_class", "ridge_flop_per_byte", "peak", "bandwidth", "ridge"]
    points = roofs_[[*columns, "label"]].drop_duplicates([*columns]).reset_index(drop=True)
    ends = points.groupby("arithmetic")["ridge_flop_per_byte"].agg(["idxmin", "idxmax"])
    points["end"] = ""
    points.loc[ends["idxmin"], "end"] = "lowest"
    points.loc[ends["idxmax"], "end"] = "highest"
    points["label"] = points["label"].where(points["end"] != "", "")
    return points


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
        cells = {
            "Kind": kind,
            "Chips": int(row["chips"]),
            "Bandwidth": shown(row["bandwidth_byte_per_s"], report.bandwidth),
        }
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
    memory = f"Its memory is {row.memory_type} [{citations(row.memory_source)}]"
    ridge = f"The two meet at {report.intensity(row.ridge_flop_per_byte)}."
    parts = [
        f"**{kind}: {row.chip}**, {row.precision} on its {row.path} unit, at the {row.clock} clock "
        f"[{citations(row.compute_source, row.flop_per_cycle_source)}]:",
        f"$$ {peak_equation(row)} $$ {{#eq-chips-{key}-peak}}",
    ]
    peak = _against("peak", row.peak_flop_per_s, row.derived_peak_flop_per_s, report.flop_rate, row.peak_note)
    derived = row.derived_bandwidth_byte_per_s
    if math.isnan(derived):
        stated = (
            f"and gives {report.bandwidth(row.bandwidth_byte_per_s)}; the maker publishes no factors to derive it from."
        )
        return Text("\n\n".join([*parts, f"{peak} {memory} {stated} {ridge}"]))
    bandwidth = _against("bandwidth", row.bandwidth_byte_per_s, derived, report.bandwidth, row.memory_note)
    parts += [
        f"{peak} {memory}:",
        f"$$ {bandwidth_equation(row)} $$ {{#eq-chips-{key}-bandwidth}}",
        f"{bandwidth} {ridge}",
    ]
    return Text("\n\n".join(parts))


def _against(name: str, stated: float, derived: float, form, note: str | None) -> str:
    """How a stated figure compares with its derivation, in words."""
    difference = stated / derived - 1
    if abs(difference) < 5e-4:
        return f"That is the {name} in the table."
    side = "below" if difference < 0 else "above"
    reason = f". The table says why: “{note.rstrip('.')}”." if isinstance(note, str) and note else ", by rounding."
    return f"The {name} in the table, {form(stated)}, is {report.percent(abs(difference))} {side} that{reason}"


def citations(*keys: str | None) -> str:
    """Keys of the bibliography as a Markdown citation holds them, each once; None and "" are left out."""
    return "; ".join(f"@{key}" for key in dict.fromkeys(keys) if isinstance(key, str) and key)


# Tables for the figures.

PLOT = SimpleNamespace(width=600, height=460)
"""The plot area of a roofline figure in CSS pixels (`src.theme.WIDTH`, `src.figures.chips.HEIGHT`)."""


def intensities(roofs_: pd.DataFrame) -> tuple[float, float]:
    """The arithmetic intensities in FLOP/byte between which these roofs are drawn."""
    return roofs_["ridge_flop_per_byte"].min() / MARGIN[0], roofs_["ridge_flop_per_byte"].max() * MARGIN[1]


def roof_lines(roofs_: pd.DataFrame) -> pd.DataFrame:
    """Each roof as three points: the left end of its slope, its ridge point and the right end of its flat part."""
    parts = []
    for _, group in roofs_.groupby("arithmetic", sort=False):
        low, high = intensities(group)
        for intensity in (np.full(len(group), low), group["ridge_flop_per_byte"], np.full(len(group), high)):
            x = np.asarray(intensity, float)
            y = roofline.attainable_flop_per_s(x, group["peak_flop_per_s"], group["bandwidth_byte_per_s"])
            columns = {"intensity": x, "flop_per_s": np.asarray(y)}
            parts.append(group[["roof", "arithmetic", "kind", "memory_class"]].assign(**columns))
    return pd.concat(parts, ignore_index=True)


def with_labels(roofs_: pd.DataFrame) -> pd.DataFrame:
    """The roofs of one group with the positions of their labels, each arithmetic by itself."""
    parts = []
    for _, part in roofs_.groupby("arithmetic", sort=False):
        low, high = intensities(part)
        domain = (part["bandwidth_byte_per_s"].min() * low, part["peak_flop_per_s"].max())
        parts.append(
            labels.positions(
                part,
                "ridge_flop_per_byte",
                "peak_flop_per_s",
                x_domain=(low, high),
                y_domain=domain,
                width=PLOT.width,
                height=PLOT.height,
                first=EXAMPLE_CHIPS,
            )
        )
    return pd.concat(parts)


def with_history_labels(history_: pd.DataFrame, column: str) -> pd.DataFrame:
    """The chips that have a value in a column of `history`, with label positions in each of the two panels."""
    known = history_.dropna(subset=[column])
    years, values = (known["year"].min(), known["year"].max()), (known[column].min(), known[column].max())
    parts = [
        labels.positions(
            part,
            "year",
            column,
            x_domain=years,
            y_domain=values,
            width=PLOT.width / 2 - 16,
            height=300,
            log_x=False,
            first=EXAMPLE_CHIPS,
            only=_extremes(part, column),
        )
        for _, part in known.groupby("format", sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def _extremes(part: pd.DataFrame, column: str) -> set[str]:
    """The chips that earn a label in a crowd: the highest and lowest of each kind, and the examples."""
    ordered = part.sort_values(column)
    ends = [group["chip"].iloc[i] for _, group in ordered.groupby("kind") for i in (0, -1)]
    return {*ends, *EXAMPLE_CHIPS}


# The worked example: two kernels under one roof.

EXAMPLE_SIZES = (64, 4096)
"""Sides of the square matrices in the worked example."""


def kernels(row) -> pd.DataFrame:
    """The worked example's kernels under one chip's roof: a vector addition and two matrix products.

    ``row`` is a row of the table. Bytes are the least that must move: each operand read once, the result written once.
    """
    size = PRECISION_BYTES[row.precision]
    work = [("vector addition", "a + b", 1.0, 3.0 * size)]
    for n in EXAMPLE_SIZES:
        work.append((f"matrix product, n = {n}", f"{n} × {n} product", 2.0 * n**3, 3.0 * size * n**2))
    rows = []
    for name, label, flop, bytes_moved in work:
        intensity = float(roofline.arithmetic_intensity(flop, bytes_moved))
        rate = float(roofline.attainable_flop_per_s(intensity, row.peak_flop_per_s, row.bandwidth_byte_per_s))
        bound = roofline.is_compute_bound(intensity, row.peak_flop_per_s, row.bandwidth_byte_per_s)
        rows.append(
            {"name": name, "label": label, "flop": flop, "bytes": bytes_moved, "intensity": intensity,
             "flop_per_s": rate, "bound": "compute-bound" if bound else "memory-bound", "label_x": intensity,
             "label_y": rate * 0.5}
        )  # fmt: skip
    return pd.DataFrame(rows)


def model_roof(row) -> pd.DataFrame:
    """One chip's roof as two coloured parts that meet at the ridge point."""
    low, high = MODEL_INTENSITIES
    ridge = row.ridge_flop_per_byte
    points = [(low, "memory-bound"), (ridge, "memory-bound"), (ridge, "compute-bound"), (high, "compute-bound")]
    frame = pd.DataFrame(points, columns=["intensity", "part"])
    frame["flop_per_s"] = roofline.attainable_flop_per_s(
        frame["intensity"], row.peak_flop_per_s, row.bandwidth_byte_per_s
    )
    return frame


# What the prose says.


def say(table: pd.DataFrame, sources: dict[str, dict]) -> SimpleNamespace:
    """Every value and sentence that the chapter quotes, by name; each is a `report.Text`."""
    history_ = history(table)
    return SimpleNamespace(
        **_say_table(table, sources), **_say_model(table), **_say_ridges(table), **_say_history(history_),
        **_say_kinds(kinds_table(table, history_)),
    )  # fmt: skip


def _say_table(table: pd.DataFrame, sources: dict[str, dict]) -> dict[str, Text]:
    per_chip = table.drop_duplicates("chip")
    cited = {key for column in chips.SOURCES for key in table[column].dropna() if key}
    second_hand = [key for key in cited if "Not opened" in sources[key].get("note", "")]
    derived = table["derived_peak_flop_per_s"].notna()
    exact = abs(table["peak_flop_per_s"] / table["derived_peak_flop_per_s"] - 1) <= chips.TOLERANCE
    vendors = per_chip["vendor"].nunique()
    return {
        "n_chips": report.number(len(per_chip)),
        "n_rows": report.number(len(table)),
        "n_vendors": report.number(vendors),
        "first_year": Text(per_chip["year"].min()),
        "last_year": Text(per_chip["year"].max()),
        "by_kind": report.listing(
            report.plural(int((per_chip["kind"] == kind).sum()), kind)
            for kind in CHIP_KINDS
            if kind in set(per_chip["kind"])
        ),
        "n_sources": report.number(len(cited)),
        "n_second_hand": report.number(len(second_hand)),
        "n_opened": report.number(len(cited) - len(second_hand)),
        "n_derived": report.number(int(derived.sum())),
        "n_printed_only": report.number(int((~derived).sum())),
        "n_beyond": report.plural(int((derived & ~exact).sum()), "row"),
        "tolerance": report.percent(chips.TOLERANCE),
        "n_no_bandwidth": report.number(int(per_chip["bandwidth_byte_per_s"].isna().sum())),
        "n_no_power": report.number(int(per_chip["power_w"].isna().sum())),
    }


def _say_model(table: pd.DataFrame) -> dict[str, Text]:
    row = example(table, "GPU")
    work = kernels(row).set_index("name")
    addition, small, large = (work.iloc[i] for i in range(3))
    n_small, n_large = EXAMPLE_SIZES
    size = PRECISION_BYTES[row.precision]
    share = addition["flop_per_s"] / row.peak_flop_per_s
    seconds = roofline.minimum_latency_s(large["flop"], large["bytes"], row.peak_flop_per_s, row.bandwidth_byte_per_s)
    return {
        "example_chip": Text(row.chip),
        "example_precision": Text(row.precision),
        "example_bytes": report.number(size),
        "example_peak": report.flop_rate(row.peak_flop_per_s),
        "example_bandwidth": report.bandwidth(row.bandwidth_byte_per_s),
        "example_ridge": report.intensity(row.ridge_flop_per_byte),
        "addition_intensity": report.intensity(addition["intensity"]),
        "addition_rate": report.flop_rate(addition["flop_per_s"]),
        "addition_share": report.percent(share),
        "addition_bytes": report.number(addition["bytes"]),
        "n_small": report.number(n_small),
        "n_large": report.number(n_large),
        "small_intensity": report.intensity(small["intensity"]),
        "small_bound": Text(small["bound"]),
        "small_rate": report.flop_rate(small["flop_per_s"]),
        "large_intensity": report.intensity(large["intensity"]),
        "large_flop": report.quantity(large["flop"], "FLOP"),
        "large_bytes": report.size(large["bytes"]),
        "large_bound": Text(large["bound"]),
        "large_rate": report.flop_rate(large["flop_per_s"]),
        "large_time": report.duration(float(seconds)),
        "turning_size": report.number(math.ceil(row.ridge_flop_per_byte * 3 * size / 2)),
        "alt_model": Text(
            f"The roofline of one {row.chip} at {row.precision}: a slope of "
            f"{report.bandwidth(row.bandwidth_byte_per_s)} meets a flat peak of "
            f"{report.flop_rate(row.peak_flop_per_s)} at {report.intensity(row.ridge_flop_per_byte)}; "
            f"a vector addition lies on the slope, a product of {n_large} by {n_large} matrices "
            f"{'under the flat part' if large['bound'] == 'compute-bound' else 'on the slope as well'}."
        ),
    }


def _say_ridges(table: pd.DataFrame) -> dict[str, Text]:
    known = table[table["ridge_flop_per_byte"].notna()].copy()
    known["arithmetic"] = [arithmetic(row) for row in known.itertuples()]
    off_chip = known[known["memory_class"] != "SRAM"]
    single = off_chip[off_chip["arithmetic"] == "fp32 vector"].sort_values("ridge_flop_per_byte")
    half = off_chip[off_chip["arithmetic"] == "bf16 matrix"].sort_values("ridge_flop_per_byte")
    sram = known[known["memory_class"] == "SRAM"].drop_duplicates("chip")
    ratio = half["ridge_flop_per_byte"].median() / single["ridge_flop_per_byte"].median()
    values = {
        "ridge_low_chip": Text(single["chip"].iloc[0]),
        "ridge_low": report.intensity(single["ridge_flop_per_byte"].iloc[0]),
        "ridge_high_chip": Text(half["chip"].iloc[-1]),
        "ridge_high": report.intensity(half["ridge_flop_per_byte"].iloc[-1]),
        "ridge_median_fp32": report.intensity(single["ridge_flop_per_byte"].median()),
        "ridge_median_bf16": report.intensity(half["ridge_flop_per_byte"].median()),
        "ridge_ratio": Text(f"{report.times(ratio) if ratio >= 1 else report.percent(ratio)} as much"),
        "n_sram": report.plural(len(sram), "chip"),
        "sram_names": report.listing(sram["chip"]),
    }
    low, high = sram["ridge_flop_per_byte"].min(), sram["ridge_flop_per_byte"].max()
    values["sram_range"] = Text(f"{report.significant(low, 2)} to {report.significant(high, 2)}")
    values["alt_ridges"] = Text(
        f"Ridge points of {report.number(known['chip'].nunique())} chips, one strip per precision and unit. "
        f"On fp32 vector units the median is {values['ridge_median_fp32']}, on bf16 matrix units "
        f"{values['ridge_median_bf16']}."
    )
    values["addition_floor"] = _floor(off_chip)
    values["ridge_ladder"] = _ladder(off_chip)
    for key, group in (
        ("data", "data centre"),
        ("desk", "desktop, workstation and laptop"),
        ("edge", "mobile and edge"),
    ):
        values |= _say_group(off_chip, key, group)
    return values | _say_group(off_chip, "data_matrix", "data centre", "bf16 matrix")


def _ladder(off_chip: pd.DataFrame) -> Text:
    """The median ridge points of the matrix units' floats from wide to narrow, guarded: each above the one before."""
    formats = ("fp32", "tf32", "bf16", "fp8", "fp4")
    matrix = off_chip[(off_chip["path"] == "matrix") & off_chip["precision"].isin(formats)]
    medians = matrix.groupby("precision")["ridge_flop_per_byte"].median()
    present = [name for name in formats if name in medians]
    steps = report.listing(f"{report.intensity(medians[name])} at {name}" for name in present)
    rising = all(medians[a] < medians[b] for a, b in pairwise(present))
    return report.claim(rising, f"on matrix units it is {steps}")


def _floor(off_chip: pd.DataFrame) -> Text:
    """Why single use is memory-bound: adding two fp32 vectors against the lowest fp32 ridge point, guarded."""
    intensity = float(roofline.arithmetic_intensity(1, 3 * PRECISION_BYTES["fp32"]))
    lowest = off_chip[off_chip["precision"] == "fp32"]["ridge_flop_per_byte"].min()
    return report.claim(
        intensity < lowest,
        f"adding two fp32 vectors has an intensity of {report.intensity(intensity)} and the lowest ridge point at fp32 "
        f"is {report.intensity(lowest)}",
    )


def _say_group(known: pd.DataFrame, key: str, group: str, arithmetic_: str = "fp32 vector") -> dict[str, Text]:
    """The extent of one figure's rooflines, in words."""
    part = known[known["segment"].isin(GROUPS[group]) & (known["arithmetic"] == arithmetic_)]
    low, high = (part.loc[part["peak_flop_per_s"].agg(end)] for end in ("idxmin", "idxmax"))
    slow, fast = (part.loc[part["bandwidth_byte_per_s"].agg(end)] for end in ("idxmin", "idxmax"))
    peaks = high["peak_flop_per_s"] / low["peak_flop_per_s"]
    bandwidths = fast["bandwidth_byte_per_s"] / slow["bandwidth_byte_per_s"]
    text = (
        f"At {arithmetic_.replace(' ', ' on ')} units the {report.number(part['chip'].nunique())} chips reach from "
        f"{report.flop_rate(low['peak_flop_per_s'])} ({low['chip']}) to {report.flop_rate(high['peak_flop_per_s'])} "
        f"({high['chip']}), a factor of {report.significant(peaks, 2)}, and from "
        f"{report.bandwidth(slow['bandwidth_byte_per_s'])} ({slow['chip']}) to "
        f"{report.bandwidth(fast['bandwidth_byte_per_s'])} ({fast['chip']}), a factor of "
        f"{report.significant(bandwidths, 2)}"
    )
    return {f"{key}_extent": Text(text), f"alt_{key}": Text(f"Rooflines of chips for {group}, log-log. {text}.")}


def _say_history(history_: pd.DataFrame) -> dict[str, Text]:
    values = {}
    for key, column, name in (
        ("balance", "balance_flop_per_byte", "balance"),
        ("efficiency", "flop_per_s_per_watt", "FLOP/s per watt"),
    ):
        sentences = []
        for format_ in FORMATS:
            found = trend(history_, column, format_)
            unit = "vector units at fp32" if format_ == "fp32 vector" else "matrix units at 16 bits"
            sentences.append(trend_sentence(f"the {name} of {unit}", found))
        values[f"{key}_trends"] = report.listing(sentences)
        values[f"alt_{key}"] = Text(
            f"{_capital(name)} of each chip over its year of launch, in two panels: {report.listing(sentences)}."
        )
    gpu = history_[(history_["kind"] == "GPU") & (history_["format"] == "16-bit matrix")]
    values["gpu_efficiency_trend"] = trend_sentence(
        "the FLOP/s per watt of the GPUs alone, on matrix units at 16 bits,",
        trend(gpu, "flop_per_s_per_watt", "16-bit matrix"),
    )
    return values


def trend_lines(history_: pd.DataFrame, column: str) -> pd.DataFrame:
    """The trend lines that a figure of `history` may draw: those whose interval does not hold zero."""
    lines = []
    for format_ in FORMATS:
        found = trend(history_, column, format_)
        if found.per_year.low > 0 or found.per_year.high < 0:
            lines.append(found.line)
    return pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(columns=["year", column, "format"])


def _say_kinds(kinds: pd.DataFrame) -> dict[str, Text]:
    cpu, gpu, asic, soc = (kinds.loc[kind] for kind in ("CPU", "GPU", "ASIC", "SoC"))
    fp32, half = "peak_flop_per_s fp32 vector", "peak_flop_per_s 16-bit matrix"
    balance = "balance_flop_per_byte fp32 vector"
    efficiency = "flop_per_s_per_watt fp32 vector"
    return {
        "gpu_cpu_peak": _ratio("peak at fp32", "GPU", gpu[fp32], "CPU", cpu[fp32]),
        "gpu_cpu_bandwidth": _ratio(
            "bandwidth", "GPU", gpu["bandwidth_byte_per_s"], "CPU", cpu["bandwidth_byte_per_s"]
        ),
        "gpu_cpu_efficiency": _ratio("FLOP/s per watt at fp32", "GPU", gpu[efficiency], "CPU", cpu[efficiency]),
        "gpu_cpu_balance": _alike("balance at fp32", "GPU", gpu[balance], "CPU", cpu[balance]),
        "asic_gpu_half": _ratio("16-bit matrix peak", "ASIC", asic[half], "GPU", gpu[half]),
        "asic_gpu_balance": _alike(
            "balance there",
            "ASIC",
            asic["balance_flop_per_byte 16-bit matrix"],
            "GPU",
            gpu["balance_flop_per_byte 16-bit matrix"],
        ),
        "soc_cpu_bandwidth_capital": _capital(
            _ratio("bandwidth", "SoC", soc["bandwidth_byte_per_s"], "CPU", cpu["bandwidth_byte_per_s"])
        ),
        "soc_cpu_balance": _alike("balance at fp32", "SoC", soc[balance], "CPU", cpu[balance]),
        "gpu_matrix_gain": Text(
            f"{report.times(gpu[half] / gpu[fp32])} its fp32 vector rate"
            if gpu[half] > gpu[fp32]
            else f"no more than its fp32 vector rate ({report.times(gpu[half] / gpu[fp32])})"
        ),
    }


def _capital(text: str) -> Text:
    return Text(text[0].upper() + text[1:])


ALIKE = 1.25
"""Medians within this ratio are called alike: the table's choice of chips moves a median by about as much."""


def _ratio(quantity: str, left: str, left_value: float, right: str, right_value: float) -> Text:
    """How the median of one kind compares with another's, in words that follow the numbers."""
    ratio = left_value / right_value
    if 1 / ALIKE < ratio < ALIKE:
        return Text(f"the median {left} has about the same {quantity} as the median {right} ({report.times(ratio)})")
    if ratio > 1:
        return Text(f"the median {left} has {report.times(ratio)} the {quantity} of the median {right}")
    return Text(f"the median {left} has {report.percent(ratio)} of the {quantity} of the median {right}")


def _alike(quantity: str, left: str, left_value: float, right: str, right_value: float) -> Text:
    """Whether two kinds' medians differ, with both numbers."""
    ratio = left_value / right_value
    word = "alike" if 1 / ALIKE < ratio < ALIKE else "higher" if ratio > 1 else "lower"
    numbers = f"{report.intensity(left_value)} against {report.intensity(right_value)}"
    if word == "alike":
        return Text(f"their {quantity} is alike: {numbers}")
    return Text(f"the {quantity} of the {left} is {word} than that of the {right}: {numbers}")
