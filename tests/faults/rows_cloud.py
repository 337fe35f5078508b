"""Rows 25 to 43: what goes wrong in and before the cloud."""

import json
import os
import signal
import sqlite3
import time
from pathlib import Path

from tests.e2e.platform import wait_gone, wait_until
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import Stage, Tally, fault
from tests.faults.rows_agent import account, called, playing


def killed(stage: Stage, role: str, every_s: float) -> Tally:
    with playing(stage, role, int((every_s + 1.5) * 50) * stage.runs) as played:
        for _ in range(stage.runs):
            time.sleep(stage.chance.random() * every_s)
            played.cloud.kill_role(role)
        return account(played, stage.runs)


@fault(25, "NATS killed", runs=20, few=1, how="SIGKILL")
def nats_killed(stage: Stage) -> Tally:
    return killed(stage, "nats", 1.5)


@fault(25, "the front door killed", runs=20, how="SIGKILL of `access`")
def access_killed(stage: Stage) -> Tally:
    return killed(stage, "access", 1.5)


@fault(34, "ingest killed", runs=30, few=2, how="SIGKILL")
def ingest_killed(stage: Stage) -> Tally:
    return killed(stage, "ingest", 1.0)


@fault(43, "the store's process killed", runs=20, how="SIGKILL of `core`")
def core_killed(stage: Stage) -> Tally:
    return killed(stage, "core", 1.5)


def frozen(stage: Stage, role: str, seconds: float) -> Tally:
    with playing(stage, f"frozen-{role}", int((seconds + 5) * 50) * stage.runs) as played:
        for _ in range(stage.runs):
            pid = played.cloud.role_pid(role)
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
            time.sleep(1 + stage.chance.random())
        return account(played, stage.runs)


AWAY_S = float(os.environ.get("HEARTHLINE_AWAY_S") or 0)
"""For so long instead, to see what ten minutes do: HEARTHLINE_AWAY_S=600."""


@fault(27, "NATS frozen", runs=2, how="SIGSTOP for 6 s; HEARTHLINE_AWAY_S=600 for ten minutes")
def nats_frozen(stage: Stage) -> Tally:
    return frozen(stage, "nats", AWAY_S or 6)


@fault(27, "the front door frozen", runs=2, how="SIGSTOP for 12 s, longer than a keepalive")
def access_frozen(stage: Stage) -> Tally:
    return frozen(stage, "access", 12)


@fault(
    35,
    "the store is slow",
    runs=2,
    how="`core` frozen for 8 s, memory of `ingest` and `access` watched; HEARTHLINE_AWAY_S=600 for ten minutes",
)
def store_slow(stage: Stage) -> Tally:
    away_s = AWAY_S or 8
    with playing(stage, "slow", int(50 * (away_s + 6)) * stage.runs) as played:
        before = {role: resident(played.cloud.role_pid(role)) for role in ("ingest", "access")}
        most = dict(before)
        for _ in range(stage.runs):
            pid = played.cloud.role_pid("core")
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            for _ in range(int(2 * away_s)):
                time.sleep(0.5)
                most = {role: max(most[role], resident(played.cloud.role_pid(role))) for role in most}
            os.kill(pid, signal.SIGCONT)
            time.sleep(2)
        grown = {role: most[role] - before[role] for role in most}
        assert all(kib < 64 * 1024 for kib in grown.values()), grown
        return account(
            played, stage.runs, f"memory grew by {grown['ingest'] // 1024} MiB in ingest, {grown['access'] // 1024} MiB in access"
        )


def resident(pid: int | None) -> int:
    """KiB."""
    with Path(f"/proc/{pid}/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@fault(
    28,
    "frames delivered twice",
    runs=3,
    mutants=("no_watermark_check",),
    mutant_runs=1,
    how="sent again after a reconnect, the store frozen",
)
def delivered_twice(stage: Stage) -> Tally:
    with playing(stage, "twice", 600 * stage.runs) as played:
        for _ in range(stage.runs):
            played.resend_while_the_store_is_away()
            time.sleep(1)
        return account(played, stage.runs)


@fault(
    29,
    "posts out of order, and late",
    mutants=("newest_is_what_came_last",),
    mutant_runs=30,
    runs=300,
    few=60,
    how="times in any order over a day, shuffled",
)
def out_of_order(stage: Stage) -> Tally:
    """All are stored, in order of their time; the newest value is that with the newest time, whatever came last. Three devices."""
    cloud = stage.cloud()
    key = cloud.product(called(stage, "late"), TSL)
    devices = [TestAppliance(cloud.mqtt_port, key, name, cloud.device(key, name)) for name in ("late1", "late2", "late3")]
    total = Tally(runs=0)
    for device in devices:
        begin = int(time.time() * 1000) - 86_400_000
        times = [begin + 60_000 * n for n in range(stage.runs)]
        stage.chance.shuffle(times)
        device.burst({str(n): n for n in range(1, stage.runs + 1)}, times)

        def points(name: str = device.name) -> list[tuple[int, int]]:
            return [(ts, int(value)) for ts, value, *_ in cloud.api.points(key, name, "N", raw=True)]

        wait_until(lambda found=points: len(found()) >= stage.runs, 30, "every post in the store")  # type: ignore[misc]
        stored = points()
        assert [ts for ts, _ in stored] == sorted(times)
        newest = max(device.sent, key=lambda n, sent=device.sent: sent[n])  # type: ignore[misc]
        assert cloud.api.get(f"/v1/telemetry/{key}/{device.name}")["N"]["value"] == newest
        device.close()
        wrong = sum(device.sent.get(n) != ts for ts, n in stored)
        gone = device.acknowledged - {n for _, n in stored}
        extra = len(stored) - len(set(stored))
        total += Tally(len(times), len(device.acknowledged), len(times) - len(stored) + wrong, extra, len(gone), stage.runs)
    return total


