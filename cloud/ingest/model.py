"""What ingest computes from the stream, as values: rows for the store, and what follows them into the metadata once they are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from cloud.access.model import Downlink, SessionRow
from cloud.devices.model import CommandReply, PresenceChange, RegistryChange
from cloud.telemetry.model import Append, ClockNote, Gap, Ints64, Kind, Numbers, Position, Sending, Series, SeriesKey, Text
from protocols.alink.messages import AHEAD_MS
from protocols.alink.requests import DeviceRequest
from protocols.edgelink.lanes import Lane
from protocols.errors import Reason
from protocols.thing.model import ThingModel

LATEST_AHEAD_MS: Final = AHEAD_MS
MOST_PAYLOAD: Final = 256 * 1024  # what a device can send in one packet is kept whole
MOST_DETAIL: Final = 2_000
UNEXPECTED: Final = Reason.UNEXPECTED_ERROR  # a bug of ours; the detail is the traceback

Reported = dict[int, dict[str, tuple[object, int]]]
LaneKey = tuple[int, str, Lane]
"""(gateway's device id, buffer id in hex, lane)"""


class Mark(msgspec.Struct, frozen=True, gc=False):
    """How far a lane is committed, when the edge made its last frame, and the account: readings in its frames, and in its gap records.

    `announced` is the last frame that the lane held when its gateway connected with some that were not committed. Until those
    are, everything behind `created_ms` may be among them.
    """

    sequence: int = 0
    created_ms: int = 0
    readings: int = 0
    in_gaps: int = 0
    announced: int = 0

    @property
    def pending(self) -> bool:
        return self.sequence < self.announced


AccountKey = tuple[int, str, Lane, int]
"""(gateway's device id, buffer id in hex, lane, begin of ten minutes in ms)"""


@dataclass(slots=True)
class Booking:
    """What a batch adds to the account by stretches: readings delivered and in gaps, and the lanes for which a new day began."""

    entries: dict[AccountKey, tuple[int, int]] = field(default_factory=dict)
    new_day: set[LaneKey] = field(default_factory=set)

    def enter(self, key: LaneKey, from_ms: int, *, delivered: int = 0, in_gaps: int = 0) -> None:
        if delivered or in_gaps:
            had = self.entries.get((*key, from_ms), (0, 0))
            self.entries[*key, from_ms] = (had[0] + delivered, had[1] + in_gaps)


class Reset(msgspec.Struct, frozen=True, gc=False):
    """`access` started again: every session with an older epoch is closed."""

    time_ms: int
    epoch: int


class Quarantined(msgspec.Struct, frozen=True, gc=False):
    """A payload, or something in it, that was not taken. (sequence, number) says where in the stream it lies.

    `count` of them came from `received_ms` to `last_ms` (0: only then); `replayable` says that `payload` is the whole message of a device.
    """

    sequence: int
    number: int
    tenant_id: int
    product_key: str
    device_name: str
    topic: str
    reason: str
    detail: str
    received_ms: int
    size: int
    payload: bytes
    count: int = 1
    last_ms: int = 0
    address: str = ""
    replayable: bool = True
    replay_of: int | None = None


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """A whole message of the stream that did not decode."""

    sequence: int
    detail: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a device, to be answered in the transaction that commits its batch. `number` is its place among those of the batch."""

    sequence: int
    number: int
    session: SessionRow
    topic: str
    request: DeviceRequest
    method: str
    answer_topic: str | None
    model: ThingModel
    received_ms: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What answering a batch's requests made: messages for devices, changes that the other roles hear of, and what tripped over a bug."""

    downlinks: Sequence[Downlink] = ()
    changes: Sequence[RegistryChange] = ()
    quarantined: Sequence[Quarantined] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """What ingest remembers between two lives. No position: it never committed anything."""

    position: Position | None = None
    received_ms: int = 0
    marks: Mapping[LaneKey, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Effects:
    """Everything the messages of one batch cause, in the order it has to happen: the append, the metadata, then what is sent."""

    append: Append
    received_ms: int
    marks: Mapping[LaneKey, Mark]
    reported: Reported
    presence: Sequence[PresenceChange | Reset]
    commands: Sequence[CommandReply]
    quarantined: Sequence[Quarantined]
    unreadable: Sequence[Unreadable]
    downlinks: Sequence[Downlink]
    messages: int
    booking: Booking = field(default_factory=Booking)
    unheard: int = 0  # messages on custom topics, which nobody listens to yet
    requests: Sequence[Asked] = ()


class SeriesBook:
    """The series dictionary of the store, and whose shadow a series feeds. New series are numbered on from the last."""

    def __init__(self, series: Sequence[Series]) -> None:
        self._ids = {entry.key: entry.id for entry in series}
        self._owners: list[tuple[int, str, bool] | None] = [None] * (len(series) + 1)  # by id: device id, identifier, whole numbers
        self._new: list[Series] = []

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, key: SeriesKey, device_id: int, whole: bool) -> int:
        """The id of a series, a new one if need be. `whole` says that its numbers are integers in JSON."""
        found = self._ids.get(key)
        if found is None:
            found = self._ids[key] = len(self._ids) + 1
            self._owners.append(None)
            self._new.append(Series(found, key))
        self._owners[found] = (device_id, key.identifier, whole) if key.kind is Kind.NUMBER else None
        return found

    def take_new(self) -> list[Series]:
        new, self._new = self._new, []
        return new

    def latest(self, numbers: Numbers) -> Reported:
        """The newest sample of each series; of several in one ms the last that came."""
        reported: Reported = {}
        if not len(numbers):
            return reported
        last = np.full(len(self._owners), -1, np.int64)
        last[numbers.series] = np.arange(len(numbers))  # of repeated indices the last assignment stays
        if (numbers.ts > numbers.ts[last[numbers.series]]).any():  # somewhere an older sample came after a newer one
            order = np.lexsort((numbers.ts, numbers.series))  # stable: of equal times the last that came is last
            last[numbers.series[order]] = order
        used = np.flatnonzero(last >= 0)
        rows = last[used]
        for series, value, ts in zip(used.tolist(), numbers.value[rows].tolist(), numbers.ts[rows].tolist(), strict=True):
            owner = self._owners[series]
            if owner is not None:
                device_id, identifier, whole = owner
                reported.setdefault(device_id, {})[identifier] = (int(value) if whole else value, ts)
        return reported


class Rows:
    """Rows of one batch while it grows: plain lists for posts, whole columns for frames, joined in order of arrival."""

    def __init__(self) -> None:
        self.series: list[int] = []
        self.ts: list[int] = []
        self.values: list[float] = []
        self.texts: list[Text] = []
        self.gaps: list[Gap] = []
        self.notes: list[ClockNote] = []
        self.sendings: list[Sending] = []
        self.reported: Reported = {}  # of texts; that of numbers is computed from the columns
        self._pieces: list[Numbers] = []
        self._held = 0
        self._sequences: list[tuple[int, int]] = []  # of the rows in the lists: message, how many
        self._closed = 0

    def __len__(self) -> int:
        """What the batch weighs, in numeric rows."""
        return self._held + len(self.series)

    def close(self, sequence: int) -> None:
        """Everything in the lists since the last call came with the message `sequence`."""
        count = len(self.series) - self._closed
        if count:
            self._sequences.append((sequence, count))
            self._closed += count

    def _flush(self) -> None:
        """The lists become columns."""
        if self.series:
            sequences, counts = zip(*self._sequences, strict=True)
            self._pieces.append(
                Numbers(
                    np.array(self.series, np.int32),
                    np.array(self.ts, np.int64),
                    np.array(self.values, np.float64),
                    np.repeat(np.array(sequences, np.int64), counts),
                )
            )
            self._held += len(self.series)
            for column in (self.series, self.ts, self.values, self._sequences):
                column.clear()
            self._closed = 0

    def add(self, numbers: Numbers, sequence: int) -> None:
        """Columns of the message `sequence`, behind what is there."""
        self.close(sequence)
        self._flush()
        self._pieces.append(numbers)
        self._held += len(numbers)

    def put(self, text: Text) -> None:
        self.texts.append(text)
        self._held += 1 + len(text.json) // 28

    def add_text(self, text: Text, device_id: int, identifier: str, value: object) -> None:
        """A sample that is no number, and the shadow it feeds."""
        self.put(text)
        device = self.reported.setdefault(device_id, {})
        held = device.get(identifier)
        if held is None or text.ts >= held[1]:
            device[identifier] = (value, text.ts)

    def numbers(self) -> Numbers:
        """All columns; every message is closed."""
        self._flush()
        return Numbers.concatenate(self._pieces)


def positions(count: int, sequence: int) -> Ints64:
    return np.full(count, sequence, np.int64)
