"""The bus and the stream reader against a real nats-server that is killed now and then."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.foundation.bus import (
    STREAM_FULL,
    WRONG_LAST_SEQUENCE,
    Bus,
    BusAway,
    NoAnswer,
    NobodyAnswers,
    StreamRefused,
)
from cloud.foundation.stream_reader import StreamHole, StreamReader, StreamReplaced
from protocols.errors import TryAgain
from tests.integration.nats_child import NatsChild

STREAM, SUBJECT = "UPLINK-0", "uplink.0"


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsChild]:
    child = NatsChild(tmp_path)
    await child.start()
    yield child
    child.kill()


@pytest.fixture
async def bus(nats: NatsChild) -> AsyncIterator[Bus]:
    connection = await nats.connect()
    yield connection
    await connection.close()


async def fill(bus: Bus, count: int, start: int = 0) -> None:
    for n in range(start, start + count):
        await bus.commit(SUBJECT, b"%d" % n)


async def read(reader: StreamReader, count: int) -> list[int]:
    got: list[int] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got += [message.seq for message in await reader.next(7)]
    return got


async def until_connected(bus: Bus) -> None:
    async with asyncio.timeout(10):
        while not bus.connected:
            await asyncio.sleep(0.01)


async def test_a_wrong_token_is_refused(nats: NatsChild) -> None:
    with pytest.raises(BusAway):
        await Bus.connect(f"nats://127.0.0.1:{nats.port}", "wrong", "test", wait_s=0.2)


async def test_a_request_is_answered_and_one_that_nobody_serves_fails_at_once(nats: NatsChild, bus: Bus) -> None:
    other = await nats.connect("other")

    async def twice(data: bytes) -> bytes:
        return data * 2

    async def silent(_: bytes) -> bytes:
        raise ValueError("a handler with a bug")

    await other.serve("twice", twice)
    await other.serve("silent", silent)
    assert await bus.request("twice", b"ab") == b"abab"
    start = time.monotonic()
    with pytest.raises(NobodyAnswers):
        await bus.request("nobody", b"")
    assert time.monotonic() - start < 1
    with pytest.raises(NoAnswer):
        await bus.request("silent", b"", timeout_s=0.1)
    await other.close()
    await other.close()


async def test_a_message_is_committed_once_by_its_id_and_only_at_the_expected_sequence(bus: Bus) -> None:
    info = await bus.ensure_stream(STREAM, [SUBJECT], max_bytes=1 << 20)
    assert (await bus.ensure_stream(STREAM, [SUBJECT], max_bytes=1 << 20)).stream_id == info.stream_id
    first = await bus.commit(SUBJECT, b"a", {"Nats-Msg-Id": "1", "Nats-Expected-Last-Sequence": "0"})
    again = await bus.commit(SUBJECT, b"a", {"Nats-Msg-Id": "1"})
    assert (first.seq, first.duplicate, again.seq, again.duplicate) == (1, False, 1, True)
    with pytest.raises(StreamRefused) as refused:
        await bus.commit(SUBJECT, b"b", {"Nats-Msg-Id": "1", "Nats-Expected-Last-Sequence": "0"})
    assert refused.value.err_code == WRONG_LAST_SEQUENCE
    stored = await bus.get_message(STREAM, 1)
    assert stored is not None
    assert (stored.data, stored.headers["Nats-Msg-Id"]) == (b"a", "1")
    assert await bus.get_message(STREAM, 2) is None


async def test_two_roles_that_make_the_stream_at_once_agree_on_its_id(nats: NatsChild) -> None:
    buses = [await nats.connect(f"role{n}") for n in range(4)]
    infos = await asyncio.gather(*(bus.ensure_stream(STREAM, [SUBJECT], max_bytes=1 << 20) for bus in buses))
    assert len({info.stream_id for info in infos}) == 1
    for bus in buses:
        await bus.close()


async def test_a_full_stream_refuses_and_keeps_what_it_has(bus: Bus) -> None:
    await bus.ensure_stream(STREAM, [SUBJECT], max_bytes=64 * 1024)
    with pytest.raises(StreamRefused) as refused:
        await fill(bus, 10_000)
    assert (refused.value.code, refused.value.err_code) == (503, STREAM_FULL)
    info = await bus.stream_info(STREAM)
    assert info.first_seq == 1
    await bus.purge_below(STREAM, info.last_seq + 10)
    after = await bus.stream_info(STREAM)
    assert (after.first_seq, after.last_seq) == (info.last_seq, info.last_seq)  # the last message always stays
    await bus.commit(SUBJECT, b"x")


async def test_a_lost_connection_ends_waiting_at_once_and_comes_back_with_the_server(nats: NatsChild, bus: Bus) -> None:
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    async def never(_: bytes) -> bytes:
        await asyncio.sleep(60)
        return b""

    bus.on_reconnect(reconnected)
    other = await nats.connect("other")
    try:
        await other.serve("never", never)
        waiting = asyncio.create_task(bus.request("never", b"", timeout_s=30))
        await asyncio.sleep(0.1)
        start = time.monotonic()
        nats.kill()
        with pytest.raises(BusAway):
            await waiting
        assert time.monotonic() - start < 2
        with pytest.raises(BusAway):
            await bus.publish("x", b"")
        with pytest.raises(BusAway):
            await bus.commit(SUBJECT, b"")
        await nats.start()
        async with asyncio.timeout(5):
            await back.wait()
        with pytest.raises(NobodyAnswers):
            await bus.request("nobody", b"")
    finally:  # a client that is left open keeps the loop from ending
        await other.close()


async def test_a_reader_gets_every_message_after_its_position_in_order_over_kills_of_the_server(nats: NatsChild, bus: Bus) -> None:
    info = await bus.ensure_stream(STREAM, [SUBJECT], max_bytes=1 << 24)
    await fill(bus, 300)
    reader = StreamReader(bus, STREAM, info.stream_id, after=10, max_messages=16)
    got = await read(reader, 90)
    nats.kill()
    await nats.start()
    await until_connected(bus)
    await fill(bus, 20, 300)
    got += await read(reader, 320 - 10 - len(got))
    assert got == list(range(11, 321))
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0.05)
    await fill(bus, 1, 320)
    assert [message.data for message in await waiting] == [b"320"]
    await reader.close()
    await reader.close()
    with pytest.raises(BusAway):
        await reader.next()


async def test_a_reader_says_when_messages_are_gone(bus: Bus) -> None:
    info = await bus.ensure_stream(STREAM, [SUBJECT], max_bytes=1 << 24)
    await fill(bus, 20)
    await bus.purge_below(STREAM, 15)
    reader = StreamReader(bus, STREAM, info.stream_id, after=4)
    with pytest.raises(StreamHole) as hole:
        await reader.next()
    assert (hole.value.expected, hole.value.got) == (5, 15)
    assert await read(reader, 6) == list(range(15, 21))
    await reader.close()


async def test_a_reader_says_when_the_stream_was_lost_and_made_anew(nats: NatsChild, bus: Bus) -> None:
    info = await bus.ensure_stream(STREAM, [SUBJECT], max_bytes=1 << 24)
    await fill(bus, 3)
    reader = StreamReader(bus, STREAM, info.stream_id, after=3)
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0.1)
    nats.kill()
    shutil.rmtree(nats.directory / "nats")
    await nats.start()
    await until_connected(bus)
    made = await bus.ensure_stream(STREAM, [SUBJECT], max_bytes=1 << 24)
    with pytest.raises(StreamReplaced) as replaced:
        await asyncio.wait_for(waiting, 10)
    assert replaced.value.stream_id == made.stream_id != info.stream_id
    assert isinstance(replaced.value, TryAgain)
    await reader.close()
