"""The buffer file: frames by lane and seq in SQLite, written by one connection in one thread. No threads and no loop in here.

Methods raise apsw.Error as it comes; `translated` says what one means for a caller of the outbox.
"""

import logging
import os
import time
import zlib
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw

from edge_agent.buffer.lane_rows import LEDGER, MASK, ROW_OVERHEAD_BYTES, TABLES, LaneRows, ledger_of, row_id
from edge_agent.buffer.salvage import finish_exchange, forget_copy, is_sound, salvage
from edge_agent.buffer.sealing import MAGIC, NO_SEAL, Seal, Unsealable
from edge_agent.buffer.shedding import Shedding
from edge_agent.domain.quotas import Overflow, Quotas
from edge_agent.ports import OutboxDamaged, OutboxState, OutboxUnavailable, Stretch
from protocols.edgelink.columns import NO_COLUMNS
from protocols.edgelink.frame import FrameHeader, encode_body, stamp
from protocols.edgelink.lanes import LANES, Gap, GapReason, Lane
from protocols.edgelink.records import GapRecord
from protocols.edgelink.retiming import retimed
from protocols.edgelink.stretches import STRETCH_MS, stretch_of
from protocols.errors import Refused

log = logging.getLogger(__name__)

APPLICATION_ID = 0x484C4F42  # "HLOB"
FORMAT = 4
QUARANTINED_FRAMES = 64
PAGE_BYTES = 8_192  # frames are tens of KiB: fewer, larger pages read four times as fast
WAL_HEADER_BYTES = 24  # before each page in the write-ahead log (sqlite.org/fileformat2.html, 4.1)
GIVE_BACK_PAGES = 512
"""Pages given back to the file system with a commit, while more than half of the file is free (and more than `_SPARE_PAGES`)."""
_SPARE_PAGES = 2_048
KEY_CHECK = "seal/check"
"""The mark that tells which key the file was written with; the only one that is never sealed."""
REKEYING = b"rekeying"
"""Its value while frames have different keys."""

_TABLES = (
    "create table identity (buffer_id blob not null, boot integer not null)",
    *TABLES,
    "create table mark (key text primary key, value blob not null) without rowid",
    """create table quarantine (id integer primary key, lane text not null, seq integer not null, boot integer not null,
        created_ms integer not null, reason text not null, readings integer not null, body blob not null)""",
)

_MIGRATIONS = {
    1: (
        "alter table frame add column age_s integer not null default 0",
        "alter table frame add column thinned integer not null default 0",
        "alter table lane add column appended_bytes integer not null default 0",
        "alter table lane add column delivered_bytes integer not null default 0",
    ),
    2: ("alter table frame add column period integer not null default 0", "alter table frame add column head integer"),
    3: (
        "alter table lane add column open_ms integer not null default 0",
        "alter table lane add column open_collected integer not null default 0",
        "alter table lane add column open_delivered integer not null default 0",
        "alter table lane add column open_in_gaps integer not null default 0",
        LEDGER,
        f"insert into ledger select created_ms - created_ms % {STRETCH_MS}, sum(readings), 0, 0 from frame where readings > 0 group by 1",  # noqa: S608
    ),
}


