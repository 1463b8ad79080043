"""The chip table's invariants, peaks computed by hand, and the slips that the checker must catch."""

import csv
import io
import json
import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src import chips, references
from src.schema import CHIP_LEVEL, CHIPS, CHIPS_PATH, REFERENCES_PATH, SchemaError

TABLE = chips.rows()
RAW = list(csv.DictReader(CHIPS_PATH.open(encoding="utf-8", newline="")))


def label(row):
    return "-".join(str(row[name]) for name in CHIPS.key if row[name])


def row_of(chip, precision, path, accumulator=None):
    found = [row for row in TABLE if (row["chip"], row["precision"], row["path"]) == (chip, precision, path)]
    found = [row for row in found if accumulator in (None, row["accumulator"])]
    assert len(found) == 1, f"no single row {chip} {precision} {path} {accumulator}"
    return found[0]


# What the table holds.


def test_the_table_is_as_large_and_as_wide_as_the_book_promises():
    assert len(chips.names(TABLE)) >= 60
    assert {row["kind"] for row in TABLE} == {"CPU", "GPU", "ASIC", "SoC"}
    vendors = {row["vendor"] for row in TABLE if row["kind"] == "GPU" and row["segment"] == "data centre"}
    assert len(vendors) >= 3


@pytest.mark.parametrize("row", TABLE, ids=label)
def test_every_row_can_be_derived_or_says_why_not(row):
    if row["derived_peak_flop_per_s"] is not None:
        assert row["derived_peak_flop_per_s"] == row["units"] * row["flop_per_cycle_per_unit"] * row["clock_hz"]
        close = math.isclose(row["peak_flop_per_s"], row["derived_peak_flop_per_s"], rel_tol=chips.TOLERANCE)
        assert close or row["peak_note"]
    else:
        assert row["stated_peak"], "a peak that can't be derived must be quoted"
    if row["bandwidth_byte_per_s"] is not None:
        assert row["ridge_flop_per_byte"] == row["peak_flop_per_s"] / row["bandwidth_byte_per_s"]
        assert row["memory_source"] and row["memory_class"]
    if row["flop_per_s_per_watt"] is not None:
        assert row["flop_per_s_per_watt"] == row["peak_flop_per_s"] / row["power_w"]
        assert "measured" not in row["power_kind"] and "typical" not in row["power_kind"]


@pytest.mark.parametrize("key", sorted({row[c] for row in TABLE for c in chips.SOURCES} - {None}))
def test_every_source_can_be_found_again(key):
    assert references.missing(references.load()[key]) == []


