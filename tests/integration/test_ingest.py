"""Ingest on a real NATS, DuckDB and SQLite: what the stream holds is in the store once, whoever dies when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

import cloud.devices.tables
import cloud.products.tables
import cloud.tenancy.tables  # noqa: F401 - the whole schema
from cloud.access.model import DOWN_SUBJECT, UPLINK_STREAM, UPLINK_SUBJECT, Downlink, SessionRow, decode_downlinks
from cloud.devices.answers import ANSWERS
from cloud.devices.registry import create_device, reported
from cloud.devices.service import device_facts
from cloud.foundation.bus import Bus
from cloud.foundation.db import Database
from cloud.foundation.metrics import Metrics
from cloud.foundation.schema import upgrade
from cloud.foundation.vault import Vault
from cloud.ingest.answering import Answering
from cloud.ingest.evaluation import Evaluator, open_message
from cloud.ingest.model import SeriesBook
from cloud.ingest.quarantine import Wanted, count_held, list_entries
from cloud.ingest.registry import Registry
from cloud.ingest.service import commit, load_memory
from cloud.ingest.trail import Trail
from cloud.ingest.worker import serve
from cloud.products.service import create_product
from cloud.telemetry.duckdb_store import DuckDbStore
from cloud.telemetry.model import Position, SeriesKey
from cloud.telemetry.worker import StoreWorker
from cloud.tenancy.service import create_tenant
from protocols.edgelink.columns import Columns
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Committed
from tests.integration.nats_child import NatsChild
from tests.unit.cloud.ingest.scene import BUFFER, MODEL, NOW, batch, frame, post

EVER = (-(2**53), 2**53)
MEBIBYTE = 1 << 20


@dataclass(slots=True)
class World:
    """One tenant with a stove and a gateway on one site; the processes' parts, to be started and stopped at will."""

    nats: NatsChild
    database: Database
    directory: Path
    tenant_id: int
    product_key: str

    @property
    def store_file(self) -> Path:
        return self.directory / "telemetry.duckdb"

    def session(self, name: str, product_key: str | None = None) -> SessionRow:
        key = (product_key or self.product_key, name)
        facts = device_facts(self.database, [key])[key]
        return SessionRow(facts.tenant_id, facts.device_id, *key, 1)

    def posts(self, *payloads: bytes) -> bytes:
        return batch(*payloads, session=self.session("s1"), topic=f"/sys/{self.product_key}/s1/thing/event/property/post")

    def frames(self, *seqs: int) -> bytes:
        """One reading a frame: the level, at the frame's number of ms after NOW."""
        dictionary = ((self.product_key, "s1", "level"),)
        one = np.zeros(1, np.uint32)
        frames = [frame(seq, Columns(dictionary, one, np.array([NOW + seq]), np.array([seq % 9.0]))) for seq in seqs]
        return batch(*frames, session=self.session("g1", "gateway"), topic="/edge/gateway/g1/up/live")

    @asynccontextmanager
    async def core(self) -> AsyncIterator[DuckDbStore]:
        bus, store = await self.nats.connect("core"), DuckDbStore(self.store_file)
        worker = StoreWorker(store, bus)
        await worker.start()
        try:
            yield store
        finally:
            await bus.close()
            await worker.close()
            store.close()

    @asynccontextmanager
    async def ingest(self) -> AsyncIterator[None]:
        bus = await self.nats.connect("ingest")
        trail = Trail(self.directory / "ingest.trail")
        respond = Answering(Vault(b"k" * 32), ANSWERS)
        serving = serve(bus=bus, database=self.database, metrics=Metrics(), stream_bytes=64 * MEBIBYTE, trail=trail, respond=respond)
        task = asyncio.create_task(serving)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            trail.close()
            await bus.close()


def key(world: World, identifier: str) -> SeriesKey:
    return SeriesKey(world.product_key, "s1", identifier)


async def stands_at(store: DuckDbStore, database: Database, sequence: int) -> None:
    """Until both steps are done for everything up to `sequence`."""
    async with asyncio.timeout(20):
        while store.position().sequence < sequence or (load_memory(database, 0).position or Position()).sequence < sequence:
            await asyncio.sleep(0.02)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    nats = NatsChild(tmp_path)
    await nats.start()
    database = Database(f"sqlite:///{tmp_path / 'meta.db'}")
    upgrade(database)
    with database.system() as work:
        tenant_id = create_tenant(work, "home").tenant_id
        work.commit()
    with database.unit_of_work(tenant_id) as work:
        product_key = create_product(work, "Stove", MODEL.to_dict()).product_key
        vault = Vault(b"k" * 32)
        create_device(work, vault, product_key, "s1", "kitchen")
        create_device(work, vault, "gateway", "g1", "kitchen")
        work.commit()
    yield World(nats, database, tmp_path, tenant_id, product_key)
    database.close()
    nats.kill()


