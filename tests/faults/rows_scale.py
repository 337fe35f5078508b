"""Rows 18, 63 and 64 at full size: a day without the cloud, ten thousand devices at once, a hundred backlogs at once."""

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Sequence

import numpy as np

from protocols.alink.credentials import sign
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import FrameHeader, encode_body, stamp
from protocols.edgelink.lanes import Lane
from tests.benchmarks.fleet_bench import Fleet, registry
from tests.benchmarks.generator import Client
from tests.benchmarks.ingest_bench import stream_of
from tests.e2e.platform import ROOT, Cloud, wait_until
from tests.e2e.scenes import Site, tsl_of
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.day_writer import PROPERTIES, ROWS, value_of
from tests.faults.harness import Stage, Tally, fault
from tests.faults.home import home
from tests.faults.rows_agent import called

HOURS = float(os.environ.get("HEARTHLINE_OFFLINE_HOURS") or 24)
DAY_MS = 86_400_000


@fault(
    18,
    "a day without the cloud at 1,000 readings a second",
    runs=1,
    mutants=("forget_a_frame",),
    mutant_runs=0,
    how=f"{HOURS:g} h written into the buffer as fast as it takes them, then the agent with the cloud",
)
def day_offline(stage: Stage) -> Tally:
    """Every reading is there, counted by hour and property, and a sample of them value by value. A mutant has a quarter of an hour."""
    hours = HOURS if stage.runs else 0.25
    seconds = int(hours * 3600)
    cloud, name = stage.cloud(), called(stage, "day")
    site = Site.build(
        cloud, stage.folder / "edge", name, appliances={"press": tsl_of({f"p{n}": "double" for n in range(PROPERTIES)})}, code=stage.code
    )
    key, begin_ms = site.keys["press"], int(time.time()) // 60 * 60_000 - int(hours * 3_600_000)  # buckets of hours are whole minutes
    file = site.gateway.configuration
    try:
        (file.parent / "edge").mkdir(exist_ok=True)
        command = [sys.executable, str(ROOT / "tests" / "faults" / "day_writer.py"), str(file), key, "press", str(begin_ms), str(seconds)]
        environment = os.environ | {"PYTHONPATH": f"{stage.code}:{ROOT}"}
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=stage.code, timeout=600)
        assert done.returncode == 0, done.stderr[-2_000:]
        produced, wrote_s = int(done.stdout), time.monotonic() - began
        held = (file.parent / "edge" / "buffer.db").stat().st_size
        began = time.monotonic()
        site.gateway.start()
        wait_until(lambda: site.gateway.at_work, 60, "the agent")
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 900, "an empty buffer", every_s=1)
        drained_s = time.monotonic() - began
        site.agree()
        end_ms = begin_ms + 1000 * seconds
        counts = np.zeros(0, np.int64)
        for number in range(PROPERTIES):
            path = f"/v1/telemetry/{key}/press/p{number}"
            buckets = cloud.api.get(path, **{"from": begin_ms, "to": end_ms, "buckets": max(1, seconds // 3600)})["buckets"]
            counts = np.append(counts, [bucket["count"] for bucket in buckets])
        expected = produced // PROPERTIES // max(1, seconds // 3600)
        lost, extra = int(np.maximum(0, expected - counts).sum()), int(np.maximum(0, counts - expected).sum())
        lost += max(0, PROPERTIES * max(1, seconds // 3600) - len(counts)) * expected
        sampled = stage.chance.randrange(PROPERTIES)
        at_ms = begin_ms + 1000 * stage.chance.randrange(seconds - 300)
        points = cloud.api.get(f"/v1/telemetry/{key}/press/p{sampled}", **{"from": at_ms, "to": at_ms + 300_000, "limit": 5_000})["points"]
        wrong = sum(abs(value - value_of(sampled, ts)) > 0.05 for ts, value, *_ in points) + abs(len(points) - 300 * ROWS)
        outcome = f"written in {wrote_s:.0f} s, {held / produced:.2f} bytes a reading on disk, drained in {drained_s:.0f} s"
        outcome += f" ({produced / drained_s / 1000:,.0f} times the live rate)"
        return Tally(produced, produced, lost, extra + wrong, lost, 1, outcome)
    finally:
        site.end()


FLEET = 10_000


@fault(63, "ten thousand devices reconnect at once", runs=3, how=f"SIGKILL of `access` with {FLEET:,} sessions, and all come back at once")
def fleet_back(stage: Stage) -> Tally:
    """All are let in within a minute, none is locked out, and who posts meanwhile loses nothing."""
    cloud = Cloud(stage.folder / "platform", code=stage.code)
    clients = stage.folder / "clients.json"
    cloud.admin_key, rows = registry(cloud.data, FLEET)
    clients.write_text(json.dumps(rows))
    slowest = 0.0
    with cloud, home(stage, cloud, "fleet") as played:
        fleet = Fleet(cloud.mqtt_port, clients)
        try:
            fleet.order("connect")
            for _ in range(stage.runs):
                cloud.kill_role("access")
                fleet.order("drop")
                wait_until(lambda: accepts(cloud.mqtt_port), 20, "the front door")
                back = fleet.order("connect")  # raises when one is refused
                assert back["connacks"] == FLEET
                slowest = max(slowest, back["seconds"])
                before = len(played.direct.acknowledged)
                wait_until(lambda count=before: len(played.direct.acknowledged) > count + 5, 60, "the appliance is back")  # type: ignore[misc]
        finally:
            fleet.process.kill()
            fleet.process.wait()
        assert slowest <= 60
        return played.settle(stage.runs, f"all back after at most {slowest:.1f} s, none refused")


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


GATEWAYS, FRAMES, READINGS = 100, 60, 10_000
PROBE_S = 0.03
LIVE_MS = 3_000
"""Half a second alone on two cores; here another fault is played beside it. Without the gate it is twenty seconds."""


@fault(
    64,
    "a hundred gateways come back with a day each",
    runs=1,
    mutants=("no_gate",),
    mutant_runs=1,
    how=f"{GATEWAYS} connections with {FRAMES} frames of {READINGS:,} readings each, sent at once; an appliance posts every {PROBE_S:g} s",
)
def surge(stage: Stage) -> Tally:
    """Every frame is stored once, and an appliance that posts meanwhile does not wait behind them."""
    cloud, name = stage.own_cloud(), called(stage, "surge")
    key = cloud.product(name, tsl_of({f"p{n}": "double" for n in range(4)}))
    streams, begin_ms = [], int(time.time() * 1000) - DAY_MS
    step_ms = DAY_MS // (FRAMES * READINGS // 4)
    for number in range(GATEWAYS):
        cloud.device(key, f"d{number}", f"{name}-{number}")
        gateway = f"{name}-g{number}"
        signed = sign("gateway", gateway, cloud.device("gateway", gateway, f"{name}-{number}"))
        client = Client(signed.client_id, f"/edge/gateway/{gateway}/up/bulk", signed.username, signed.password.decode())
        streams.append(stream_of(client, backlog(key, f"d{number}", number, begin_ms, step_ms), 16))
    live_key = cloud.product(f"{name} live", TSL)
    live = TestAppliance(cloud.mqtt_port, live_key, "live", cloud.device(live_key, "live"))
    quiet = timed_posts(cloud, live, 100)
    plan = stage.folder / "plan.pickle"
    plan.write_bytes(pickle.dumps(("flood", cloud.mqtt_port, streams, None)))
    load = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.uplink", str(plan)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        wait_until(lambda: stored(cloud, key, begin_ms, 0) > 0, 60, "the surge has begun")
        during: list[float] = []
        last = threading.Event()

        def watch() -> None:
            while any(stored(cloud, key, begin_ms, number) < FRAMES * READINGS // 4 for number in (0, GATEWAYS // 2, GATEWAYS - 1)):
                time.sleep(0.5)
            last.set()

        threading.Thread(target=watch, daemon=True).start()
        deadline = time.monotonic() + 300
        while not last.is_set() and time.monotonic() < deadline:
            during += timed_posts(cloud, live, 5)
        assert load.wait(120) == 0
    finally:
        load.kill()
        load.wait()
    wait_until(lambda: stored(cloud, key, begin_ms, GATEWAYS - 1) >= FRAMES * READINGS // 4, 60, "the last frame")
    each = FRAMES * READINGS // 4
    found = [stored(cloud, key, begin_ms, number, identifier) for number in range(GATEWAYS) for identifier in range(4)]
    lost, extra = sum(max(0, each - count) for count in found), sum(max(0, count - each) for count in found)
    account = live.judge(cloud.api, raw=True)
    live.close()
    p99 = percentile(during, 0.99)
    assert len(during) >= 50, f"the surge was over before it could be felt: {[round(ms) for ms in during]}"
    assert p99 <= LIVE_MS, f"p99 {p99:.0f} ms of {[round(ms) for ms in during]}"
    outcome = f"posts answered p99 {p99:.0f} ms ({len(during)} of them; quiet: {percentile(quiet, 0.99):.0f} ms)"
    produced = GATEWAYS * FRAMES * READINGS
    return Tally(produced, produced, lost, extra, lost) + Tally.of_accounts({"live": account}, runs=0, outcome=outcome)


def backlog(key: str, device: str, number: int, begin_ms: int, step_ms: int) -> list[bytes]:
    """A day of four properties in frames of one gateway."""
    dictionary = tuple((key, device, f"p{n}") for n in range(4))
    each, frames = READINGS // 4, []
    series = np.repeat(np.arange(4, dtype=np.uint32), each)
    for n in range(FRAMES):
        times = np.tile(begin_ms + step_ms * (n * each + np.arange(each)), 4)
        header = FrameHeader(number.to_bytes(16, "big"), 1, Lane.BULK, n + 1, 1, begin_ms + n)
        frames.append(stamp(encode_body(Columns(dictionary, series, times, np.round(200 + 50 * np.sin(times / 60_000), 1))), header))
    return frames


def stored(cloud: Cloud, key: str, begin_ms: int, number: int, identifier: int = 3) -> int:
    path = f"/v1/telemetry/{key}/d{number}/p{identifier}"
    for _ in range(30):
        try:
            found = cloud.api.get(path, **{"from": begin_ms, "to": begin_ms + DAY_MS, "buckets": 1})["buckets"]
            return sum(bucket["count"] for bucket in found)
        except urllib.error.HTTPError as busy:
            if busy.code != 503:
                raise
            time.sleep(float(busy.headers["Retry-After"]))
    raise TimeoutError("the platform has no time for a chart")


def timed_posts(cloud: Cloud, device: TestAppliance, count: int) -> list[float]:
    """How long the answers to so many posts took, ms: an answer comes once the post is stored."""
    took = []
    for _ in range(count):
        began = time.monotonic()
        device.number(int(time.time() * 1000))
        device.answered.wait(30)
        took.append(1000 * (time.monotonic() - began))
        time.sleep(PROBE_S)
    return took


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
