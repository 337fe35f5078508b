"""The agent as a process: killed, told to stop, started without a cloud; its buffer is read from outside afterwards."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.quotas import Quotas
from protocols.alink.credentials import sign
from protocols.edgelink.frame import decode_frame
from protocols.edgelink.lanes import Lane

ROOT = Path(__file__).parent.parent.parent
POST = "/sys/pk/hood/thing/event/property/post"
CONFIGURATION = """
[gateway]
product_key = "gateway"
device_name = "gw1"
[uplink]
host = "127.0.0.1"
port = 9
[front_door]
port = {port}
[[device]]
product_key = "pk"
device_name = "hood"
thing_model = "range_hood"
"""


class Agent:
    """One gateway's files and, now and then, its process."""

    def __init__(self, home: Path) -> None:
        self.home, self.config = home, home / "edge.toml"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self.config.write_text(CONFIGURATION.format(port=self.port))
        for name, text in (("gateway.secret", "x"), ("appliances.toml", '[pk]\nhood = "s"\n')):
            (home / name).touch(mode=0o600)
            (home / name).write_text(text)

    @contextmanager
    def running(self, *options: str, environ: Mapping[str, str] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
        log = self.home / "agent.log"
        log.write_bytes(b"")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEARTHLINE_")} | dict(environ or {})
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, *options, "-m", "edge_agent", "--config", str(self.config)], stderr=errors, cwd=ROOT, env=environment
            )
        try:
            deadline = time.monotonic() + 30
            while b"agent.ready" not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    async def stored(self, shift_ms: int = 0) -> list[tuple[str, float, int]]:
        """What the buffer file holds in its live lane, as (identifier, value, time).

        With times of an unconfirmed clock moved by `shift_ms`, as they are once the time is known.
        """
        outbox = SqliteOutbox(
            self.home / "data" / "buffer.db",
            quotas=Quotas(1 << 30),
            gateway=("gateway", "gw1"),
            now_ms=lambda: 0,
            shift=lambda period: (0, shift_ms),
        )
        try:
            found = []
            for _, frame in await outbox.next(Lane.LIVE, 0, 10_000):
                columns = decode_frame(frame).columns
                for series, value, at in zip(columns.series.tolist(), columns.values.tolist(), columns.times.tolist(), strict=True):
                    found.append((columns.dictionary[series][2], value, at))
            return found
        finally:
            await outbox.close()


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def client(agent: Agent) -> aiomqtt.Client:
    who = sign("pk", "hood", "s")
    return aiomqtt.Client(
        "127.0.0.1", agent.port, identifier=who.client_id, username=who.username, password=who.password.decode(), timeout=3
    )


def payload(number: int) -> str:
    return json.dumps({"id": str(number), "version": "1.0", "params": {"PowerSwitch": {"value": number % 2, "time": 1_000_000 + number}}})


async def post(agent: Agent, first: int, count: int, acknowledged: list[int]) -> None:
    """Post one by one until done or cut; remembers what was acknowledged."""
    with suppress(aiomqtt.MqttError):
        async with client(agent) as door:
            for number in range(first, first + count):
                await door.publish(POST, payload(number), qos=1)
                acknowledged.append(number)


def times(stored: list[tuple[str, float, int]]) -> list[int]:
    return sorted(at - 1_000_000 for _, _, at in stored)


async def test_it_boots_and_buffers_with_the_cloud_away_and_answers_its_appliances(agent: Agent) -> None:
    with agent.running() as process:
        async with client(agent) as door:
            await door.publish(POST, payload(1), qos=1)
            message = await asyncio.wait_for(anext(aiter(door.messages)), 10)
            assert str(message.topic) == f"{POST}_reply"
            assert json.loads(bytes(message.payload))["code"] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert times(await agent.stored()) == [1]


async def test_what_was_acknowledged_survives_a_kill(agent: Agent) -> None:
    acknowledged: list[int] = []
    with agent.running() as process:
        posting = asyncio.create_task(post(agent, 0, 10_000, acknowledged))
        while len(acknowledged) < 10:
            await asyncio.sleep(0.01)
        process.kill()
        await asyncio.wait_for(posting, 10)
    assert set(acknowledged) <= set(times(await agent.stored()))