# Peaks and bandwidths computed by hand from the architectures' manuals: units x FLOP per cycle and unit x clock.
@pytest.mark.parametrize(
    ("chip", "precision", "path", "accumulator", "expected"),
    [
        ("NVIDIA A100 SXM4 40GB", "fp32", "vector", None, 108 * 64 * 2 * 1.41e9),  # 64 cores, 2 FLOP each
        ("NVIDIA A100 SXM4 80GB", "bf16", "matrix", None, 108 * 4 * 256 * 2 * 1.41e9),  # 4 tensor cores of 256 FMA
        ("NVIDIA H100 SXM5 80GB", "fp8", "matrix", None, 132 * 4 * 1024 * 2 * 1.83e9),
        ("NVIDIA H200 SXM 141GB", "fp64", "vector", None, 132 * 64 * 2 * 1.98e9),
        ("NVIDIA T4", "fp16", "matrix", None, 40 * 8 * 64 * 2 * 1.59e9),  # 8 tensor cores of 64 FMA
        ("NVIDIA Tesla K80 (board)", "fp32", "vector", None, 2 * 13 * 192 * 2 * 0.875e9),  # two GPUs
        ("NVIDIA Tesla K80 (one of its 2 GPUs)", "fp32", "vector", None, 13 * 192 * 2 * 0.875e9),
        ("NVIDIA GeForce RTX 4090", "fp16", "matrix", "fp16", 128 * 4 * 128 * 2 * 2.52e9),
        ("NVIDIA GeForce RTX 4090", "fp16", "matrix", "fp32", 128 * 4 * 64 * 2 * 2.52e9),  # half rate
        ("AMD Instinct MI300X", "fp16", "matrix", None, 304 * 4 * 256 * 2 * 2.1e9),
        ("AMD EPYC 9654", "fp32", "vector", None, 96 * 2 * 8 * 2 * 2.4e9),  # two 256-bit FMA pipes
        ("Intel Xeon Platinum 8480+", "fp32", "vector", None, 56 * 2 * 16 * 2 * 2.0e9),  # two 512-bit FMA pipes
        ("Intel Xeon Platinum 8480+", "bf16", "matrix", None, 56 * 16 * 32 * 2 * 2.0e9),  # AMX: 16 x 32 FMA
        ("Google TPU v5e", "bf16", "matrix", None, 4 * 128 * 128 * 2 * 1.5e9),  # four 128 x 128 arrays
        ("AWS Graviton3", "fp32", "vector", None, 64 * 2 * 8 * 2 * 2.6e9),  # two 256-bit SVE pipes
    ],
)
def test_peaks_by_hand(chip, precision, path, accumulator, expected):
    row = row_of(chip, precision, path, accumulator)
    assert row["peak_flop_per_s"] == pytest.approx(expected, rel=chips.TOLERANCE)
    assert row["derived_peak_flop_per_s"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("chip", "expected"),
    [
        ("AMD EPYC 9654", 12 * 64 / 8 * 4.8e9),  # twelve channels of DDR5-4800: 460.8 GB/s
        ("NVIDIA A100 SXM4 80GB", 5 * 1024 / 8 * 3.186e9),  # five HBM2e stacks: 2039 GB/s
        ("NVIDIA T4", 256 / 8 * 10e9),  # 256-bit GDDR6 at 10 GT/s: 320 GB/s
        ("NVIDIA Tesla K80 (one of its 2 GPUs)", 384 / 8 * 5e9),  # 384-bit GDDR5 at 5 GT/s: 240 GB/s
        ("NVIDIA Jetson AGX Orin 64GB", 256 / 8 * 6.4e9),  # 256-bit LPDDR5-6400: 204.8 GB/s
    ],
)
def test_bandwidths_by_hand(chip, expected):
    assert chips.find(chip, TABLE)[0]["bandwidth_byte_per_s"] == pytest.approx(expected, rel=chips.TOLERANCE)


def test_a_board_is_the_sum_of_its_gpus():
    board = row_of("NVIDIA Tesla K80 (board)", "fp32", "vector")
    gpu = row_of("NVIDIA Tesla K80 (one of its 2 GPUs)", "fp32", "vector")
    assert (board["scope"], gpu["scope"]) == ("board", "die")
    assert board["bandwidth_byte_per_s"] == 2 * gpu["bandwidth_byte_per_s"]
    assert board["peak_flop_per_s"] == pytest.approx(2 * gpu["peak_flop_per_s"], rel=0.005)


# Slips: each changes cells of one row (or chip) of the real table and must be refused for the stated reason.

H200 = ("NVIDIA H200 SXM 141GB", "bf16", "matrix", "")
H100 = ("NVIDIA H100 SXM5 80GB", "bf16", "matrix", "")
RTX = ("NVIDIA GeForce RTX 4090", "fp16", "matrix", "fp32")
EPYC = ("AMD EPYC 9654", "fp32", "vector", "")
A100 = ("NVIDIA A100 SXM4 40GB", "fp32", "vector", "")
ORIN = ("NVIDIA Jetson AGX Orin 64GB", "int8", "matrix", "")
K80 = ("NVIDIA Tesla K80 (board)", "fp32", "vector", "")
V100 = ("NVIDIA Tesla V100 SXM2 16GB", "fp16", "matrix", "")


def written(tmp_path, records, header=None):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, header or CHIPS.names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(records)
    path = tmp_path / "chips.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    return path


