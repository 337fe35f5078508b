"""What the agent's stages need from the world, as protocols; adapters are written against these and fakes pass the same contract."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Protocol

from edge_agent.domain.batch import Shape
from edge_agent.domain.scoring import Rows, Scores
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Command, Committed, ExchangeReply
from protocols.edgelink.records import Record
from protocols.edgelink.topics import EdgeChannel
from protocols.errors import Broken, TryAgain
from protocols.thing.datatypes import Value


@dataclass(frozen=True, slots=True)
class LaneState:
    """One lane of the outbox. It holds seqs from `floor` up to, not including, `next_seq`; empty when both are equal.

    `used_bytes` and `readings` are of the frames held; `collected`, `delivered` and `in_gaps` count readings since the file was made
    (`in_gaps`: given up by overflow, age, refusal or damage): collected = delivered + in_gaps + readings. `appended_bytes` are of all
    frames ever appended, `delivered_bytes` of those that the cloud committed, counted as against the quota.
    """

    floor: int = 1
    next_seq: int = 1
    frames: int = 0
    used_bytes: int = 0
    readings: int = 0
    collected: int = 0
    delivered: int = 0
    in_gaps: int = 0
    appended_bytes: int = 0
    delivered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OutboxState:
    """The outbox at one moment. `buffer_id` is 16 random bytes made with the file, `boot` counts its openings.

    Since the opening, `written_bytes` went to the write-ahead log for `appended_readings`; up to as many again move into the file later.
    """

    buffer_id: bytes
    boot: int
    lanes: Mapping[Lane, LaneState]
    quota_bytes: int
    written_bytes: int = 0
    appended_readings: int = 0
    disk_full: bool = False
    """Readings are refused; what the ballast was kept for is taken."""

    @property
    def used_bytes(self) -> int:
        return sum(lane.used_bytes for lane in self.lanes.values())

    def summary(self) -> dict[str, object]:
        """The state as plain JSON values."""
        return {
            "buffer_id": self.buffer_id.hex(),
            "boot": self.boot,
            "quota_bytes": self.quota_bytes,
            "used_bytes": self.used_bytes,
            "disk_full": self.disk_full,
            "written_bytes": self.written_bytes,
            "written_bytes_per_reading": round(self.written_bytes / self.appended_readings, 2) if self.appended_readings else None,
            "lanes": {lane.value: asdict(held) for lane, held in self.lanes.items()},
        }


@dataclass(frozen=True, slots=True)
class Stretch:
    """What came of the readings that were appended from `from_ms` on for ten minutes, by the agent's clock of that moment."""

    from_ms: int
    collected: int
    delivered: int
    buffered: int
    in_gaps: int


class OutboxUnavailable(TryAgain):
    """The disk refused (full, read-only, I/O error): nothing was stored, or it is unknown; either way nothing is promised."""


class OutboxClosed(TryAgain):
    """The outbox is closing or closed."""


class OutboxDamaged(Broken):
    """The buffer file is no buffer of ours and must be moved away."""


