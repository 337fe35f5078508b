"""Frames wait for ingest, nobody else does, and PUBACKs keep their order."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cloud.access.gate import BEGIN, FEWEST, MOST, FrameGate, FrameWindow
from cloud.access.group import GroupCommit
from cloud.access.model import FRAME_WEIGHT, MAX_MESSAGES, UplinkBatch
from protocols.edgelink.lanes import Lane
from protocols.mqtt.codec import Decoder, encode_publish
from protocols.mqtt.run import PublishRun
from tests.unit.cloud.access.test_group import SESSION, Device, FakeStream, committing, until

LIVE, ALARM, POST = "/edge/gateway/g1/up/live", "/edge/gateway/g1/up/alarm", "/sys/pk/d1/thing/event/property/post"


def run_on(topic: str, payload: bytes, packet_id: int) -> PublishRun:
    (run,) = Decoder().feed(encode_publish(topic, payload, qos=1, packet_id=packet_id))
    assert isinstance(run, PublishRun)
    return run


def enter(gate: FrameGate, device: Device, topic: str, packet_id: int, lane: Lane | None) -> None:
    run = run_on(topic, b"%d" % packet_id, packet_id)
    gate.gather(device, SESSION, run, run.acks(), 0, lane)


def acks(*packet_ids: int) -> list[bytes]:
    return [b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids]


def acknowledged(device: Device) -> bytes:
    return b"".join(device.acks)


def filled(gate: FrameGate) -> None:
    """Nothing more fits."""
    gate.window.enter(BEGIN)
    gate.window.stored(1, BEGIN, 0.0)


async def test_frames_wait_for_ingest_and_posts_of_others_do_not() -> None:
    stream, gateway, appliance = FakeStream(), Device(), Device()
    async with committing(stream) as commit:
        gate = FrameGate(commit)
        filled(gate)
        enter(gate, gateway, LIVE, 1, Lane.LIVE)
        enter(gate, appliance, POST, 1, None)
        await until(lambda: bool(appliance.acks))
        assert (gateway.acks, gate.held) == ([], 1)
        gate.committed(1, 0.1)
        await until(lambda: bool(gateway.acks))
        assert (gate.held, gate.held_bytes) == (0, 0)
    assert stream.payloads() == [b"1", b"1"]


async def test_an_alarm_goes_ahead_of_the_frames_that_wait_and_its_puback_keeps_its_place() -> None:
    stream, gateway = FakeStream(), Device()
    async with committing(stream) as commit:
        gate = FrameGate(commit)
        filled(gate)
        enter(gate, gateway, LIVE, 1, Lane.LIVE)
        enter(gate, gateway, ALARM, 2, Lane.ALARM)
        gate.acknowledge_in_turn(gateway, b"refused")
        enter(gate, gateway, LIVE, 3, Lane.LIVE)
        await until(lambda: bool(stream.stored))
        assert (stream.payloads(), acknowledged(gateway)) == ([b"2"], b"")
        gate.committed(1, 0.1)
        await until(lambda: acknowledged(gateway) == b"".join([*acks(1, 2), b"refused", *acks(3)]))
    assert stream.payloads() == [b"2", b"1", b"3"]
    assert gateway.messages == 3


async def test_a_message_of_the_stream_holds_no_more_frames_than_its_weight_allows() -> None:
    stream, gateway = FakeStream(), Device()
    async with committing(stream) as commit:
        packets = b"".join(encode_publish(LIVE, b"%03d" % n, qos=1, packet_id=n) for n in range(1, 101))
        (run,) = Decoder().feed(packets)
        assert isinstance(run, PublishRun)
        commit.gather(gateway, SESSION, run, run.acks(), 0)
        await until(lambda: gateway.messages == 100)
    assert stream.payloads() == [b"%03d" % n for n in range(1, 101)]
    frames = [UplinkBatch.from_bytes(data).messages for _, data in stream.stored]
    assert max(frames) == MAX_MESSAGES // FRAME_WEIGHT


@given(st.integers(0, 2**32))
def test_the_window_never_forgets_a_frame_and_keeps_its_bounds(seed: int) -> None:
    chance, window, now, waiting = random.Random(seed), FrameWindow(), 0.0, 0
    sequence = told = 0
    inside: list[tuple[int, int]] = []
    for _ in range(200):
        now += chance.random() * 0.2
        if chance.random() < 0.6:
            frames = chance.randrange(1, 60)
            window.enter(frames)
            waiting += frames
        if waiting and chance.random() < 0.6:
            sequence += 1
            window.stored(sequence, waiting, now)
            inside.append((sequence, waiting))
            waiting = 0
        if chance.random() < 0.5:
            told = chance.randint(told, sequence)
            window.committed(told, now)
            inside = [one for one in inside if one[0] > told]
        assert window.ahead == waiting + sum(frames for _, frames in inside)
        assert FEWEST <= window.size <= MOST


def test_the_window_follows_how_long_ingest_takes() -> None:
    window = FrameWindow()
    for sequence in range(1, 20):
        window.enter(window.size)
        window.stored(sequence, window.size, float(sequence))
        window.committed(sequence, sequence + 0.01)
    quick = window.size
    assert quick > BEGIN
    for sequence in range(20, 40):
        window.enter(window.size)
        window.stored(sequence, window.size, float(sequence))
        window.committed(sequence, sequence + 2.0)
    assert window.size < quick / 10


def test_a_gate_is_told_of_what_its_commit_stored() -> None:
    commit = GroupCommit(FakeStream(), last_sequence=0, instance="me")
    gate = FrameGate(commit)
    gate.window.enter(3)
    commit.stored(7, 3, 0.0)
    gate.committed(7, 0.1)
    assert gate.window.ahead == 0


def test_connections_with_frames_that_wait_are_read_no_further_at_the_bound() -> None:
    gate, gateway, other = FrameGate(GroupCommit(FakeStream(), last_sequence=0, instance="me")), Device(), Device()
    filled(gate)
    for packet_id in range(1, 600):
        run = run_on(LIVE, bytes(1 << 17), packet_id)
        assert not gate.holds_too_much(gateway)
        gate.gather(gateway, SESSION, run, run.acks(), 0, Lane.LIVE)
        if gate.held_bytes >= 64 << 20:
            break
    assert gate.holds_too_much(gateway)
    assert not gate.holds_too_much(other)
