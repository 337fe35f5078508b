"""Simulated appliances against a real MQTT peer."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firmware_sim.devices import DeviceSpec
from firmware_sim.home import HomeOptions, live
from firmware_sim.replay import AlinkReplay, Pace, as_alink
from firmware_sim.series import Series, read_series
from firmware_sim.wire.alink_device import CredentialsRefused
from protocols.alink.messages import property_set
from tests.fakes.alink_server import AlinkServer

KETTLE = ("pkKettle", "kettle-1")
POST = "/sys/pkKettle/kettle-1/thing/event/property/post"


@pytest.fixture
async def server() -> AsyncIterator[AlinkServer]:
    server = AlinkServer({KETTLE: "s" * 32})
    await server.start()
    yield server
    await server.stop()


def kettle(rows: int, tmp_path: Path) -> list[tuple[DeviceSpec, Series]]:
    path = tmp_path / "house.csv"
    path.write_text("Time,Kettle\n" + "".join(f"2014-10-01 00:{n // 60:02}:{n % 60:02},{n / 10}\n" for n in range(rows)))
    return [(DeviceSpec(*KETTLE, "s" * 32), read_series(path, columns=["Kettle"], named={"Kettle": "PowerW"}))]


def numbers(received: list[tuple[str, bytes]]) -> list[int]:
    return [int(json.loads(payload)["id"]) for topic, payload in received if topic == POST]


async def test_a_replay_ends_when_the_last_row_has_its_puback(
    server: AlinkServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = AlinkReplay("127.0.0.1", server.port, tmp_path / "logs", Pace(rate=10_000))
    assert await as_alink(kettle(100, tmp_path), options, asyncio.Event()) == 0
    assert numbers(server.received) == list(range(1, 101))
    first = json.loads(server.received[0][1])
    assert first["params"] == {"PowerW": {"value": 0.0, "time": 1_412_121_600_000}}
    log = [json.loads(line) for line in (tmp_path / "logs" / "kettle-1.jsonl").read_text().splitlines()]
    assert log[9] == {"device": "kettle-1", "n": 10, "time_ms": 1_412_121_609_000, "values": {"PowerW": 0.9}}
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["rows"], summary["puback"], summary["unsent"]) == (100, 100, 0)


async def test_without_puback_messages_are_held_and_sent_again_in_order_after_a_reconnect(server: AlinkServer, tmp_path: Path) -> None:
    server.acknowledging = False
    options = AlinkReplay("127.0.0.1", server.port, tmp_path / "logs", Pace(rate=10_000), window=5)
    replay = asyncio.ensure_future(as_alink(kettle(30, tmp_path), options, asyncio.Event()))
    await server.until(lambda: len(server.received) == 5)
    server.drop()
    await server.until(lambda: len(server.received) == 10)
    assert numbers(server.received) == [1, 2, 3, 4, 5] * 2
    server.acknowledging = True
    server.drop()
    assert await replay == 0
    assert numbers(server.received)[10:] == list(range(1, 31))


async def test_an_appliance_obeys_a_property_set_answers_it_and_posts_the_new_value(tmp_path: Path) -> None:
    server = AlinkServer({("pkHood", "hood-1"): "h" * 32})
    await server.start()
    stop = asyncio.Event()
    spec = DeviceSpec("pkHood", "hood-1", "h" * 32, kind="range_hood")
    home = asyncio.ensure_future(live(HomeOptions("127.0.0.1", server.port, (spec,), tmp_path, rate=0.1), stop))
    await server.until(lambda: len(server.received) == 1)
    server.connections["pkHood", "hood-1"].deliver("/sys/pkHood/hood-1/thing/service/property/set", property_set(9001, {"FanLevel": 4}))
    await server.until(lambda: len(server.received) == 3)
    answer, post = server.received[1:]
    assert answer[0] == "/sys/pkHood/hood-1/thing/service/property/set_reply"
    assert (json.loads(answer[1])["id"], json.loads(answer[1])["code"]) == ("9001", 200)
    assert json.loads(post[1])["params"]["FanLevel"]["value"] == 4
    server.connections["pkHood", "hood-1"].deliver("/sys/pkHood/hood-1/thing/service/property/set", property_set(9002, {"FanLevel": 9}))
    await server.until(lambda: len(server.received) == 4)
    assert json.loads(server.received[3][1])["code"] == 460
    stop.set()
    assert await home == 0
    times = [json.loads(line)["time_ms"] for line in (tmp_path / "hood-1.jsonl").read_text().splitlines()]
    assert times == sorted(set(times))
    await server.stop()


async def test_a_wrong_secret_ends_the_simulator_with_the_devices_name(server: AlinkServer, tmp_path: Path) -> None:
    spec, series = kettle(1, tmp_path)[0]
    wrong = DeviceSpec(spec.product_key, spec.device_name, "wrong")
    options = AlinkReplay("127.0.0.1", server.port, tmp_path / "logs", Pace(rate=10_000))
    with pytest.raises(ExceptionGroup) as found:
        await as_alink([(wrong, series)], options, asyncio.Event())
    assert found.group_contains(CredentialsRefused, match="kettle-1")
