"""Readings from CSV: what is taken as it is, and what is named when it cannot be."""

from pathlib import Path

import pytest

from cloud.models.readings import read_readings
from protocols.errors import Reason, Refused


def csv(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_numeric_column_beside_the_time_is_a_signal(tmp_path: Path) -> None:
    found = read_readings([csv(tmp_path, "time_ms,a,b,word\n1,2,3.5,x\n2,4,4.5,y\n")])
    assert found.signals == ("a", "b")
    assert found.times.tolist() == [1, 2]
    assert found.values.tolist() == [[2.0, 3.5], [4.0, 4.5]]


def test_dates_are_utc_and_files_follow_one_another(tmp_path: Path) -> None:
    one = csv(tmp_path, "datetime,b,a\n1970-01-01 00:00:01,1,2\n")
    two = csv(tmp_path, "datetime,a,b\n1970-01-01 00:00:02,3,4\n", "b.csv")
    found = read_readings([one, two])
    assert found.times.tolist() == [1_000, 2_000]
    assert found.values.tolist() == [[1.0, 2.0], [4.0, 3.0]]


def test_signals_are_chosen_and_left_out_by_name(tmp_path: Path) -> None:
    table = csv(tmp_path, "ts,a,b,label\n1,2,3,0\n2,3,4,1\n")
    assert read_readings([table], signals=("b",)).signals == ("b",)
    assert read_readings([table], leave_out=("label",)).signals == ("a", "b")


@pytest.mark.refusal(Reason.BAD_TRAINING_DATA)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no readable CSV"),
        ("time_ms,a\n", "holds no row"),
        ("a,b\n1,2\n", "--time; its columns are a, b"),
        ("time,a,a\n1,2,3\n", "'a' stands there twice"),
        ("time,word\n1,x\n", "no column of numbers"),
        ("time,a\n1,2\n2,\n", "row 2: no finite number"),
        ("time,a\nyesterday,2\n", "epoch ms or ISO 8601"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        read_readings([csv(tmp_path, text)])


def test_a_signal_that_a_file_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has no column 'c'; its columns are time, a"):
        read_readings([csv(tmp_path, "time,a\n1,2\n")], signals=("c",))
    with pytest.raises(Refused, match="no readable CSV"):
        read_readings([tmp_path / "missing.csv"])
