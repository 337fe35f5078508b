"""The frame table by lane: rows, and what each lane counts, as the transaction under way sees them.

A frame's row id is lane code << 56 | seq, so a lane is one range of the table and an append goes to its end.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from edge_agent.buffer.sealing import NO_SEAL, Seal, Unsealable
from edge_agent.ports import LaneState, Stretch
from protocols.edgelink.lanes import LANES, Lane
from protocols.edgelink.stretches import STRETCH_MS, STRETCHES, stretch_of

ROW_OVERHEAD_BYTES = 64
"""What a row costs beside its body; counted against the quota."""
MASK = (1 << 56) - 1
ADD_TO_LEDGER = (
    "insert into ledger values (?, ?, ?, ?) on conflict do update set collected = collected + excluded.collected,"
    " delivered = delivered + excluded.delivered, in_gaps = in_gaps + excluded.in_gaps"
)

LEDGER = (
    "create table ledger (from_ms integer primary key, collected integer not null, delivered integer not null, in_gaps integer not null)"
)
TABLES = (
    """create table lane (code integer primary key, next_seq integer not null, collected integer not null,
        delivered integer not null, in_gaps integer not null, last_ms integer not null,
        appended_bytes integer not null default 0, delivered_bytes integer not null default 0,
        open_ms integer not null default 0, open_collected integer not null default 0, open_delivered integer not null default 0,
        open_in_gaps integer not null default 0)""",  # the stretch under way, so that a commit writes no page for it
    LEDGER,
    """create table frame (id integer primary key, covers integer not null, boot integer not null, created_ms integer not null,
        readings integer not null, is_gap integer not null, crc integer not null, age_s integer not null, thinned integer not null,
        period integer not null, head integer, body blob not null) strict""",  # the body last: what is behind it is read through it
)


@dataclass(slots=True)
class HeldLane:
    """A lane as the transaction under way sees it."""

    next_seq: int
    collected: int = 0
    delivered: int = 0
    in_gaps: int = 0
    last_ms: int = 0
    appended_bytes: int = 0
    delivered_bytes: int = 0
    open_ms: int = 0
    open_collected: int = 0
    open_delivered: int = 0
    open_in_gaps: int = 0
    floor: int = 1
    frames: int = 0
    used_bytes: int = 0
    readings: int = 0
    dirty: bool = False

    def freeze(self) -> LaneState:
        return LaneState(
            self.floor,
            self.next_seq,
            self.frames,
            self.used_bytes,
            self.readings,
            self.collected,
            self.delivered,
            self.in_gaps,
            self.appended_bytes,
            self.delivered_bytes,
        )


class Head(NamedTuple):
    """A row without its body."""

    row: int
    covers: int
    size: int
    readings: int
    is_gap: int
    created_ms: int
    age_s: int
    thinned: int
    period: int


_HEAD = "select id, covers, length(body), readings, is_gap, created_ms, age_s, thinned, period from frame"
_FIELDS = struct.Struct("<IqqqB")


def head_check(crc: int, boot: int, created_ms: int, readings: int, is_gap: bool) -> int:
    """What a row stores beside its fields: a page can be sound and a bit in it wrong."""
    return zlib.crc32(_FIELDS.pack(crc, boot, created_ms, readings, bool(is_gap)))


def head_is_whole(head: int | None, crc: int, boot: int, created_ms: int, readings: int, is_gap: bool) -> bool:
    """Whether a row's fields are those that were written; rows of older formats (None) have no check."""
    try:
        return head is None or head == head_check(crc, boot, created_ms, readings, is_gap)
    except struct.error:
        return False


