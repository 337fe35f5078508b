"""The ingest role: reads the uplink stream, evaluates, and carries each batch out in two steps that are safe to repeat.

While one batch is committed the next is appended, and the one after that is read and evaluated. Any fault ends this life of the cycle;
the next one begins at what is committed (design.md par. 5.6).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
from prometheus_client import Counter

from cloud.access.model import DOWN_SUBJECT, INGESTED_SUBJECT, UPLINK_STREAM, UPLINK_SUBJECT, Downlink, encode_downlinks
from cloud.devices.model import REGISTRY_CHANGED, RegistryChange
from cloud.foundation.bus import Bus, BusAway, NoAnswer
from cloud.foundation.clock import now_ms
from cloud.foundation.crashpoint import crash_point
from cloud.foundation.db import Database
from cloud.foundation.logs import get_logger
from cloud.foundation.metrics import Metrics
from cloud.foundation.stream_reader import StreamHole, StreamReader
from cloud.ingest.evaluation import Evaluator, open_message, stream_lost
from cloud.ingest.model import Effects, Memory, SeriesBook
from cloud.ingest.registry import Registry
from cloud.ingest.service import Respond, commit, load_memory
from cloud.ingest.trail import Accused, Trail
from cloud.telemetry.model import AppendReply, Position, Series, Verdict, encode_append
from cloud.telemetry.worker import APPEND_SUBJECT, SERIES_A_PAGE, STATE_SUBJECT, StateReply, StateRequest
from protocols.errors import TryAgain

BATCH_S: Final = 0.010  # a batch begins at most this often
# A batch that weighs this much waits for the one before it. (From 122,880 rows on DuckDB writes a row group straight into its file,
# compressed, instead of all of it into the log first: half the CPU, a quarter of the bytes.)
MOST_ROWS: Final = 400_000
PARTS_AHEAD: Final = 16  # of an append, of half a megabyte each: the bus holds no more of a reader that is slow, and cuts it off at 64 MB
APPEND_S: Final = 1.0  # an append takes milliseconds; longer when the store is just compacting its log
MOST_APPEND_S: Final = 32.0
PURGE_S: Final = 1.0
RETRY_S: Final = 0.05
MOST_RETRY_S: Final = 0.5
STOP_S: Final = 5.0
MESSAGES_A_TURN: Final = 8
DOWNLINKS_A_MESSAGE: Final = 2_000
DOWNLINK_BYTES: Final = 1_000_000

_T = TypeVar("_T")

_encode = msgspec.msgpack.Encoder().encode
_decode_append = msgspec.msgpack.Decoder(AppendReply).decode
_decode_state = msgspec.msgpack.Decoder(StateReply).decode
_decode_change = msgspec.json.Decoder(RegistryChange).decode


class StoreElsewhere(TryAgain):
    """The store stands at another position than we believed: somebody else appended, or it was restored."""


async def serve(
    *,
    bus: Bus,
    database: Database,
    metrics: Metrics,
    stream_bytes: int,
    trail: Trail,
    respond: Respond,
    ready: Callable[[], None] = lambda: None,
    partition: int = 0,
) -> None:
    """Be ingest for one partition until cancelled; a batch that is under way is finished first. `trail` is this partition's.

    `respond` answers what devices ask.
    """
    await Ingest(bus, database, metrics, stream_bytes, trail, respond, ready, partition).run()


class Ingest:
    """One partition's cycle."""

    def __init__(
        self,
        bus: Bus,
        database: Database,
        metrics: Metrics,
        stream_bytes: int,
        trail: Trail,
        respond: Respond,
        ready: Callable[[], None],
        partition: int,
    ) -> None:
        self._bus, self._database, self._partition = bus, database, partition
        self._stream_bytes, self._trail, self._respond, self._ready = stream_bytes, trail, respond, ready
        self._registry = Registry()
        self._changed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        self._committed = Position()
        self._messages = metrics.counter("hearthline_ingest_messages", "Messages of devices that were committed.")
        self._unheard = metrics.counter("hearthline_ingest_unheard", "Messages on custom topics, which nobody listens to yet.")
        self._rows = metrics.counter("hearthline_ingest_rows", "Rows appended to the store.")
        self._batches = metrics.counter("hearthline_ingest_batches", "Batches committed.")
        self._restarts = metrics.counter("hearthline_ingest_restarts", "Times the cycle began again after a fault.")
        self._refused: Counter = metrics.counter("hearthline_ingest_quarantined", "Entries of the quarantine.", ("reason",))
        self._step = metrics.histogram("hearthline_ingest_step_seconds", "How long the steps of a batch take.", ("step",))
        self._lag = metrics.gauge("hearthline_ingest_lag_seconds", "Age of the newest committed message when it was committed.")

    async def run(self) -> None:
        """Live, and after a fault live again."""
        await self._bus.subscribe(REGISTRY_CHANGED, self._registry_changed)
        self._bus.on_reconnect(self._reconnected)
        purging = asyncio.create_task(self._purge(), name="ingest.purge")
        wait_s = RETRY_S
        try:
            while True:
                began = time.monotonic()
                try:
                    await self._live()
                except* TryAgain as group:
                    fault = group.exceptions[0]
                    get_logger().warning("ingest.restart", error=str(fault), kind=type(fault).__name__)
                wait_s = RETRY_S if time.monotonic() - began > MOST_RETRY_S else min(2 * wait_s, MOST_RETRY_S)
                self._restarts.inc()
                await asyncio.sleep(wait_s)
        finally:
            purging.cancel()
            self._thread.shutdown(wait=True)

    async def _live(self) -> None:
        life = await self._begin()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(life.evaluate(), name="ingest.evaluate")
            tasks.create_task(life.append(), name="ingest.append")
            tasks.create_task(life.commit(), name="ingest.commit")
            self._ready()

    async def _begin(self) -> "_Life":
        """Ask everybody where they stand, and find where to go on."""
        info = await self._bus.ensure_stream(UPLINK_STREAM, [UPLINK_SUBJECT], max_bytes=self._stream_bytes)
        held, series = await self._store_state()
        memory = await self.in_thread(load_memory, self._database, self._partition)
        start, end, first_cut, lost = where_to_begin(held, memory, info.stream_id)
        accused = self._trail.begin(info.stream_id)
        if accused.deaths:
            get_logger().warning("ingest.died_of", spots=[[*spot, deaths] for spot, deaths in accused.deaths.items()])
        evaluator = Evaluator(start, SeriesBook(series), memory.marks, self._registry, memory.received_ms, self._trail.at, accused)
        if end != start:
            evaluator.move(end, stream_lost(memory.received_ms, now_ms()) if lost else None)
        if lost:
            get_logger().error("ingest.stream_lost", held=held, committed=memory.position, stream=info.stream_id)
        get_logger().info("ingest.begin", start=start, end=end, store=held, first_cut=first_cut)
        self._committed = end
        return _Life(self, evaluator, first_cut, self._trail, accused)

    async def _store_state(self) -> tuple[Position, list[Series]]:
        series: list[Series] = []
        while True:
            reply = _decode_state(await self._bus.request(STATE_SUBJECT, _encode(StateRequest(len(series))), timeout_s=APPEND_S))
            series += reply.series
            if len(reply.series) < SERIES_A_PAGE:
                return reply.position, series

    async def _registry_changed(self, data: bytes) -> None:
        self._registry.forget(_decode_change(data))
        self._changed = True

    async def _reconnected(self) -> None:
        self._registry.refresh(float("inf"))  # an event may have been lost with the connection
        self._changed = True

    async def _purge(self) -> None:
        """Let the stream forget what is committed, but for its last message."""
        purged = Position()
        while True:
            await asyncio.sleep(PURGE_S)
            await self._tell()  # again: the first time may have been lost with a connection
            if self._committed != purged and self._committed.sequence > 0:
                with contextlib.suppress(TryAgain):
                    position = self._committed
                    await self._bus.purge_below(UPLINK_STREAM, position.sequence)
                    purged = position

    # --- what a life of the cycle uses -------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        return self._bus

    async def look_up(self, products: set[str], devices: set[tuple[str, str]]) -> bool:
        """Have everything in the registry that exists of these. True when what was derived from it is stale. Raises DatabaseAway."""
        stale = False
        while True:
            stale |= self._registry.refresh(time.monotonic()) or self._changed
            self._changed = False
            new_products, new_devices = self._registry.missing(products, devices)
            if new_products or new_devices:
                self._registry.learn(*await self.in_thread(Registry.load, self._database, new_products, new_devices))
            if not self._changed:  # nothing was changed while we looked
                return stale

    async def in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call what blocks; one call at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def append(self, effects: Effects) -> None:
        """Step (a): the rows, durably in the store. Raises TryAgain; may be repeated."""
        with self._step.labels("append").time():
            reply = await self._append(effects)
        if reply.verdict not in (Verdict.APPLIED, Verdict.HAVE):
            raise StoreElsewhere(f"the store is at {reply.position}, not at {effects.append.start}")
        crash_point("ingest.after_append")

    async def _append(self, effects: Effects) -> AppendReply:
        """Ask, and ask again when there is no answer: the store may have been killed with the request in its hands."""
        *parts, last = encode_append(effects.append)
        wait_s = APPEND_S
        while True:
            try:
                for number, part in enumerate(parts, 1):  # they arrive in order or the last one is refused
                    if number % PARTS_AHEAD:
                        await self._bus.publish(APPEND_SUBJECT, part)
                    else:
                        await self._bus.request(APPEND_SUBJECT, part, timeout_s=wait_s)
                return _decode_append(await self._bus.request(APPEND_SUBJECT, last, timeout_s=wait_s))
            except NoAnswer:
                if wait_s >= MOST_APPEND_S:
                    raise
                wait_s *= 2

    async def commit(self, effects: Effects) -> None:
        """Step (b): the metadata, and then what devices and gateways hear. Raises TryAgain; may be repeated."""
        with self._step.labels("commit").time():
            answered = await self.in_thread(commit, self._database, self._partition, effects, self._respond)
        crash_point("ingest.after_commit")
        self._committed = effects.append.end
        await self._tell()
        await self._send([*effects.downlinks, *answered.downlinks])
        await self._say(answered.changes)
        self._batches.inc()
        self._messages.inc(effects.messages)
        self._unheard.inc(effects.unheard)
        self._rows.inc(len(effects.append.numbers) + len(effects.append.texts))
        self._lag.set(max(0, now_ms() - effects.received_ms) / 1000)
        for entry in (*effects.quarantined, *answered.quarantined):
            self._refused.labels(entry.reason).inc()

    async def _tell(self) -> None:
        """The front door: how far we are."""
        with contextlib.suppress(BusAway):
            await self._bus.publish(INGESTED_SUBJECT, b"%d" % self._committed.sequence)

    async def _send(self, downlinks: Sequence[Downlink]) -> None:
        """Replies may be lost, the device posts again; they must not hold the cycle up."""
        with contextlib.suppress(BusAway):
            for message in in_messages(downlinks):
                await self._bus.publish(DOWN_SUBJECT, message)

    async def _say(self, changes: Sequence[RegistryChange]) -> None:
        """Requests changed the registry: everybody forgets what they knew, ourselves among them."""
        with contextlib.suppress(BusAway):
            for change in changes:
                await self._bus.publish(REGISTRY_CHANGED, msgspec.json.encode(change))


