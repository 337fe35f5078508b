"""Rows 10, 11, 37, 42 and 44: what there is too little or too much of: descriptors, memory, connections, bytes, strangers."""

import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from protocols.mqtt.codec import MAX_PACKET, PubAck, encode
from tests.e2e.platform import Cloud, wait_until
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import NotHere, Stage, Tally, fault, need_root
from tests.faults.home import home
from tests.faults.rows_agent import called
from tests.integration.access_rig import RawClient

MEBIBYTE = 1024 * 1024


@fault(37, "packets larger than may be", runs=10, how="a PUBLISH one byte over the limit between good posts")
def oversized(stage: Stage) -> Tally:
    """The packet is refused with its reason, which the tenant can read; the device's next connection and everybody else's go on."""
    cloud = stage.cloud()
    key = cloud.product(called(stage, "large"), TSL)
    other = TestAppliance(cloud.mqtt_port, key, "other", cloud.device(key, "other"))
    secret = cloud.device(key, "large").encode()
    pids = {role: cloud.role_pid(role) for role in ("access", "ingest", "core", "nats")}
    acknowledged: set[int] = set()
    for number in range(1, stage.runs + 1):
        large = RawClient(cloud.mqtt_port, "large", product_key=key, secret=secret).open()
        large.publish(json.dumps({"id": "1", "version": "1.0", "params": {"N": number}}).encode(), 1)
        while not isinstance(answer := large.next(), PubAck):  # replies of the platform may come before it
            assert answer is not None
        acknowledged |= {number} if (answer.packet_id, answer.reason) == (1, 0) else set()
        with contextlib.suppress(OSError):  # it may close before it has read everything
            large.publish(bytes(MAX_PACKET), 2)
        while (answer := large.next()) is not None:
            assert not isinstance(answer, PubAck), "nothing of it is acknowledged"
        large.close()
        other.number()

    def counted() -> int:
        entries = cloud.api.get("/v1/quarantine", reason="packet_too_large", limit=1_000)["items"]
        return sum(int(one["count"]) for one in entries if one["product_key"] == key)

    def stored() -> list[int]:
        return [int(value) for name in ("large", "other") for _, value, *_ in cloud.api.points(key, name, "N", raw=True)]

    wait_until(lambda: len(stored()) >= 2 * stage.runs, 30, "every good post in the store")
    wait_until(lambda: counted() >= stage.runs, 90, "every refusal is counted, those behind the first once a minute", every_s=1)
    assert {role: cloud.role_pid(role) for role in pids} == pids, "a role died of it"
    assert other.connections == 1, "the link of another device stayed up"
    found, acked = Counter(stored()), Counter([*acknowledged, *other.acknowledged])
    other.close()
    made = Counter([*range(1, stage.runs + 1)] * 2)
    outcome = f"{counted()} refused by name, the good ones stored"
    lost, extra = (made - found).total(), (found - made).total()
    return Tally(2 * stage.runs, acked.total(), lost, extra, (acked - found).total(), stage.runs, outcome)


@fault(
    42, "devices that nobody knows", mutants=("door_in_silence",), mutant_runs=3, runs=200, how="between good posts, each with another name"
)
def unknown_devices(stage: Stage) -> Tally:
    """Each is refused by name at the door, each is one entry of the quarantine, and who is known notices nothing."""
    cloud = stage.cloud()
    key = cloud.product(called(stage, "known"), TSL)
    device = TestAppliance(cloud.mqtt_port, key, "known", cloud.device(key, "known"))
    strangers = []
    for number in range(stage.runs):
        stranger = RawClient(cloud.mqtt_port, f"stranger-{number}", product_key=key, secret=b"x" * 32)
        stranger.sock.sendall(encode(stranger.connect, stranger.version))
        strangers.append(stranger)
        device.number()
    answers = [stranger.next(60) for stranger in strangers]  # late to an address that is refused again and again
    refused = sum(answer is None or getattr(answer, "reason", 0) != 0 for answer in answers)
    for stranger in strangers:
        stranger.close()
    wait_until(lambda: len(list(cloud.api.points(key, "known", "N", raw=True))) >= stage.runs, 30, "every good post in the store")

    def entries() -> list[dict[str, Any]]:
        return [one for one in cloud.api.get("/v1/quarantine", limit=1_000)["items"] if one["product_key"] == key]

    wait_until(entries, 15, "the first refusal is noted at once")
    counted = lambda: sum(int(one["count"]) for one in entries()) >= stage.runs  # noqa: E731 - named for the wait
    wait_until(counted, 90, "every refusal is counted, those behind the first once a minute", every_s=1)
    found = entries()
    device.close()
    points = [int(value) for _, value, *_ in cloud.api.points(key, "known", "N", raw=True)]
    missing = set(device.sent) - set(points)
    assert refused == stage.runs
    outcome = f"{refused} refused, counted in {len(found)} entries"
    extra = len(points) - len(set(points))
    return Tally(stage.runs, len(device.acknowledged), len(missing), extra, len(missing & device.acknowledged), stage.runs, outcome)