class LaneRows:
    """The frames of one open file. Changes happen inside the caller's transaction; after a rollback `load` again."""

    def __init__(self, db: apsw.Connection, seal: Seal = NO_SEAL) -> None:
        self._db, self._seal = db, seal
        self.lanes: dict[Lane, HeldLane] = {}

    def load(self) -> None:
        """Read what every lane holds and counts."""
        self.lanes = {}
        for code, *counted in self.query("select * from lane"):
            self.lanes[LANES[code]] = HeldLane(*counted)
        for held in self.lanes.values():
            held.floor = held.next_seq
        for lane, held in self.lanes.items():  # lane by lane: one query with `group by` would sort the bodies
            summed = "select min(id), count(*), sum(length(body)), sum(readings) from frame where id between ? and ?"
            [(first, frames, used, readings)] = self.query(summed, row_id(lane, 0), row_id(lane, MASK))
            if frames:
                held.floor, held.frames = first & MASK, frames
                held.used_bytes, held.readings = used + frames * ROW_OVERHEAD_BYTES, readings

    def flush(self) -> None:
        """Write the counters that changed."""
        for lane, held in self.lanes.items():
            if held.dirty:
                self._db.execute(
                    "update lane set next_seq = ?, collected = ?, delivered = ?, in_gaps = ?, last_ms = ?, appended_bytes = ?,"
                    " delivered_bytes = ?, open_ms = ?, open_collected = ?, open_delivered = ?, open_in_gaps = ? where code = ?",
                    (
                        held.next_seq,
                        held.collected,
                        held.delivered,
                        held.in_gaps,
                        held.last_ms,
                        held.appended_bytes,
                        held.delivered_bytes,
                        held.open_ms,
                        held.open_collected,
                        held.open_delivered,
                        held.open_in_gaps,
                        lane.code,
                    ),
                )
                held.dirty = False

    def count(self, lane: Lane, created_ms: int, *, collected: int = 0, delivered: int = 0, in_gaps: int = 0) -> None:
        """Enter into the account what became of readings whose frame was made at `created_ms`."""
        held = self.lanes[lane]
        held.collected += collected
        held.delivered += delivered
        held.in_gaps += in_gaps
        held.dirty = True
        from_ms = stretch_of(created_ms)
        if collected and from_ms != held.open_ms:
            self._close_stretch(held)
            held.open_ms = from_ms
        if from_ms == held.open_ms:
            held.open_collected += collected
            held.open_delivered += delivered
            held.open_in_gaps += in_gaps
        elif collected or delivered or in_gaps:
            self._db.execute(ADD_TO_LEDGER, (from_ms, collected, delivered, in_gaps))

    def _close_stretch(self, held: HeldLane) -> None:
        if held.open_collected or held.open_delivered or held.open_in_gaps:
            self._db.execute(ADD_TO_LEDGER, (held.open_ms, held.open_collected, held.open_delivered, held.open_in_gaps))
            beyond = "select from_ms from ledger order by from_ms desc limit 1 offset ?"  # by number: a clock that jumps drops nothing
            self._db.execute(f"delete from ledger where from_ms <= ({beyond})", (STRETCHES,))  # noqa: S608 - texts of our own
        held.open_collected = held.open_delivered = held.open_in_gaps = 0

    def used(self) -> dict[Lane, int]:
        return {lane: held.used_bytes for lane, held in self.lanes.items()}

    def query(self, text: str, *values: object) -> list[Any]:
        return self._db.execute(text, values).fetchall()

    def oldest_age_s(self) -> int:
        """The age stamp of the last frame of any lane: where this file's clock of ages goes on after a restart."""
        found = [self.query("select age_s from frame where id <= ? order by id desc limit 1", row_id(lane, MASK)) for lane in LANES]
        return max((rows[0][0] for rows in found if rows), default=0)

    def heads(self, lane: Lane, after: int = 0, *, limit: int) -> list[Head]:
        """The oldest rows behind seq `after`."""
        where = " where id > ? and id <= ? order by id limit ?"
        return [Head(*row) for row in self.query(_HEAD + where, row_id(lane, after), row_id(lane, MASK), limit)]

    def last(self, lane: Lane) -> Head | None:
        """The newest row."""
        found = self.query(_HEAD + " where id between ? and ? order by id desc limit 1", row_id(lane, 0), row_id(lane, MASK))
        return Head(*found[0]) if found else None

    def body(self, row: int) -> bytes | None:
        """The body of a row, or None when its bytes are not those that were written."""
        [(crc, body)] = self.query("select crc, body from frame where id = ?", row)
        return self.opened(crc, body)

    def opened(self, crc: int, stored: bytes) -> bytes | None:
        """What a row's stored bytes say, or None when they are not those that were written."""
        if zlib.crc32(stored) != crc:
            return None
        try:
            return self._seal.open(stored)
        except Unsealable:
            return None

    def stored_bytes(self, body: bytes) -> int:
        """What a body will take of the quota."""
        return len(body) + self._seal.overhead_bytes + ROW_OVERHEAD_BYTES

    def insert(
        self,
        lane: Lane,
        seq: int,
        covers: int,
        body: bytes,
        readings: int,
        *,
        boot: int,
        created_ms: int,
        age_s: int,
        is_gap: bool,
        period: int,
        thinned: int = 0,
    ) -> None:
        held, body = self.lanes[lane], self._seal.close(body)
        crc = zlib.crc32(body)
        head = head_check(crc, boot, created_ms, readings, is_gap)
        self._db.execute(
            "insert into frame (id, covers, boot, created_ms, readings, is_gap, crc, age_s, thinned, period, head, body)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row_id(lane, seq), covers, boot, created_ms, readings, is_gap, crc, age_s, thinned, period, head, body),
        )
        held.frames += 1
        held.used_bytes += len(body) + ROW_OVERHEAD_BYTES
        held.readings += readings
        if held.frames == 1 or seq < held.floor:
            held.floor = seq
        held.dirty = True

    def delete(self, lane: Lane, rows: Iterable[tuple[int, int, int]]) -> None:
        """Delete rows given as (id, body bytes, readings); counters but `delivered` and `in_gaps` follow."""
        held = self.lanes[lane]
        for row, size, readings in rows:
            self._db.execute("delete from frame where id = ?", (row,))
            held.frames -= 1
            held.used_bytes -= size + ROW_OVERHEAD_BYTES
            held.readings -= readings
        held.dirty = True

    def rewrite(self, lane: Lane, head: Head, body: bytes, lost: int, thinned: int) -> None:
        """Put `body` in a row's place, with `lost` readings less, which are in gaps now."""
        body = self._seal.close(body)
        crc = zlib.crc32(body)
        [(boot, is_gap)] = self.query("select boot, is_gap from frame where id = ?", head.row)
        self._db.execute(
            "update frame set body = ?, crc = ?, readings = ?, thinned = ?, head = ? where id = ?",
            (body, crc, head.readings - lost, thinned, head_check(crc, boot, head.created_ms, head.readings - lost, is_gap), head.row),
        )
        held = self.lanes[lane]
        held.used_bytes += len(body) - head.size
        held.readings -= lost
        self.count(lane, head.created_ms, in_gaps=lost)

    def find_floor(self, lane: Lane) -> None:
        held = self.lanes[lane]
        [(first,)] = self.query("select min(id) from frame where id between ? and ?", row_id(lane, 0), row_id(lane, MASK))
        held.floor = held.next_seq if first is None else first & MASK


def ledger_of(db: apsw.Connection) -> list[Stretch]:
    """The account by stretches of time, over all lanes; what is buffered is counted in the rows themselves."""
    found: dict[int, list[int]] = {}
    buffered = f"select created_ms - created_ms % {STRETCH_MS}, 0, 0, sum(readings), 0 from frame where readings > 0 group by 1"  # noqa: S608
    rows: list[Any] = []
    for query in (
        "select from_ms, collected, delivered, 0, in_gaps from ledger",
        "select open_ms, open_collected, open_delivered, 0, open_in_gaps from lane",
        buffered,
    ):
        rows += db.execute(query).fetchall()
    for from_ms, *counts in rows:
        entry = found.setdefault(from_ms, [0, 0, 0, 0])
        for place, count in enumerate(counts):
            entry[place] += count
    return [Stretch(from_ms, *counts) for from_ms, counts in sorted(found.items()) if any(counts)]


def row_id(lane: Lane, seq: int) -> int:
    return lane.code << 56 | seq
