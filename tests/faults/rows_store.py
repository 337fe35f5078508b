"""Rows 26, 33, 36, 43, 44 and 66: what the cloud keeps, when it is wiped, away, full, or put back from a backup."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud.telemetry.duckdb_store import DuckDbStore
from protocols.mqtt.codec import MAX_PACKET, PubAck, encode
from tests.contract.databases import postgresql_programs, postgresql_server
from tests.e2e.platform import ROOT, Cloud, wait_until
from tests.e2e.scenes import Site
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import NotHere, Stage, Tally, fault, need_root
from tests.faults.rows_agent import called
from tests.faults.rows_buffer import power_cut_disk, small_disk
from tests.faults.store_writer import LIMITS, rows_of, stored
from tests.integration.access_rig import RawClient

MEBIBYTE = 1024 * 1024


def hearthline(cloud: Cloud, *words: str) -> Any:
    """The JSON answer of one `hearthline` call on the platform's directory."""
    command = [sys.executable, "-m", "cloud", *words, "--data", str(cloud.data), "-o", "json"]
    environment = os.environ | {"PYTHONPATH": str(cloud._code)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if done.returncode:
        raise RuntimeError(f"hearthline {' '.join(words)}: exit {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


@dataclass(slots=True)
class Home:
    """Two appliances that post the time it is: one behind a gateway, one that talks to the cloud itself."""

    cloud: Cloud
    site: Site
    local: TestAppliance
    direct: TestAppliance
    _stop: threading.Event
    _posting: list[threading.Thread]

    def settle(self, runs: int, outcome: str = "", *, agree: bool = True, raw: bool = True) -> Tally:
        """No more posts, what came of each (`raw`: before duplicates are removed), and whether both ends count the same (`agree`)."""
        self._stop.set()
        for thread in self._posting:
            thread.join()
        wait_until(lambda: self.site.gateway.edgectl("account")["buffered"] == 0, 60, "an empty buffer")
        if agree:
            self.site.agree()
        accounts = {"local": self.local.judge(self.cloud.api, raw=raw), "direct": self.direct.judge(self.cloud.api, raw=False)}
        for name, account in accounts.items():
            print(name, account)
        return Tally.of_accounts(accounts, runs=runs, outcome=outcome)


@contextmanager
def home(
    stage: Stage, cloud: Cloud, what: str, *, every_s: float = 0.03, prefix: Sequence[str] = (), posting: bool = True
) -> Iterator[Home]:
    name = called(stage, what)
    site = Site.build(cloud, stage.folder / "edge", name, appliances={"local": TSL}, code=stage.code)
    key = cloud.product(f"{name} direct", TSL)
    secret = cloud.device(key, "direct")
    stop = threading.Event()
    with ExitStack() as stack:
        stack.callback(site.end)
        site.gateway.prefix = list(prefix)
        site.gateway.start()
        wait_until(lambda: site.gateway.at_work, 20, "the agent")
        local = TestAppliance(site.front_port, site.keys["local"], "local", site.secrets["local"])
        stack.callback(local.close)
        direct = TestAppliance(cloud.mqtt_port, key, "direct", secret)
        stack.callback(direct.close)
        stack.callback(stop.set)
        threads = [one.keep_posting_now(0.03, stop) for one in (local, direct)] if posting else []
        yield Home(cloud, site, local, direct, stop, threads)


@fault(
    66,
    "the platform is lost and put back from a backup",
    runs=3,
    mutants=("back_up_the_metadata_later",),
    mutant_runs=1,
    how="SIGKILL, its directory deleted, 1 to 3 s after the backup",
    apart=True,
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
            stage.runs, f"at work again after at most {max(back_s):.1f} s; appends held for {max(held_ms)} ms at most", agree=False
        )


@fault(26, "NATS killed and its data wiped", runs=2, how="its files deleted under it, then SIGKILL", apart=True)
def nats_wiped(stage: Stage) -> Tally:
    """What was on its way is sent again by gateways; of devices without a memory it lies in a named gap."""
    cloud = stage.own_cloud()
    with home(stage, cloud, "wiped") as played:
        for _ in range(stage.runs):
            time.sleep(1.5 + stage.chance.random())
            shutil.rmtree(cloud.data / "nats", ignore_errors=True)
            cloud.kill_role("nats")
            before = len(played.direct.acknowledged)
            wait_until(lambda count=before: len(played.direct.acknowledged) > count + 20, 40, "the appliance is back")  # type: ignore[misc]
        # What the store had and the metadata had not when the stream was lost comes again: twice in the store, once to whoever asks.
        return played.settle(stage.runs, agree=False, raw=False)


@fault(43, "the disk under the cloud is full", runs=2, how="a tmpfs with everything on it, full for 6 s", apart=True)
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


@fault(44, "every connection of the API's pool is taken", runs=3, how="the database locked, 60 writes that wait for it")
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


AWAY_S = float(os.environ.get("HEARTHLINE_AWAY_S") or 40)
"""How long PostgreSQL is away; `make faults` has half an hour for everything, a whole ten minutes are played by themselves."""


@fault(
    33,
    "PostgreSQL is away",
    runs=1,
    how=f"stopped for {AWAY_S:g} s, the front door open; HEARTHLINE_AWAY_S=600 for ten",
    apart=True,
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


@fault(2, "power cut under the store", runs=20, how="ext4 shut down without its log while rows are put in order", apart=True)
def power_cut_under_the_store(stage: Stage) -> Tally:
    return Tally.total(store_cut_once(stage.chance.choice([20, 60, 150, 400]), stage.code) for _ in range(stage.runs))


def store_cut_once(acknowledged: int, code: Path) -> Tally:
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


@fault(42, "devices that nobody knows", runs=200, how="between good posts, each with another name")
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
            assert len(list(descriptors.iterdir())) in range(held, held + 9), "it never ran out"
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
