"""An outbox in memory that passes the contract of the one on disk, without a quota."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge_agent.ports import LaneState, OutboxClosed, OutboxState, Stretch
from protocols.edgelink.columns import NO_COLUMNS
from protocols.edgelink.frame import FrameHeader, encode_body, stamp
from protocols.edgelink.lanes import LANES, Gap, GapReason, Lane
from protocols.edgelink.records import GapRecord
from protocols.edgelink.stretches import stretch_of


@dataclass(slots=True)
class _Held:
    body: bytes
    readings: int


@dataclass(slots=True)
class FakeOutbox:
    """Time stands at `now_ms`; `appended` tells tests what was kept, in order."""

    buffer_id: bytes = b"fake-buffer-id-0"
    boot: int = 1
    now_ms: int = 1_760_000_000_000
    gateway: tuple[str, str] = ("gateway", "gw1")
    quota_bytes: int = 1 << 30
    appended: list[tuple[Lane, int, bytes]] = field(default_factory=list)
    _frames: dict[Lane, dict[int, _Held]] = field(default_factory=lambda: {lane: {} for lane in LANES})
    _lanes: dict[Lane, LaneState] = field(default_factory=lambda: {lane: LaneState() for lane in LANES})
    _marks: dict[str, bytes] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    async def append(self, lane: Lane, body: bytes, readings: int, marks: Mapping[str, bytes] | None = None, period: int = 0) -> int:
        self._check_open()
        seq = self._put(lane, body, readings)
        await self.remember(marks or {})
        self.appended.append((lane, seq, body))
        return seq

    async def remember(self, marks: Mapping[str, bytes]) -> None:
        self._check_open()
        self._marks.update(marks)
        self._marks = {key: value for key, value in self._marks.items() if value}

    async def next(self, lane: Lane, after_seq: int, limit: int) -> Sequence[tuple[int, bytes]]:
        self._check_open()
        floor = self._lanes[lane].floor
        chosen = [(seq, held) for seq, held in sorted(self._frames[lane].items()) if seq > after_seq][:limit]
        return [(seq, stamp(held.body, FrameHeader(self.buffer_id, self.boot, lane, seq, floor, self.now_ms))) for seq, held in chosen]

    async def arrival(self, after: Mapping[Lane, int]) -> None:
        while not any(seq > after.get(lane, 0) for lane, frames in self._frames.items() for seq in frames):
            self._check_open()
            self._changed.clear()
            await self._changed.wait()

    async def committed(self, lane: Lane, seq: int) -> None:
        self._check_open()
        frames, state = self._frames[lane], self._lanes[lane]
        gone = [old for old in frames if old <= seq]
        size = sum(len(frames[old].body) + 64 for old in gone)
        delivered = sum(frames.pop(old).readings for old in gone)
        self._settle(lane, replace(state, delivered=state.delivered + delivered, delivered_bytes=state.delivered_bytes + size))

    async def reconcile(self, committed: Mapping[Lane, int]) -> None:
        for lane in LANES:
            state, watermark = self._lanes[lane], committed.get(lane, 0)
            if watermark < state.next_seq:
                await self.committed(lane, watermark)
                continue
            shift = watermark + 1 - state.floor
            self._frames[lane] = {seq + shift: held for seq, held in self._frames[lane].items()}
            self._settle(lane, replace(state, next_seq=state.next_seq + shift))
            gap = Gap(*self.gateway, (), self.now_ms, self.now_ms + 1, None, GapReason.BUFFER_RESET)
            self._put(lane, encode_body(NO_COLUMNS, (GapRecord(gap),)), 0)

    async def replace(self, lane: Lane, seq: int, body: bytes) -> None:
        self._check_open()
        held, state = self._frames[lane].get(seq), self._lanes[lane]
        if held is not None:
            self._frames[lane][seq] = _Held(body, 0)
            self._settle(lane, replace(state, in_gaps=state.in_gaps + held.readings))

    async def ledger(self) -> Sequence[Stretch]:
        self._check_open()
        lanes = self._lanes.values()
        counts = [sum(getattr(lane, name) for lane in lanes) for name in ("collected", "delivered", "readings", "in_gaps")]
        return [Stretch(stretch_of(self.now_ms), *counts)] if any(counts) else []

    def state(self) -> OutboxState:
        return OutboxState(self.buffer_id, self.boot, dict(self._lanes), self.quota_bytes)

    async def marks(self, prefix: str = "") -> dict[str, bytes]:
        self._check_open()
        return {key: value for key, value in self._marks.items() if key.startswith(prefix)}

    async def close(self) -> None:
        self._closed = True
        self._changed.set()

    def _check_open(self) -> None:
        if self._closed:
            raise OutboxClosed("the outbox is closed")

    def _put(self, lane: Lane, body: bytes, readings: int) -> int:
        state = self._lanes[lane]
        self._frames[lane][state.next_seq] = _Held(body, readings)
        appended = state.appended_bytes + len(body) + 64
        self._settle(lane, replace(state, next_seq=state.next_seq + 1, collected=state.collected + readings, appended_bytes=appended))
        self._changed.set()
        return state.next_seq

    def _settle(self, lane: Lane, state: LaneState) -> None:
        frames = self._frames[lane]
        self._lanes[lane] = replace(
            state,
            floor=min(frames, default=state.next_seq),
            frames=len(frames),
            used_bytes=sum(len(held.body) + 64 for held in frames.values()),
            readings=sum(held.readings for held in frames.values()),
        )
