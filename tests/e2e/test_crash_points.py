"""Every named crash point fires once on a running platform, and the account still balances; three broken builds show that it could fail."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.account import Account
from tests.e2e.mutant import mutant
from tests.e2e.platform import ROOT, Cloud, Process, wait_gone, wait_until
from tests.e2e.scenes import Machine, Site, appliance_replay, rows_logged, said, settled, tsl_of, wait_rows

CLOUD_POINTS = ("access.before_commit", "access.after_commit", "ingest.after_append", "ingest.after_commit", "core.after_append")
EDGE_POINTS = ("buffer.after_commit", "forward.after_send", "forward.before_watermark")
RATE = 50.0
HEADERS = {"level": "double", "strokes": "int"}


def made_up(path: Path, rows: int) -> Path:
    """A machine's day in a CSV: a wave and a count."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *HEADERS])
        for n in range(rows):
            writer.writerow([1_700_000_000_000 + 1000 * n, round(10 + 5 * math.sin(n / 20), 1), n % 1000])
    return path


@dataclass(slots=True)
class Scene:
    """A machine and an appliance behind a gateway, and an appliance that talks to the cloud itself."""

    cloud: Cloud
    site: Site
    machine: Machine
    local: Process
    direct: Process
    direct_key: str
    folder: Path
    rows: int

    @property
    def logs(self) -> Mapping[str, Path]:
        return {"machine": self.machine.log, "local": self.folder / "local.jsonl", "direct": self.folder / "direct.jsonl"}

    def fire(self, point: str) -> None:
        """Arm a point, wait until a process died there, and start what nobody supervises again."""
        if point in EDGE_POINTS:
            armed = self.site.gateway.crash(point)
            wait_gone(armed)
            self.site.gateway.wait(10)
            self.site.gateway.start()
        else:
            wait_gone(self.cloud.crash(point))

    def accounts(self, timeout_s: float) -> dict[str, Account]:
        """When the simulators are through: what came of every row. What came by the gateway is counted before duplicates are removed."""
        said(self.machine.process, "done", 120)
        assert self.local.wait(60) == 0, self.local.tail()
        assert self.direct.wait(60) == 0, self.direct.tail()
        assert {name: rows_logged(log) for name, log in self.logs.items()} == dict.fromkeys(self.logs, self.rows)
        wait_until(lambda: self.site.gateway.edgectl("account")["buffered"] == 0, 60, "an empty buffer")
        keys = self.site.keys | {"direct": self.direct_key}
        return {
            name: settled(self.cloud, keys[name], name, log, raw=name != "direct", timeout_s=timeout_s) for name, log in self.logs.items()
        }


@contextmanager
def scene(cloud: Cloud, folder: Path, name: str, rows: int, code: Path = ROOT) -> Iterator[Scene]:
    file = made_up(folder / "day.csv", rows)
    logs = folder / "logs"
    machine = Machine.replay(logs, "machine", file, rate=RATE)
    site = Site.build(cloud, folder / "edge", name, [machine], {"local": tsl_of(HEADERS)}, code=code)
    direct_key = cloud.product(f"{name} direct", tsl_of(HEADERS))
    direct_secret = cloud.device(direct_key, "direct")
    columns = {header: header for header in HEADERS}
    keys = {"local": (site.keys["local"], site.secrets["local"]), "direct": (direct_key, direct_secret)}
    ports = {"local": site.front_port, "direct": cloud.mqtt_port}
    local, direct = (appliance_replay(logs, who, file, columns, keys=keys[who], port=ports[who], rate=RATE, rows=rows) for who in keys)
    try:
        site.gateway.start()
        for process in (local, direct):
            process.start()
        yield Scene(cloud, site, machine, local, direct, direct_key, logs, rows)
    finally:
        for process in (local, direct):
            process.end()
        site.end()
        machine.end()


def test_a_crash_at_any_named_point_loses_and_doubles_nothing(tmp_path: Path) -> None:
    points = [*CLOUD_POINTS, *EDGE_POINTS]
    with Cloud(tmp_path) as cloud, scene(cloud, tmp_path, "crashes", 1200) as played:
        for number, point in enumerate(points):
            wait_rows(played.logs["direct"], 60 + 40 * number)
            played.fire(point)
        accounts = played.accounts(60)
        for name, account in accounts.items():
            print(name, account)
            assert account.balanced, (name, account)
        assert accounts["local"].in_gaps == accounts["direct"].in_gaps == 0
        assert accounts["machine"].rows_in_gaps > 0


def broken(tmp_path: Path, name: str, points: Sequence[str]) -> dict[str, Account]:
    """The accounts of a broken build that crashes at `points`."""
    code = mutant(name, tmp_path)
    with Cloud(tmp_path, code=code) as cloud, scene(cloud, tmp_path, "broken", 250, code=code) as played:
        for point in points:
            wait_rows(played.logs["direct"], 60)
            played.fire(point)
        return played.accounts(5)


@pytest.mark.parametrize(
    ("name", "point", "who", "fault"),
    [
        ("puback_before_commit", "access.before_commit", "direct", "lost"),
        ("no_watermark_check", "forward.before_watermark", "local", "duplicates"),
        ("no_position_check", "ingest.after_append", "local", "duplicates"),
    ],
)
def test_the_oracle_catches_a_build_without(tmp_path: Path, name: str, point: str, who: str, fault: str) -> None:
    accounts = broken(tmp_path, name, [point])
    print(accounts[who])
    assert getattr(accounts[who], fault)
    assert not accounts[who].balanced
