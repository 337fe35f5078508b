"""The buffer file: frames by lane and seq in SQLite, written by one connection in one thread. No threads and no loop in here.

Methods raise apsw.Error as it comes; `translated` says what one means for a caller of the outbox.

A frame's row id is lane code << 56 | seq, so a lane is one range of the table and an append goes to its end.
"""

import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from edge_agent.ports import LaneState, OutboxDamaged, OutboxState, OutboxUnavailable
from protocols.edgelink.columns import NO_COLUMNS
from protocols.edgelink.frame import FrameHeader, decode_body, encode_body, stamp
from protocols.edgelink.lanes import LANES, Gap, GapReason, Lane
from protocols.edgelink.losses import Losses
from protocols.edgelink.records import GapRecord
from protocols.errors import Refused

APPLICATION_ID = 0x484C4F42  # "HLOB"
FORMAT = 1
ROW_OVERHEAD_BYTES = 64
"""What a row costs beside its body; counted against the quota."""
QUARANTINED_FRAMES = 64
_MASK = (1 << 56) - 1

_TABLES = (
    "create table identity (buffer_id blob not null, boot integer not null)",
    """create table lane (code integer primary key, next_seq integer not null, collected integer not null,
        delivered integer not null, in_gaps integer not null, last_ms integer not null)""",
    """create table frame (id integer primary key, covers integer not null, boot integer not null, created_ms integer not null,
        readings integer not null, is_gap integer not null, crc integer not null, body blob not null)""",
    "create table mark (key text primary key, value blob not null) without rowid",
    """create table quarantine (id integer primary key, lane text not null, seq integer not null, boot integer not null,
        created_ms integer not null, reason text not null, readings integer not null, body blob not null)""",
)


@dataclass(slots=True)
class _Lane:
    """A lane as the transaction under way sees it."""

    next_seq: int
    collected: int = 0
    delivered: int = 0
    in_gaps: int = 0
    last_ms: int = 0
    floor: int = 1
    frames: int = 0
    used_bytes: int = 0
    readings: int = 0
    dirty: bool = field(default=False)

    def freeze(self) -> LaneState:
        return LaneState(
            self.floor, self.next_seq, self.frames, self.used_bytes, self.readings, self.collected, self.delivered, self.in_gaps
        )