async def test_a_message_whose_acknowledgement_died_with_the_agent_is_stored_once(agent: Agent, tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    crash.mkdir()
    acknowledged: list[int] = []
    with agent.running(environ={"HEARTHLINE_CRASH_DIR": str(crash)}) as process:
        await post(agent, 0, 3, acknowledged)
        (crash / ".armed").write_text("0")
        (crash / ".armed").rename(crash / "buffer.after_commit")
        await post(agent, 3, 1, acknowledged)
        assert process.wait(10) == -signal.SIGKILL
    assert acknowledged == [0, 1, 2]
    with agent.running() as process:
        await post(agent, 3, 2, acknowledged)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert acknowledged == [0, 1, 2, 3, 4]
    assert times(await agent.stored()) == [0, 1, 2, 3, 4]


async def test_a_stop_under_load_ends_in_time_with_everything_acknowledged_on_disk(agent: Agent) -> None:
    acknowledged: list[int] = []
    with agent.running() as process:
        posting = [asyncio.create_task(post(agent, 0, 10_000, acknowledged))]
        while len(acknowledged) < 5:
            await asyncio.sleep(0.01)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert time.monotonic() - start < 10
        await asyncio.wait_for(asyncio.gather(*posting), 10)
    assert set(acknowledged) <= set(times(await agent.stored()))


def test_a_second_agent_on_the_same_buffer_is_refused(agent: Agent) -> None:
    with agent.running():
        second = subprocess.run(
            [sys.executable, "-m", "edge_agent", "--config", str(agent.config)], cwd=ROOT, capture_output=True, timeout=30
        )
        assert second.returncode == 5
        assert b"cannot run" in second.stderr


def test_the_running_agent_has_no_command_line_and_no_cloud_libraries_in_it(agent: Agent) -> None:
    """The imports of the real process, as the interpreter itself tells them."""
    with agent.running("-X", "importtime") as process:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    lines = (agent.home / "agent.log").read_text().splitlines()
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    assert {"apsw", "numpy", "edge_agent.agent"} <= imported
    packages = {name.split(".")[0] for name in imported}
    unwanted = {"typer", "click", "rich", "pydantic", "cryptography", "cloud", "firmware_sim", "pymodbus", "sqlalchemy", "httpx", "pyarrow"}
    assert not packages & unwanted


def edgectl(agent: Agent, *words: str) -> tuple[int, Any]:
    command = [sys.executable, "-c", "from edge_agent.cli import main; main()", "--config", str(agent.config), *words, "-o", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


async def test_edgectl_says_the_same_of_a_running_and_of_a_stopped_agent(agent: Agent) -> None:
    assert edgectl(agent, "account")[0] == 4
    with agent.running() as process:
        await post(agent, 0, 3, [])
        time.sleep(1.5)  # the status is written once a second
        code, status = edgectl(agent, "status")
        assert (code, status["running"], status["uplink"]["connected"]) == (0, True, False)
        expected = (0, {"collected": 3, "delivered": 0, "in_gaps": 0, "buffered": 3, "balanced": True})
        assert edgectl(agent, "account") == expected
        since = datetime.fromtimestamp(time.time() - 3_600, UTC).isoformat()
        code, hour = edgectl(agent, "account", "--from", since)  # the agent is asked for it
        assert (code, hour["collected"], hour["buffered"], hour["balanced"]) == (0, 3, 3, True)
        code, before = edgectl(agent, "account", "--to", since)
        assert (code, before["collected"]) == (0, 0)
        code, devices = edgectl(agent, "device", "list")
        assert (code, devices[0]["device_name"], devices[0]["source"]) == (0, "hood", "front_door")
        process.kill()
        process.wait()
        assert edgectl(agent, "account") == expected
        assert edgectl(agent, "account", "--from", since) == (0, hour)
        assert edgectl(agent, "buffer", "status")[1]["lanes"]["live"]["readings"] == 3
        assert edgectl(agent, "status")[0] == 4


async def test_the_forecast_goes_by_what_really_came(agent: Agent) -> None:
    with agent.running():
        deadline = time.monotonic() + 40
        number = 0
        code, found = edgectl(agent, "buffer", "forecast")
        while code:
            await post(agent, number, 10, [])
            number += 10
            code, found = edgectl(agent, "buffer", "forecast", "--outage-h", "1")
            assert code in (0, 4)
            assert time.monotonic() < deadline
        bulk = found["lanes"]["bulk"]  # where an outage's readings lie
        came = edgectl(agent, "buffer", "status")[1]["used_bytes"]
        assert bulk["bytes_per_s"] * found["over_s"] == pytest.approx(came, rel=0.3)  # what came in the first and the last second aside
        assert bulk["full_in_s"] == pytest.approx(((1 << 30) * 30 // 32 - came) / bulk["bytes_per_s"], rel=0.1)
        assert (found["first"], found["loses"], found["drain_s"]) == ("bulk", False, None)  # the cloud was never there


async def test_times_of_devices_stay_and_those_of_an_unset_clock_are_moved(agent: Agent) -> None:
    with agent.config.open("a") as file:
        file.write('[clock]\ntrust = "cloud"\n')
    now_ms = int(time.time() * 1000)
    with agent.running():
        async with client(agent) as door:
            timed = {"PowerSwitch": {"value": 1, "time": now_ms + 5_000}}  # a device's clock runs ahead of ours, as it may
            for number, params in enumerate((timed, {"PowerSwitch": 0}, {"LightLevel": {"value": 2, "time": now_ms - 9_000}})):
                await door.publish(POST, json.dumps({"id": str(number), "version": "1.0", "params": params}), qos=1)
    hour_ms = 3_600_000
    stored = {(name, value): at for name, value, at in await agent.stored(hour_ms)}
    assert stored.pop(("PowerSwitch", 1.0)) == now_ms + 5_000
    assert stored.pop(("LightLevel", 2.0)) == now_ms - 9_000
    assert 0 <= stored.pop(("PowerSwitch", 0.0)) - hour_ms - now_ms < 30_000
    assert not stored
