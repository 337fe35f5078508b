"""Group commit against a stream that behaves like JetStream and can fail at every step."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cloud.access.group import GroupCommit
from cloud.access.model import MAX_BYTES, MAX_MESSAGES, Kind, PresenceNote, SessionRow, UplinkBatch, session_key
from cloud.access.ports import AnotherWriter, OutcomeUnknown, StreamAway, StreamFull, WrongSequence
from protocols.mqtt.codec import Decoder, PublishRun, encode_publish

SESSION = session_key(SessionRow(1, 2, "pk", "dn", 3))


@dataclass
class FakeStream:
    """Keeps messages as JetStream does: the expected sequence is checked before the id. `faults` happen to the next publishes, in turn."""

    stored: list[tuple[str, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    attempts: list[tuple[str, int]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    waits: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    async def publish(self, payload: bytes, message_id: str, expected_last: int) -> int:
        self.attempts.append((message_id, expected_last))
        await self.open.wait()
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "full":
            raise StreamFull
        if fault == "away":
            raise StreamAway
        if fault == "lost":
            raise OutcomeUnknown
        if expected_last != len(self.stored):
            raise WrongSequence
        self.stored.append((message_id, payload))
        if fault == "answer lost":
            raise OutcomeUnknown
        return len(self.stored)

    async def message_id_at(self, sequence: int) -> str | None:
        if self.faults and self.faults[0] == "read lost":
            self.faults.pop(0)
            raise OutcomeUnknown
        return self.stored[sequence - 1][0] if sequence <= len(self.stored) else None

    async def usable(self) -> None:
        self.waits += 1

    def payloads(self) -> list[bytes]:
        return [payload for _, data in self.stored for row in UplinkBatch.from_bytes(data) for payload in row.payloads()]


@dataclass(eq=False)
class Device:
    """A connection that writes down what it is told."""

    acks: list[bytes] = field(default_factory=list)
    messages: int = 0

    def committed(self, acks: bytes, messages: int, size: int) -> None:
        self.acks += [acks[at : at + 4] for at in range(0, len(acks), 4)]
        self.messages += messages


def run_of(*payloads: bytes, qos: int = 1, first_id: int = 1) -> PublishRun:
    data = b"".join(encode_publish("/t", payload, qos=qos, packet_id=first_id + i if qos else 0) for i, payload in enumerate(payloads))
    (run,) = Decoder(4, max_packet=1 << 20).feed(data)
    assert isinstance(run, PublishRun)
    return run


def ack(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


@asynccontextmanager
async def committing(stream: FakeStream, stuck: Callable[[], None] = lambda: None) -> AsyncIterator[GroupCommit]:
    commit = GroupCommit(stream, last_sequence=len(stream.stored), instance="me", stuck=stuck)
    task = asyncio.create_task(commit.run())
    yield commit
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


async def test_a_puback_comes_after_the_stream_has_the_message() -> None:
    stream, device = FakeStream(), Device()
    stream.open.clear()
    async with committing(stream) as commit:
        run = run_of(b"a", b"b")
        commit.gather(device, SESSION, run, run.acks(), 0)
        await until(lambda: len(stream.attempts) == 1)
        assert device.acks == []
        stream.open.set()
        await until(lambda: device.acks == [ack(1), ack(2)])
    assert stream.payloads() == [b"a", b"b"]


async def test_a_stream_that_never_answers_is_told_of_and_what_waits_lands_once() -> None:
    stream, waiting, told = FakeStream(faults=["lost"] * 7), Device(), list[int]()
    async with committing(stream, stuck=lambda: told.append(len(stream.attempts))) as commit:
        run = run_of(b"a")
        commit.gather(waiting, SESSION, run, run.acks(), 0)
        await until(lambda: waiting.acks == [ack(1)])
    assert told == [3, 6]
    assert stream.payloads() == [b"a"]


async def test_publishes_gather_while_one_is_in_flight() -> None:
    stream, devices = FakeStream(), [Device() for _ in range(50)]
    stream.open.clear()
    async with committing(stream) as commit:
        first = run_of(b"first")
        commit.gather(devices[0], SESSION, first, first.acks(), 0)
        await until(lambda: len(stream.attempts) == 1)
        for n, device in enumerate(devices):
            run = run_of(b"%d" % n, first_id=2)
            commit.gather(device, SESSION, run, run.acks(), 0)
        await asyncio.sleep(0)
        assert len(stream.attempts) == 1
        stream.open.set()
        await until(lambda: all(device.acks for device in devices))
    assert len(stream.stored) == 2
    assert stream.payloads() == [b"first", *(b"%d" % n for n in range(50))]


async def test_a_group_holds_at_most_its_messages_and_bytes_and_order_is_kept() -> None:
    stream, device = FakeStream(), Device()
    async with committing(stream) as commit:
        small = [b"%06d" % n for n in range(3 * MAX_MESSAGES + 7)]
        large = [bytes([n]) * 100_000 for n in range(9)]
        for payloads in (small, large):
            run = run_of(*payloads)
            commit.gather(device, SESSION, run, run.acks(), 0)
        await until(lambda: device.messages == len(small) + len(large))
        assert commit.waiting_bytes == 0
    assert stream.payloads() == [*small, *large]
    assert device.acks == [ack(1 + n) for n in range(len(small))] + [ack(1 + n) for n in range(9)]
    for _, data in stream.stored:
        batch = UplinkBatch.from_bytes(data)
        assert batch.messages <= MAX_MESSAGES
        assert len(batch.blob) <= MAX_BYTES


async def test_a_packet_larger_than_a_group_goes_alone() -> None:
    stream, device = FakeStream(), Device()
    async with committing(stream) as commit:
        for payload in (b"x", bytes(MAX_BYTES + 1), b"y"):
            run = run_of(payload)
            commit.gather(device, SESSION, run, run.acks(), 0)
        await until(lambda: device.messages == 3)
    assert [len(payload) for payload in stream.payloads()] == [1, MAX_BYTES + 1, 1]


async def test_a_refused_publish_keeps_its_place() -> None:
    stream, device = FakeStream(), Device()
    stream.open.clear()
    async with committing(stream) as commit:
        for n in (1, 2, 3):
            run = run_of(b"%d" % n, first_id=n)
            if n == 2:
                commit.acknowledge_in_turn(device, b"NO-2")
            else:
                commit.gather(device, SESSION, run, run.acks(), 0)
        await until(lambda: bool(stream.attempts))
        assert device.acks == []
        stream.open.set()
        await until(lambda: len(device.acks) == 3)
    assert device.acks == [ack(1), b"NO-2", ack(3)]
    assert stream.payloads() == [b"1", b"3"]


async def test_a_refusal_alone_needs_no_commit() -> None:
    stream, device = FakeStream(), Device()
    async with committing(stream) as commit:
        commit.acknowledge_in_turn(device, b"NO-1")
        await until(lambda: device.acks == [b"NO-1"])
    assert stream.attempts == []


@pytest.mark.parametrize(
    "faults",
    [
        ["lost"],
        ["answer lost"],
        ["lost", "lost", "answer lost"],
        ["answer lost", "lost"],
        ["answer lost", "read lost"],
        ["away", "answer lost"],
        ["full"],
    ],
    ids="-".join,
)
async def test_whatever_happens_to_a_publish_it_lands_exactly_once(faults: list[str]) -> None:
    stream, device = FakeStream(faults=list(faults)), Device()
    async with committing(stream) as commit:
        for n in range(1, 4):
            run = run_of(b"%d" % n, first_id=n)
            commit.gather(device, SESSION, run, run.acks(), 0)
            await until(lambda n=n: device.messages == n)  # type: ignore[misc]
        assert not commit.stalled
    assert stream.payloads() == [b"1", b"2", b"3"]
    assert device.acks == [ack(1), ack(2), ack(3)]
    assert len({expected for _, expected in stream.attempts}) == len({message_id for message_id, _ in stream.attempts}) == 3


async def test_a_full_stream_stops_pubacks_and_goes_on_when_there_is_room() -> None:
    stream, device = FakeStream(faults=["full", "full"]), Device()
    async with committing(stream) as commit:
        run = run_of(b"a")
        commit.gather(device, SESSION, run, run.acks(), 0)
        await until(lambda: commit.stalled)
        assert device.acks == []
        await until(lambda: device.acks == [ack(1)])
    assert len(stream.attempts) == 3


async def test_another_writer_stops_us() -> None:
    stream, device = FakeStream(), Device()
    commit = GroupCommit(stream, last_sequence=0, instance="me")
    stream.stored.append(("someone-1", b""))
    run = run_of(b"a")
    commit.gather(device, SESSION, run, run.acks(), 0)
    with pytest.raises(AnotherWriter):
        await commit.run()
    assert device.acks == []


async def test_presence_keeps_its_place_between_publishes() -> None:
    stream, device = FakeStream(), Device()
    async with committing(stream) as commit:
        commit.note(Kind.OPENED, SESSION, 1, PresenceNote("a", ""))
        run = run_of(b"x")
        commit.gather(device, SESSION, run, run.acks(), 2)
        commit.note(Kind.CLOSED, SESSION, 3, PresenceNote("a", "gone"))
        await until(lambda: bool(stream.stored))
    rows = list(UplinkBatch.from_bytes(stream.stored[0][1]))
    assert [(row.kind, row.received_ms) for row in rows] == [(Kind.OPENED, 1), (Kind.PUBLISH, 2), (Kind.CLOSED, 3)]


async def test_qos_0_is_stored_and_not_acknowledged() -> None:
    stream, device = FakeStream(), Device()
    async with committing(stream) as commit:
        run = run_of(b"a", b"b", qos=0)
        commit.gather(device, SESSION, run, run.acks(), 0)
        await until(lambda: device.messages == 2)
    assert device.acks == []
    assert stream.payloads() == [b"a", b"b"]
