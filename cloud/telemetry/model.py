"""What telemetry is made of: series, positions, the append that carries rows to the store, and the rule that makes it repeatable."""

import base64
import enum
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from protocols.errors import Broken, Reason, Refused

DAY_MS: Final = 86_400_000
# Parts of an append are far below NATS' 4 MiB payload: clients copy each message three times, which is cheap only inside the cache.
PART_ROWS: Final = 20_000
PART_BYTES: Final = 512 * 1024  # of series, texts and gaps
EARLIEST_MS: Final = -(2**53)
LATEST_MS: Final = 2**53

Ints32 = NDArray[np.int32]
Ints64 = NDArray[np.int64]
Floats64 = NDArray[np.float64]


class Kind(enum.StrEnum):
    """How the samples of a series are stored: as float64, or as JSON text (text, struct, array; the outputs of an event)."""

    NUMBER = "number"
    TEXT = "text"
    EVENT = "event"


class Position(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How far into which stream: the last message that is in. `Position()` is a store that has seen nothing."""

    stream_id: str = ""
    sequence: int = 0


class SeriesKey(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The name of a series. A property whose type changes between number and text has a series of each kind, an event one of its own."""

    product_key: str
    device_name: str
    identifier: str
    kind: Kind = Kind.NUMBER


class Series(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A series and the small number its rows carry."""

    id: int
    key: SeriesKey


class Gap(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A range without samples, bounds exclusive. Empty identifier: every property; empty product and device: everything."""

    product_key: str
    device_name: str
    identifier: str
    from_ms: int
    to_ms: int
    count: int | None
    reason: str


class ClockNote(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Times of a device in a range (bounds exclusive) that its gateway stamped before it knew the time.

    They were moved by `shift_ms` when it did; None: it never did, and they are as they were stamped.
    """

    product_key: str
    device_name: str
    from_ms: int
    to_ms: int
    shift_ms: int | None


class Sending(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """From this position on, what a gateway sends arrives `delay_ms` later by the two clocks, to a second; until the next one."""

    product_key: str
    device_name: str
    position: int
    delay_ms: int


class Text(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One non-numeric sample: its value as JSON."""

    series: int
    ts: int
    json: str
    position: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numeric rows as columns of equal length: series int32, ts int64 (ms), value float64, position int64 (stream sequence)."""

    series: Ints32
    ts: Ints64
    value: Floats64
    position: Ints64

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, rows: slice) -> "Numbers":
        return Numbers(self.series[rows], self.ts[rows], self.value[rows], self.position[rows])

    def moved(self, by: int) -> "Numbers":
        """The same rows at positions higher by `by`."""
        return Numbers(self.series, self.ts, self.value, self.position + by) if by else self

    @classmethod
    def none(cls) -> Self:
        return cls(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.int64))

    @classmethod
    def concatenate(cls, pieces: Sequence["Numbers"]) -> "Numbers":
        if len(pieces) == 1:
            return pieces[0]
        if not pieces:
            return cls.none()
        return cls(
            np.concatenate([piece.series for piece in pieces]),
            np.concatenate([piece.ts for piece in pieces]),
            np.concatenate([piece.value for piece in pieces]),
            np.concatenate([piece.position for piece in pieces]),
        )


@dataclass(frozen=True, slots=True)
class Append:
    """Everything the messages in (start, end] leave in the store; applied whole or not at all.

    A different stream id at the end than at the start moves the store to another stream: the gap in it says what was lost.
    """

    start: Position
    end: Position
    series: Sequence[Series] = ()
    numbers: Numbers = field(default_factory=Numbers.none)
    texts: Sequence[Text] = ()
    gaps: Sequence[Gap] = ()
    notes: Sequence[ClockNote] = ()
    received_ms: int = 0
    """When the newest of the messages came to the front door."""
    sendings: Sequence[Sending] = ()


class Verdict(enum.StrEnum):
    """What the store did with an append."""

    APPLIED = "applied"
    HAVE = "have"
    REFUSED = "refused"
    MORE = "more"  # a part, not the last


@dataclass(frozen=True, slots=True)
class Expired:
    """What one run of retention let go of: rows, and the segments that went as a whole."""

    rows: int = 0
    segments: int = 0


class AppendReply(msgspec.Struct, frozen=True, gc=False):
    """The store's answer to an append (or to one part of it) and where it stands now."""

    verdict: Verdict
    position: Position


def judge(held: Position, append: Append) -> Verdict:
    """Whether a store at `held` applies the append, already has it, or must refuse it (design.md par. 5.6)."""
    if append.end.stream_id == held.stream_id and append.end.sequence <= held.sequence:
        return Verdict.HAVE
    return Verdict.APPLIED if append.start == held else Verdict.REFUSED


# --- the append on the wire ------------------------------------------------------------------------------------------------


class _PartHead(msgspec.Struct, frozen=True, gc=False, array_like=True):
    start: Position
    end: Position
    part: int
    parts: int
    series: list[Series]
    texts: list[Text]
    gaps: list[Gap]
    notes: list[ClockNote] = []
    received_ms: int = 0
    sendings: list[Sending] = []


_COLUMNS: Mapping[str, Any] = {"series": pa.int32(), "ts": pa.int64(), "v": pa.float64(), "pos": pa.int64()}
_SCHEMA = pa.schema(_COLUMNS)
_PREFIX = struct.Struct(">II")  # length of the head, where the rows begin
_heads = msgspec.msgpack.Decoder(_PartHead)
_encode = msgspec.msgpack.Encoder().encode


def numbers_to_arrow(numbers: Numbers) -> Any:
    """The columns as an Arrow record batch (zero copy)."""
    columns = [pa.array(numbers.series), pa.array(numbers.ts), pa.array(numbers.value), pa.array(numbers.position)]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _by_size(rows: Sequence[Any], sizes: Iterator[int]) -> list[Sequence[Any]]:
    """Cut rows so that each cut stays within `PART_BYTES` (one row may exceed it alone)."""
    cuts, begin, held = [], 0, 0
    for index, size in enumerate(sizes):
        if held and held + size > PART_BYTES:
            cuts.append(rows[begin:index])
            begin, held = index, 0
        held += size
    if held:
        cuts.append(rows[begin:])
    return cuts


def encode_append(append: Append) -> list[bytes]:
    """The append as one or more parts, each small enough for one message: prefix, head (msgpack), rows (Arrow IPC)."""
    series = _by_size(
        append.series, (24 + 3 * (len(s.key.product_key) + len(s.key.device_name) + len(s.key.identifier)) for s in append.series)
    )
    texts = _by_size(append.texts, (24 + 3 * len(text.json) for text in append.texts))
    gaps = _by_size(append.gaps, (64 + 3 * (len(g.product_key) + len(g.device_name) + len(g.identifier)) for g in append.gaps))
    notes = _by_size(append.notes, (64 + 3 * (len(n.product_key) + len(n.device_name)) for n in append.notes))
    sendings = _by_size(append.sendings, (64 + 3 * (len(s.product_key) + len(s.device_name)) for s in append.sendings))
    rows = [append.numbers[first : first + PART_ROWS] for first in range(0, len(append.numbers), PART_ROWS)]
    others = len(series) + len(texts) + len(gaps) + len(notes) + len(sendings)
    if others <= 5 and len(rows) <= 1 and _small(append):
        return [_encode_part(append, 0, 1)]
    bare = Append(append.start, append.end, received_ms=append.received_ms)
    parts = [replace(bare, series=cut) for cut in series]
    parts += [replace(bare, texts=cut) for cut in texts]
    parts += [replace(bare, gaps=cut) for cut in gaps]
    parts += [replace(bare, notes=cut) for cut in notes]
    parts += [replace(bare, sendings=cut) for cut in sendings]
    parts += [replace(bare, numbers=cut) for cut in rows]
    return [_encode_part(part, index, len(parts)) for index, part in enumerate(parts)]


def _small(append: Append) -> bool:
    """Whether everything but the columns is small beside a full part of columns."""
    few = all(len(entries) <= 1_000 for entries in (append.series, append.gaps, append.notes, append.sendings))
    return few and sum(len(text.json) for text in append.texts) <= 100_000


def _encode_part(part: Append, number: int, parts: int) -> bytes:
    entries = (list(part.series), list(part.texts), list(part.gaps), list(part.notes))
    head = _encode(_PartHead(part.start, part.end, number, parts, *entries, part.received_ms, list(part.sendings)))
    rows_at = (_PREFIX.size + len(head) + 7) & ~7  # Arrow buffers like to be aligned
    sink = pa.BufferOutputStream()
    sink.write((_PREFIX.pack(len(head), rows_at) + head).ljust(rows_at, b"\0"))
    if len(part.numbers):
        with pa.ipc.new_stream(sink, _SCHEMA) as stream:
            stream.write_batch(numbers_to_arrow(part.numbers))
    return bytes(sink.getvalue())


class Assembler:
    """Puts the parts of an append together again. A part out of turn drops what was held: the sender starts over."""

    def __init__(self) -> None:
        self._held: list[tuple[_PartHead, Numbers]] = []

    def add(self, payload: bytes) -> Append | None:
        """The whole append once its last part is in, None before. Raises Broken on a part that does not parse or is out of turn."""
        try:
            length, rows_at = _PREFIX.unpack_from(payload)
            head = _heads.decode(payload[_PREFIX.size : _PREFIX.size + length])
            numbers = _decode_numbers(payload, rows_at)
        except (msgspec.DecodeError, msgspec.ValidationError, struct.error, pa.ArrowInvalid, ValueError) as error:
            self._held.clear()
            raise Broken(f"an append that does not parse: {error}") from error
        if head.part == 0:
            self._held.clear()
        first = self._held[0][0] if self._held else head
        if head.part != len(self._held) or (head.start, head.end, head.parts) != (first.start, first.end, first.parts):
            self._held.clear()
            raise Broken(f"part {head.part} of {head.parts} is out of turn")
        self._held.append((head, numbers))
        if len(self._held) < head.parts:
            return None
        held, self._held = self._held, []
        return Append(
            start=head.start,
            end=head.end,
            series=[series for piece, _ in held for series in piece.series],
            numbers=Numbers.concatenate([rows for _, rows in held if len(rows)]),
            texts=[text for piece, _ in held for text in piece.texts],
            gaps=[gap for piece, _ in held for gap in piece.gaps],
            notes=[note for piece, _ in held for note in piece.notes],
            received_ms=head.received_ms,
            sendings=[sending for piece, _ in held for sending in piece.sendings],
        )


def _decode_numbers(payload: bytes, offset: int) -> Numbers:
    if len(payload) == offset:
        return Numbers.none()
    with pa.ipc.open_stream(pa.py_buffer(payload).slice(offset)) as stream:
        table = stream.read_all()
    if table.schema != _SCHEMA:
        raise ValueError("columns of another shape")
    series, ts, value, position = (column.to_numpy() for column in table.columns)
    return Numbers(series, ts, value, position)


# --- what a query answers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Points:
    """Samples in order of time: ts int64 (ms), values float64 or JSON texts, and the position of each."""

    ts: Ints64
    values: Floats64 | list[str]
    position: Ints64

    def __len__(self) -> int:
        return len(self.ts)

    def __getitem__(self, rows: slice) -> "Points":
        return Points(self.ts[rows], self.values[rows], self.position[rows])


@dataclass(frozen=True, slots=True)
class Buckets:
    """Non-empty buckets in order of time: their starts (ms) and what fell into each."""

    start: Ints64
    minimum: Floats64
    maximum: Floats64
    average: Floats64
    count: Ints64


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+ -]\d\d:?\d\d)")


def parse_time(text: str) -> int:
    """An instant as epoch ms, from RFC 3339 or from epoch ms itself. Fractions of a ms round up. Raises Refused(BAD_TIME).

    >>> parse_time("1970-01-01T01:00:00.5+01:00"), parse_time("500")
    (500, 500)
    """
    if re.fullmatch(r"-?\d{1,15}", text):
        return int(text)
    if not _RFC_3339.fullmatch(text):
        raise Refused(
            Reason.BAD_TIME, f"{text[:40]!r} is no time: give epoch milliseconds or RFC 3339 with an offset, 2026-11-22T08:00:00Z"
        )
    if text[-6:-5] == " ":  # the `+` of an offset that was not percent-encoded
        text = f"{text[:-6]}+{text[-5:]}"
    try:
        since = datetime.fromisoformat(text.upper()) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise Refused(Reason.BAD_TIME, f"{text[:40]!r} is no time: {error}") from error
    return -(-since // timedelta(milliseconds=1))


class Cursor(msgspec.Struct, frozen=True, gc=False):
    """Where a page starts: at `ts`, leaving out the first `skip` rows (several rows can share a ms)."""

    ts: int
    skip: int = 0

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(f"{self.ts}.{self.skip}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        >>> Cursor.parse(str(Cursor(-5, 2)))
        Cursor(ts=-5, skip=2)

        Raises Refused(OUT_OF_RANGE).
        """
        try:
            found = re.fullmatch(r"(-?\d{1,16})\.(\d{1,9})", base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
        except ValueError:
            found = None
        if found is None:
            raise Refused(Reason.OUT_OF_RANGE, "cursor: take `next` of the page before, or leave it out to start again")
        return cls(int(found[1]), int(found[2]))


def after(page: Points, skipped: int) -> Cursor:
    """The cursor behind a page of rows that began with `skipped` rows of its first ms already given."""
    last = int(page.ts[-1])
    same = int(np.count_nonzero(page.ts == last))
    return Cursor(last, same + (skipped if same == len(page) else 0))
