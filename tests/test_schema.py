"""Tables are validated by line and column, and every fault is listed at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import schema
from src.schema import Column, Fault, SchemaError, Table, read_csv

TABLE = Table(
    "fruit",
    (
        Column("name"),
        Column("colour", allowed=("red", "green")),
        Column("year", int, low=2000, high=2100),
        Column("mass_kg", float, "kg", required=False, low=0),
    ),
    key=("name", "colour"),
)
HEADER = "name,colour,year,mass_kg\n"


def faults_of(tmp_path, text, **checks):
    path = tmp_path / "fruit.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SchemaError) as caught:
        read_csv(path, TABLE, **checks)
    return [(fault.line, fault.column) for fault in caught.value.faults], str(caught.value)


def test_values_are_parsed_and_an_empty_optional_cell_is_none(tmp_path):
    path = tmp_path / "fruit.csv"
    path.write_text(HEADER + 'apple,red,2001,1.5e-1\n\n"pear, ripe",green,2002,\n')
    assert read_csv(path, TABLE) == [
        {"name": "apple", "colour": "red", "year": 2001, "mass_kg": 0.15},
        {"name": "pear, ripe", "colour": "green", "year": 2002, "mass_kg": None},
    ]


def test_every_fault_is_listed_at_once(tmp_path):
    text = HEADER + "apple,blue,1999,heavy\n,red,2001,-1\n"
    found, message = faults_of(tmp_path, text)
    assert found == [(2, "colour"), (2, "year"), (2, "mass_kg"), (3, "name"), (3, "mass_kg")]
    assert "fruit.csv:2: column 'colour': 'blue': must be one of red, green" in message
    assert "must lie between 2000 and 2100" in message
    assert "must be a number in kg" in message


@pytest.mark.parametrize("number", ["1_000", "nan", "inf", "Infinity", "1e999", "0x10", "1,5", "١", "--1", "1e", "."])
def test_what_float_would_take_but_no_reader_means(number):
    with pytest.raises(ValueError, match="must be a"):
        TABLE["mass_kg"].parse(number)


@pytest.mark.parametrize("number", ["2001.0", "2e3", "20 01", "9" * 5000])
def test_a_whole_number_is_written_as_one(number):
    with pytest.raises(ValueError, match="must be a whole number"):
        TABLE["year"].parse(number)


@pytest.mark.parametrize("text", ["a\x00b", "a\x0cb", "a\nb", "a\u2028b", "a\u202eb"])
def test_control_characters_are_refused(text):
    with pytest.raises(ValueError, match="control characters"):
        TABLE["name"].parse(text)


def test_a_missing_unknown_or_repeated_column_is_named(tmp_path):
    found, message = faults_of(tmp_path, "name,colour,mass_kg,mass_kg,taste\n")
    assert found == [(1, "year"), (1, "mass_kg"), (1, "taste")]
    assert "column is missing" in message and "column is repeated" in message and "unknown column" in message


def test_an_empty_file_lacks_every_column(tmp_path):
    assert faults_of(tmp_path, "")[0] == [(1, name) for name in TABLE.names]


def test_a_ragged_line_does_not_hide_later_faults(tmp_path):
    found, message = faults_of(tmp_path, HEADER + "apple,red,2001\npear,blue,2001,\n")
    assert found == [(2, ""), (3, "colour")]
    assert "'3 cells': must have 4 cells" in message


def test_a_repeated_key_names_the_first_line(tmp_path):
    found, message = faults_of(tmp_path, HEADER + "apple,red,2001,\napple,green,2001,\napple,red,2002,\n")
    assert found == [(4, "name, colour")]
    assert "'apple / red': repeats line 2" in message


def test_an_open_quote_is_reported_where_it_opens(tmp_path):
    found, message = faults_of(tmp_path, HEADER + 'apple,red,2001,\n"pear,green,2001,\nplum,red,2001,\n')
    assert found == [(3, "")]
    assert "not valid CSV" in message


def test_bytes_that_are_not_utf8_name_their_line(tmp_path):
    found, message = faults_of(tmp_path, HEADER.encode() + b"apple,red,2001,\np\xeache,red,2001,\n")
    assert found == [(3, "")]
    assert "byte 0xea" in message


def test_line_numbers_survive_form_feeds_and_quoted_line_breaks(tmp_path):
    # str.splitlines would count the form feed as a line and shift the second fault to line 6.
    text = HEADER + 'app\x0cle,red,2001,\n"two\nlines",red,2001,\npear,blue,2001,\n'
    assert faults_of(tmp_path, text)[0] == [(2, "name"), (3, "name"), (5, "colour")]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    path = tmp_path / "fruit.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"apple,red,2001,\r\n")
    assert [row["name"] for row in read_csv(path, TABLE)] == ["apple"]


def test_rules_across_columns_and_rows_join_the_list(tmp_path):
    def check(line, row):
        if row["name"] == "apple":
            yield Fault("fruit.csv", line, "name", "apple", "no apples")

    def check_all(lines_and_rows):
        yield Fault("fruit.csv", lines_and_rows[-1][0], "year", "", f"{len(lines_and_rows)} rows")

    text = HEADER + "apple,red,2001,\npear,green,x,\nplum,red,2001,\n"
    found, message = faults_of(tmp_path, text, check=check, check_all=check_all)
    assert found == [(2, "name"), (3, "year"), (4, "year")]
    assert "2 rows" in message  # the row that does not parse is not passed on


def test_a_missing_file_stays_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv", TABLE)


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "fruit.csv"
    path.write_bytes(data)
    with pytest.raises(SchemaError):
        read_csv(path, TABLE)


@given(st.text(st.characters(codec="utf-8"), max_size=400))
def test_no_text_below_a_good_header_raises_anything_else(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "fruit.csv"
    path.write_text(HEADER + text, encoding="utf-8", newline="")
    try:
        rows = read_csv(path, TABLE)
    except SchemaError as error:
        assert error.faults and all(fault.line >= 1 for fault in error.faults)
    else:
        assert all(set(row) == set(TABLE.names) for row in rows)


def test_chip_level_columns_exist():
    assert set(schema.CHIP_LEVEL) <= set(schema.CHIPS.names)
    assert set(schema.CHIPS.key) <= set(schema.CHIPS.names)