def mutated(tmp_path, key, **cells):
    """The table with cells of one row replaced (chip-level ones in every row of its chip), and that row's line."""
    records = [dict(row) for row in RAW]
    line = next(i for i, row in enumerate(records) if tuple(row[name] for name in CHIPS.key) == key)
    for row in records:
        if row["chip"] == key[0]:
            row.update({name: value for name, value in cells.items() if name in CHIP_LEVEL})
    records[line].update(cells)
    return written(tmp_path, records), line + 2


SLIPS = {
    "sparse rate printed as dense": (H200, {"peak_flop_per_s": "1979e12"}, "peak_flop_per_s", "a sparse rate"),
    "sparse rate without factors": (
        H200,
        {"peak_flop_per_s": "1979e12", "units": "", "flop_per_cycle_per_unit": "", "clock_hz": ""},
        "peak_flop_per_s",
        "must be the dense rate",
    ),
    "a note does not excuse a factor of two": (
        H200, {"peak_flop_per_s": "1979e12", "peak_note": "as printed"}, "peak_flop_per_s", "no note explains so much"),
    "accumulator not named on GeForce": (RTX, {"accumulator": ""}, "accumulator", "must be named"),
    "full rate for fp32 accumulation": (
        RTX, {"peak_flop_per_s": "400e12", "peak_note": "x"}, "peak_flop_per_s", "fp16 accumulation"),
    "matrix rate below the vector rate": (V100, {"peak_flop_per_s": "30e12"}, "peak_flop_per_s",
        "below the vector rate"),
    "vector rate under a precision of the matrix unit": (
        ("NVIDIA Tesla V100 SXM2 16GB", "fp32", "vector", ""), {"path": "matrix"}, "precision",
        "matrix units of Volta"),
    "board peak for one GPU": (
        ("NVIDIA Tesla K80 (one of its 2 GPUs)", "fp32", "vector", ""),
        {"peak_flop_per_s": "8.74e12"}, "peak_flop_per_s", "two parts for one"),
    "bandwidth of one GPU for the board": (
        K80, {"bandwidth_byte_per_s": "240e9"}, "bandwidth_byte_per_s", "one part of two"),
    "multi-part product without a note": (K80, {"note": ""}, "note", "must say what the numbers count"),
    "base clock with a boost peak": (A100, {"clock_hz": "1.095e9"}, "peak_flop_per_s", "times units"),
    "two boost clocks in one chip": (
        A100, {"clock_hz": "1.095e9", "peak_flop_per_s": "15.14e12", "stated_peak": ""}, "clock_hz",
        "the same in every row"),
    "form not named": (H100, {"chip": "NVIDIA H100 80GB"}, "chip", "must name its form"),
    "80 GB of memory for the 40 GB part": (
        A100, {"memory_capacity_byte": "80e9"}, "memory_capacity_byte", "the 40 GB that the chip's name says"),
    "figure from before the launch": (
        H100, {"peak_flop_per_s": "1000e12", "units": "", "flop_per_cycle_per_unit": "", "clock_hz": "",
               "stated_peak": "1,600 TFLOPS with sparsity (preliminary)"}, "peak_flop_per_s", "must be the dense rate"),
    "SRAM bandwidth as DRAM": (EPYC, {"bandwidth_byte_per_s": "80e12"}, "bandwidth_byte_per_s", "must lie between"),
    "SRAM class for DRAM": (EPYC, {"memory_class": "SRAM"}, "memory_class", "must be DRAM for DDR5-4800"),
    "GiB for GB": (EPYC, {"bandwidth_byte_per_s": "494.8e9"}, "bandwidth_byte_per_s", "GiB for GB"),
    "bits for bytes": (EPYC, {"bandwidth_byte_per_s": "3686.4e9"}, "bandwidth_byte_per_s", "bits for bytes"),
    "TB for GB": (EPYC, {"bandwidth_byte_per_s": "460.8e12"}, "bandwidth_byte_per_s", "a unit prefix"),
    "MB for GB": (EPYC, {"bandwidth_byte_per_s": "460.8e6"}, "bandwidth_byte_per_s", "must lie between"),
    "power without its meaning": (EPYC, {"power_kind": ""}, "power_kind", "must be given with power_w"),
    "power of no stated kind": (EPYC, {"power_kind": "watts"}, "power_kind", "limit"),
    "TOPS with no precision": (
        ("NVIDIA Jetson AGX Orin 64GB", "fp16", "matrix", ""), {"stated_peak": "42.6 TOPS"}, "stated_peak",
        "no precision"),
    "TOPS summed over engines": (ORIN, {"peak_flop_per_s": "137.5e12"}, "peak_flop_per_s", "times units"),
    "engines summed by name": (ORIN, {"unit_name": "GPU SM + DLA"}, "unit_name", "the one engine"),
    "precision that the chip lacks": (
        ("NVIDIA A100 SXM4 40GB", "bf16", "matrix", ""), {"precision": "fp8"}, "precision",
        "matrix units of Ampere have"),
    "vector width assumed": (
        EPYC, {"flop_per_cycle_per_unit": "64", "peak_flop_per_s": "14.7456e12"},
        "flop_per_cycle_per_unit", "must be 32 for a Zen 4 core"),
    "MHz for MT/s": (EPYC, {"memory_transfer_per_s": "2.4e9"}, "memory_transfer_per_s", "4800 MT/s"),
    "MHz for MT/s in an unnamed grade": (
        K80, {"memory_transfer_per_s": "2.5e9"}, "memory_transfer_per_s", "MHz for MT/s"),
    "multiply-adds for FLOP": (EPYC, {"peak_flop_per_s": "3.6864e12"}, "peak_flop_per_s", "multiply-adds"),
    "narrow float slower than a wide one": (
        ("NVIDIA H200 SXM 141GB", "fp8", "matrix", ""),
        {"peak_flop_per_s": "900e12", "flop_per_cycle_per_unit": "", "stated_peak": "900 TFLOPS"},
        "peak_flop_per_s", "must not be slower than bf16"),
    "source not in the bibliography": (EPYC, {"compute_source": "amd-epyc-9654-produkt"}, "compute_source",
        "product meant?"),
    "broken pattern": (EPYC, {"system_match": "EPYC ("}, "system_match", "regular expression"),
    "memory of no known generation": (EPYC, {"memory_type": "fast memory"}, "memory_type", "must begin with one of"),
    "bandwidth without a source": (EPYC, {"memory_source": ""}, "memory_source", "must not be empty"),
    "an underived peak that quotes nothing": (
        EPYC, {"units": ""}, "stated_peak", "must quote the source's figure"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_the_checker_catches(tmp_path, slip):
    key, cells, column, reason = SLIPS[slip]
    path, line = mutated(tmp_path, key, **cells)
    with pytest.raises(SchemaError) as caught:
        chips.rows(path)
    faults = [fault for fault in caught.value.faults if fault.column == column and reason in fault.rule]
    assert line in [fault.line for fault in faults], str(caught.value)


def test_chip_level_columns_must_agree(tmp_path):
    records = [dict(row) for row in RAW]
    line = next(i for i, row in enumerate(records) if row["chip"] == H200[0] and row["precision"] == "bf16")
    records[line]["power_w"] = "600"
    with pytest.raises(SchemaError, match=f":{line + 2}: column 'power_w': '600': must be the same in every row"):
        chips.rows(written(tmp_path, records))


def test_two_chips_must_not_answer_to_one_name(tmp_path):
    pattern = next(row["system_match"] for row in RAW if row["chip"] == H100[0])
    path, _ = mutated(tmp_path, H200, system_match=pattern)
    with pytest.raises(SchemaError, match="is that of 'NVIDIA H100 SXM5 80GB' as well"):
        chips.rows(path)


def test_one_chip_must_not_have_two_spellings(tmp_path):
    path, _ = mutated(tmp_path, H200, chip="NVIDIA H200  SXM-141GB")
    with pytest.raises(SchemaError, match="is another spelling of"):
        chips.rows(path)


def test_faults_of_table_and_bibliography_are_listed_together(tmp_path):
    table, line = mutated(tmp_path, EPYC, peak_flop_per_s="14.7e12", power_kind="watts")
    text = REFERENCES_PATH.read_text(encoding="utf-8")
    entry = references.load()[row_of(*EPYC[:3])["compute_source"]]
    lines = text.splitlines()
    start = int(entry["line"]) - 1
    end = next(i for i in range(start, len(lines)) if lines[i] == "}")
    lines[start:end] = [text for text in lines[start:end] if "urldate" not in text]
    bibliography = tmp_path / "references.bib"
    bibliography.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SchemaError) as caught:
        chips.rows(table, bibliography)
    found = {(fault.line, fault.column) for fault in caught.value.faults}
    assert {(line, "peak_flop_per_s"), (line, "power_kind"), (start + 1, "")} <= found
    assert "lacks a urldate" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,979 TFLOPS (with sparsity)", [989.5e12]),  # half of the only figure
        ("312/624 TFLOPS, second figure with sparsity", [312e12]),
        ("36 PFLOPS for 8 GPUs, with sparsity", [2.25e15]),  # 36e15 / 8 / 2
        ("296 TFLOPS for 8 GPUs", [37e12]),
        ("1.4 petaFLOPS FP16.16 AI compute (four Bow IPUs)", [350e12, 4.04e15]),  # 1.4e15 / 4; 16.16 is a name
        ("82.6", [82.6e12]),  # tables that give the unit in the heading
        ("2.91 Tflops (GPU Boost Clocks)", [2.91e12]),
        ("4.7 TeraFLOPS", [4.7e12]),
        ("472 GFLOPS", [472e9]),
        ("130 TOPS", [130e12]),
        ("a lot", []),
    ],
)
def test_what_a_printed_figure_means(text, expected):
    assert chips.stated_rates(text) == pytest.approx(expected)


