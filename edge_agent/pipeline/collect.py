"""From rows to fsynced frames: what comes in while a commit is in flight shares the next one, and acknowledgements wait for it."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from edge_agent.domain.batch import RECORD_BYTES, Batch, Shape
from edge_agent.domain.freshness import Freshness
from edge_agent.domain.seen import SeenRing
from edge_agent.ports import Outbox, OutboxClosed, OutboxUnavailable
from protocols.edgelink.frame import encode_body
from protocols.edgelink.lanes import LANES, Lane
from protocols.edgelink.records import EventRecord, Record
from protocols.thing.datatypes import Value

log = logging.getLogger("edge.collect")

CLOSE_AT_READINGS = 1_000  # enough that a commit is worth it: do not wait for the clock
CLOSE_AT_BYTES = 64 * 1024
FULL_AT_READINGS = 16_000  # reading pauses there; one more read of each socket may still come in
FULL_AT_FRAMES = 16  # of 64 KiB
RETRY_S = 0.5  # after the disk refused; rows wait in memory up to the bounds above, and nothing is acknowledged


class Collector:
    """`Intake` over an outbox: one commit is in flight at a time.

    Readings go to `live`, or to `bulk` while they would wait behind a backlog there. A frame closes after `close_after_s`, at 64 KiB,
    as soon as 1,000 readings wait and no commit is in flight, and with an alarm or a reply at once.
    """

    def __init__(
        self,
        outbox: Outbox,
        seen: Mapping[Lane, SeenRing],
        *,
        close_after_s: float,
        bulk_after_s: float = 0.0,
        retry_s: float = RETRY_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`bulk_after_s`: see `Freshness`."""
        self._outbox, self._seen, self._now_s = outbox, seen, now_s
        self._close_after_s, self._retry_s = close_after_s, retry_s
        self._fresh = Freshness(bulk_after_s)
        self._open: dict[Lane, Batch] = {lane: Batch() for lane in LANES}
        self._unsure: dict[tuple[Lane, int], Batch] = {}  # stamped while the clock was unknown: frames of their own, by period
        self._live = self._open[Lane.LIVE]
        self._closed: list[_Frame] = []  # full before their commit came
        self._waiting = 0  # readings in _closed and in flight
        self._marks: dict[Lane, dict[str, bytes]] = {lane: {} for lane in LANES}
        self._calls: list[Callable[[], None]] = []
        self._work = asyncio.Event()
        self._due = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._room = asyncio.Event()
        self._room.set()
        self.busy_since: float | None = None
        """Since when (monotonic) the disk has not answered; None while nothing waits for it."""
        self.commits = 0
        self.readings = 0

    # --- the port

    @property
    def full(self) -> bool:
        return self._waiting + self._live.readings >= FULL_AT_READINGS or len(self._closed) >= FULL_AT_FRAMES

    async def room(self) -> None:
        while self.full:
            self._room.clear()
            await self._room.wait()

    def row(self, shape: Shape, values: Sequence[Value], times: Sequence[int] | int, period: int = 0) -> None:
        if period:
            return self._unsure_row(shape, values, times, period)
        self._roomy().row(shape, values, times)
        self._added()
        return None

    def _unsure_row(self, shape: Shape, values: Sequence[Value], times: Sequence[int] | int, period: int) -> None:
        batch = self._unsure.setdefault((Lane.LIVE, period), Batch())
        batch.row(shape, values, times)
        if batch.readings >= CLOSE_AT_READINGS or batch.weight >= CLOSE_AT_BYTES:
            self._close(Lane.LIVE)
            self._due.set()
        self._work.set()

    def rows(self, shape: Shape, count: int, values: Sequence[Value], times: Sequence[int]) -> None:
        self._roomy().rows(shape, count, values, times)
        self._added()

    def _roomy(self) -> Batch:
        """The open live frame. A full one closes here, before a row and not behind it: the marks of a row belong to its frame."""
        if self._live.weight >= CLOSE_AT_BYTES:
            self._close(Lane.LIVE)
        return self._live

    def _added(self) -> None:
        if self._live.readings >= CLOSE_AT_READINGS or self._live.weight >= CLOSE_AT_BYTES:
            self._due.set()
        self._work.set()

    def record(self, lane: Lane, record: Record, period: int = 0) -> None:
        batch = self._unsure.setdefault((lane, period), Batch()) if period else self._open[lane]
        batch.record(record, len(record.output) if isinstance(record, EventRecord) else RECORD_BYTES)
        if lane in (Lane.ALARM, Lane.REPLY):
            self._due.set()
        self._work.set()

    def mark(self, key: str, value: bytes, lane: Lane = Lane.LIVE) -> None:
        self._marks[lane][key] = value

    def when_durable(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._work.set()

    # --- the stage

    async def run(self) -> None:
        """Close and commit frames for ever; raises what is not worth retrying (a damaged buffer)."""
        while True:
            await self._work.wait()
            if not self._due.is_set():
                try:
                    async with asyncio.timeout(self._close_after_s):
                        await self._due.wait()
                except TimeoutError:
                    pass
            await self._close_and_commit()

    async def flush(self) -> None:
        """Make everything added so far durable."""
        self._due.set()
        while self._work.is_set() or not self._idle.is_set():
            await asyncio.sleep(0)  # let `run` take it
            await self._idle.wait()
            if self._work.is_set():
                self._due.set()

    def _close(self, lane: Lane) -> None:
        """Set a frame aside with the marks of what is in it, and open the next."""
        batches = [(self._open[lane], 0)] if self._open[lane] else []
        if self._unsure:
            mine = [key for key in self._unsure if key[0] is lane]
            batches += [(self._unsure.pop(key), key[1]) for key in mine]
        if not batches:
            return
        ring = self._seen.get(lane)
        marks = self._marks[lane] | (ring.take() if ring is not None else {})
        self._open[lane], self._marks[lane] = Batch(), {}
        self._live = self._open[Lane.LIVE]
        into = Lane.BULK if lane is Lane.LIVE and self._behind() else lane
        for place, (batch, period) in enumerate(batches, 1):
            self._waiting += batch.readings
            self._closed.append(_Frame(into, batch, marks if place == len(batches) else {}, period))  # with the last: all are in by then

    def _behind(self) -> bool:
        held = self._outbox.state().lanes[Lane.LIVE]
        return self._fresh.look(self._now_s(), held.floor, held.next_seq)

    async def _close_and_commit(self) -> None:
        for lane in LANES:
            self._close(lane)
        frames, calls = self._closed, self._calls
        self._closed, self._calls = [], []
        self._work.clear()
        self._due.clear()
        self._idle.clear()
        # In order of lanes (the sort is stable): a gap is durable before or with the first row behind it.
        frames.sort(key=lambda frame: frame.lane.code)
        for frame in frames:
            frame.encode()
        try:
            await self._commit(frames)
        finally:
            self._idle.set()
        self._waiting -= sum(frame.readings for frame in frames)
        self._room.set()
        for call in calls:
            call()

    async def _commit(self, frames: "Sequence[_Frame]") -> None:
        """Append all, and what the disk refused again until it takes it."""
        refused_before = False
        while frames:
            appends = [self._outbox.append(frame.lane, frame.body, frame.readings, frame.marks, frame.period) for frame in frames]
            self.busy_since = self._now_s()
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
            self.busy_since = None
            left: list[_Frame] = []
            for frame, outcome in zip(frames, outcomes, strict=True):
                if isinstance(outcome, OutboxUnavailable) and not isinstance(outcome, OutboxClosed):
                    left.append(frame)
                    if not refused_before:
                        log.error("buffer.refused", extra={"problem": str(outcome)})
                    refused_before = True
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    self.commits += 1
                    self.readings += frame.readings
            if left:
                await asyncio.sleep(self._retry_s)
            elif refused_before:
                log.warning("buffer.writes_again")
            frames = left


class _Frame:
    """A closed frame on its way to the disk."""

    __slots__ = ("_batch", "body", "lane", "marks", "period", "readings")

    def __init__(self, lane: Lane, batch: Batch, marks: dict[str, bytes], period: int) -> None:
        self.lane, self.readings, self.marks, self.period = lane, batch.readings, marks, period
        self._batch, self.body = batch, b""

    def encode(self) -> None:
        self.body = encode_body(self._batch.columns(), tuple(self._batch.records))
