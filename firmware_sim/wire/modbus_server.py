"""Modbus TCP slaves on pymodbus' server: registers come from a `RegisterBank`, and rows stay as long as a `RowHold` says."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from firmware_sim.row_log import Row, RowLog
from firmware_sim.wire.registers import RegisterBank, Table
from firmware_sim.wire.row_hold import RowHold

_TABLES: dict[int, Table] = {3: "holding", 4: "input"}


@dataclass(slots=True)
class Unit:
    """One slave: its registers, its hold rule, its log."""

    unit_id: int
    bank: RegisterBank
    hold: RowHold
    log: RowLog
    touched: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, row: Row, period_s: float) -> None:
        """Log the row, then change the registers; a row that does not fit them is neither logged nor shown (Refused)."""
        words = self.bank.words_of(row)
        self.log.write(row)
        self.bank.show(words)
        self.hold.show(time.monotonic(), period_s)

    async def answer(
        self, function: int, start: int, address: int, count: int, registers: list[int], written: list[int] | list[bool] | None
    ) -> ExcCodes | None:
        """pymodbus' hook for one request: fill `registers` (whose first is `start`) just before they are sent; nothing is writable."""
        table = _TABLES.get(function)
        if table is None or written:
            return ExcCodes.ILLEGAL_FUNCTION
        registers[address - start : address - start + count] = self.bank.read(table, address, count)
        self.hold.touched(time.monotonic(), counter=self.bank.covers_counter(table, address, count))
        self.touched.set()
        return None

    def device(self) -> SimDevice:
        """The slave as pymodbus describes one: all registers of a table's span exist, so a block read across a hole works."""

        def bits() -> list[SimData]:  # pymodbus wants four tables; ours are two
            return [SimData(0, values=False, datatype=DataType.BITS)]

        def registers(table: Table) -> list[SimData]:
            first, end = self.bank.span(table) or (0, 1)
            return [SimData(first, count=end - first, datatype=DataType.REGISTERS)]

        return SimDevice(self.unit_id, simdata=(bits(), bits(), registers("holding"), registers("input")), action=self.answer)


class ModbusLine:
    """Units behind one TCP port, as behind a serial gateway."""

    def __init__(self, units: Sequence[Unit], host: str, port: int) -> None:
        self._units, self._host, self._port = units, host, port
        self._server: ModbusTcpServer | None = None

    async def start(self) -> int:
        """Listen; returns the port."""
        server = ModbusTcpServer([unit.device() for unit in self._units], address=(self._host, self._port))
        await server.serve_forever(background=True)
        self._server = server
        if not isinstance(server.transport, asyncio.Server):
            raise TypeError("pymodbus no longer listens on an asyncio server")
        port: int = server.transport.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close; twice is harmless."""
        if self._server is not None:
            await self._server.shutdown()  # type: ignore[no-untyped-call]
            self._server = None


async def run_rows(unit: Unit, rows: Iterable[tuple[Row, float]]) -> None:
    """Show (row, period in s) one after the other, each held as the unit's rule says; the last one stays on the registers.

    A row is made only when it is shown, so a row that nobody could ever read is never produced.
    """
    for row, period_s in rows:
        unit.show(row, period_s)
        while (at := unit.hold.moves_at()) is None or at > time.monotonic():
            unit.touched.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else at - time.monotonic()):
                    await unit.touched.wait()


async def settle(units: Sequence[Unit], timeout_s: float) -> bool:
    """Before a line ends: leave the last rows on the registers until they were polled twice; returns whether they all were.

    Gives up after `timeout_s`, at once where nobody polls any more.
    """
    end = time.monotonic() + timeout_s
    for unit in units:
        while not unit.hold.settled and (left := min(end, unit.hold.deserted_at()) - time.monotonic()) > 0:
            unit.touched.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await unit.touched.wait()
    return all(unit.hold.settled for unit in units)
