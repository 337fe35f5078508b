"""Raw load against a real MQTT peer."""

import json
from collections.abc import AsyncIterator

import pytest

from firmware_sim import load
from firmware_sim.devices import DeviceSpec
from firmware_sim.swarm import SwarmFailed, run
from protocols.edgelink.frame import decode_frame
from tests.fakes.alink_server import AlinkServer

SPECS = [DeviceSpec("pkLoad", f"d{index}", f"secret-{index}") for index in range(3)]


@pytest.fixture
async def server() -> AsyncIterator[AlinkServer]:
    server = AlinkServer({(spec.product_key, spec.device_name): spec.device_secret for spec in SPECS})
    await server.start()
    yield server
    await server.stop()


async def test_every_message_is_sent_once_and_every_puback_counted(server: AlinkServer) -> None:
    loads = [
        load.load_of(load.connect_of(spec), load.post_topic("pkLoad", spec.device_name), load.posts(["a", "b"], 500, 1_000, 10), 500)
        for spec in SPECS
    ]
    result = await run(loads, "127.0.0.1", server.port, window=10, timing=True)
    assert result.puback == len(server.received) == 1_500
    assert result.puback_p99_ms is not None
    last = [json.loads(payload) for topic, payload in server.received if topic == load.post_topic("pkLoad", "d1")][-1]
    assert (last["id"], last["params"]["b"]) == ("500", {"value": 50.0, "time": 5_990})


async def test_a_ring_of_payloads_is_sent_again_and_again_up_to_the_total_at_the_rate(server: AlinkServer) -> None:
    loads = [load.load_of(load.connect_of(SPECS[0]), "/pkLoad/d0/user/load", load.filler(20, 7), 100)]
    result = await run(loads, "127.0.0.1", server.port, window=5, rate=1_000)
    assert [payload for _, payload in server.received] == [bytes([65 + index % 7]) * 20 for index in range(100)]
    assert result.rate < 1_200


async def test_for_seconds_everything_sent_is_acknowledged_before_the_end(server: AlinkServer) -> None:
    loads = [load.load_of(load.connect_of(SPECS[0]), "/pkLoad/d0/user/load", load.filler(200, 64), None)]
    result = await run(loads, "127.0.0.1", server.port, window=10, seconds=0.1)
    assert result.puback == len(server.received) > 10


async def test_frames_carry_the_readings_of_the_devices_behind_a_gateway(server: AlinkServer) -> None:
    frames = list(load.frames([("pk", "a"), ("pk", "b")], ["x", "y"], readings=100, count=3, start_ms=1_000, step_ms=10))
    decoded = [decode_frame(frame) for frame in frames]
    assert [frame.header.seq for frame in decoded] == [1, 2, 3]
    assert [len(frame.columns.values) for frame in decoded] == [100, 100, 100]
    assert int(decoded[2].columns.times.max()) == 1_000 + 74 * 10
    loads = [load.load_of(load.connect_of(SPECS[0]), load.live_topic("pkLoad", "d0"), frames, 3)]
    assert (await run(loads, "127.0.0.1", server.port, window=10)).puback == 3


async def test_a_refused_connection_ends_the_run_with_the_devices_name(server: AlinkServer) -> None:
    wrong = DeviceSpec("pkLoad", "d0", "wrong")
    with pytest.raises(SwarmFailed, match="d0&pkLoad: CONNECT refused with 4"):
        await run([load.load_of(load.connect_of(wrong), "/pkLoad/d0/user/x", load.filler(1, 1), 1)], "127.0.0.1", server.port, window=1)
