"""Frames on their way to the cloud: a window of them in flight, the most urgent lane first, nothing forgotten before it is committed."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping

from edge_agent.domain.clock import Clock
from edge_agent.domain.crashpoint import crash_point
from edge_agent.domain.window import ALWAYS, Bandwidth, DailyHours, SendWindow
from edge_agent.ports import LinkDown, Outbox, Uplink, UplinkSession
from protocols.edgelink.columns import NO_COLUMNS
from protocols.edgelink.frame import body_of, decode_body, decode_header, encode_body, sent
from protocols.edgelink.lanes import LANES, Gap, GapReason, Lane
from protocols.edgelink.losses import gaps_of
from protocols.edgelink.messages import Command, Committed, Exchange, ExchangeReply, LaneSpan, encode_message
from protocols.edgelink.records import GapRecord
from protocols.edgelink.stretches import given_up, stretch_of, tally
from protocols.edgelink.topics import EdgeChannel
from protocols.errors import Refused, TryAgain

log = logging.getLogger("edge.forward")

MEET_S = 3.0  # how long the cloud's watermarks are waited for; without them sending starts at our own
STALL_S = 15.0  # frames waiting and none committed for so long: ask for the watermarks again
PATIENCE_S = (
    600.0  # the most between questions without an answer, each twice as late: they wait in the cloud behind the frames, or were lost
)
NOBODY = 1 << 60  # behind every seq there can be
HOURS_S = 30.0  # how late the hours of `bulk` may begin
TIME_S = 5.0  # a clock that lost its footing asks again after so long
READ_AHEAD = 16  # frames read from the buffer at a time
_CHANGE_FIRST = frozenset((0x90, 0x95, 0x99))  # topic invalid, too large, payload invalid: sending it again changes nothing
_EXCHANGE = EdgeChannel.UP_EXCHANGE


class Forwarder:
    """Moves frames from the outbox through an uplink. `run` ends with TryAgain when the link is down; start it again."""

    def __init__(
        self,
        outbox: Outbox,
        uplink: Uplink,
        clock: Clock,
        *,
        gateway: tuple[str, str],
        window: SendWindow,
        bandwidth: Bandwidth,
        bulk_hours: DailyHours,
        obey: Callable[[Command], None],
        linked: Callable[[bool], None],
        told_time: Callable[[int, int], Awaitable[None]],
        meet_s: float = MEET_S,
    ) -> None:
        self._outbox, self._uplink, self._clock = outbox, uplink, clock
        self._gateway, self._obey, self._linked = gateway, obey, linked
        self._told_time = told_time
        self._window, self._bandwidth, self._bulk_hours, self._meet_s = window, bandwidth, bulk_hours, meet_s
        self._room = asyncio.Event()
        self._number = int(clock.monotonic() * 1000)  # of the last exchange: other than those of an agent before us
        self._asked_s = (0.0, 0.0)  # when that left, and when it had arrived
        self._cursor: dict[Lane, int] = {}  # the last seq sent on this connection
        self._ahead: dict[Lane, deque[tuple[int, bytes]]] = {lane: deque() for lane in LANES}
        self._met = asyncio.Event()
        self._rewound = asyncio.Event()
        self._replaced: set[tuple[Lane, int]] = set()
        self._progress_at = 0.0
        self.busy_since: float | None = None  # reading from the buffer, monotonic
        self.connected_since_ms: int | None = None
        self.sent = self.refused = self.reconnects = 0

    @property
    def idle(self) -> bool:
        """Whether the cloud has committed everything."""
        return all(held.frames == 0 for held in self._outbox.state().lanes.values())

    @property
    def connected(self) -> bool:
        return self.connected_since_ms is not None

    async def run(self) -> None:
        """One connection; raises LinkDown (or another TryAgain) when it ends."""
        try:
            async with self._uplink.connect() as session:
                self.connected_since_ms = self._clock.now_ms()
                self.reconnects += 1
                log.info("link.up")
                self._start_over(self._floors())
                self._window.connected()
                self._met.clear()
                self._linked(True)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(session), name="forward-listen")
                    tasks.create_task(self._send(session, tasks), name="forward-send")
                    tasks.create_task(self._watch(session), name="forward-watch")
        except BaseExceptionGroup as problems:
            # Not `except*`: what is raised in there comes out wrapped in a group again before Python 3.11.4, and nobody would retry it.
            worth_retrying, others = problems.split(TryAgain)
            if worth_retrying is None or others is not None:
                raise
            raise _first(worth_retrying) from None
        finally:
            self.busy_since = None
            if self.connected:
                self.connected_since_ms = None
                self._linked(False)
                log.warning("link.down")

    # --- sending

    async def _send(self, session: UplinkSession, tasks: asyncio.TaskGroup) -> None:
        await self._meet(session)
        while True:
            while not self._window.room():
                self._room.clear()
                await self._room.wait()
            wait_s = self._bandwidth.wait_s(self._clock.monotonic())
            if wait_s:
                await asyncio.sleep(wait_s)
                continue
            lane, seq, frame = await self._pick()  # last: what is most urgent now
            self._window.sent(len(frame))
            self._bandwidth.charge(len(frame))
            tasks.create_task(self._deliver(session, lane, seq, frame), name=f"forward-{lane}-{seq}")

    async def _meet(self, session: UplinkSession) -> None:
        """Exchange watermarks; a cloud that can take frames and not answer yet gets them all the same."""
        state = self._outbox.state()
        lanes = {lane: LaneSpan(held.floor, held.next_seq) for lane, held in state.lanes.items()}
        left_s = self._clock.monotonic()
        self._number += 1
        self._asked_s = (left_s, float("inf"))
        reason = await session.publish(_EXCHANGE, encode_message(Exchange(state.buffer_id.hex(), state.boot, lanes, self._number)))
        self._asked_s = (left_s, self._clock.monotonic())
        if reason >= 0x80:
            raise LinkDown(f"the cloud refused the exchange: reason {reason:#04x}")
        try:
            async with asyncio.timeout(self._meet_s):
                await self._met.wait()
        except TimeoutError:
            log.info("link.no_watermarks")

    async def _pick(self) -> tuple[Lane, int, bytes]:
        """The next frame of the most urgent lane that has one; waits for one."""
        while True:
            state = self._outbox.state()
            for lane in LANES:
                held = state.lanes[lane]
                if held.frames == 0 or held.next_seq - 1 <= self._cursor[lane] or not self._may_leave(lane):
                    continue
                ahead = self._ahead[lane]
                if not ahead:
                    cursor = self._cursor[lane]
                    self.busy_since = self._clock.monotonic()
                    frames = await self._outbox.next(lane, cursor, READ_AHEAD)
                    self.busy_since = None
                    if self._cursor[lane] != cursor:  # the cloud asked for something else meanwhile
                        break
                    if not frames:
                        self._cursor[lane] = held.next_seq - 1
                        break
                    ahead.extend(frames)
                seq, frame = ahead.popleft()
                self._cursor[lane] = seq
                return lane, seq, frame
            else:
                await self._more()

    async def _more(self) -> None:
        """Wait for a new frame, or for a reason to send old ones again."""
        self._rewound.clear()
        after = {lane: seq if self._may_leave(lane) else NOBODY for lane, seq in self._cursor.items()}
        waits = [asyncio.create_task(self._outbox.arrival(after)), asyncio.create_task(self._rewound.wait())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=HOURS_S)
        finally:
            for wait in waits:
                wait.cancel()
        for wait in done:
            wait.result()

    def _may_leave(self, lane: Lane) -> bool:
        """`bulk` leaves in its hours only, by the gateway's local time."""
        if lane is not Lane.BULK or self._bulk_hours == ALWAYS:
            return True
        local = time.localtime(self._clock.now_ms() / 1000)
        return self._bulk_hours.holds(60 * local.tm_hour + local.tm_min)

    async def _deliver(self, session: UplinkSession, lane: Lane, seq: int, frame: bytes) -> None:
        sent_at_s = self._clock.monotonic()
        try:
            known = self._clock.period == 0
            reason = await session.publish(EdgeChannel.of_lane(lane), sent(frame, self._clock.now_ms() if known else 0))
            crash_point("forward.after_send")
            if reason < 0x80:
                self.sent += 1
            elif reason in _CHANGE_FIRST and (lane, seq) not in self._replaced:
                await self._give_up(lane, seq, frame, reason)
            else:
                raise LinkDown(f"the cloud refused {lane} {seq}: reason {reason:#04x}")
        finally:
            self._window.acknowledged(len(frame), sent_at_s, self._clock.monotonic())
            self._room.set()

    async def _give_up(self, lane: Lane, seq: int, frame: bytes, reason: int) -> None:
        """A frame the cloud will never take becomes the gap it leaves; the frame itself stays in the local quarantine."""
        log.error("frame.refused", extra={"lane": lane.value, "seq": seq, "reason": f"{reason:#04x}"})
        self.refused += 1
        self._replaced.add((lane, seq))
        await self._outbox.replace(lane, seq, refused_body(frame, self._gateway, self._clock.now_ms()))
        self._rewind(lane, seq - 1)

    # --- listening

    async def _listen(self, session: UplinkSession) -> None:
        ours = self._outbox.state().buffer_id.hex()
        async for message in session.messages():
            match message:
                case Committed(buffer_id, committed) if buffer_id == ours:
                    crash_point("forward.before_watermark")
                    await self._forget(committed)
                case ExchangeReply(buffer_id, committed, time_ms, number) if buffer_id == ours:
                    if time_ms and number == self._number:  # the answer to an exchange of before would be taken for one of now
                        await self._hear_time(time_ms)
                    await self._outbox.reconcile(committed)
                    self._start_over(self._floors())
                    self._met.set()
                case Command():
                    self._obey(message)
                case _:
                    log.info("downlink.of_another_buffer")

    async def _hear_time(self, cloud_ms: int) -> None:
        """The cloud's time when our exchange arrived there: between its leaving and its PUBACK."""
        now_s, (left_s, arrived_s) = self._clock.monotonic(), self._asked_s
        arrived_s = min(arrived_s, now_s)  # the answer may overtake the PUBACK
        since_ms = round(1000 * (now_s - (left_s + arrived_s) / 2))
        await self._told_time(cloud_ms + since_ms, round(500 * (arrived_s - left_s)))

    async def _forget(self, committed: Mapping[Lane, int]) -> None:
        """Drop what the cloud's store has, and no more."""
        for lane, seq in committed.items():
            await self._outbox.committed(lane, min(seq, self._outbox.state().lanes[lane].next_seq - 1))
        self._progress_at = self._clock.monotonic()

    async def _watch(self, session: UplinkSession) -> None:
        """Ask for the watermarks again when frames wait and none is committed for long; the answer has them sent again."""
        self._progress_at = asked_time_at = self._clock.monotonic()
        patience_s = STALL_S
        while True:
            await asyncio.sleep(1.0)
            now = self._clock.monotonic()
            if self._met.is_set():
                patience_s = STALL_S
            if self._clock.period and now - asked_time_at > TIME_S and self._met.is_set():
                asked_time_at = now
                await self._meet(session)
            if not any(held.frames and self._may_leave(lane) for lane, held in self._outbox.state().lanes.items()):
                self._progress_at = now
            elif now - self._progress_at > patience_s:
                patience_s = min(2 * patience_s, PATIENCE_S)
                log.info("link.stalled", extra={"after_s": round(now - self._progress_at)})
                self._progress_at = now
                self._met.clear()
                await self._meet(session)

    def _floors(self) -> dict[Lane, int]:
        return {lane: held.floor - 1 for lane, held in self._outbox.state().lanes.items()}

    def _start_over(self, after: Mapping[Lane, int]) -> None:
        """Send everything behind `after` (again)."""
        for lane in LANES:
            self._rewind(lane, after[lane])

    def _rewind(self, lane: Lane, seq: int) -> None:
        self._cursor[lane] = seq
        self._ahead[lane].clear()
        self._rewound.set()


def refused_body(frame: bytes, gateway: tuple[str, str], now_ms: int) -> bytes:
    """The gap records that stand for a frame the cloud refused; of an unreadable one only the gateway can be named."""
    try:
        created_ms = decode_header(frame).created_ms
        columns, records = decode_body(body_of(frame))
    except Refused:
        return encode_body(NO_COLUMNS, (GapRecord(Gap(*gateway, (), 0, now_ms, None, GapReason.REFUSED_FRAME)),))
    counts = Counter(given_up(created_ms, records))
    counts[stretch_of(created_ms)] += columns.count
    gaps = gaps_of(columns, records, GapReason.REFUSED_FRAME)
    return encode_body(NO_COLUMNS, (*(GapRecord(gap) for gap in gaps), *tally(counts)))


def _first(problems: BaseExceptionGroup[TryAgain]) -> TryAgain:
    found: BaseException = problems
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, TryAgain)
    return found
