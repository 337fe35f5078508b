"""A fleet that answers commands, against a real MQTT peer."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firmware_sim.conduct import Carrier, Conduct, Response
from firmware_sim.devices import read_secrets
from firmware_sim.fleet import FleetFailed, FleetOptions, run_fleet
from protocols.alink.messages import encode_command, property_set
from protocols.errors import Refused
from tests.fakes.alink_server import AlinkServer

SECRETS = {("pk", f"d{n}"): f"secret-of-d{n}" for n in range(6)}


@pytest.fixture
async def server() -> AsyncIterator[AlinkServer]:
    server = AlinkServer(dict(SECRETS))
    await server.start()
    yield server
    await server.stop()


class Fleet:
    """A fleet that runs, and the end of its stdin."""

    def __init__(self, server: AlinkServer, folder: Path, conduct: Conduct) -> None:
        file = folder / "secrets.csv"
        file.write_text("device_name,device_secret\n" + "".join(f"{name},{secret}\n" for (_, name), secret in SECRETS.items()))
        self.log, self.stop, self._orders = folder / "fleet.jsonl", asyncio.Event(), asyncio.Queue[str]()
        options = FleetOptions("127.0.0.1", server.port, conduct, self.log)
        self.task = asyncio.ensure_future(run_fleet(read_secrets(file, "pk"), options, self.stop, self._lines()))

    async def _lines(self) -> AsyncIterator[str]:
        while True:
            yield await self._orders.get()

    def tell(self, line: str) -> None:
        self._orders.put_nowait(line)

    async def end(self) -> None:
        self.stop.set()
        assert await self.task == 0

    def logged(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


async def test_a_fleet_obeys_on_every_carrier_and_logs_what_it_was_told(server: AlinkServer, tmp_path: Path) -> None:
    fleet = Fleet(server, tmp_path, Conduct(carrier=Carrier.TOPIC))
    await server.until(lambda: len(server.connections) == 6)
    topics = ["/sys/pk/d1/thing/service/property/set", "/ext/rrpc/8/sys/pk/d2/thing/service/Blink", "/sys/pk/d3/rrpc/request/9"]
    server.connections["pk", "d1"].deliver(topics[0], property_set(7, {"Switch": 1}))
    server.connections["pk", "d2"].deliver(topics[1], encode_command(8, "thing.service.Blink", {}))
    server.connections["pk", "d3"].deliver(topics[2], encode_command(9, "thing.service.Blink", {}))
    await server.until(lambda: len(server.received) == 3)
    found = {json.loads(payload)["id"]: (topic, json.loads(payload)["code"]) for topic, payload in server.received}
    assert found == {"7": (topics[0] + "_reply", 200), "8": (topics[1], 200), "9": ("/sys/pk/d3/rrpc/response/9", 200)}
    await fleet.end()
    assert [(line["device"], line["id"], line["response"], line["n"]) for line in fleet.logged()] == [
        ("d1", "7", "obey", 1), ("d2", "8", "obey", 1), ("d3", "9", "obey", 1),
    ]  # fmt: skip


async def test_a_command_that_comes_twice_is_counted_twice(server: AlinkServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet(server, tmp_path, Conduct())
    await server.until(lambda: len(server.connections) == 6)
    for _ in range(2):
        server.connections["pk", "d1"].deliver("/sys/pk/d1/thing/service/property/set", property_set(7, {}))
    await server.until(lambda: len(server.received) == 2)
    await fleet.end()
    assert [line["n"] for line in fleet.logged()] == [1, 2]
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["commands"], summary["repeated"]) == (2, 1)


async def test_some_refuse_and_some_stay_silent_in_the_shares_that_were_asked_for(server: AlinkServer, tmp_path: Path) -> None:
    conduct = Conduct(refuse=0.3, ignore=0.3)
    fleet = Fleet(server, tmp_path, conduct)
    await server.until(lambda: len(server.connections) == 6)
    for n in range(100):
        server.connections["pk", "d4"].deliver("/sys/pk/d4/thing/service/property/set", property_set(n + 1, {}))
    answers = sum(conduct.response("d4", str(n + 1)) is not Response.IGNORE for n in range(100))
    await server.until(lambda: len(server.received) == answers)
    answered = {json.loads(payload)["id"]: json.loads(payload)["code"] for _, payload in server.received}
    await fleet.end()
    logged = {str(line["id"]): line["response"] for line in fleet.logged()}
    assert answered == {one: 200 if response == "obey" else 400 for one, response in logged.items() if response != "ignore"}
    assert len(logged) == 100
    assert all(15 < list(logged.values()).count(response) < 65 for response in ("obey", "refuse", "ignore"))


async def test_those_that_are_away_come_when_they_are_told_and_lost_ones_by_themselves(server: AlinkServer, tmp_path: Path) -> None:
    fleet = Fleet(server, tmp_path, Conduct(away=0.5))
    await server.until(lambda: len(server.connections) == 3)
    fleet.tell("online 1")
    await server.until(lambda: len(server.connections) == 4)
    fleet.tell("nonsense")
    fleet.tell("online")
    await server.until(lambda: len(server.connections) == 6)
    fleet.tell("offline 2")
    await server.until(lambda: len(server.connections) == 4)
    server.drop()
    await server.until(lambda: not server.connections)
    await server.until(lambda: len(server.connections) == 4)
    await fleet.end()


async def test_a_refused_device_ends_the_fleet_with_its_name(server: AlinkServer, tmp_path: Path) -> None:
    server.secrets["pk", "d3"] = "another"
    fleet = Fleet(server, tmp_path, Conduct())
    with pytest.raises(ExceptionGroup) as found:
        await fleet.task
    assert found.group_contains(FleetFailed, match="d3: CONNECT refused with 4")


def test_a_file_without_secrets_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text("device_name,site\nd1,home\n")
    with pytest.raises(Refused, match="no column 'device_secret': give the file of"):
        read_secrets(tmp_path / "fleet.csv", "pk")


@pytest.mark.parametrize("kind", ["nothing", "file", "closed pipe"])
async def test_a_fleet_runs_whatever_its_stdin_is(server: AlinkServer, tmp_path: Path, kind: str) -> None:
    (tmp_path / "secrets.csv").write_text("device_name,device_secret\nd1,secret-of-d1\nd2,secret-of-d2\n")
    (tmp_path / "orders").write_text("offline 1\ncount\n")
    arguments = ["--port", str(server.port), "--devices", "secrets.csv", "--product-key", "pk", "--seconds", "1"]
    with (tmp_path / "orders").open() as file:
        stdin: int = {"nothing": asyncio.subprocess.DEVNULL, "file": file.fileno(), "closed pipe": asyncio.subprocess.PIPE}[kind]
        command = [sys.executable, "-m", "firmware_sim", "swarm", "--as", "fleet", *arguments]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
        process = await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=-1, cwd=tmp_path, env=environment)
        said = [json.loads(line) for line in (await process.communicate())[0].splitlines()]
    assert process.returncode == 0
    expected = ["ready", "offline", "count", "summary"] if kind == "file" else ["ready", "summary"]
    assert [line["event"] for line in said] == expected