@fault(10, "no file descriptor left for the agent", runs=3, few=1, how="prlimit, and connections until none is left")
def no_descriptors(stage: Stage) -> Tally:
    """Whoever is connected goes on; the same process takes new connections once there is room."""
    if shutil.which("prlimit") is None:
        raise NotHere("prlimit is missing")
    with home(stage, stage.cloud(), "descriptors") as played:
        gateway = played.site.gateway
        pid = gateway.pid
        descriptors = Path(f"/proc/{pid}/fd")
        held = len(list(descriptors.iterdir()))
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={held + 8}:{held + 8}"], check=True)
        for _ in range(stage.runs):
            crowd = [socket.create_connection(("127.0.0.1", played.site.front_port), timeout=5) for _ in range(60)]
            before = len(played.local.acknowledged)
            time.sleep(2 + stage.chance.random())
            assert len(list(descriptors.iterdir())) in range(held + 1, held + 9), "it never ran out"
            assert len(played.local.acknowledged) > before + 3, "who was connected goes on"
            for one in crowd:
                one.close()
            late = TestAppliance(played.site.front_port, played.site.keys["local"], "local", played.site.secrets["local"])
            late.close()  # it has taken the session over, and gives it back
            before = len(played.local.acknowledged)
            wait_until(lambda count=before: len(played.local.acknowledged) > count + 3, 30, "the appliance is back")  # type: ignore[misc]
        assert (gateway.running, gateway.pid) == (True, pid), "it died of it"
        return played.settle(stage.runs)


@fault(11, "little memory for the agent", runs=1, how="a cgroup of 96 MiB, offline, 500 posts in flight for 20 s")
def little_memory(stage: Stage) -> Tally:
    """What it cannot hold it does not take: it stays below the limit and everything acknowledged arrives."""
    need_root()
    group = Path("/sys/fs/cgroup/memory") / called(stage, "hearthline")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(96 * MEBIBYTE))
    except OSError as error:
        raise NotHere(f"no memory cgroup of version 1 here: {error}") from error
    try:
        into = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
        with home(stage, stage.cloud(), "memory", prefix=into, posting=False) as played:
            played.site.uplink.cut()
            taken = played.local.flood(20, int(time.time() * 1000) - 3_600_000)
            played.direct.number(int(time.time() * 1000))
            most = int((group / "memory.max_usage_in_bytes").read_text())
            assert played.site.gateway.running, "it was killed"
            assert str(played.site.gateway.pid) in (group / "cgroup.procs").read_text().split()
            played.site.uplink.restore()
            return played.settle(stage.runs, f"{taken} posts taken offline, at most {most // MEBIBYTE} MiB of memory and page cache")
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text().split(), 20, "nobody is left in the cgroup")
        group.rmdir()


@fault(
    44,
    "every connection of the API's pool is taken",
    mutants=("patient_pool",),
    mutant_runs=1,
    runs=3,
    how="the database locked, 60 writes that wait for it",
)
def pool_exhausted(stage: Stage) -> Tally:
    """Who comes then hears 503 with Retry-After within a second, and what was answered with success is there afterwards."""
    cloud = stage.cloud()
    name = called(stage, "pool")
    made: dict[str, int] = {}
    slowest, refused = 0.0, 0
    for number in range(stage.runs):
        lock = sqlite3.connect(cloud.data / "meta.db", timeout=10, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(60) as many:
            writes = [many.submit(create, cloud, f"{name}-{number}-{one}") for one in range(60)]
            time.sleep(1.5)
            for _ in range(10):
                began = time.monotonic()
                status, retry_after = read(cloud)
                slowest = max(slowest, time.monotonic() - began)
                if status == 503:
                    assert retry_after
                    refused += 1
            lock.execute("ROLLBACK")
            lock.close()
            made |= {write.result()[0]: write.result()[1] for write in writes}
    assert refused > 0, "the pool was never exhausted"
    assert slowest <= 1.0, f"an answer took {slowest:.2f} s"
    promised = {which for which, status in made.items() if status == 201}
    wait_until(lambda: read(cloud)[0] == 200, 20, "the API answers again")
    there = {product["name"] for product in every_product(cloud) if product["name"].startswith(name)}
    outcome = f"503 after at most {slowest:.2f} s; {len(promised)} of {len(made)} products were made"
    return Tally(len(made), len(promised), len(promised - there), 0, len(promised - there), stage.runs, outcome)


def create(cloud: Cloud, name: str) -> tuple[str, int]:
    try:
        cloud.post("/v1/products", {"name": name, "tsl": TSL})
    except urllib.error.HTTPError as error:
        return name, error.code
    return name, 201


def read(cloud: Cloud) -> tuple[int, str | None]:
    request = urllib.request.Request(f"{cloud.api_url}/v1/products", headers={"Authorization": f"Bearer {cloud.admin_key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]


def every_product(cloud: Cloud) -> Iterator[dict[str, Any]]:
    more: dict[str, object] = {}
    while True:
        page = cloud.api.get("/v1/products", limit=1000, **more)
        yield from page["items"]
        if page["next"] is None:
            return
        more = {"cursor": page["next"]}
