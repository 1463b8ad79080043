"""What the appendix on chips shows: every derivation with its sources, and what to know of single chips."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pandas as pd

from src import report
from src.findings.chips import citations
from src.report import Text


def say(table: pd.DataFrame) -> SimpleNamespace:
    """The values that the appendix quotes."""
    per_chip = table.drop_duplicates("chip")
    without = per_chip[per_chip["bandwidth_byte_per_s"].isna()]
    cores = without[without["scope"] == "core"]["chip"]
    others = without[without["scope"] != "core"]["chip"]
    sentences = []
    if len(cores):
        sentences.append(
            f"{report.listing(cores)} are one core each of a cloud machine, to be multiplied by the cores that the "
            "machine shows; the bandwidth of such a share is not published."
        )
    if len(others):
        sentences.append(f"No trustworthy memory bandwidth was found for {report.listing(others)}.")
    return SimpleNamespace(missing=Text(" ".join(sentences) or "Every chip has a bandwidth."))


def peaks(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Every peak of a kind with its derivation and citation; precisions with equal factors share a row.

    A chip's name and sources stand in the first row that they hold for.
    """
    own = table[table["kind"] == kind]
    columns = ["chip", "path", "accumulator", "peak_flop_per_s", "units", "flop_per_cycle_per_unit", "clock_hz",
               "clock", "compute_source", "flop_per_cycle_source"]  # fmt: skip
    rows, last, last_keys = [], None, ""
    for values, group in own.groupby(columns, dropna=False, sort=False):
        row = dict(zip(columns, values, strict=True))
        first = next(group.itertuples(index=False))
        keys = citations(row["compute_source"], row["flop_per_cycle_source"])
        precisions = ", ".join(group["precision"]) + f" {first.path}"
        precisions += f" ({first.accumulator} acc.)" if isinstance(first.accumulator, str) and first.accumulator else ""
        rows.append(
            {
                "Chip": first.chip if first.chip != last else "",
                "Arithmetic": precisions,
                "Peak": str(report.flop_rate(first.peak_flop_per_s, first.precision)),
                "Derivation": _factors(first),
                "Source": f"[{keys}]" if (first.chip, keys) != (last, last_keys) else "",
            }
        )
        last, last_keys = first.chip, keys
    return pd.DataFrame(rows)


def _factors(row) -> str:
    if math.isnan(row.derived_peak_flop_per_s):
        return f"as printed ({row.clock} clock)" if row.clock != "unspecified" else "as printed"
    return f"{row.units:g} {row.unit_name} × {row.flop_per_cycle_per_unit:g} × {row.clock_hz / 1e9:.4g} GHz {row.clock}"


def memory(table: pd.DataFrame, kind: str) -> pd.DataFrame:
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
        keys = citations(row.memory_source if known else None, row.power_source)
        rows.append(
            {
                "Chip": row.chip,
                "Year": str(row.year),
                "Scope": row.scope,
                "Memory": f"{row.memory_type}, {bandwidth}" if known else "–",
                "Derivation": factors,
                "Power": power,
                "Source": f"[{keys}]" if keys else "–",
            }
        )
    return pd.DataFrame(rows)


def notes(table: pd.DataFrame) -> pd.DataFrame:
    """What a reader must know of each chip: where a figure departs from its derivation, and what it counts."""
    rows = []
    for chip, group in table.groupby("chip", sort=False):
        texts = [
            text for column in ("peak_note", "memory_note", "note") for text in group[column].dropna().unique() if text
        ]
        if texts:
            # Notes of several precisions share sentences.
            rows.append({"Chip": chip, "Note": " ".join(dict.fromkeys(s for text in texts for s in _sentences(text)))})
    return pd.DataFrame(rows)


def _sentences(text: str) -> list[str]:
    """A note's sentences, each closed with a full stop."""
    text = text if text.endswith((".", "!", "?")) else text + "."
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)
