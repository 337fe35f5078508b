"""Any CSV as rows."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.series import find_time_column, identifier_of, identifiers_of, parse_time, read_series, thing_model
from protocols.errors import Refused
from protocols.thing.model import parse_thing_model

STEEL = """timestamp_end,Usage_kWh,Lagging_Current_Reactive.Power_kVarh,CO2(tCO2),NSM,WeekStatus
2018-01-01 00:15:00,3.17,2.95,0.0,900,Weekday
2018-01-01 00:30:00,4.0,4.46,0.0,1800,Weekday
2018-01-06 00:30:00,4.5,,0.0,1800,Weekend
"""


@pytest.fixture
def steel(tmp_path: Path) -> Path:
    path = tmp_path / "steel.csv"
    path.write_text(STEEL)
    return path


def test_headers_become_identifiers_character_by_character() -> None:
    assert identifier_of("Volume Flow RateRMS") == "Volume_Flow_RateRMS"
    assert identifier_of("3rd phase") == "3rd_phase"  # a leading digit is legal in a thing model and stays
    assert identifier_of("温度") == "__"


@given(st.text(min_size=1, max_size=64).filter(lambda text: text.strip()))
def test_an_identifier_has_only_letters_digits_and_underscores_and_is_its_own_identifier(header: str) -> None:
    identifier = identifier_of(header)
    assert len(identifier) == len(header.strip())
    assert identifier.isascii()
    assert identifier.replace("_", "a").isalnum()
    assert identifier_of(identifier) == identifier


def test_two_headers_with_one_identifier_are_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"'a.b' and 'a-b' both become a_b"):
        identifiers_of(["a.b", "a-b"], {})
    assert identifiers_of(["a.b", "a-b"], {"a-b": "other"}) == {"a.b": "a_b", "a-b": "other"}


def test_a_local_time_without_zone_is_read_as_utc() -> None:
    assert parse_time("2014-10-26 01:30:00") == 1_414_287_000_000
    assert parse_time("2014-10-26T01:30:00+01:00") == 1_414_283_400_000
    assert parse_time("26/10/2014 01:30", "%d/%m/%Y %H:%M") == 1_414_287_000_000
    with pytest.raises(ValueError):
        parse_time("7")


def test_the_time_column_is_found_by_name_or_as_the_first_date() -> None:
    assert find_time_column(["NSM", "timestamp_end"], ["900", "2018-01-01 00:15:00"]) == "timestamp_end"
    assert find_time_column(["power", "when"], ["1.5", "2018-01-01"]) == "when"
    assert find_time_column(["Time", "power"], ["1514765700", "3"]) == "Time"
    with pytest.raises(Refused, match="--time-column"):
        find_time_column(["runtime", "power"], ["17", "3"])


def test_rows_keep_numbers_as_they_are_and_text_as_an_enum(steel: Path) -> None:
    series = read_series(steel)
    rows = list(series.rows())
    assert [row.n for row in rows] == [1, 2, 3]
    assert rows[0].time_ms == 1_514_765_700_000
    assert rows[0].values == {
        "Usage_kWh": 3.17,
        "Lagging_Current_Reactive_Power_kVarh": 2.95,
        "CO2_tCO2_": 0.0,
        "NSM": 900,
        "WeekStatus": 0,
    }
    assert "Lagging_Current_Reactive_Power_kVarh" not in rows[2].values  # an empty cell is no reading
    assert rows[2].values["WeekStatus"] == 1
    assert series.remarks == ("column 'WeekStatus' holds text and is sent as an enum of 2",)


def test_text_is_dropped_or_refused_on_request(steel: Path) -> None:
    assert "WeekStatus" not in {column.identifier for column in read_series(steel, text="drop").columns}
    with pytest.raises(Refused, match="WeekStatus"):
        read_series(steel, text="refuse")


def test_columns_are_chosen_named_and_cut(steel: Path) -> None:
    series = read_series(steel, columns=["Usage_kWh"], named={"Usage_kWh": "energy"}, rows=2)
    assert [dict(row.values) for row in series.rows()] == [{"energy": 3.17}, {"energy": 4.0}]
    with pytest.raises(Refused, match="no column 'nothing'"):
        read_series(steel, columns=["nothing"])


def test_gzip_and_other_delimiters_are_read_alike(steel: Path, tmp_path: Path) -> None:
    packed = tmp_path / "steel.csv.gz"
    packed.write_bytes(gzip.compress(STEEL.replace(",", ";").encode("utf-8-sig")))
    assert list(read_series(packed).rows()) == list(read_series(steel).rows())


def test_a_file_without_times_gets_them_from_a_start_and_a_step(tmp_path: Path) -> None:
    path = tmp_path / "cycles.csv"
    path.write_text("cycle,ts1\n0,35.5\n1,35.6\n")
    assert [row.time_ms for row in read_series(path, start="2020-01-01", step_s=60).rows()] == [1_577_836_800_000, 1_577_836_860_000]


def test_the_pace_is_the_files_own_times_the_speed_or_a_fixed_rate(steel: Path) -> None:
    series = read_series(steel, rows=2)
    assert list(series.periods_s(speed=900, rate=None)) == [1.0, 0.0]
    assert list(series.periods_s(speed=1, rate=50)) == [0.02, 0.02]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,a\n", "at least one row"),
        ("time,a\n2018-01-01,1,2\n", "row 2 has 3 cells"),
        ("time,a,a\n2018-01-01,1,2\n", "two columns are named 'a'"),
        ("time,a\n2018-01-01,1\nsoon,2\n", "row 3: 'soon' is no time"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(Refused, match=message):
        read_series(path)


def test_the_thing_model_names_the_same_identifiers(steel: Path) -> None:
    model = parse_thing_model(thing_model(read_series(steel).columns, "double"))
    assert list(model.properties) == ["Usage_kWh", "Lagging_Current_Reactive_Power_kVarh", "CO2_tCO2_", "NSM", "WeekStatus"]
    assert model.properties["WeekStatus"].data_type.coerce(1) == 1
    assert model.properties["Usage_kWh"].data_type.coerce(3) == 3.0