class _Life:
    """One life of the cycle: a task that evaluates messages, one that cuts batches and appends them, one that commits what is appended.

    A crash leaves the store up to three batches ahead of the metadata: they are computed again, and the store has them.
    """

    def __init__(self, ingest: Ingest, evaluator: Evaluator, first_cut: int, trail: Trail, accused: Accused) -> None:
        self._ingest = ingest
        self._trail, self._accused = trail, accused
        self._evaluator = evaluator
        self._first_cut = first_cut  # the store has everything up to here: the first batch ends exactly there
        self._something = asyncio.Event()
        self._room = asyncio.Event()
        self._appended: asyncio.Queue[Effects] = asyncio.Queue(1)
        if evaluator.moved:
            self._something.set()

    async def evaluate(self) -> None:
        evaluator, ingest = self._evaluator, self._ingest
        position = evaluator.position
        reader = StreamReader(ingest.bus, UPLINK_STREAM, position.stream_id, after=position.sequence)
        try:
            while True:
                try:
                    messages = await reader.next(MESSAGES_A_TURN)
                except StreamHole as hole:
                    get_logger().error("ingest.stream_hole", expected=hole.expected, got=hole.got)
                    before = Position(position.stream_id, hole.got - 1)
                    evaluator.move(before, stream_lost(evaluator.received_ms, now_ms()))
                    self._something.set()
                    continue
                for message in messages:
                    with self._trail.working():
                        opened = open_message(message.seq, message.data, self._trail.at, self._accused)
                    if await ingest.look_up(opened.products, opened.devices):
                        evaluator.forget()
                    with self._trail.working():
                        evaluator.evaluate(opened)
                    self._something.set()
                    while evaluator.rows >= MOST_ROWS or message.seq == self._first_cut:
                        self._room.clear()
                        await self._room.wait()
                        if message.seq == self._first_cut:
                            self._first_cut = 0
                await asyncio.sleep(0)  # the other task, and the connection, get their turn
        finally:
            await reader.close()

    async def append(self) -> None:
        """Cut a batch, at most every 10 ms, and take step (a) with it."""
        began = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await self._something.wait()
            if (wait_s := began + BATCH_S - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            began = loop.time()
            self._something.clear()
            effects = self._evaluator.cut()
            self._room.set()
            await self._ingest.append(effects)
            await self._appended.put(effects)

    async def commit(self) -> None:
        """Take step (b) with each batch that is in the store, while the next one gets there."""
        while True:
            work = asyncio.ensure_future(self._ingest.commit(await self._appended.get()))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait((work,), timeout=STOP_S)  # told to stop: devices hear of what is committed
                raise


def where_to_begin(held: Position, memory: Memory, stream_id: str) -> tuple[Position, Position, int, bool]:
    """How to go on from what the store and the metadata hold: (start of the first append, its end before any message,
    the sequence at which the first batch has to be cut or 0, whether messages were lost).

    >>> where_to_begin(Position("s", 9), Memory(Position("s", 7)), "s")  # a crash between the two steps
    (Position(stream_id='s', sequence=7), Position(stream_id='s', sequence=7), 9, False)
    """
    committed = memory.position
    here = committed if committed is not None and committed.stream_id == stream_id else Position(stream_id, 0)
    if held.stream_id == stream_id:
        if held.sequence >= here.sequence:
            return here, here, held.sequence if held.sequence > here.sequence else 0, False
        return held, here, 0, True  # the store was restored from a copy
    if held == Position() and committed is None:
        return held, here, 0, False  # the very first start
    return held, here, 0, True  # another stream, or another store


def in_messages(downlinks: Sequence[Downlink]) -> list[bytes]:
    """Downlinks as messages of the bus, each well below its payload limit."""
    messages: list[bytes] = []
    begin = size = 0
    for index, downlink in enumerate(downlinks):
        size += len(downlink.payload) + 200
        if size > DOWNLINK_BYTES or index - begin >= DOWNLINKS_A_MESSAGE:
            messages.append(encode_downlinks(downlinks[begin:index]))
            begin, size = index, len(downlink.payload) + 200
    if begin < len(downlinks):
        messages.append(encode_downlinks(downlinks[begin:]))
    return messages
