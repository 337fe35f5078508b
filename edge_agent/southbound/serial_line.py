"""A serial line to the controller of the appliance this agent sits in: rows come numbered and are acknowledged once they are on disk.

Checklist: reopens with back-off (yes), bounded reads (4 KiB), bounded tries (a set: `set_s`), presence reported, secrets: none.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from edge_agent.domain.backoff import Backoff
from edge_agent.domain.clock import Clock
from edge_agent.domain.sampling import LastRow
from edge_agent.domain.serial_rows import SerialRows
from edge_agent.ports import DeviceKey, DeviceUnreachable, Intake, PresenceBoard, Route
from edge_agent.southbound.plan import SerialPlan
from edge_agent.southbound.rows import DeviceRows
from protocols.alink.messages import Reply
from protocols.edgelink.columns import MAX_TIME_MS
from protocols.errors import Reason, Refused
from protocols.field.serial_line import (
    AGE_TAG,
    FLOOR_TAG,
    TIME_TAG,
    Kind,
    SerialDecoder,
    SerialFrame,
    TagType,
    decode_value,
    encode_serial,
    encode_value,
)
from protocols.thing.model import ThingModel

log = logging.getLogger("edge.serial")

READ_BYTES = 4096
SET_AGAIN_S = 0.5
SETS = 64  # under way; more are refused
CODE_TAG = 1  # of a SET_REPLY
HINT = "check the connector's path, and that the agent's user may open it (often the group dialout)"


class Line(Protocol):
    """The serial line; opens when needed. All raise DeviceUnreachable."""

    async def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class _Set:
    frame: bytes
    due: float
    tries: int = 0


class SerialConnector:
    """Takes rows by `plan` and hands sets down, until cancelled."""

    busy_since: float | None = None  # it waits for the controller, which may be silent

    def __init__(
        self,
        plan: SerialPlan,
        device: DeviceKey,
        model: ThingModel,
        line: Line,
        intake: Intake,
        presence: PresenceBoard,
        clock: Clock,
        routes: dict[DeviceKey, Route],
        answered: Callable[[DeviceKey, Reply], None],
        *,
        last: LastRow | None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """While the controller is heard it stands in `routes`; what it says of a set goes to `answered`."""
        self._plan, self._device, self._line = plan, device, line
        self._intake, self._presence, self._clock, self._chance = intake, presence, clock, chance
        self._routes, self._answered = routes, answered
        self._own_time = plan.own_time
        self._rows = DeviceRows(device, model, [tag.property for tag in plan.tags], intake, clock, last=last, own_time=plan.own_time)
        self._order: SerialRows[tuple[SerialFrame, int]] = SerialRows(last)
        self._decoder = SerialDecoder()
        self._sets: OrderedDict[int, _Set] = OrderedDict()
        self._backoff = Backoff(first_s=0.2, ceiling_s=5.0)
        self._failures = 0
        self._online = False
        self.frames = self.again = 0

    async def run(self) -> None:
        """Listen for ever; a line that breaks is opened again with back-off."""
        try:
            while True:
                try:
                    await self._listen()
                except DeviceUnreachable as problem:
                    if not (self._failures or self._online):  # said once: it has never been heard, or not since the last time
                        log.warning("line.unusable", extra={"device": str(self._device), "problem": str(problem), "hint": HINT})
                    self._silent(str(problem))
                    self._line.close()
                    self._failures += 1
                    await asyncio.sleep(self._backoff.wait_s(self._failures, self._chance()))
        finally:
            self._silent("the agent stops")
            self._line.close()
            self._rows.end()

    def status(self) -> dict[str, object]:
        """What `edgectl status` shows of this connector."""
        return {
            "name": self._plan.name,
            "device": str(self._device),
            "rows": self._rows.kept,
            "frames": self.frames,
            "damaged": self._decoder.damaged,
            "again": self.again,
            "failures": self._failures,
        }

    async def _listen(self) -> None:
        """One life of the line; raises DeviceUnreachable. Silence is no fault of the line: it stays open."""
        heard = self._clock.monotonic()
        while True:
            await self._intake.room()  # nothing is taken that could not be kept: the controller holds it
            with suppress(TimeoutError):
                async with asyncio.timeout(SET_AGAIN_S):
                    data = await self._line.read()
                    for frame in self._decoder.feed(data):
                        heard = self._clock.monotonic()
                        self._heard()
                        self._take(frame)
            self._repeat_sets()
            if self._online and self._clock.monotonic() - heard > self._plan.silence_ms / 1000:
                self._silent(f"nothing was heard for {self._plan.silence_ms} ms")

    def _heard(self) -> None:
        self.frames += 1
        if not self._online:
            self._online, self._failures = True, 0
            self._presence.changed(self._device, True, self._plan.name)
            self._routes[self._device] = self

    def _silent(self, problem: str) -> None:
        self._order.unreachable()
        if self._online:
            log.warning("device.unreachable", extra={"device": str(self._device), "problem": problem})
            self._presence.changed(self._device, False, self._plan.name)
        self._online = False
        if self._routes.get(self._device) is self:
            del self._routes[self._device]
        self._sets.clear()  # their commands come to an end by their own time

    def _take(self, frame: SerialFrame) -> None:
        if frame.kind is Kind.ROW:
            try:
                self._row(frame)
            except Refused as problem:
                self._rows.complain("row", str(problem))
        elif frame.kind is Kind.SET_REPLY:
            self._set_answered(frame)

    # --- rows

    def _row(self, frame: SerialFrame) -> None:
        floor = _whole(frame, FLOOR_TAG, TagType.UINT32, frame.number)
        self.again += self._order.knows(frame.number)
        for number, row, lost in self._order.offer(frame.number, floor, (frame, self._clock.now_ms())):
            self._keep(number, *row, lost)
        last = self._order.last
        if last is not None and last.counter is not None:
            # Once everything taken so far is on disk. One that is lost is given again when a row comes again.
            acknowledgement = encode_serial(SerialFrame(Kind.ACK, last.counter))
            self._intake.when_durable(lambda: self._write(acknowledgement))

    def _keep(self, number: int, frame: SerialFrame, came_ms: int, lost: int | None) -> None:
        self._rows.settle(self._order)
        period = 0 if self._own_time else self._clock.period
        tag, kind, begin, sign = (TIME_TAG, TagType.UINT64, 0, 1) if self._own_time else (AGE_TAG, TagType.UINT32, came_ms, -1)
        try:
            time_ms = begin + sign * _whole(frame, tag, kind, MAX_TIME_MS + 1 if self._own_time else 0)
        except Refused:
            time_ms = -1
        if not 0 <= time_ms <= MAX_TIME_MS:
            # The row has to be taken, or the controller stands still behind it: it has the time at which it came.
            self._rows.complain("time", f"row {number:#x} says no time in ms")
            time_ms = came_ms
        row = LastRow(time_ms, number, period)
        raw = [self._value(frame, tag.tag, tag.type, tag.scale) for tag in self._plan.tags]
        self._rows.keep(row, raw, self._order.take(row, lost))

    def _value(self, frame: SerialFrame, tag: int, kind: TagType, scale: float) -> float:
        data = frame.tags.get(tag)
        if data is None:
            return float("nan")
        try:
            value = decode_value(kind, data)
        except Refused as problem:
            self._rows.complain(f"tag {tag}", f"tag {tag}: {problem}")
            return float("nan")
        return value if scale == 1.0 else value * scale

    def _write(self, data: bytes) -> None:
        with suppress(DeviceUnreachable):  # the next read says so
            self._line.write(data)

    # --- sets

    def set_properties(self, command_id: str, params: Mapping[str, object]) -> None:
        """Hand a set down, again until the controller answers. Raises Refused."""
        if len(self._sets) >= SETS:
            raise Refused(Reason.TOO_MANY, f"{SETS} sets are under way on this line; wait for their answers")
        tags: dict[int, bytes] = {}
        by_property = {tag.property: tag for tag in self._plan.tags}
        for identifier, value in params.items():
            tag = by_property.get(identifier)
            if tag is None or not isinstance(value, int | float):
                raise Refused(Reason.NOT_WRITABLE, f"{identifier}: no number tag of this serial line holds it")
            raw = value / tag.scale
            tags[tag.tag] = encode_value(tag.type, raw if tag.type in (TagType.FLOAT32, TagType.FLOAT64) else round(raw))
        number = int(command_id)
        self._sets[number] = _Set(encode_serial(SerialFrame(Kind.SET, number, tags)), self._clock.monotonic())
        self._repeat_sets()

    def _repeat_sets(self) -> None:
        now = self._clock.monotonic()
        for number, waiting in list(self._sets.items()):
            if waiting.due > now:
                continue
            if waiting.tries * SET_AGAIN_S > self._plan.set_s:
                del self._sets[number]
                continue
            waiting.tries, waiting.due = waiting.tries + 1, now + SET_AGAIN_S
            self._write(waiting.frame)

    def _set_answered(self, frame: SerialFrame) -> None:
        if self._sets.pop(frame.number, None) is None:
            return  # answered before
        try:
            code = _whole(frame, CODE_TAG, TagType.UINT16, 200)
        except Refused as problem:
            self._rows.complain("set", str(problem))
            return
        self._answered(self._device, Reply(str(frame.number), code, {}))


def _whole(frame: SerialFrame, tag: int, kind: TagType, default: int) -> int:
    """Raises Refused."""
    data = frame.tags.get(tag)
    return default if data is None else int(decode_value(kind, data))


class PyserialLine:
    """A tty through pyserial, without a thread: the loop tells when there is something to read."""

    def __init__(self, path: str, baud: int) -> None:
        # Imported here: an agent without a serial line does not need pyserial.
        import serial  # type: ignore[import-untyped]  # it has no types

        self._make: Callable[..., Any] = serial.Serial
        self._path, self._baud = path, baud
        self._port: Any = None

    def _open(self) -> Any:
        if self._port is None:
            try:
                self._port = self._make(self._path, self._baud, timeout=0, write_timeout=0, exclusive=True)
            except (OSError, ValueError) as problem:  # SerialException is an OSError
                raise DeviceUnreachable(f"{self._path}: {problem}") from problem
        return self._port

    async def read(self) -> bytes:
        """What is there, waiting for the first byte. Raises DeviceUnreachable."""
        port, loop = self._open(), asyncio.get_running_loop()
        number = port.fileno()
        readable = asyncio.Event()
        loop.add_reader(number, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(number)
        try:
            data: bytes = port.read(READ_BYTES)
        except OSError as problem:
            raise DeviceUnreachable(f"{self._path}: {problem}") from problem
        if not data:
            raise DeviceUnreachable(f"{self._path}: the line ended")
        return data

    def write(self, data: bytes) -> None:
        """What the line does not take at once is cut off, which the other side sees as noise; all that matters is said again."""
        try:
            self._open().write(data)
        except OSError as problem:
            raise DeviceUnreachable(f"{self._path}: {problem}") from problem

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            with suppress(OSError):
                port.close()
