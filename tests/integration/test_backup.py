"""Backups by the command line, of a platform that runs and of one that does not, and the platform that comes out of them."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import Cloud, wait_until
from tests.faults.appliance import TSL, TestAppliance
from tests.integration.test_platform import cli


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


def backup(*words: str, data: Path | None = None) -> dict[str, Any]:
    """The JSON answer of one call that has to succeed."""
    done = cli("backup", *words, *([] if data is None else ["--data", str(data)]), "-o", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(*words: str) -> str:
    done = cli("backup", *words)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_running_platform_goes_on_while_it_is_backed_up_and_comes_back_as_it_was(cloud: Cloud, tmp_path: Path) -> None:
    key = cloud.product("Stove", TSL)
    secret = cloud.device(key, "stove")
    device = TestAppliance(cloud.mqtt_port, key, "stove", secret)
    stop = threading.Event()
    posting = device.keep_posting_now(0.01, stop)
    wait_until(lambda: len(device.acknowledged) > 20, 20, "posts")
    made = [backup("create", str(tmp_path / str(number)), data=cloud.data) for number in range(3)]
    during = len(device.acknowledged)
    wait_until(lambda: len(device.acknowledged) > during + 20, 20, "posts go on")
    stop.set()
    posting.join()
    device.close()
    assert made[0]["bytes"] > 100_000
    assert {path.name for path in (tmp_path / "2").iterdir()} == {"manifest.json", "meta.db", "secret.key", "telemetry.duckdb", "tls"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "2").rglob("*"))
    backup("check", str(tmp_path / "2"))
    backup("restore", str(tmp_path / "2"), data=tmp_path / "again" / "cloud")
    with Cloud(tmp_path / "again", crash_points=False) as restored:
        restored.admin_key = cloud.admin_key
        points = [int(value) for _, value, *_ in restored.api.points(key, "stove", "N", raw=True)]
        before = {n for n, at in device.sent.items() if n in device.acknowledged and at < made[2]["made"] - 1_000}
        assert len(before) > 10
        assert before <= set(points)
        assert len(points) == len(set(points))
        (gap,) = restored.api.gaps(key, "stove", "N")
        assert gap.reason == "stream_lost"
        assert all(gap.holds(at) for n, at in device.sent.items() if n not in points)
        again = TestAppliance(restored.mqtt_port, key, "stove", secret)
        again.number(int(time.time() * 1000))
        wait_until(lambda: len(list(restored.api.points(key, "stove", "N", raw=True))) > len(points), 20, "a new post")
        again.close()


def test_what_is_no_backup_or_is_in_the_way_is_refused_with_what_to_do(cloud: Cloud, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    backup("create", str(folder), data=cloud.data)
    assert "choose a folder that does not exist" in refused("create", str(folder), "--data", str(cloud.data))
    assert "choose a folder that does not exist" in refused("restore", str(folder), "--data", str(cloud.data))
    assert "holds no platform" in refused("create", str(tmp_path / "c"), "--data", str(tmp_path))
    assert "holds no backup" in refused("check", str(tmp_path))
    with (folder / "telemetry.duckdb").open("r+b") as file:
        file.seek(5_000)
        file.write(b"!")
    assert "telemetry.duckdb is missing or damaged" in refused("restore", str(folder), "--data", str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()
    assert "cannot write" in refused("create", "/proc/nowhere/b", "--data", str(cloud.data))


def test_rows_go_when_their_time_is_over_and_a_platform_that_does_not_run_is_backed_up(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, crash_points=False)
    cloud.environment = {"HEARTHLINE_KEEP_DAYS": str(4 / 86_400)}
    with cloud:
        key = cloud.product("Stove", TSL)
        device = TestAppliance(cloud.mqtt_port, key, "s", cloud.device(key, "s"))
        device.number(1_700_000_000_000)
        wait_until(lambda: list(cloud.api.points(key, "s", "N", raw=True)), 20, "it is stored")
        wait_until(lambda: not list(cloud.api.points(key, "s", "N", raw=True)), 20, "it is deleted")
        assert cloud.api.get(f"/v1/telemetry/{key}/s")["N"]["value"] == 1, "the newest value stays"
        device.number(1_700_000_000_001)
        wait_until(lambda: [ts for ts, *_ in cloud.api.points(key, "s", "N", raw=True)] == [1_700_000_000_001], 20, "the store goes on")
        device.close()
        assert cloud.stop() == 0
    assert backup("create", str(tmp_path / "b"), data=cloud.data)["files"] >= 3
    assert not (tmp_path / "b.part").exists()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "b").rglob("*"))
    backup("restore", str(tmp_path / "b"), data=tmp_path / "again" / "cloud")
    with Cloud(tmp_path / "again", crash_points=False) as restored:
        restored.admin_key = cloud.admin_key
        assert [int(value) for _, value, *_ in restored.api.points(key, "s", "N", raw=True)] == [2]
