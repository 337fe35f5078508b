"""Rows 2, 26, 33, 36, 43 and 66: what the cloud keeps, when it is wiped, away, full, put back from a backup, or dies of what it reads."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any

from cloud.telemetry.duckdb_store import DuckDbStore
from tests.contract.databases import postgresql_programs, postgresql_server
from tests.e2e.mutant import mutant
from tests.e2e.platform import ROOT, Cloud, wait_until
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import NotHere, Stage, Tally, fault
from tests.faults.home import hearthline, home
from tests.faults.rows_agent import called
from tests.faults.rows_buffer import power_cut_disk, small_disk
from tests.faults.store_writer import LIMITS, rows_of, stored

MEBIBYTE = 1024 * 1024


@fault(
    66,
    "the platform is lost and put back from a backup",
    runs=2,
    mutants=("back_up_the_metadata_later",),
    mutant_runs=1,
    how="SIGKILL, its directory deleted, 1 to 3 s after the backup",
)
def restored(stage: Stage) -> Tally:
    cloud = stage.own_cloud()
    back_s: list[float] = []
    held_ms: list[int] = []
    with home(stage, cloud, "restored") as played:
        for number in range(stage.runs):
            time.sleep(1 + stage.chance.random())
            backup = stage.folder / f"backup-{number}"
            held_ms.append(hearthline(cloud, "backup", "create", str(backup))["held_ms"])
            time.sleep(1 + 2 * stage.chance.random())
            began = time.monotonic()
            cloud.kill()
            shutil.rmtree(cloud.data)
            hearthline(cloud, "backup", "restore", str(backup))
            cloud.start()
            back_s.append(time.monotonic() - began)
            before = len(played.direct.acknowledged)
            wait_until(lambda count=before: len(played.direct.acknowledged) > count + 20, 30, "the appliance is back")  # type: ignore[misc]
        return played.settle(
            stage.runs, f"at work again after at most {max(back_s):.1f} s; appends held for {max(held_ms)} ms at most", went_back=True
        )


@fault(
    26,
    "NATS killed and its data wiped",
    mutants=("no_gap_for_a_lost_stream",),
    mutant_runs=2,
    runs=2,
    how="its files deleted under it, then SIGKILL",
)
def nats_wiped(stage: Stage) -> Tally:
    """What was on its way is sent again by gateways; of devices without a memory it lies in a named gap."""
    cloud = stage.own_cloud()
    with home(stage, cloud, "wiped") as played:
        for _ in range(stage.runs):
            time.sleep(1.5 + stage.chance.random())
            reader = cloud.role_pid("ingest")
            assert reader is not None
            os.kill(reader, signal.SIGSTOP)  # so that something is lost: what came in this second is in the stream alone
            time.sleep(1)
            shutil.rmtree(cloud.data / "nats", ignore_errors=True)
            cloud.kill_role("nats")
            os.kill(reader, signal.SIGCONT)
            before = len(played.direct.acknowledged)
            wait_until(lambda count=before: len(played.direct.acknowledged) > count + 20, 40, "the appliance is back")  # type: ignore[misc]
        # What the store had and the metadata had not when the stream was lost comes again: twice in the store, once to whoever asks.
        return played.settle(stage.runs, raw=False)


@fault(43, "the disk under the cloud is full", runs=2, how="a tmpfs with everything on it, full for 6 s")
def cloud_disk_full(stage: Stage) -> Tally:
    with (
        small_disk(stage.folder / "platform", 192) as place,
        Cloud(place, code=stage.code) as cloud,
        home(stage, cloud, "full") as played,
    ):
        for _ in range(stage.runs):
            time.sleep(1 + stage.chance.random())
            ballast = place / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            assert shutil.disk_usage(place).free < 65_536
            time.sleep(6)
            ballast.unlink()
            before = len(played.direct.acknowledged)
            wait_until(lambda count=before: len(played.direct.acknowledged) > count + 20, 60, "the appliance is back")  # type: ignore[misc]
        return played.settle(stage.runs)


AWAY_S = float(os.environ.get("HEARTHLINE_AWAY_S") or 40)
"""How long PostgreSQL is away; `make faults` has half an hour for everything, a whole ten minutes are played by themselves."""


@fault(
    33,
    "PostgreSQL is away",
    runs=1,
    how=f"stopped for {AWAY_S:g} s, the front door open; HEARTHLINE_AWAY_S=600 for ten",
)
def postgresql_away(stage: Stage) -> Tally:
    if postgresql_programs() is None:
        raise NotHere("no PostgreSQL server under /usr/lib/postgresql (make ci-deps)")
    with postgresql_server() as server:
        cloud = Cloud(stage.folder / "platform", code=stage.code)
        cloud.environment = {"HEARTHLINE_DATABASE_URL": server.url + "postgres"}
        with cloud, home(stage, cloud, "away") as played:
            for _ in range(stage.runs):
                time.sleep(1 + stage.chance.random())
                server.stop()
                try:
                    before = len(played.direct.acknowledged)
                    time.sleep(AWAY_S)
                    meanwhile = len(played.direct.acknowledged) - before
                finally:
                    server.start()
                assert meanwhile > AWAY_S, "devices that are connected go on"
                began = time.monotonic()
                newest = max(played.direct.acknowledged)
                wait_until(lambda last=newest: newest_of(cloud, played.direct) >= last, 120, "it has caught up", every_s=0.5)  # type: ignore[misc]
                took_s = time.monotonic() - began
            return played.settle(stage.runs, f"{meanwhile} posts acknowledged meanwhile; caught up after {took_s:.1f} s")


def newest_of(cloud: Cloud, device: TestAppliance) -> int:
    try:
        return int(cloud.api.get(f"/v1/telemetry/{device.product_key}/{device.name}")["N"]["value"])
    except (urllib.error.HTTPError, KeyError):  # 503 while it is away
        return 0


@fault(
    2,
    "power cut under the store",
    mutants=("position_before_rows",),
    mutant_runs=12,
    runs=20,
    how="ext4 shut down without its log while rows are put in order",
)
def power_cut_under_the_store(stage: Stage) -> Tally:
    chance = stage.chance
    return Tally.total(store_cut_once(chance.choice([20, 60, 150, 400]), chance.random() * 0.02, stage.code) for _ in range(stage.runs))


def store_cut_once(acknowledged: int, then_s: float, code: Path) -> Tally:
    """What the store answered is there, once, and nothing else."""
    with power_cut_disk(256) as disk:
        file = disk.path / "telemetry.duckdb"
        command = [sys.executable, str(ROOT / "tests" / "faults" / "store_writer.py"), str(file)]
        environment = os.environ | {"PYTHONPATH": f"{code}:{ROOT}"}
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment)
        assert writer.stdout is not None
        last = 0
        for line in writer.stdout:
            last = int(line)
            if last >= acknowledged:
                break
        time.sleep(then_s)  # anywhere in the next append, or one behind it; right behind an answer nothing is under way
        disk.cut()
        writer.kill()
        writer.stdout.close()
        writer.wait()
        disk.restore()
        store = DuckDbStore(file, LIMITS)
        try:
            position = store.position().sequence
            held = Counter(stored(store))
        finally:
            store.close()
        promised = Counter(row for n in range(1, last + 1) for row in rows_of(n))
        made = Counter(row for n in range(1, position + 1) for row in rows_of(n))
        lost = (promised - held) + (made - held)
        return Tally(position, last, lost.total(), (held - made).total(), (promised - held).total())


@fault(
    36,
    "messages that kill ingest",
    runs=2,
    mutants=("condemn_nobody",),
    mutant_runs=1,
    how="SIGKILL of itself at a payload, one of three that came at once",
)
def poison(stage: Stage) -> Tally:
    """Each is put aside after a few deaths, its neighbours and everybody else go on; an update takes them when they are replayed."""
    cloud = Cloud(stage.folder / "platform", code=mutant("die_of_a_payload", stage.folder, base=stage.code))
    with cloud, home(stage, cloud, "poison") as played:
        key = cloud.product(called(stage, "sick"), TSL)
        sick = TestAppliance(cloud.mqtt_port, key, "sick", cloud.device(key, "sick"))
        acknowledged = 0
        try:
            for number in range(1, stage.runs + 1):
                begun = int(time.time() * 1000)
                acknowledged += sick.burst(
                    {"before": 10 * number, "poison": 10 * number + 1, "behind": 10 * number + 2}, range(begun, begun + 3)
                )
                wait_until(lambda some=number: len(held(cloud, key)) >= some, 45, "it is in the quarantine", every_s=0.2)  # type: ignore[misc]
            entries = held(cloud, key)
            deaths = sum('"role.died"' in line and '"ingest"' in line for line in cloud.log.read_text().splitlines())
        finally:
            sick.close()
        tally = played.settle(stage.runs)
        cloud.stop()
        cloud._code = stage.code  # the update
        cloud.start()
        for entry in entries:
            cloud.post(f"/v1/quarantine/{entry['id']}/replay", {})
        made = {10 * number + place for number in range(1, stage.runs + 1) for place in range(3)}

        def there() -> list[int]:
            return [int(value) for _, value, *_ in cloud.api.points(key, "sick", "N", raw=True)]

        wait_until(lambda: len(there()) >= len(made), 30, "all are in the store")
        missing, extra = made - set(there()), len(there()) - len(set(there()))
        outcome = f"{len(entries)} put aside after {deaths} deaths, and stored when they were replayed to a mended build"
        return tally + Tally(len(made), acknowledged, len(missing), extra, len(missing), 0, outcome)


def held(cloud: Cloud, product_key: str) -> list[dict[str, Any]]:
    entries = cloud.api.get("/v1/quarantine", reason="poison", limit=1_000)["items"]
    return [one for one in entries if one["product_key"] == product_key]