@fault(32, "the metadata database is locked", runs=3, how="BEGIN EXCLUSIVE for 4 s")
def database_locked(stage: Stage) -> Tally:
    with playing(stage, "locked", 400 * stage.runs) as played:
        for _ in range(stage.runs):
            other = sqlite3.connect(played.cloud.data / "meta.db", timeout=10, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(4)
            other.execute("ROLLBACK")
            other.close()
            time.sleep(1 + stage.chance.random())
        return account(played, stage.runs)


@fault(34, "ingest dies between the store and its own commit", runs=6, mutants=("no_position_check",), mutant_runs=4, how="crash point")
def between_the_steps(stage: Stage) -> Tally:
    with playing(stage, "between", 160 * stage.runs + 200) as played:
        for _ in range(stage.runs):
            time.sleep(stage.chance.random())
            wait_gone(played.cloud.crash("ingest.after_append"))
            wait_until(lambda: played.cloud.role_pid("ingest"), 10, "ingest again")
        # Raw of all: no connection is lost here, so nobody posts twice, and a crash in a batch without frames shows it too.
        return Tally.of_accounts(played.accounts(60, raw=("machine", "local", "direct")), runs=stage.runs)


def rubbish(stage: Stage, kind: str) -> bytes:
    """A payload that nobody can take."""
    chance = stage.chance
    post = {"id": "1", "version": "1.0", "method": "thing.event.property.post"}
    match kind:
        case "json":
            whole = json.dumps(post | {"params": {"N": 1}}).encode()
            return whole[: chance.randrange(1, len(whole) - 1)]
        case "utf8":
            return b'{"id":"1","params":{"N":"\xff\xfe\x00' + chance.randbytes(20) + b'"}}'
        case "numbers":
            return b'{"id":"1","version":"1.0","method":"thing.event.property.post","params":{"N":%s}}' % chance.choice(
                [b"1e999", b"NaN", b"Infinity", b"9223372036854775808", b"1.5", b"-1e400"]
            )
        case "nesting":
            return b'{"id":"1","params":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}"
        case _:
            raise AssertionError(kind)


def refused(stage: Stage, kind: str) -> Tally:
    """Rubbish and good posts by turns: every good one is stored, all rubbish is counted, nothing dies of it."""
    cloud = stage.cloud()
    key = cloud.product(called(stage, kind), TSL)
    device = TestAppliance(cloud.mqtt_port, key, "d1", cloud.device(key, "d1"))
    pids = {role: cloud.role_pid(role) for role in ("access", "ingest", "core", "nats")}
    topic = f"/sys/{key}/d1/thing/event/property/post"
    for _ in range(stage.runs):
        assert device.publish(topic, rubbish(stage, kind)), "rubbish is acknowledged too: it is on disk"
        device.number()
    wait_until(lambda: len(list(cloud.api.points(key, "d1", "N", raw=True))) >= stage.runs, 30, "every good post in the store")

    def counted() -> int:
        found = cloud.api.get("/v1/quarantine", limit=1_000)["items"]
        return sum(int(entry["count"]) for entry in found if entry["product_key"] == key)

    wait_until(counted, 15, "the first in the quarantine")
    wait_until(lambda: counted() >= stage.runs, 30, f"{stage.runs} in the quarantine (there are {counted()})")
    assert counted() == stage.runs
    points = [int(value) for _, value, *_ in cloud.api.points(key, "d1", "N", raw=True)]
    assert {role: cloud.role_pid(role) for role in pids} == pids, "a role died of it"
    device.close()
    missing = set(device.sent) - set(points)
    outcome = f"{counted()} counted in the quarantine, the good ones stored"
    return Tally(
        stage.runs,
        len(device.acknowledged),
        len(missing),
        len(points) - len(set(points)),
        len(missing & device.acknowledged),
        stage.runs,
        outcome,
    )


@fault(38, "JSON cut off anywhere", mutants=("refuse_in_silence",), mutant_runs=3, runs=100, few=10, how="between good posts")
def bad_json(stage: Stage) -> Tally:
    return refused(stage, "json")


@fault(39, "invalid UTF-8 and NUL", runs=100, few=10, how="between good posts")
def bad_text(stage: Stage) -> Tally:
    return refused(stage, "utf8")


@fault(40, "NaN, infinities and numbers too large", runs=60, few=12, how="between good posts; 1.5 for an integer too")
def bad_numbers(stage: Stage) -> Tally:
    return refused(stage, "numbers")


@fault(41, "twenty thousand levels of nesting", runs=20, few=3, how="between good posts")
def nesting(stage: Stage) -> Tally:
    return refused(stage, "nesting")
