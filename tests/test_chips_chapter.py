"""What the chapter on chips computes, draws and says follows its data, also where the data say otherwise."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src import book, chips, labels, references, report, theme
from src.figures import chips as figures
from src.findings import chip_table
from src.findings import chips as findings
from src.schema import CHIP_KINDS

TABLE = chips.load()
SOURCES = references.load()
ROOFS = findings.roofs(TABLE, SOURCES)
HISTORY = findings.history(TABLE)


@pytest.mark.parametrize(
    ("chip", "label"),
    [
        ("NVIDIA H100 SXM5 80GB", "H100 SXM5"),
        ("NVIDIA Tesla K80 (one of its 2 GPUs)", "K80 (1 GPU)"),
        ("Apple M1 (8-core GPU)", "M1"),
        ("Intel Core Ultra 7 258V (NPU)", "Ultra 7 258V (NPU)"),
        ("Google TPU v7 (Ironwood, TPU7x)", "TPU v7"),
    ],
)
def test_short_names(chip, label):
    assert findings.short_name(chip) == label


def test_chips_that_share_a_point_share_the_words_they_begin_with():
    assert findings.common_name(["NVIDIA Tesla V100 SXM2 16GB", "NVIDIA Tesla V100 SXM2 32GB"]) == "V100 SXM2"
    assert findings.common_name(["NVIDIA A100 SXM4 40GB", "NVIDIA A100 PCIe 40GB"]) == "A100"
    assert findings.common_name(["AWS Trainium", "NVIDIA T4"]) == "Trainium"


def test_every_roof_has_one_precision_path_and_memory():
    assert not ROOFS["arithmetic"].isna().any() and not ROOFS["group"].isna().any()
    assert set(ROOFS["chip"]) == set(TABLE.loc[TABLE["bandwidth_byte_per_s"].notna(), "chip"])
    for group in findings.GROUPS:
        assert not findings.in_group(ROOFS, group).empty


def test_roof_lines_are_a_slope_and_a_flat_part():
    part = ROOFS[ROOFS["arithmetic"] == "fp32 vector"].head(3)
    lines = findings.roof_lines(part).sort_values(["roof", "intensity"])
    for roof, line in lines.groupby("roof"):
        row = part[part["roof"] == roof].iloc[0]
        left, ridge, right = line["flop_per_s"]
        assert left == pytest.approx(line["intensity"].iloc[0] * row["bandwidth_byte_per_s"])
        assert ridge == pytest.approx(row["peak_flop_per_s"]) and right == row["peak_flop_per_s"]


# Trends.


def history_of(pairs, kind="GPU"):
    rows = [{"year": year, "v": value, "format": "fp32 vector", "kind": kind} for year, value in pairs]
    return pd.DataFrame(rows)


def test_a_doubling_every_two_years_is_found():
    # v = 2^((year - 2014) / 2): 1, 2, 4, 8, 16, 32, so half a doubling a year.
    data = history_of([(2014 + 2 * i, 2.0**i) for i in range(6)])
    found = findings.trend(data, "v", "fp32 vector")
    assert found.per_year.value == pytest.approx(0.5)
    assert (found.count, found.first, found.last) == (6, 2014, 2024)
    assert findings.trend_sentence("v", found).startswith("v doubled about every 2.0 years")


def test_a_fall_is_called_a_fall():
    found = findings.trend(history_of([(2014 + 2 * i, 0.5**i) for i in range(6)]), "v", "fp32 vector")
    assert findings.trend_sentence("v", found).startswith("v halved about every 2.0 years")


def test_noise_is_called_no_clear_trend_and_is_not_drawn():
    values = [8, 1, 9, 2, 7, 1, 8, 2]
    found = findings.trend(history_of([(2014 + i, v) for i, v in enumerate(values)]), "v", "fp32 vector")
    assert found.per_year.low < 0 < found.per_year.high
    assert "shows no clear trend" in findings.trend_sentence("v", found)


def test_sram_has_no_balance_in_the_history_and_no_place_in_the_medians():
    assert HISTORY.loc[HISTORY["memory_class"] == "SRAM", "balance_flop_per_byte"].isna().all()
    without = TABLE[TABLE["memory_class"] != "SRAM"]
    pd.testing.assert_frame_equal(
        findings.kinds_table(TABLE, HISTORY), findings.kinds_table(without, findings.history(without))
    )


# Sentences.


def test_comparisons_follow_the_numbers():
    assert findings._ratio("peak", "GPU", 8.0, "CPU", 2.0) == "the median GPU has 4.0 times the peak of the median CPU"
    assert "about the same peak" in findings._ratio("peak", "GPU", 2.0, "CPU", 2.2)
    assert (
        findings._ratio("peak", "GPU", 1.0, "CPU", 4.0) == "the median GPU has 25\u00a0% of the peak of the median CPU"
    )
    assert findings._alike("balance", "GPU", 20.0, "CPU", 22.0).startswith("their balance is alike")
    assert " is lower than that of the CPU" in findings._alike("balance", "GPU", 2.0, "CPU", 22.0)


def test_the_chapter_says_otherwise_if_the_table_does():
    slow = TABLE.copy()
    slow.loc[slow["kind"] == "GPU", ["peak_flop_per_s", "bandwidth_byte_per_s"]] /= 100
    said, other = findings.say(TABLE, SOURCES), findings.say(slow, SOURCES)
    assert "times the peak" in said.gpu_cpu_peak
    assert "% of the peak" in other.gpu_cpu_peak


def test_a_ladder_that_does_not_rise_stops_the_render():
    wrong = TABLE.copy()
    wrong.loc[wrong["precision"] == "fp8", "ridge_flop_per_byte"] = 1.0
    with pytest.raises(report.ClaimError, match="the data do not support"):
        findings.say(wrong, SOURCES)


def test_nothing_that_is_said_is_empty_or_nan():
    for name, text in {**vars(findings.say(TABLE, SOURCES)), **vars(chip_table.say(TABLE))}.items():
        assert text.strip(), name
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text), f"{name}: {text}"


@pytest.mark.parametrize("kind", CHIP_KINDS)
def test_the_full_derivation_shows_its_numbers_and_sources(kind):
    row = findings.example(TABLE, kind)
    text = findings.derivation_text(TABLE, kind)
    assert f"{row.units:g}\\," in text and f"{row.flop_per_cycle_per_unit:g}\\," in text
    assert f"{row.memory_channels:g}\\,\\text{{channels}}" in text
    assert f"@{row.compute_source}" in text and f"@{row.memory_source}" in text
    assert f"{{#eq-chips-{kind.lower()}-peak}}" in text


@pytest.mark.parametrize("kind", CHIP_KINDS)
def test_the_appendix_has_every_chip_every_peak_and_only_known_citations(kind):
    own = TABLE[TABLE["kind"] == kind]
    peaks, memory = chip_table.peaks(TABLE, kind), chip_table.memory(TABLE, kind)
    assert set(memory["Chip"]) == set(own["chip"])
    assert sum(len(cell.split(" (")[0].split(",")) for cell in peaks["Arithmetic"]) == len(own)
    cited = set(re.findall(r"@([\w-]+)", " ".join([*peaks["Source"], *memory["Source"]])))
    assert cited <= set(SOURCES)
    assert peaks.loc[peaks["Chip"] != "", "Source"].str.contains("@").all()
    # Read downwards, where an empty cell stands for the one above, every row has the sources of its own peak.
    downwards = peaks["Source"].replace("", None).ffill()
    expected = own.groupby(
        [
            "chip",
            "path",
            "accumulator",
            "peak_flop_per_s",
            "units",
            "flop_per_cycle_per_unit",
            "clock_hz",
            "clock",
            "compute_source",
            "flop_per_cycle_source",
        ],
        dropna=False,
        sort=False,
    )
    assert downwards.tolist() == [f"[{findings.citations(*key[-2:])}]" for key, _ in expected]


def test_notes_repeat_no_sentence():
    for note in chip_table.notes(TABLE)["Note"]:
        found = chip_table._sentences(note)
        assert len(found) == len(set(found)), note


def test_a_long_table_reaches_quarto_finished_and_cites_what_exists(monkeypatch):
    frame = pd.DataFrame({"Chip": ["A | B", "C"], "Source": ["[@williams-2009-roofline]", ""]})
    assert theme.long_table(frame) == theme.table(frame)  # outside of Quarto
    monkeypatch.setattr(theme, "_quarto_target", lambda: "html")
    html = theme.long_table(frame)
    assert html.startswith("```{=html}\n<table data-quarto-disable-processing") and html.count("<tr>") == 3
    assert 'data-cites="williams-2009-roofline"' in html and 'href="#ref-williams-2009-roofline"' in html
    assert "A | B" in html and "csl-entry" not in html
    monkeypatch.setattr(theme, "_quarto_target", lambda: "typst")
    typst = theme.long_table(frame)
    assert "#link(<ref-williams-2009-roofline>)" in typst and typst.count("[A | B]") == 1
    assert typst.rstrip().endswith(")\n```") and "] <ref-" not in typst
    with pytest.raises(book.BookError, match="nobody-1900"):
        theme.long_table(frame.replace("[@williams-2009-roofline]", "[@nobody-1900]"))


# Labels.


POINTS = st.lists(st.tuples(st.floats(1, 1000), st.floats(1, 1000)), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(POINTS)
def test_labels_overlap_neither_each_other_nor_points(points):
    frame = pd.DataFrame(points, columns=["x", "y"])
    frame["chip"] = frame["label"] = [f"chip {i}" for i in range(len(frame))]
    width, height = 300, 200
    placed = labels.positions(frame, "x", "y", x_domain=(1, 1000), y_domain=(1, 1000), width=width, height=height)

    def pixels(values, size):
        return np.log10(values) / 3 * size

    shown = placed.dropna(subset=["label_x"])
    half = [labels._size(text, 10)[0] / 2 for text in shown["label"]]
    centres = list(zip(pixels(shown["label_x"], width), pixels(shown["label_y"], height), half, strict=True))
    for i, (x, y, h) in enumerate(centres):
        for other_x, other_y, other_h in centres[:i]:
            assert abs(x - other_x) >= h + other_h - 0.01 or abs(y - other_y) >= 11.9
        for index, (px, py) in enumerate(zip(pixels(frame["x"], width), pixels(frame["y"], height), strict=True)):
            if (
                index != shown.index[i]
                and (frame.loc[index, ["x", "y"]] != frame.loc[shown.index[i], ["x", "y"]]).any()
            ):
                assert abs(x - px) >= h + 3.9 or abs(y - py) >= 9.9


def test_a_lone_point_gets_its_label():
    frame = pd.DataFrame({"x": [10.0], "y": [10.0], "chip": ["a"], "label": ["a"]})
    placed = labels.positions(frame, "x", "y", x_domain=(1, 100), y_domain=(1, 100), width=300, height=200)
    assert placed["label_x"].notna().all() and placed["leader_x"].isna().all()


# Figures.


def datasets(chart):
    return theme._specification(chart)["datasets"].values()


def test_a_printed_roofline_holds_one_arithmetic():
    group = findings.with_labels(findings.in_group(ROOFS, "data centre"))
    lines = findings.roof_lines(group)
    chart = figures.roofline_static(group, lines, "bf16 matrix")
    assert {row["arithmetic"] for data in datasets(chart) for row in data} == {"bf16 matrix"}


def test_an_interactive_roofline_offers_each_arithmetic_and_hovering_shows_the_source():
    group = findings.with_labels(findings.in_group(ROOFS, "mobile and edge"))
    choices = findings.arithmetic_order(group["arithmetic"])
    specification = json.dumps(
        theme._specification(figures.roofline(group, findings.roof_lines(group), choices[0], choices))
    )
    assert json.dumps(choices) in specification
    for part in ('"source"', '"bind": "legend"', '"bind": "scales"', '"tooltip"'):
        assert part in specification


@pytest.mark.parametrize("column", ["balance_flop_per_byte", "flop_per_s_per_watt"])
def test_the_history_is_drawn(column):
    chart = figures.history(
        findings.with_history_labels(HISTORY, column), findings.trend_lines(HISTORY, column), column, column
    )
    assert "svg" in theme.show(chart).svg


def test_the_other_figures_are_drawn():
    row = findings.example(TABLE, "GPU")
    assert "svg" in theme.show(figures.model(findings.model_roof(row), findings.kernels(row))).svg
    order = findings.arithmetic_order(ROOFS["arithmetic"])
    assert "svg" in theme.show(figures.ridges(findings.ridge_points(ROOFS), order)).svg


def test_the_worked_example_by_hand():
    # bf16 has 2 bytes. Addition: 1 FLOP for 3 x 2 bytes. Product of n = 4096: 2 n^3 FLOP, 3 n^2 x 2 bytes: n / 3.
    work = findings.kernels(findings.example(TABLE, "GPU"))
    assert work["intensity"].tolist() == pytest.approx([1 / 6, 64 / 3, 4096 / 3])
    assert work["bound"].tolist() == ["memory-bound", "memory-bound", "compute-bound"]
