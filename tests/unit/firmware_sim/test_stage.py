"""What the demo stands on: files and logs."""

import asyncio
import tomllib
from pathlib import Path

import pytest

from firmware_sim.demo import DemoOptions, demo
from firmware_sim.row_log import Row, RowLog
from firmware_sim.stage import Child, LogTail, StageFailed, toml, wait_for, write_private
from protocols.errors import Refused


def test_a_log_is_read_as_it_grows_and_a_half_written_line_waits(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "meter-1.jsonl")
    tail.read()
    log = RowLog(tmp_path, "meter-1")
    log.write(Row(1, 1_000, {"a": 1, "b": 2.5}))
    with log.path.open("ab") as file:
        file.write(b'{"device":"meter-1","n":2,')
    tail.read()
    assert (len(tail.rows), tail.readings) == (1, 2)
    with log.path.open("ab") as file:
        file.write(b'"time_ms":2000,"values":{"a":3}}\n')
    tail.read()
    assert tail.rows[1] == Row(2, 2_000, {"a": 3})
    log.close()


def test_configuration_is_toml_and_secrets_are_private(tmp_path: Path) -> None:
    text = "\n".join(
        [toml("", {"data_dir": "data"}), toml("[[device]]", {"device_name": 'a "b"', "port": 1}), toml("[[device]]", {"poll": 0.5})]
    )
    assert tomllib.loads(text) == {"data_dir": "data", "device": [{"device_name": 'a "b"', "port": 1}, {"poll": 0.5}]}
    write_private(tmp_path / "secret", "s")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


async def test_a_process_that_ends_early_is_named_with_its_last_words(tmp_path: Path) -> None:
    child = Child("cloud", ["-c", "import sys; sys.exit('no disk left')"], tmp_path)
    await child.start()
    with pytest.raises(StageFailed, match=r"cloud ended early.*no disk left"):
        await child.said("mqtt_port")

    async def never() -> bool:
        return False

    assert await child.stop() == 1
    with pytest.raises(StageFailed, match="cloud has ended"):
        await wait_for("nothing", never, 5.0, [child])


async def test_a_process_that_ends_just_as_it_is_stopped_is_reported_with_its_own_code(tmp_path: Path) -> None:
    for _ in range(20):
        child = Child("cloud", ["-S", "-c", "import os, sys; print('{\"bye\": 1}', flush=True); os._exit(7)"], tmp_path)
        await child.start()
        await child.said("bye")
        assert await child.stop() in (7, -15), "it was as quick as our signal, or not"


async def test_the_demo_empties_only_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Refused, match="not a folder of an earlier demo"):
        await demo(DemoOptions(tmp_path, tmp_path.parent / "demo.json"), asyncio.Event())
    assert (tmp_path / "thesis.txt").exists()
