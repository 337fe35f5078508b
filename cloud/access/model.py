"""What `access` hands to `ingest` and takes from it: uplink batches, presence, downlink messages. Pure values and their bytes.

An uplink batch is one message of the UPLINK stream:

    magic "HLU1" | u32 length of tables | u32 number of rows | tables (msgpack: sessions, topics) | rows (40 bytes each) | blob

A row of kind PUBLISH names a run of MQTT PUBLISH packets that lie in the blob exactly as they came from the socket, back to back and all of
one length; nothing is done per message. A presence row's blob part is a msgpack `PresenceNote`, that of a refusal a `RefusalNote`; the
session of a refusal says no more than its tenant. Rows are in arrival order.
"""

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import Self

import msgspec

from protocols.errors import Reason, Refused

MAGIC = b"HLU1"
UPLINK_STREAM = "UPLINK-0"
UPLINK_SUBJECT = "uplink.0"
DELIVER_SUBJECT = "access.deliver"
DOWN_SUBJECT = "access.down"
INGESTED_SUBJECT = "ingest.committed"  # the stream's sequence up to which everything is committed, in decimal digits
REPLAY_SUBJECT = "access.replay"
BROADCAST_SUBJECT = "access.broadcast"
MAX_MESSAGES = 2_000
FRAME_WEIGHT = 50  # messages: a frame of a gateway may hold 100,000 readings, and whoever evaluates takes a whole message at once
MAX_BYTES = 512 * 1024

_HEAD = struct.Struct("<4sII")
_ROW = struct.Struct("<IIIIIIIIq")  # kind, session, topic, offset, stride, size, count, reserved, received_ms


class Kind(enum.IntEnum):
    """What a row of a batch says."""

    PUBLISH = 0
    OPENED = 1  # a session began
    CLOSED = 2  # a session ended; an epoch older than the device's newest one says nothing any more
    ACCESS_STARTED = 3  # every session with an older epoch is gone
    REFUSED = 4  # the door turned something away, once or several times
    REPLAYED = 5  # a message out of the quarantine, as its device sent it; `reserved` is the entry's number


class SessionRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Whose session a row belongs to. `epoch` grows with every session of the device, over restarts too."""

    tenant_id: int
    device_id: int
    product_key: str
    device_name: str
    epoch: int


class PresenceNote(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How a session began or ended: the client's address and, at the end, a reason. `via` is the gateway's device id, for a sub-device."""

    address: str
    reason: str
    via: int = 0


