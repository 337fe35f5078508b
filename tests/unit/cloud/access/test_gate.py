"""Frames wait for ingest, nobody else does, and PUBACKs keep their order."""

import random

from hypothesis import example, given
from hypothesis import strategies as st

from cloud.access.gate import BEGIN, FEWEST, MOST, FrameGate, FrameWindow
from cloud.access.group import GroupCommit, Owner
from cloud.access.model import FRAME_WEIGHT, MAX_MESSAGES, UplinkBatch
from protocols.edgelink.lanes import Lane
from protocols.mqtt.codec import Decoder, encode_publish
from protocols.mqtt.run import PublishRun
from tests.unit.cloud.access.test_group import SESSION, Device, FakeStream, committing, until

BULK = "/edge/gateway/g1/up/bulk"
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


async def test_live_frames_go_before_backlogs_whoever_came_first() -> None:
    stream, back, live = FakeStream(), Device(), Device()
    async with committing(stream) as commit:
        gate = FrameGate(commit)
        filled(gate)
        enter(gate, back, BULK, 1, Lane.BULK)
        enter(gate, back, LIVE, 2, Lane.LIVE)
        enter(gate, live, LIVE, 3, Lane.LIVE)
        assert (gate.held, stream.stored) == (4, []), "three frames, and the PUBACK of the one that overtakes"
        gate.committed(1, 0.1)
        await until(lambda: acknowledged(back) == b"".join(acks(1, 2)) and acknowledged(live) == b"".join(acks(3)))
    assert stream.payloads() == [b"2", b"3", b"1"]
    assert (gate.held, gate.held_bytes) == (0, 0)


class HeardCommit(GroupCommit):
    """Group commit that only notes what it is given: it answers in that order, once all before it is on disk."""

    def __init__(self) -> None:
        super().__init__(FakeStream(), last_sequence=0, instance="me")
        self.entered: list[bytes] = []
        self.answered: dict[Device, bytes] = {}
        self.false_acks = 0

    def gather(self, owner: Owner, session: bytes, run: PublishRun, acks: bytes, received_ms: int) -> None:
        self.entered += run.payloads()
        self.acknowledge_in_turn(owner, acks)

    def acknowledge_in_turn(self, owner: Owner, acks: bytes) -> None:
        assert isinstance(owner, Device)
        for at in range(0, len(acks), 4):
            packet = b"%d" % int.from_bytes(acks[at + 2 : at + 4], "big")
            self.false_acks += packet not in self.entered
        self.answered[owner] = self.answered.get(owner, b"") + acks


class TinyWindow(FrameWindow):
    """One frame, whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 1

    def committed(self, sequence: int, now: float) -> None:
        super().committed(sequence, now)
        self.size = 1


LANES_OF = {Lane.ALARM: ALARM, Lane.LIVE: LIVE, Lane.BULK: BULK}


@example([(0, Lane.LIVE), (1, Lane.LIVE), (2, Lane.LIVE), (2, Lane.ALARM), None])
@given(st.lists(st.one_of(st.tuples(st.integers(0, 2), st.sampled_from(list(LANES_OF))), st.none()), max_size=80))
def test_pubacks_keep_the_order_of_their_connection_and_never_come_before_their_frame(steps: list[tuple[int, Lane] | None]) -> None:
    """A step is a frame of one of three gateways, or ingest's word that it has committed all there is."""
    commit = HeardCommit()
    gate, devices = FrameGate(commit), [Device(), Device(), Device()]
    gate.window = TinyWindow()
    sent: list[list[int]] = [[], [], []]
    of_lane: dict[tuple[int, Lane], list[bytes]] = {}
    sequence, number, told = 0, 0, 0.0

    def progress() -> None:
        nonlocal sequence, told
        sequence, told = sequence + 1, told + 1
        gate.window.stored(sequence, gate.window.ahead - sum(frames for _, frames, _ in gate.window._stored), told)
        gate.committed(sequence, told)

    for step in steps:
        if step is None:
            progress()
            continue
        who, lane = step
        number += 1
        sent[who].append(number)
        of_lane.setdefault(step, []).append(b"%d" % number)
        enter(gate, devices[who], LANES_OF[lane], number, lane)
        assert commit.false_acks == 0
    for _ in range(len(steps) + 2):
        progress()
    assert (gate.held, gate.held_bytes, commit.false_acks) == (0, 0, 0)
    for device, numbers in zip(devices, sent, strict=True):
        assert commit.answered.get(device, b"") == b"".join(acks(*numbers))
    for payloads in of_lane.values():
        assert [one for one in commit.entered if one in payloads] == payloads, "a lane keeps its order"
    assert sorted(commit.entered, key=int) == [b"%d" % n for n in range(1, number + 1)]


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