class FrameFile:
    """Opened, changed inside begin/commit, and read. Not for two threads at a time.

    `shift` tells for a period of the clock from which time on, and how far, times are off by now (domain/clock.py).
    `in_doubt` frames at the head of a lane may have been sent without an answer: overflow drops them last.
    """

    def __init__(
        self,
        path: Path,
        *,
        quotas: Quotas,
        gateway: tuple[str, str],
        in_doubt: int = 32,
        running_s: Callable[[], float] = time.monotonic,
        shift: Callable[[int], tuple[int, int | None]] = lambda period: (0, 0),
        seal: Seal = NO_SEAL,
    ) -> None:
        """Raises OutboxUnavailable when the file was written with another key, and OutboxDamaged."""
        self._shift, self._seal = shift, seal
        self._path, self._quotas, self._gateway, self._in_doubt, self._running_s = path, quotas, gateway, in_doubt, running_s
        self.buffer_id, self.boot = b"", 0
        self._written_before = self._appended = 0
        finish_exchange(path)
        self._connect()
        try:
            if not is_sound(self._db):
                self._db.close(True)
                salvage(path, gateway, _new_file, FORMAT)
                self._connect()
            else:
                forget_copy(path)
            self._begin_boot()
        except BaseException:  # raised again: whatever it was, the file must not stay locked
            self._db.close(True)
            raise
        self._age_offset = self._rows.oldest_age_s() - running_s()
        self.state = self._freeze()

    # --- opening and closing

    def _connect(self) -> None:
        self._db = db = apsw.Connection(os.fspath(self._path))
        db.set_busy_timeout(2_000)
        _prepare(db)

    def _begin_boot(self) -> None:
        db = self._db
        db.execute("begin immediate")
        application, version = db.pragma("application_id"), db.pragma("user_version")
        if application == 0 and version == 0 and not db.execute("select count(*) from sqlite_schema").get:  # an empty file
            _lay_out(db)
        elif application == APPLICATION_ID and version in _MIGRATIONS:
            for step in range(version, FORMAT):
                for change in _MIGRATIONS[step]:
                    db.execute(change)
            db.execute(f"pragma user_version = {FORMAT}")
        elif (application, version) != (APPLICATION_ID, FORMAT):
            db.execute("rollback")
            raise OutboxDamaged(f"{self._path} is no buffer of this version (application {application}, format {version}); move it away")
        db.execute("update identity set boot = boot + 1")
        identity: Any = db.execute("select buffer_id, boot from identity").fetchall()
        [(self.buffer_id, self.boot)] = identity
        self._look_at_the_key()
        db.execute("commit")
        self._load()

    def _look_at_the_key(self) -> None:
        """Nothing may be taken for damaged that only has another key. Raises OutboxUnavailable."""
        found = self._db.execute("select value from mark where key = ?", (KEY_CHECK,)).get
        if found == REKEYING:
            raise OutboxUnavailable(f"{self._path} was given another key and that was cut short: run `edgectl buffer rekey` again")
        if found is None or found != self._seal.check:  # it may be damaged, or lost with a damaged page
            sealed = [one for one in self._samples() if one.startswith(MAGIC)]
            if sealed and not any(map(self._opens, sealed)):
                hint = "give its key back (buffer.key_file), change it with `edgectl buffer rekey`, or move the file away"
                raise OutboxUnavailable(f"{self._path} was encrypted with another key: {hint}")
            self._db.execute("delete from mark where key = ?", (KEY_CHECK,))
            if self._seal.check:
                self._db.execute("insert into mark values (?, ?)", (KEY_CHECK, self._seal.check))

    def _samples(self) -> list[bytes]:
        """The newest frame of each lane, and some marks."""
        frames = [
            self._db.execute("select crc, body from frame where id between ? and ? order by id desc limit 1", span).fetchone()
            for span in ((row_id(lane, 0), row_id(lane, MASK)) for lane in LANES)
        ]
        marks = self._db.execute("select value from mark where key <> ? limit 16", (KEY_CHECK,)).fetchall()
        return [body for crc, body in filter(None, frames) if zlib.crc32(body) == crc] + [value for (value,) in marks]

    def _opens(self, sealed: bytes) -> bool:
        try:
            self._seal.open(sealed)
        except Unsealable:
            return False
        return True

    def _load(self) -> None:
        self._rows = LaneRows(self._db, self._seal)
        self._rows.load()
        self._shedding = Shedding(self._rows, self._quotas, gateway=self._gateway, in_doubt=self._in_doubt, boot=self.boot)

    def _age_s(self) -> int:
        """The clock of ages: how long agents have run on this file, in seconds, as far as frames tell."""
        return int(self._running_s() + self._age_offset)

    def reopen(self) -> None:
        """After an I/O error: nothing cached is believed; what the file has is made durable or the error comes again."""
        self.close()
        self._connect()
        self._db.execute("pragma wal_checkpoint(truncate)").fetchall()
        self._load()
        self.state = self._freeze()

    def close(self) -> None:
        self._written_before = self.state.written_bytes
        self._db.close(True)

    # --- transactions

    def begin(self) -> None:
        self._db.execute("begin immediate")

    def commit(self) -> None:
        """Durable on return."""
        self._rows.flush()
        free, whole = self._db.pragma("freelist_count"), self._db.pragma("page_count")
        if free > _SPARE_PAGES and free > whole // 2:
            self._db.execute(f"pragma incremental_vacuum({GIVE_BACK_PAGES})").fetchall()
        self._db.execute("commit")
        self.state = self._freeze()

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("rollback")
        self._load()

    def _freeze(self) -> OutboxState:
        lanes = {lane: held.freeze() for lane, held in self._rows.lanes.items()}
        pages, _ = self._db.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)
        written = self._written_before + pages * (PAGE_BYTES + WAL_HEADER_BYTES)
        return OutboxState(self.buffer_id, self.boot, lanes, self._quotas.total_bytes, written, self._appended)

    # --- changes, inside a transaction

    def append(self, lane: Lane, body: bytes, readings: int, now_ms: int, period: int = 0) -> int | None:
        """The new frame's seq, or None when there is no room and the lane's policy is to wait."""
        overflow = self._quotas.lanes[lane].overflow
        self._shedding.expire(self._age_s())
        if overflow in (Overflow.DROP_OLDEST, Overflow.THIN):
            seq = self._put(lane, body, readings, now_ms, period)
            self._shedding.make_room(lane, 0, of_its_own=True)  # what just came may be the oldest there is
            return seq
        if self._shedding.make_room(lane, self._rows.stored_bytes(body), of_its_own=False):
            return self._put(lane, body, readings, now_ms, period)
        if overflow is Overflow.BLOCK:
            return None
        return self._put(lane, body, readings, now_ms, period, as_gap=True)

    def _put(self, lane: Lane, body: bytes, readings: int, now_ms: int, period: int = 0, *, as_gap: bool = False) -> int:
        held = self._rows.lanes[lane]
        seq, age_s = held.next_seq, self._age_s()
        if as_gap:
            self._shedding.put_as_gap(lane, seq, body, readings, created_ms=now_ms, age_s=age_s, period=period)
        else:
            self._rows.insert(lane, seq, seq, body, readings, boot=self.boot, created_ms=now_ms, age_s=age_s, is_gap=False, period=period)
        held.next_seq, held.last_ms = seq + 1, max(now_ms, held.last_ms)
        self._rows.count(lane, now_ms, collected=readings)
        self._appended += readings
        held.appended_bytes += self._rows.stored_bytes(body)
        return seq

    def remember(self, marks: Mapping[str, bytes]) -> None:
        """Write marks; an empty value removes one."""
        for key, value in marks.items():
            if value:
                sealed = self._seal.close(value)
                self._db.execute("insert into mark values (?, ?) on conflict do update set value = excluded.value", (key, sealed))
            else:
                self._db.execute("delete from mark where key = ?", (key,))

    def forget(self, lane: Lane, seq: int) -> None:
        """Drop what the cloud has committed."""
        held = self._rows.lanes[lane]
        if seq < held.floor or not held.frames:
            return
        low, high = row_id(lane, 0), row_id(lane, min(seq, held.next_seq - 1))
        gone = self._rows.query("select length(body), readings, created_ms from frame where id between ? and ?", low, high)
        self._db.execute("delete from frame where id between ? and ?", (low, high))
        used = sum(size for size, _, _ in gone) + len(gone) * ROW_OVERHEAD_BYTES
        held.frames -= len(gone)
        held.used_bytes -= used
        held.delivered_bytes += used
        for from_ms, alike in groupby(gone, lambda row: stretch_of(int(row[2]))):
            readings = sum(count for _, count, _ in alike)
            held.readings -= readings
            self._rows.count(lane, from_ms, delivered=readings)
        held.dirty = True
        self._rows.find_floor(lane)

    def reconcile(self, lane: Lane, committed: int, now_ms: int) -> None:
        """Trim to the cloud's watermark; when it is ahead of this file, move what is held behind it and name the gap."""
        held = self._rows.lanes[lane]
        if committed < held.next_seq:
            self.forget(lane, committed)
            return
        shift = committed + 1 - held.floor
        rows = self._rows.query("select id from frame where id >> 56 = ? order by id desc", lane.code)
        for (row,) in rows:  # from the end, so that no id meets one still to move
            self._db.execute("update frame set id = id + ?, covers = covers + ? where id = ?", (shift, shift, row))
        held.next_seq += shift
        held.dirty = True
        self._rows.find_floor(lane)
        gap = Gap(*self._gateway, (), held.last_ms, max(now_ms, held.last_ms + 1), None, GapReason.BUFFER_RESET)
        self._put(lane, encode_body(NO_COLUMNS, (GapRecord(gap),)), 0, now_ms)

    def replace(self, lane: Lane, seq: int, body: bytes, reason: GapReason) -> None:
        """Swap a frame for its gap record; the original goes to the quarantine. No frame, no effect."""
        row = row_id(lane, seq)
        found = self._rows.query("select covers, boot, created_ms, readings, body, age_s, period from frame where id = ?", row)
        if not found:
            return
        [(covers, boot, created_ms, readings, original, age_s, period)] = found
        self._db.execute(
            "insert into quarantine (lane, seq, boot, created_ms, reason, readings, body) values (?, ?, ?, ?, ?, ?, ?)",
            (lane.value, seq, boot, created_ms, reason.value, readings, original),
        )
        self._db.execute("delete from quarantine where id <= (select max(id) from quarantine) - ?", (QUARANTINED_FRAMES,))
        self._rows.delete(lane, [(row, len(original), readings)])
        self._rows.count(lane, created_ms, in_gaps=readings)
        # what a refused frame was sent as had the times known by then
        period = 0 if reason is GapReason.REFUSED_FRAME else period
        self._rows.insert(lane, seq, covers, body, 0, boot=self.boot, created_ms=created_ms, age_s=age_s, is_gap=True, period=period)

    # --- reading, outside a transaction

    def read(self, lane: Lane, after_seq: int, limit: int) -> tuple[list[tuple[int, bytes]], list[int]]:
        """Stamped frames in order, and the seqs of damaged ones (left out, to be replaced by `replace_damaged`)."""
        floor = self._rows.lanes[lane].floor
        frames: list[tuple[int, bytes]] = []
        damaged: list[int] = []
        rows = self._rows.query(
            "select id, covers, boot, created_ms, crc, period, body from frame where id > ? and id <= ? order by id limit ?",
            row_id(lane, after_seq),
            row_id(lane, MASK),
            limit,
        )
        for row, covers, boot, created_ms, crc, period, stored in rows:
            seq, body = row & MASK, self._rows.opened(crc, stored)
            if body is None:
                damaged.append(seq)
                continue
            if body is not stored:
                crc = zlib.crc32(body)
            header = FrameHeader(self.buffer_id, boot, lane, seq, floor, created_ms, covers)
            if period:
                begin_ms, shift_ms = self._shift(period)
                if shift_ms != 0:
                    try:
                        body = retimed(body, begin_ms, shift_ms)
                    except Refused:  # whole, and yet no body of ours
                        damaged.append(seq)
                        continue
                    crc = zlib.crc32(body)
            frames.append((seq, stamp(body, header, crc)))
        return frames, damaged

    def replace_damaged(self, lane: Lane, seq: int) -> None:
        """A frame whose bytes changed on disk becomes a gap."""
        row = row_id(lane, seq)
        for created_ms, readings in self._rows.query("select created_ms, readings from frame where id = ?", row):
            gap = self._shedding.unreadable(created_ms, readings)
            self.replace(lane, seq, encode_body(NO_COLUMNS, (GapRecord(gap),)), GapReason.BUFFER_DAMAGED)

    def ledger(self) -> list[Stretch]:
        return ledger_of(self._db)

    def marks(self, prefix: str) -> dict[str, bytes]:
        found = {}
        for key, value in self._rows.query("select key, value from mark where substr(key, 1, length(?1)) = ?1", prefix):
            if key != KEY_CHECK:
                try:
                    found[key] = self._seal.open(value)
                except Unsealable:  # a bit of it flipped; it has no checksum of its own beside the seal
                    log.error("buffer.mark_damaged", extra={"mark": key})
        return found


