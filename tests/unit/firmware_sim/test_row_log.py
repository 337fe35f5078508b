"""A simulator's own account."""

import json
from pathlib import Path

import pytest

from firmware_sim.row_log import Row, RowLog
from protocols.errors import Refused


def test_a_row_can_be_read_by_another_program_as_soon_as_write_returns(tmp_path: Path) -> None:
    log = RowLog(tmp_path / "logs", "meter-1")
    log.write(Row(1, 1_000, {"power": 2.5, "mode": 3}))
    lines = (tmp_path / "logs" / "meter-1.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"device": "meter-1", "n": 1, "time_ms": 1_000, "values": {"power": 2.5, "mode": 3}}]
    assert (log.rows, log.readings) == (1, 2)
    log.close()
    log.close()


def test_a_second_run_does_not_add_to_the_account_of_the_first(tmp_path: Path) -> None:
    RowLog(tmp_path, "meter-1").close()
    with pytest.raises(Refused, match="exists"):
        RowLog(tmp_path, "meter-1")


def test_a_device_name_cannot_lead_out_of_the_log_directory(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        RowLog(tmp_path, "../meter")