@pytest.fixture
async def door(world: World) -> AsyncIterator[Bus]:
    """The front door's place on the bus."""
    bus = await world.nats.connect("access")
    await bus.ensure_stream(UPLINK_STREAM, [UPLINK_SUBJECT], max_bytes=64 * MEBIBYTE)
    yield bus
    await bus.close()


def values(world: World, store: DuckDbStore, identifier: str) -> list[tuple[int, float]]:
    """Every stored row of a property, duplicates too."""
    series = store.find(key(world, identifier))
    if series is None:
        return []
    found = store.rows(series, *EVER, 10_000, 0)
    return list(zip(found.ts.tolist(), [float(value) for value in found.values], strict=True))


def power(*seqs: int) -> list[bytes]:
    return [post({"power": {"value": seq, "time": NOW + seq}}) for seq in seqs]


async def test_what_was_committed_to_the_stream_is_stored_answered_and_in_the_shadow(world: World, door: Bus) -> None:
    down: list[Downlink] = []

    async def listen(data: bytes) -> None:
        down.extend(decode_downlinks(data))

    await door.subscribe(DOWN_SUBJECT, listen)
    async with world.core() as store, world.ingest():
        await door.commit(UPLINK_SUBJECT, world.posts(*power(1, 2, 3), b"{"))
        await door.commit(UPLINK_SUBJECT, world.frames(1, 2))
        await stands_at(store, world.database, 2)
        assert values(world, store, "power") == [(NOW + 1, 1.0), (NOW + 2, 2.0), (NOW + 3, 3.0)]
        assert values(world, store, "level") == [(NOW + 1, 1.0), (NOW + 2, 2.0)]
        async with asyncio.timeout(5):
            while len(down) < 5:
                await asyncio.sleep(0.01)
    with world.database.reading(world.tenant_id) as work:
        assert reported(work, world.session("s1").device_id) == {"power": (3.0, NOW + 3), "level": (2, NOW + 2)}
        assert count_held(work) == {"bad_json": 1}
        assert [entry.payload for entry in list_entries(work, Wanted(), 0, 10)] == [b"{"]
    assert [msgspec.json.decode(message.payload)["code"] for message in down if message.product_key != "gateway"] == [200, 200, 200, 6207]
    (told,) = [msgspec.json.decode(message.payload, type=Committed) for message in down if message.topic.endswith("/down/committed")]
    assert told == Committed(BUFFER.hex(), {Lane.LIVE: 2})


async def test_a_crash_between_the_two_steps_repeats_the_first_as_nothing_and_the_second_in_full(world: World, door: Bus) -> None:
    """The append reached the store, the metadata did not: as `ingest.after_append` leaves it."""
    async with world.core() as store:
        async with world.ingest():
            await door.commit(UPLINK_SUBJECT, world.frames(1))
            await stands_at(store, world.database, 1)
        messages = [world.frames(2, 3), world.posts(*power(1), b"{"), world.frames(3, 4)]
        for message in messages:
            await door.commit(UPLINK_SUBJECT, message)
        memory, position = load_memory(world.database, 0), store.position()
        evaluator = Evaluator(position, SeriesBook(store.series(0, 100)), memory.marks, registry := Registry())
        for sequence, message in enumerate(messages, 2):
            opened = open_message(sequence, message)
            registry.learn(*Registry.load(world.database, opened.products, opened.devices))
            evaluator.evaluate(opened)
        store.append(evaluator.cut().append)
        await door.commit(UPLINK_SUBJECT, world.frames(5))
        async with world.ingest():
            await stands_at(store, world.database, 5)
        assert values(world, store, "level") == [(NOW + seq, float(seq)) for seq in (1, 2, 3, 4, 5)]
        assert values(world, store, "power") == [(NOW + 1, 1.0)]
    assert {mark.sequence for mark in load_memory(world.database, 0).marks.values()} == {5}
    with world.database.reading(world.tenant_id) as work:
        assert reported(work, world.session("s1").device_id) == {"power": (1.0, NOW + 1), "level": (5, NOW + 5)}
        assert count_held(work) == {"bad_json": 1}