class Outbox(Protocol):
    """Frames on their way up. Order, identity and durability live here; nothing is forgotten before `committed`."""

    async def append(self, lane: Lane, body: bytes, readings: int, marks: Mapping[str, bytes] | None = None, period: int = 0) -> int:
        """Keep a body from `encode_body` and return its seq: durable (fsynced) on return, together with `marks`.

        `period` is that of the clock its times were stamped in (domain/clock.py): frames leave `next` with the times known by then.

        Overflow: live and bulk drop their oldest frames and a gap record takes their place; alarm and reply wait for room.
        Raises OutboxUnavailable, OutboxClosed.
        """
        ...

    async def remember(self, marks: Mapping[str, bytes]) -> None:
        """Keep marks without a frame, durable on return; an empty value removes one."""
        ...

    async def next(self, lane: Lane, after_seq: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Up to `limit` whole frames behind `after_seq`, stamped with the lane's present floor."""
        ...

    async def arrival(self, after: Mapping[Lane, int]) -> None:
        """Wait until some lane holds a frame behind `after[lane]` (0 where missing)."""
        ...

    async def committed(self, lane: Lane, seq: int) -> None:
        """Forget everything up to `seq`: the cloud's store has it."""
        ...

    async def reconcile(self, committed: Mapping[Lane, int]) -> None:
        """Meet the cloud's watermarks after a connect: trim to them.

        Where the cloud is ahead of all this buffer ever made (a restored backup), the frames held move behind its watermark,
        with a gap record `buffer_reset`. Read `state` again afterwards.
        """
        ...

    async def replace(self, lane: Lane, seq: int, body: bytes) -> None:
        """Put `body` (gap records) where a refused frame stood; the original moves to the local quarantine."""
        ...

    async def ledger(self) -> Sequence[Stretch]:
        """The account by ten minutes, in order of time; those in which nothing was appended are left out. At most 92 days of them."""
        ...

    def state(self) -> OutboxState:
        """The state after the last commit; costs nothing."""
        ...

    async def marks(self, prefix: str = "") -> dict[str, bytes]:
        """Small values stored with frames: the last durable row of a device, duplicate memory."""
        ...

    async def close(self) -> None:
        """Commit what waits, then close the file. Twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A device behind this gateway."""

    product_key: str
    device_name: str

    def __str__(self) -> str:
        return f"{self.product_key}/{self.device_name}"


class Intake(Protocol):
    """Where connectors put what they read. Nothing here blocks: who adds asks `full` first and waits for `room`."""

    @property
    def full(self) -> bool:
        """Whether so much waits to become durable that reading has to pause."""
        ...

    async def room(self) -> None:
        """Wait until not `full`."""
        ...

    def row(self, shape: Shape, values: Sequence[Value], times: Sequence[int] | int, period: int = 0) -> None:
        """Add readings to the open live frame (epoch ms). `period`: of the clock that stamped them, 0 for a device's own times."""
        ...

    def rows(self, shape: Shape, count: int, values: Sequence[Value], times: Sequence[int]) -> None:
        """The same for `count` rows of one shape without texts: values and their times back to back."""
        ...

    def record(self, lane: Lane, record: Record, period: int = 0) -> None:
        """Add an event, gap, reply or presence record; alarm and reply frames close at once."""
        ...

    def mark(self, key: str, value: bytes, lane: Lane = Lane.LIVE) -> None:
        """Store a small value in the same transaction as that lane's open frame; call it after adding to the frame."""
        ...

    def when_durable(self, call: Callable[[], None]) -> None:
        """Call once everything added so far is fsynced; calls run in the order they were given."""
        ...


class ScorerDied(TryAgain):
    """The models' process ended, or did not answer in time and was ended. What it knew of windows is gone."""


class Scorer(Protocol):
    """Models that score rows, somewhere where they can harm nobody. One call at a time."""

    async def start(self) -> Sequence[str]:
        """Start, or start again with empty windows: for each model why it cannot serve, "" where it can. Raises ScorerDied."""
        ...

    async def score(self, rows: Rows) -> Scores:
        """Score these rows, behind all rows of the same model since the start. Raises ScorerDied."""
        ...

    async def stop(self) -> None:
        """End it. Twice is harmless."""
        ...


class DeviceUnreachable(TryAgain):
    """A device behind this gateway gave no answer, or one that says it cannot."""


class PresenceBoard(Protocol):
    """Who of the devices behind this gateway answers; connectors report changes."""

    def changed(self, device: DeviceKey, online: bool, source: str) -> None: ...


class Route(Protocol):
    """The way down to one attached device."""

    def set_properties(self, command_id: str, params: Mapping[str, object]) -> None:
        """Hand a property set to the device; its answer arrives where the route was made. Raises Refused."""
        ...


class LinkDown(TryAgain):
    """The cloud is away, or this gateway's credentials are refused: the message says which."""


class UplinkSession(Protocol):
    """One connection to the cloud."""

    async def publish(self, channel: EdgeChannel, payload: bytes) -> int:
        """Send with QoS 1 and return the PUBACK's reason code; raises LinkDown."""
        ...

    def messages(self) -> AsyncIterator[ExchangeReply | Committed | Command]:
        """What the cloud sends, undecodable messages left out; raises LinkDown at the end of the connection."""
        ...


class Uplink(Protocol):
    """How to reach the cloud."""

    def connect(self) -> AbstractAsyncContextManager[UplinkSession]:
        """A connection for the length of a `with` block; raises LinkDown."""
        ...