def opened_alone(db: apsw.Connection) -> None:
    """For who changes the file: nobody else may have it open. Raises apsw.BusyError with the first access, and NotADBError."""
    db.execute("pragma locking_mode = exclusive")  # a second agent on this file is refused, and no shared memory is needed
    if db.pragma("application_id") not in (0, APPLICATION_ID):
        raise apsw.NotADBError("the file belongs to another program")


def _prepare(db: apsw.Connection) -> None:
    # One statement a call: apsw stops a string of several at its first result row.
    db.execute("pragma locking_mode = exclusive")  # a second agent on this file is refused, and no shared memory is needed
    db.execute(f"pragma page_size = {PAGE_BYTES}")
    db.execute("pragma auto_vacuum = incremental")  # of a new file; an older one keeps its size
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")  # the promise of `append` hangs on this line
    db.execute("pragma journal_size_limit = 16777216")
    db.execute("pragma cache_size = -4096")


def _lay_out(db: apsw.Connection) -> None:
    for table in _TABLES:
        db.execute(table)
    db.execute("insert into identity values (?, 0)", (os.urandom(16),))
    for lane in LANES:
        db.execute("insert into lane (code, next_seq, collected, delivered, in_gaps, last_ms) values (?, 1, 0, 0, 0, 0)", (lane.code,))
    db.execute(f"pragma application_id = {APPLICATION_ID}")
    db.execute(f"pragma user_version = {FORMAT}")


def _new_file(db: apsw.Connection) -> None:
    _prepare(db)
    _lay_out(db)


def translated(error: apsw.Error) -> OutboxUnavailable | OutboxDamaged:
    """What an SQLite error means for the caller."""
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return OutboxDamaged(f"the buffer file is damaged: {error}")
    return OutboxUnavailable(f"the buffer's disk: {error}")