# Mutated tables: whatever is done to the file, the answer is a SchemaError that names the place.

# A sample of the table keeps each example fast; it holds rows of every kind.
SAMPLE = random.Random(0).sample(range(len(RAW)), 12)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REQUIRED = [column.name for column in CHIPS.columns if column.required]
NUMBERS = [column.name for column in CHIPS.columns if column.type is not str]


def sample_rows():
    kept = {RAW[i]["chip"] for i in SAMPLE}
    return [dict(row) for row in RAW if row["chip"] in kept]


def refused(path):
    with pytest.raises(SchemaError) as caught:
        chips.rows(path)
    assert all(fault.file and fault.line >= 1 and fault.rule for fault in caught.value.faults)
    return {(fault.line, fault.column) for fault in caught.value.faults}


def test_the_unmutated_sample_is_accepted(tmp_path):
    assert chips.rows(written(tmp_path, sample_rows()))


@FUZZ
@given(column=st.sampled_from(CHIPS.names))
def test_a_dropped_column(tmp_path, column):
    header = [name for name in CHIPS.names if name != column]
    assert refused(written(tmp_path, sample_rows(), header)) == {(1, column)}


@FUZZ
@given(
    index=st.integers(0, 11),
    column=st.sampled_from(NUMBERS),
    text=st.text(
        st.characters(codec="utf-8", exclude_categories=["Nd", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8
    ),
)
def test_text_for_a_number(tmp_path, index, column, text):
    records = sample_rows()
    records[index][column] = text
    assert (index + 2, column) in refused(written(tmp_path, records))


@FUZZ
@given(index=st.integers(0, 11), column=st.sampled_from(REQUIRED))
def test_an_emptied_cell(tmp_path, index, column):
    records = sample_rows()
    records[index][column] = " "
    assert (index + 2, column) in refused(written(tmp_path, records))


@FUZZ
@given(
    index=st.integers(0, 11),
    column=st.sampled_from([column.name for column in CHIPS.columns if column.allowed]),
    text=st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=6, max_size=12),
)
def test_a_value_that_is_not_allowed(tmp_path, index, column, text):
    records = sample_rows()
    records[index][column] = text
    assert (index + 2, column) in refused(written(tmp_path, records))


@FUZZ
@given(index=st.integers(0, 11), at=st.integers(12, 20))
def test_a_repeated_row(tmp_path, index, at):
    records = sample_rows()
    at = min(at, len(records))
    records.insert(at, dict(records[index]))
    assert (at + 2, ", ".join(CHIPS.key)) in refused(written(tmp_path, records))


@FUZZ
@given(
    index=st.integers(0, 11),
    column=st.sampled_from(["compute_source", "memory_source"]),
    key=st.from_regex("[a-z0-9-]{0,20}", fullmatch=True),
)
def test_an_absent_source(tmp_path, index, column, key):
    records = sample_rows()
    records[index][column] = f"no-such-{key}"
    assert (index + 2, column) in refused(written(tmp_path, records))


@FUZZ
@given(index=st.integers(0, 11), extra=st.integers(-20, 5).filter(bool))
def test_a_ragged_line(tmp_path, index, extra):
    path = written(tmp_path, sample_rows())
    lines = list(csv.reader(path.open(encoding="utf-8", newline="")))
    lines[index + 1] = lines[index + 1][:extra] if extra < 0 else lines[index + 1] + ["x"] * extra
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    assert (index + 2, "") in refused(path)


@FUZZ
@given(index=st.integers(0, 11), byte=st.sampled_from([b"\xff", b"\xc3\x28", b"\x00", b'"', b"\r", b"\x0c", b"\x1b"]))
def test_a_broken_byte(tmp_path, index, byte):
    path = written(tmp_path, sample_rows())
    lines = path.read_bytes().split(b"\n")
    lines[index + 1] = byte + lines[index + 1] if byte == b'"' else lines[index + 1][:3] + byte + lines[index + 1][3:]
    path.write_bytes(b"\n".join(lines))
    assert min(line for line, _ in refused(path)) <= index + 2


@FUZZ
@given(st.binary(max_size=200), st.integers(0, 5000), st.integers(0, 60))
def test_any_bytes_anywhere(tmp_path, inserted, at, removed):
    path = written(tmp_path, sample_rows())
    data = path.read_bytes()
    path.write_bytes(data[:at] + inserted + data[at + removed :])
    try:
        chips.rows(path)
    except SchemaError as error:
        assert error.faults


# Looking chips up.


@pytest.mark.parametrize(
    ("system_name", "chip"),
    [
        ("NVIDIA H200", "NVIDIA H200 SXM 141GB"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 SXM4 40GB"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 SXM4 80GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5 80GB"),
        ("Tesla T4", "NVIDIA T4"),
        ("Tesla V100-SXM2-16GB", "NVIDIA Tesla V100 SXM2 16GB"),
        ("Tesla K80", "NVIDIA Tesla K80 (one of its 2 GPUs)"),
        ("AMD EPYC 9654 96-Core Processor", "AMD EPYC 9654"),
        ("AuthenticAMD family 25 model 17", "AMD EPYC 9654"),
        ("Intel(R) Xeon(R) Platinum 8480+", "Intel Xeon Platinum 8480+"),
        ("a toaster", None),
        ("", None),
    ],
)
def test_match(system_name, chip):
    assert chips.match(system_name, TABLE) == chip


def test_every_chip_is_found_by_its_own_name():
    for name in chips.names(TABLE):
        assert {row["chip"] for row in chips.find(name, TABLE)} == {name}
        assert {row["chip"] for row in chips.find(name.upper(), TABLE)} == {name}


def test_find_takes_words_that_only_one_chip_has():
    assert chips.find("h200", TABLE)[0]["chip"] == "NVIDIA H200 SXM 141GB"
    assert chips.find("epyc 9654", TABLE)[0]["chip"] == "AMD EPYC 9654"


def test_an_ambiguous_name_lists_its_candidates():
    with pytest.raises(chips.UnknownChipError) as caught:
        chips.find("V100", TABLE)
    assert "NVIDIA Tesla V100 SXM2 16GB" in caught.value.suggestions
    assert all("V100" in name for name in caught.value.suggestions)


@pytest.mark.parametrize("name", ["A10O SXM4 40GB", "EPIC 9654", "Xeon Platinum 8490+"])
def test_an_unknown_name_suggests_the_nearest(name):
    with pytest.raises(chips.UnknownChipError) as caught:
        chips.find(name, TABLE)
    nearest = {"A10O SXM4 40GB": "NVIDIA A100 SXM4 40GB", "EPIC 9654": "AMD EPYC 9654",
               "Xeon Platinum 8490+": "Intel Xeon Platinum 8480+"}  # fmt: skip
    assert nearest[name] in caught.value.suggestions


@given(st.text(max_size=30))
def test_find_never_raises_anything_else(name):
    try:
        assert chips.find(name, TABLE)
    except chips.UnknownChipError as error:
        assert error.name == name


def test_machine_peak_scales_the_core():
    row = row_of("AMD EPYC 9654", "fp32", "vector")
    assert chips.machine_peak(row, cores=2) == 2 * 32 * 2.4e9
    assert chips.machine_peak(row, cores=4, clock_hz=3.7e9) == 4 * 32 * 3.7e9
    with pytest.raises(ValueError, match="cores must be positive"):
        chips.machine_peak(row, cores=0)
    with pytest.raises(ValueError, match="not known"):
        chips.machine_peak(row_of("NVIDIA A100 SXM4 40GB", "fp32", "vector"), cores=2)


def test_load_gives_numbers_and_derived_columns():
    frame = chips.load()
    assert list(frame.columns) == [*CHIPS.names, *chips.DERIVED]
    assert len(frame) == len(TABLE)
    assert frame["peak_flop_per_s"].dtype == float and frame["ridge_flop_per_byte"].dtype == float


def test_a_missing_file_stays_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        chips.rows(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError):
        chips.rows(CHIPS_PATH, tmp_path / "none.bib")


# The command line.


def test_one_chip_shows_peak_bandwidth_ridge_derivation_and_source(capsys):
    assert chips.main(["H200", "--precision", "bf16"]) == 0
    shown = capsys.readouterr().out
    for part in ("4.80 TB/s", "132 SM x 4096 FLOP/cycle x 1.83 GHz", "ridge", "FLOP/byte", "https://", "seen 20"):
        assert part in shown
    assert "fp8" not in shown


def test_machine_readable_forms_agree(capsys):
    assert chips.main(["T4", "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert chips.main(["T4", "--csv"]) == 0
    as_csv = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["peak_flop_per_s"] for row in as_json] == [float(row["peak_flop_per_s"]) for row in as_csv]
    assert {row["chip"] for row in as_csv} == {"NVIDIA T4"}


def test_the_table_is_listed(capsys):
    assert chips.main(["--kind", "SoC"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + sum(row["kind"] == "SoC" for row in TABLE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["H300"], "no chip is called 'H300'"),
        (["V100"], "could be any of"),
        (["NVIDIA", "T4", "--precision", "fp8"], "no such row of this chip; its precisions are fp16"),
        (["T4", "--kind", "CPU"], "no such row"),
        (["--kind", "CPU", "--segment", "edge", "--precision", "fp4"], "no row of the table"),
        (["--precision", "fp7"], "invalid choice: 'fp7'"),
        (["--json", "--csv"], "not allowed with"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_exit_2_with_a_sentence(capsys, arguments, sentence):
    try:
        status = chips.main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.out == ""


def test_a_faulty_table_exits_1_and_lists_its_faults(capsys, tmp_path):
    path, line = mutated(tmp_path, EPYC, power_kind="watts")
    assert chips.main(["--table", str(path)]) == 1
    assert f":{line}: column 'power_kind': 'watts'" in capsys.readouterr().err
    assert chips.main(["--table", str(tmp_path / "none.csv")]) == 1
