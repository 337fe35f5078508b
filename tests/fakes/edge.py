"""The edge agent's world, standing still: a clock that tests move, an intake that remembers, a cloud that answers as told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from edge_agent.domain.batch import Shape
from edge_agent.ports import DeviceKey, LinkDown
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Command, Committed, ExchangeReply
from protocols.edgelink.records import Record
from protocols.edgelink.topics import EdgeChannel
from protocols.thing.datatypes import Value


@dataclass(slots=True)
class FakeClock:
    """Both clocks; `forward` moves them together."""

    ms: int = 1_760_000_000_000
    seconds: float = 1_000.0
    period: int = 0
    shifts: dict[int, int] = field(default_factory=dict)

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.seconds

    def settled(self, period: int, time_ms: int) -> int:
        return time_ms + self.shifts.get(period, 0)

    def forward(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)
        self.seconds += seconds


@dataclass(slots=True)
class FakeIntake:
    """Keeps readings as (device name, identifier, value, time); `commit` makes them durable."""

    readings: list[tuple[str, str, Value, int]] = field(default_factory=list)
    periods: list[int] = field(default_factory=list)  # of rows and records, in order
    records: list[tuple[Lane, Record]] = field(default_factory=list)
    marks: dict[str, bytes] = field(default_factory=dict)
    calls: list[Callable[[], None]] = field(default_factory=list)
    full: bool = False

    async def room(self) -> None:
        while self.full:
            await asyncio.sleep(0)

    def row(self, shape: Shape, values: Sequence[Value], times: Sequence[int] | int, period: int = 0) -> None:
        self.periods.append(period)
        at = [times] * shape.width if isinstance(times, int) else times
        self.readings += [(key[1], key[2], value, time) for key, value, time in zip(shape.keys, values, at, strict=True)]

    def rows(self, shape: Shape, count: int, values: Sequence[Value], times: Sequence[int]) -> None:
        for start in range(0, count * shape.width, shape.width):
            self.row(shape, values[start : start + shape.width], times[start : start + shape.width])

    def record(self, lane: Lane, record: Record, period: int = 0) -> None:
        self.periods.append(period)
        self.records.append((lane, record))

    def mark(self, key: str, value: bytes, lane: Lane = Lane.LIVE) -> None:
        self.marks[key] = value

    def when_durable(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def commit(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@dataclass(slots=True)
class FakePresence:
    """Remembers what was said."""

    said: list[tuple[DeviceKey, bool]] = field(default_factory=list)

    def changed(self, device: DeviceKey, online: bool, source: str) -> None:
        if not self.said or self.said[-1] != (device, online):
            self.said.append((device, online))


@dataclass(slots=True)
class FakeRoute:
    """A device that takes property sets."""

    sets: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    def set_properties(self, command_id: str, params: Mapping[str, object]) -> None:
        self.sets.append((command_id, dict(params)))


class FakeCloud:
    """`Uplink` and its session in one: acknowledges with `reasons` (0 where none), and says what the test hands to `say`."""

    def __init__(self) -> None:
        self.published: list[tuple[EdgeChannel, bytes]] = []
        self.reasons: dict[int, int] = {}  # publish number -> PUBACK reason
        self.on_publish: Callable[[EdgeChannel, bytes], None] = lambda channel, payload: None
        self.hold = asyncio.Event()  # cleared: PUBACKs wait
        self.hold.set()
        self._down: asyncio.Queue[ExchangeReply | Committed | Command | None] = asyncio.Queue()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["FakeCloud"]:
        self._down = asyncio.Queue()
        yield self

    async def publish(self, channel: EdgeChannel, payload: bytes) -> int:
        number = len(self.published)
        self.published.append((channel, payload))
        self.on_publish(channel, payload)
        await self.hold.wait()
        return self.reasons.get(number, 0)

    async def messages(self) -> AsyncIterator[ExchangeReply | Committed | Command]:
        while True:
            message = await self._down.get()
            if message is None:
                raise LinkDown("cut")
            yield message

    def say(self, message: ExchangeReply | Committed | Command | None) -> None:
        """Send down; None cuts the link."""
        self._down.put_nowait(message)

    def frames(self) -> list[tuple[EdgeChannel, bytes]]:
        return [(channel, payload) for channel, payload in self.published if channel.lane is not None]