class RefusalNote(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the front door turned away, and `count` more like it between `first_ms` and `last_ms`.

    Who it was is what the client claimed, unless the door let it in before; `sample` is how the last of it began, never a secret.
    """

    reason: Reason
    detail: str
    address: str
    product_key: str
    device_name: str
    username: str
    client_id: str
    topic: str
    count: int
    first_ms: int
    last_ms: int
    sample: bytes


class Downlink(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One message for a device; `access.down` carries a msgpack list of them, `access.deliver` one.

    It is not sent after `expires_ms` (epoch; 0 = no such time). With `waits` a QoS 1 message that expires may wait for a device that is
    away and whose session is kept; it does not count as delivered then. A client that said so (`ext`, bit 1) gets it on `modern_topic`
    instead, if there is one.
    """

    product_key: str
    device_name: str
    topic: str
    payload: bytes
    qos: int = 0
    expires_ms: int = 0
    waits: bool = False
    modern_topic: str = ""


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """The answer to `access.deliver`: whether a session took the message."""

    delivered: bool


class Broadcast(msgspec.Struct, frozen=True, gc=False):
    """`access.broadcast`: one message for all connected devices of a product.

    With `kind` (of a topic) each gets it on its own topic of that kind, whatever it subscribed; otherwise on `topic`, if it subscribed it.
    """

    product_key: str
    payload: bytes
    qos: int = 0
    kind: str = ""
    call: str = ""
    topic: str = ""


class Reached(msgspec.Struct, frozen=True, gc=False):
    """The answer: how many sessions took it."""

    devices: int


class Lease(msgspec.Struct, frozen=True, gc=False):
    """`access.lease`: the front door is alive and holds this many sessions."""

    instance: str
    sessions: int
    time_ms: int


class ReplayRequest(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """`access.replay`: put this message into the stream again, as this device's, with the time it came first."""

    session: SessionRow
    topic: str
    payload: bytes
    received_ms: int
    entry: int


class ReplayAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer, once the message is on disk; False when it could not be in time."""

    committed: bool


ACCESS_ITSELF = SessionRow(0, 0, "", "", 0)
_LAST_KIND = max(Kind)

_encode = msgspec.msgpack.Encoder().encode
_note_decoder = msgspec.msgpack.Decoder(PresenceNote)
_refusal_decoder = msgspec.msgpack.Decoder(RefusalNote)
_tables_decoder = msgspec.msgpack.Decoder(tuple[list[SessionRow], list[str]])
encode_downlink = encode_downlinks = msgspec.msgpack.Encoder().encode
decode_downlinks = msgspec.msgpack.Decoder(list[Downlink]).decode
decode_downlink = msgspec.msgpack.Decoder(Downlink).decode


class Row(msgspec.Struct, gc=False):
    """One row of a decoded batch: `count` payloads of `size` bytes, the first at `offset` of the blob, `stride` bytes apart."""

    kind: Kind
    session: SessionRow
    topic: str
    received_ms: int
    offset: int
    stride: int
    size: int
    count: int
    blob: bytes

    def payloads(self) -> list[bytes]:
        """The payloads of a PUBLISH row, in arrival order."""
        blob, size, start = self.blob, self.size, self.offset
        if self.count == 1:
            return [blob[start : start + size]]
        return [blob[at : at + size] for at in range(start, start + self.count * self.stride, self.stride)]

    def note(self) -> PresenceNote:
        """The note of a presence row."""
        return decode_presence(self.blob[self.offset : self.offset + self.size])

    def refusal(self) -> RefusalNote:
        """The note of a REFUSED row."""
        return decode_refusal(self.blob[self.offset : self.offset + self.size])


def decode_presence(data: bytes) -> PresenceNote:
    """Raises Refused(BAD_FRAME)."""
    try:
        return _note_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(Reason.BAD_FRAME, f"presence note: {error}") from error


def decode_refusal(data: bytes) -> RefusalNote:
    """Raises Refused(BAD_FRAME)."""
    try:
        return _refusal_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(Reason.BAD_FRAME, f"refusal note: {error}") from error


class UplinkBatch(msgspec.Struct, frozen=True):
    """A decoded message of the UPLINK stream."""

    sessions: list[SessionRow]
    topics: list[str]
    rows: list[tuple[int, ...]]
    blob: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode, with every row checked to lie inside the blob; raises Refused(BAD_FRAME)."""
        if len(data) < _HEAD.size:
            raise Refused(Reason.BAD_FRAME, "uplink batch is shorter than its header")
        magic, tables_size, row_count = _HEAD.unpack_from(data)
        rows_at = _HEAD.size + tables_size
        blob_at = rows_at + row_count * _ROW.size
        if magic != MAGIC or blob_at > len(data):
            raise Refused(Reason.BAD_FRAME, "not an uplink batch")
        try:
            sessions, topics = _tables_decoder.decode(memoryview(data)[_HEAD.size : rows_at])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(Reason.BAD_FRAME, f"uplink batch tables: {error}") from error
        rows = list(_ROW.iter_unpack(memoryview(data)[rows_at:blob_at]))
        blob = data[blob_at:]
        for kind, session, topic, offset, stride, size, count, _, _ in rows:
            inside = offset + (count - 1) * stride + size <= len(blob)
            apart = count == 1 or (count > 1 and stride >= size and stride > 0)
            if kind > _LAST_KIND or session >= len(sessions) or topic >= len(topics) or not apart or not inside:
                raise Refused(Reason.BAD_FRAME, "uplink batch row points outside its batch")
        return cls(sessions, topics, rows, blob)

    def __iter__(self) -> Iterator[Row]:
        sessions, topics, blob = self.sessions, self.topics, self.blob
        for kind, session, topic, offset, stride, size, count, _, received_ms in self.rows:
            yield Row(Kind(kind), sessions[session], topics[topic], received_ms, offset, stride, size, count, blob)

    @property
    def messages(self) -> int:
        """How many device messages the batch holds."""
        return sum(row[6] for row in self.rows if row[0] == Kind.PUBLISH)


def is_of_gateway(topic: str) -> bool:
    """Whether messages on this topic are frames (or a gateway's other messages, which are few)."""
    return topic.startswith("/edge/")


def weight_of(topic: str) -> int:
    """What a message on this topic counts for in the bound `MAX_MESSAGES`."""
    return FRAME_WEIGHT if is_of_gateway(topic) else 1


class BatchWriter:
    """Gathers rows of one uplink batch. `session` is an encoded `SessionRow`, made once per session by `session_key`."""

    __slots__ = ("_parts", "_rows", "_sessions", "_topics", "frames", "messages", "size")

    def __init__(self) -> None:
        self._sessions: dict[bytes, int] = {}
        self._topics: dict[str, int] = {}
        self._rows: list[bytes] = []
        self._parts: list[bytes] = []
        self.messages = self.frames = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def weight(self) -> int:
        """See `weight_of`."""
        return self.messages + (FRAME_WEIGHT - 1) * self.frames

    def add_run(self, session: bytes, topic: str, received_ms: int, data: bytes, first: int, stride: int, size: int, count: int) -> None:
        """Add `count` packets of `stride` bytes that fill `data`; a payload of `size` bytes starts at `first` in each."""
        sessions, topics = self._sessions, self._topics
        session_index = sessions.setdefault(session, len(sessions))
        topic_index = topics.setdefault(topic, len(topics))
        self._rows.append(_ROW.pack(Kind.PUBLISH, session_index, topic_index, self.size + first, stride, size, count, 0, received_ms))
        self._parts.append(data)
        self.messages += count
        self.frames += count if is_of_gateway(topic) else 0
        self.size += len(data)

    def add_replay(self, session: bytes, topic: str, received_ms: int, payload: bytes, entry: int) -> None:
        """Add a message out of the quarantine."""
        session_index = self._sessions.setdefault(session, len(self._sessions))
        topic_index = self._topics.setdefault(topic, len(self._topics))
        size = len(payload)
        self._rows.append(_ROW.pack(Kind.REPLAYED, session_index, topic_index, self.size, size, size, 1, entry, received_ms))
        self._parts.append(payload)
        self.messages += 1
        self.frames += is_of_gateway(topic)
        self.size += size

    def add_note(self, kind: Kind, session: bytes, received_ms: int, note: PresenceNote | RefusalNote) -> None:
        """Add the begin or end of a session, or of `access` itself, or what was refused."""
        data = _encode(note)
        session_index = self._sessions.setdefault(session, len(self._sessions))
        topic_index = self._topics.setdefault("", len(self._topics))
        self._rows.append(_ROW.pack(kind, session_index, topic_index, self.size, len(data), len(data), 1, 0, received_ms))
        self._parts.append(data)
        self.messages += 1
        self.size += len(data)

    def to_bytes(self) -> bytes:
        """The batch as one message."""
        tables = _encode(([msgspec.Raw(session) for session in self._sessions], list(self._topics)))
        return b"".join((_HEAD.pack(MAGIC, len(tables), len(self._rows)), tables, *self._rows, *self._parts))


def session_key(session: SessionRow) -> bytes:
    """A session as `BatchWriter` wants it."""
    return _encode(session)


def encode_batch(rows: Sequence[tuple[SessionRow, str, int, Sequence[bytes]]]) -> bytes:
    """A batch of bare payloads, one run each; for replays and tests: what a front door would have written."""
    writer = BatchWriter()
    for session, topic, received_ms, payloads in rows:
        for payload in payloads:
            writer.add_run(session_key(session), topic, received_ms, payload, 0, len(payload), len(payload), 1)
    return writer.to_bytes()