class FrameFile:
    """Opened, changed inside begin/commit, and read. Not for two threads at a time.

    `in_doubt` frames at the head of a lane may have been sent without an answer: overflow drops them last.
    """

    def __init__(self, path: Path, *, quota_bytes: int, gateway: tuple[str, str], in_doubt: int = 32) -> None:
        self._path, self._quota, self._gateway, self._in_doubt = path, quota_bytes, gateway, in_doubt
        # Alarms and replies keep a reserve that readings cannot fill.
        self._quota_of_readings = quota_bytes - quota_bytes // 16
        self._lanes: dict[Lane, _Lane] = {}
        self.buffer_id, self.boot = b"", 0
        self._connect()
        try:
            self._begin_boot()
        except BaseException:
            self._db.close(True)
            raise
        self.state = self._freeze()

    # --- opening and closing

    def _connect(self) -> None:
        self._db = db = apsw.Connection(os.fspath(self._path))
        db.set_busy_timeout(2_000)
        # One statement a call: apsw stops a string of several at its first result row.
        db.execute("pragma locking_mode = exclusive")  # a second agent on this file is refused, and no shared memory is needed
        db.execute("pragma page_size = 8192")  # frames are tens of KiB: fewer, larger pages read four times as fast
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")  # the promise of `append` hangs on this line
        db.execute("pragma journal_size_limit = 16777216")
        db.execute("pragma cache_size = -4096")

    def _begin_boot(self) -> None:
        db = self._db
        db.execute("begin immediate")
        application, version = db.pragma("application_id"), db.pragma("user_version")
        if application == 0 and version == 0 and not db.execute("select count(*) from sqlite_schema").get:  # an empty file
            for table in _TABLES:
                db.execute(table)
            db.execute("insert into identity values (?, 0)", (os.urandom(16),))
            for lane in LANES:
                db.execute("insert into lane values (?, 1, 0, 0, 0, 0)", (lane.code,))
            db.execute(f"pragma application_id = {APPLICATION_ID}")
            db.execute(f"pragma user_version = {FORMAT}")
        elif (application, version) != (APPLICATION_ID, FORMAT):
            db.execute("rollback")
            raise OutboxDamaged(f"{self._path} is no buffer of this version (application {application}, format {version})")
        db.execute("update identity set boot = boot + 1")
        [(self.buffer_id, self.boot)] = self._rows("select buffer_id, boot from identity")
        db.execute("commit")
        self._load()

    def _load(self) -> None:
        self._lanes = {}
        for code, next_seq, collected, delivered, in_gaps, last_ms in self._rows("select * from lane"):
            self._lanes[LANES[code]] = _Lane(next_seq, collected, delivered, in_gaps, last_ms)
        for held in self._lanes.values():
            held.floor = held.next_seq
        rows = self._rows("select id >> 56, min(id), count(*), sum(length(body)), sum(readings) from frame group by 1")
        for code, first, frames, used, readings in rows:
            held = self._lanes[LANES[code]]
            held.floor, held.frames = first & _MASK, frames
            held.used_bytes, held.readings = used + frames * ROW_OVERHEAD_BYTES, readings

    def reopen(self) -> None:
        """After an I/O error: nothing cached is believed; what the file has is made durable or the error comes again."""
        self.close()
        self._connect()
        self._db.execute("pragma wal_checkpoint(truncate)").fetchall()
        self._load()
        self.state = self._freeze()

    def close(self) -> None:
        self._db.close(True)

    # --- transactions

    def begin(self) -> None:
        self._db.execute("begin immediate")

    def commit(self) -> None:
        """Durable on return."""
        for lane, held in self._lanes.items():
            if held.dirty:
                self._db.execute(
                    "update lane set next_seq = ?, collected = ?, delivered = ?, in_gaps = ?, last_ms = ? where code = ?",
                    (held.next_seq, held.collected, held.delivered, held.in_gaps, held.last_ms, lane.code),
                )
                held.dirty = False
        self._db.execute("commit")
        self.state = self._freeze()

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("rollback")
        self._load()

    def _freeze(self) -> OutboxState:
        return OutboxState(self.buffer_id, self.boot, {lane: held.freeze() for lane, held in self._lanes.items()}, self._quota)

    def _rows(self, query: str, *values: object) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    # --- changes, inside a transaction

    def append(self, lane: Lane, body: bytes, readings: int, now_ms: int) -> int | None:
        """The new frame's seq, or None when a lane that may not drop has no room."""
        if not lane.may_drop and not self._make_room(len(body) + ROW_OVERHEAD_BYTES):
            return None
        seq = self._put(lane, body, readings, now_ms)
        if lane.may_drop:  # what just came may be the oldest there is
            self._make_room(0)
        return seq

    def _put(self, lane: Lane, body: bytes, readings: int, now_ms: int) -> int:
        held = self._lanes[lane]
        seq = held.next_seq
        self._insert(lane, seq, seq, body, readings, now_ms, is_gap=False)
        held.next_seq, held.last_ms = seq + 1, max(now_ms, held.last_ms)
        held.collected += readings
        return seq

    def remember(self, marks: Mapping[str, bytes]) -> None:
        """Write marks; an empty value removes one."""
        for key, value in marks.items():
            if value:
                self._db.execute("insert into mark values (?, ?) on conflict do update set value = excluded.value", (key, value))
            else:
                self._db.execute("delete from mark where key = ?", (key,))

    def forget(self, lane: Lane, seq: int) -> None:
        """Drop what the cloud has committed."""
        held = self._lanes[lane]
        if seq < held.floor or not held.frames:
            return
        low, high = _row(lane, 0), _row(lane, min(seq, held.next_seq - 1))
        [(frames, used, readings)] = self._rows(
            "select count(*), coalesce(sum(length(body)), 0), coalesce(sum(readings), 0) from frame where id between ? and ?", low, high
        )
        self._db.execute("delete from frame where id between ? and ?", (low, high))
        held.frames -= frames
        held.used_bytes -= used + frames * ROW_OVERHEAD_BYTES
        held.readings -= readings
        held.delivered += readings
        held.dirty = True
        self._find_floor(lane)

    def reconcile(self, lane: Lane, committed: int, now_ms: int) -> None:
        """Trim to the cloud's watermark; when it is ahead of this file, move what is held behind it and name the gap."""
        held = self._lanes[lane]
        if committed < held.next_seq:
            self.forget(lane, committed)
            return
        shift = committed + 1 - held.floor
        rows = self._rows("select id from frame where id >> 56 = ? order by id desc", lane.code)
        for (row,) in rows:  # from the end, so that no id meets one still to move
            self._db.execute("update frame set id = id + ?, covers = covers + ? where id = ?", (shift, shift, row))
        held.next_seq += shift
        held.dirty = True
        self._find_floor(lane)
        gap = Gap(*self._gateway, (), held.last_ms, max(now_ms, held.last_ms + 1), None, GapReason.BUFFER_RESET)
        self._put(lane, encode_body(NO_COLUMNS, (GapRecord(gap),)), 0, now_ms)

    def replace(self, lane: Lane, seq: int, body: bytes, reason: GapReason) -> None:
        """Swap a frame for its gap record; the original goes to the quarantine. No frame, no effect."""
        held, row = self._lanes[lane], _row(lane, seq)
        found = self._rows("select covers, boot, created_ms, readings, body from frame where id = ?", row)
        if not found:
            return
        [(covers, boot, created_ms, readings, original)] = found
        self._db.execute(
            "insert into quarantine (lane, seq, boot, created_ms, reason, readings, body) values (?, ?, ?, ?, ?, ?, ?)",
            (lane.value, seq, boot, created_ms, reason.value, readings, original),
        )
        self._db.execute("delete from quarantine where id <= (select max(id) from quarantine) - ?", (QUARANTINED_FRAMES,))
        self._delete(lane, [(row, len(original), readings)])
        held.in_gaps += readings
        held.dirty = True
        self._insert(lane, seq, covers, body, 0, created_ms, is_gap=True)

    # --- reading, outside a transaction

    def read(self, lane: Lane, after_seq: int, limit: int) -> tuple[list[tuple[int, bytes]], list[int]]:
        """Stamped frames in order, and the seqs of damaged ones (left out, to be replaced by `replace_damaged`)."""
        floor = self._lanes[lane].floor
        frames: list[tuple[int, bytes]] = []
        damaged: list[int] = []
        rows = self._rows(
            "select id, covers, boot, created_ms, crc, body from frame where id > ? and id <= ? order by id limit ?",
            _row(lane, after_seq),
            _row(lane, _MASK),
            limit,
        )
        for row, covers, boot, created_ms, crc, body in rows:
            seq = row & _MASK
            if zlib.crc32(body) != crc:
                damaged.append(seq)
            else:
                header = FrameHeader(self.buffer_id, boot, lane, seq, floor, created_ms, covers)
                frames.append((seq, stamp(body, header, crc)))
        return frames, damaged

    def replace_damaged(self, lane: Lane, seq: int) -> None:
        """A frame whose bytes changed on disk becomes a gap."""
        row = _row(lane, seq)
        for created_ms, readings in self._rows("select created_ms, readings from frame where id = ?", row):
            gap = self._unreadable(created_ms, readings)
            self.replace(lane, seq, encode_body(NO_COLUMNS, (GapRecord(gap),)), GapReason.BUFFER_DAMAGED)

    def marks(self, prefix: str) -> dict[str, bytes]:
        return dict(self._rows("select key, value from mark where substr(key, 1, length(?1)) = ?1", prefix))

    # --- rows and room

    def _insert(self, lane: Lane, seq: int, covers: int, body: bytes, readings: int, now_ms: int, *, is_gap: bool) -> None:
        held = self._lanes[lane]
        self._db.execute(
            "insert into frame values (?, ?, ?, ?, ?, ?, ?, ?)",
            (_row(lane, seq), covers, self.boot, now_ms, readings, is_gap, zlib.crc32(body), body),
        )
        held.frames += 1
        held.used_bytes += len(body) + ROW_OVERHEAD_BYTES
        held.readings += readings
        if held.frames == 1 or seq < held.floor:
            held.floor = seq
        held.dirty = True

    def _delete(self, lane: Lane, rows: Iterable[tuple[int, int, int]]) -> None:
        """Delete rows given as (id, body bytes, readings); counters but `delivered` and `in_gaps` follow."""
        held = self._lanes[lane]
        for row, size, readings in rows:
            self._db.execute("delete from frame where id = ?", (row,))
            held.frames -= 1
            held.used_bytes -= size + ROW_OVERHEAD_BYTES
            held.readings -= readings

    def _find_floor(self, lane: Lane) -> None:
        held = self._lanes[lane]
        [(first,)] = self._rows("select min(id) from frame where id between ? and ?", _row(lane, 0), _row(lane, _MASK))
        held.floor = held.next_seq if first is None else first & _MASK

    def _make_room(self, size: int) -> bool:
        """Drop the oldest bulk, then live frames until `size` more bytes fit; False when nothing is left to drop."""
        while True:
            of_readings = sum(held.used_bytes for lane, held in self._lanes.items() if lane.may_drop)
            total = sum(held.used_bytes for held in self._lanes.values())
            excess = max(total + size - self._quota, of_readings - self._quota_of_readings)
            if excess <= 0:
                return True
            # A little more than asked for, so that a full buffer does not pay for this with every append.
            if not any(self._drop_oldest(lane, excess + self._quota // 256) for lane in (Lane.BULK, Lane.LIVE)):
                return total + size <= self._quota

    def _drop_oldest(self, lane: Lane, wanted: int) -> bool:
        """Merge the oldest frames of a lane into one gap frame in their place; False when that frees nothing."""
        held = self._lanes[lane]
        heads = self._rows(
            "select id, covers, length(body), readings, is_gap, created_ms from frame where id between ? and ? order by id",
            _row(lane, 0),
            _row(lane, _MASK),
        )
        if len(heads) > 2 * self._in_doubt:
            heads = heads[self._in_doubt :]
        chosen, freed = [], 0
        for head in heads:
            chosen.append(head)
            freed += head[2] + ROW_OVERHEAD_BYTES
            if freed >= wanted and not head[4]:
                break
        if all(head[4] for head in chosen) and len(chosen) < 2:
            return False
        losses = Losses(GapReason.OVERFLOW)
        for row, *_ in chosen:
            self._lose(losses, row)
        self._delete(lane, [(head[0], head[2], head[3]) for head in chosen])
        held.in_gaps += sum(head[3] for head in chosen)
        self._insert(lane, chosen[-1][0] & _MASK, chosen[0][1], _gap_body(losses), 0, chosen[-1][5], is_gap=True)
        self._find_floor(lane)
        return True

    def _lose(self, losses: Losses, row: int) -> None:
        [(created_ms, crc, readings, body)] = self._rows("select created_ms, crc, readings, body from frame where id = ?", row)
        try:
            if zlib.crc32(body) == crc:
                losses.lose(*decode_body(body))
                return
        except Refused:
            pass  # as good as damaged
        losses.add(self._unreadable(created_ms, readings))

    def _unreadable(self, created_ms: int, readings: int) -> Gap:
        """Nobody can say what a damaged frame held: the gap names the gateway and the minute before the frame was closed."""
        return Gap(*self._gateway, (), created_ms - 60_000, created_ms + 1, readings, GapReason.BUFFER_DAMAGED)


def _gap_body(losses: Losses) -> bytes:
    try:
        return encode_body(NO_COLUMNS, tuple(GapRecord(gap) for gap in losses.gaps()))
    except Refused:  # more gaps than a frame takes
        return encode_body(NO_COLUMNS, tuple(GapRecord(gap) for gap in losses.coarse()))


def _row(lane: Lane, seq: int) -> int:
    return lane.code << 56 | seq


def translated(error: apsw.Error) -> OutboxUnavailable | OutboxDamaged:
    """What an SQLite error means for the caller."""
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return OutboxDamaged(f"the buffer file is damaged: {error}")
    return OutboxUnavailable(f"the buffer's disk: {error}")
