"""Modbus TCP: polls one unit, stores a row when its counter says it is new, and names what it missed.

Checklist: reconnects with back-off (yes), bounded reads (125 registers, 2,000 bits), bounded tries, presence reported, secrets: none.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from edge_agent.domain.backoff import Backoff
from edge_agent.domain.clock import Clock
from edge_agent.domain.sampling import LastRow, Sampler
from edge_agent.ports import DeviceKey, DeviceUnreachable, Intake, PresenceBoard
from edge_agent.southbound.plan import ModbusPlan
from edge_agent.southbound.rows import DeviceRows
from protocols.edgelink.columns import MAX_TIME_MS
from protocols.errors import Refused
from protocols.field.modbus import Block, Point, Table, Value, group
from protocols.thing.model import ThingModel

log = logging.getLogger("edge.modbus")

STEADY_TRIES = 5  # reads of one poll before a device that moves on under our hands is left for the next poll


class Unit(Protocol):
    """One Modbus unit; `read` connects when needed and raises DeviceUnreachable."""

    async def read(self, table: Table, start: int, count: int) -> Sequence[int | bool]: ...
    def close(self) -> None: ...


class ModbusConnector:
    """Polls by `plan` until cancelled."""

    def __init__(
        self,
        plan: ModbusPlan,
        device: DeviceKey,
        model: ThingModel,
        unit: Unit,
        intake: Intake,
        presence: PresenceBoard,
        clock: Clock,
        *,
        last: LastRow | None,
        clean: bool,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._plan, self._device, self._unit = plan, device, unit
        self._intake, self._presence, self._clock, self._chance = intake, presence, clock, chance
        self._stored = [point for point in plan.points if point.property is not None]
        identifiers = [point.property for point in self._stored if point.property is not None]
        self._counter = plan.point(plan.sample_on).point if plan.sample_on else None
        self._time = plan.point(plan.time_from).point if plan.time_from else None
        # The counter is read alone, before and behind the rest; reading it along would show it a third time.
        self._points = [point.point for point in plan.points if point.property is not None or point.name == plan.time_from]
        self._blocks = _around(self._points, self._counter)
        bits = 16 * self._counter.size if self._counter else None
        self._sampler = Sampler(last, clean=clean, counter_bits=bits, poll_ms=plan.poll_ms)
        self._rows = DeviceRows(device, model, identifiers, intake, clock, last=last, own_time=self._time is not None)
        self._backoff = Backoff(first_s=max(0.1, min(plan.poll_ms / 1000, 10.0)), ceiling_s=10.0)
        self._failures = 0
        self.busy_since: float | None = None
        """Since when (monotonic) the poll under way has lasted; None between polls."""
        self.polls = self.unsteady = 0

    async def run(self) -> None:
        """Poll at a steady pace; an unreachable unit is tried again with back-off, for ever."""
        due = self._clock.monotonic()
        try:
            while True:
                await self._intake.room()  # nothing is read that could not be kept
                self.busy_since = self._clock.monotonic()
                try:
                    await self.poll()
                except DeviceUnreachable as problem:
                    self.busy_since = None
                    self._lost(problem)
                    await asyncio.sleep(self._backoff.wait_s(self._failures, self._chance()))
                    due = self._clock.monotonic()
                    continue
                self.busy_since = None
                due = max(due + self._plan.poll_ms / 1000, self._clock.monotonic())
                await asyncio.sleep(due - self._clock.monotonic())
        finally:
            self.busy_since = None
            self._unit.close()
            self._rows.end()

    def status(self) -> dict[str, object]:
        """What `edgectl status` shows of this connector."""
        return {
            "name": self._plan.name,
            "device": str(self._device),
            "polls": self.polls,
            "rows": self._rows.kept,
            "failures": self._failures,
        }

    async def poll(self) -> None:
        """One poll; raises DeviceUnreachable."""
        found = await self._steady()
        self.polls += 1
        if self._failures:
            log.warning("device.reachable", extra={"device": str(self._device), "tries": self._failures})
        self._failures = 0
        self._presence.changed(self._device, True, self._plan.name)
        if found is None:
            self.unsteady += 1
            return None
        counter, values = found
        self._rows.settle(self._sampler)
        period = self._clock.period if self._time is None else 0
        time_ms = self._clock.now_ms() if self._time is None else int(values[self._time])
        if not 0 <= time_ms <= MAX_TIME_MS:
            return self._rows.complain("time", f"{self._plan.time_from}: {time_ms} is no time in ms")
        verdict = self._sampler.judge(time_ms, counter, period)
        if verdict.new:
            raw = [values.get(point.point, float("nan")) for point in self._stored]
            self._rows.keep(LastRow(time_ms, counter, period), raw, verdict.missed)
        return None

    async def _steady(self) -> tuple[int | None, Mapping[Point, Value]] | None:
        """Counter and values that belong together; None if the device moved on during every try."""
        if self._counter is None:
            return None, await self._values()
        before = await self._read_counter()
        last = self._sampler.last
        for _ in range(STEADY_TRIES):
            values = await self._values()
            after = await self._read_counter()
            if before == after:
                return after, values
            before = after
        log.info("device.unsteady", extra={"device": str(self._device), "last": last and last.counter})
        return None

    async def _read_counter(self) -> int:
        assert self._counter is not None
        words = await self._unit.read(self._counter.table, self._counter.address, self._counter.size)
        try:
            return int(self._counter.decode(words))
        except Refused as problem:
            raise DeviceUnreachable(f"{self._device}: {problem}") from problem

    async def _values(self) -> Mapping[Point, Value]:
        """Every point that could be read as a number."""
        values: dict[Point, Value] = {}
        for block in self._blocks:
            answer = await self._unit.read(block.table, block.start, block.count)
            for index in block.points:
                point = self._points[index]
                try:
                    values[point] = point.decode(block.words(point, answer))
                except Refused as problem:
                    if point is self._time or len(answer) < block.count:
                        raise DeviceUnreachable(f"{self._device}: {problem}") from problem
                    self._rows.complain(f"{point.table}:{point.address}", str(problem))
        return values

    def _lost(self, problem: DeviceUnreachable) -> None:
        self._failures += 1
        self._sampler.unreachable()
        self._presence.changed(self._device, False, self._plan.name)
        if self._failures == 1:
            log.warning("device.unreachable", extra={"device": str(self._device), "problem": str(problem)})


def _around(points: Sequence[Point], counter: Point | None) -> list[Block]:
    """Few reads for all points, none of which covers the counter."""
    if counter is None:
        return group(points)

    def behind(point: Point) -> bool:
        return point.table is counter.table and point.address > counter.address

    halves = ([i for i, p in enumerate(points) if not behind(p)], [i for i, p in enumerate(points) if behind(p)])
    return [
        Block(block.table, block.start, block.count, tuple(half[index] for index in block.points))
        for half in halves
        for block in group([points[index] for index in half])
    ]


class PymodbusUnit:
    """A unit behind Modbus TCP, through pymodbus; reconnects on the next read after a failure."""

    def __init__(self, host: str, port: int, unit_id: int, timeout_s: float) -> None:
        # Imported here: an agent without a Modbus connector does not pay for it.
        from pymodbus.client.tcp import AsyncModbusTcpClient
        from pymodbus.exceptions import ModbusException

        self._failures: tuple[type[Exception], ...] = (ModbusException, OSError, asyncio.TimeoutError)
        self._where, self._unit_id, self._timeout_s = f"{host}:{port} unit {unit_id}", unit_id, timeout_s
        # Reconnecting and repeating are the connector's business: it has to know about every failure.
        self._client = AsyncModbusTcpClient(host, port=port, timeout=timeout_s, retries=0, reconnect_delay=0)
        self._reads = {
            Table.INPUT: self._client.read_input_registers,
            Table.HOLDING: self._client.read_holding_registers,
            Table.COIL: self._client.read_coils,
            Table.DISCRETE: self._client.read_discrete_inputs,
        }

    async def read(self, table: Table, start: int, count: int) -> Sequence[int | bool]:
        try:
            if not self._client.connected:
                connected = await self._client.connect()
                _let_go()
                if not connected:
                    raise DeviceUnreachable(f"{self._where}: no connection")
            answer = await self._reads[table](start, count=count, device_id=self._unit_id)
            _let_go()
        except self._failures as problem:
            _let_go()
            self.close()  # an answer that comes late must not be taken for the next one's
            raise DeviceUnreachable(f"{self._where}: {problem}") from problem
        if answer.isError():
            raise DeviceUnreachable(f"{self._where}: {table} {start} + {count}: {answer}")
        return answer.bits[:count] if table.is_bits else answer.registers

    def close(self) -> None:
        with suppress(Exception):
            self._client.close()


def _let_go() -> None:
    """Raise the cancellation that pymodbus (and `wait_for` before Python 3.12) may keep to itself: the agent would not end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