async def test_computing_the_metadata_again_changes_nothing(world: World, door: Bus) -> None:
    """As `ingest.after_commit` and a lost answer leave it."""
    evaluator = Evaluator(Position("s", 0), SeriesBook(()), {}, registry := Registry())
    opened = open_message(1, world.posts(*power(1), b"{", post({"nope": 1})))
    registry.learn(*Registry.load(world.database, opened.products, opened.devices))
    evaluator.evaluate(opened)
    effects = evaluator.cut()
    for _ in range(2):
        commit(world.database, 0, effects)
        with world.database.reading(world.tenant_id) as work:
            assert count_held(work) == {"bad_json": 1, "unknown_identifier": 1}
            assert reported(work, world.session("s1").device_id) == {"power": (1.0, NOW + 1)}
        assert load_memory(world.database, 0).position == Position("s", 1)


async def test_nothing_is_lost_or_stored_twice_when_core_nats_and_ingest_go_away_in_turn(world: World, door: Bus) -> None:
    sent = 0

    async def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            await door.commit(UPLINK_SUBJECT, world.posts(*power(sent)))

    async with world.ingest():
        async with world.core():
            await send(20)
        await send(20)  # core is away
        async with world.core() as store:
            await stands_at(store, world.database, 40)
            world.nats.kill()
            await asyncio.sleep(0.1)
            await world.nats.start()
            async with asyncio.timeout(10):
                while not door.connected:
                    await asyncio.sleep(0.02)
            await send(20)
            await stands_at(store, world.database, 60)
    await send(20)  # ingest is away
    async with world.core() as store, world.ingest():
        await send(20)
        await stands_at(store, world.database, 100)
        assert values(world, store, "power") == [(NOW + seq, float(seq)) for seq in range(1, 101)]


async def test_a_stream_that_was_lost_becomes_a_gap_of_everybody_and_the_new_one_is_read_from_its_first_message(
    world: World, door: Bus
) -> None:
    async with world.core() as store:
        async with world.ingest():
            await door.commit(UPLINK_SUBJECT, world.posts(*power(1, 2)))
            await stands_at(store, world.database, 1)
        old = store.position()
        await door.api(f"STREAM.DELETE.{UPLINK_STREAM}", {})
        await door.ensure_stream(UPLINK_STREAM, [UPLINK_SUBJECT], max_bytes=64 * MEBIBYTE)
        async with world.ingest():
            await door.commit(UPLINK_SUBJECT, world.posts(*power(3)))
            async with asyncio.timeout(20):
                while len(values(world, store, "power")) < 3:
                    await asyncio.sleep(0.02)
            await stands_at(store, world.database, 1)
        assert store.position().stream_id != old.stream_id
        gaps = store.gaps(world.product_key, "s1", "power", *EVER, 10)
        assert [(gap.reason, gap.from_ms) for gap in gaps] == [("stream_lost", NOW)]


async def test_the_stream_forgets_what_is_committed_and_keeps_its_last_message(world: World, door: Bus) -> None:
    async with world.core() as store, world.ingest():
        for seq in range(1, 31):
            await door.commit(UPLINK_SUBJECT, world.posts(*power(seq)))
        await stands_at(store, world.database, 30)
        async with asyncio.timeout(10):
            while (info := await door.stream_info(UPLINK_STREAM)).messages > 1:
                await asyncio.sleep(0.1)
        assert (info.first_seq, info.last_seq) == (30, 30)
        await door.commit(UPLINK_SUBJECT, world.posts(*power(31)))
        await stands_at(store, world.database, 31)


async def test_a_batch_larger_than_one_message_of_the_bus_is_stored_whole(world: World, door: Bus) -> None:
    count = 90_000
    dictionary = ((world.product_key, "s1", "level"),)
    series, step = np.zeros(count, np.uint32), np.arange(count)
    big = [
        frame(seq, Columns(dictionary, series, NOW - count * seq + step, (step % 9).astype(np.float64))) for seq in (1, 2, 3, 4)
    ]  # 18 parts: the sender waits for the store once
    message = batch(*big, session=world.session("g1", "gateway"), topic="/edge/gateway/g1/up/live")
    async with world.core() as store, world.ingest():
        await door.commit(UPLINK_SUBJECT, message)
        await stands_at(store, world.database, 1)
        found = store.find(key(world, "level"))
        assert found is not None
        assert store.buckets(found, *EVER, EVER[1]).count.sum() == 4 * count
