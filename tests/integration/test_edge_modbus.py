"""The agent's Modbus unit against a real pymodbus server: every table, refusals, silence, and coming back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edge_agent.ports import DeviceUnreachable
from edge_agent.southbound.modbus import PymodbusUnit
from protocols.field.modbus import NumberType, Point, Table

Answer = Callable[[int, int, int, int, list[int], list[int] | list[bool] | None], Coroutine[None, None, ExcCodes | None]]


async def as_it_is(*_: object) -> ExcCodes | None:
    return None


@asynccontextmanager
async def slave(port: int = 0, answer: Answer = as_it_is) -> AsyncIterator[int]:
    """A slave with 230.2 V at input 10 and 0x0102 at holding 3."""
    bits = [SimData(0, values=[True, False, True, True], datatype=DataType.BITS)]
    device = SimDevice(
        7,
        simdata=(
            bits,
            bits,
            [SimData(0, values=[1, 2, 3, 0x0102, 5], datatype=DataType.REGISTERS)],
            [SimData(10, values=[0x4366, 0x3334], datatype=DataType.REGISTERS)],
        ),
        action=answer,
    )
    server = ModbusTcpServer([device], address=("127.0.0.1", port))
    await server.serve_forever(background=True)
    assert isinstance(server.transport, asyncio.Server)
    try:
        yield server.transport.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


async def test_every_table_is_read() -> None:
    async with slave() as port:
        unit = PymodbusUnit("127.0.0.1", port, 7, 1.0)
        words = await unit.read(Table.INPUT, 10, 2)
        assert Point(Table.INPUT, 10, NumberType.FLOAT32).decode(words) == pytest.approx(230.2)
        assert await unit.read(Table.HOLDING, 2, 3) == [3, 0x0102, 5]
        assert await unit.read(Table.COIL, 0, 3) == [True, False, True]
        assert await unit.read(Table.DISCRETE, 1, 2) == [False, True]
        unit.close()


async def test_what_the_slave_refuses_is_said_with_its_address() -> None:
    async with slave() as port:
        unit = PymodbusUnit("127.0.0.1", port, 7, 1.0)
        with pytest.raises(DeviceUnreachable, match=r"holding 90 \+ 2"):
            await unit.read(Table.HOLDING, 90, 2)
        assert await unit.read(Table.HOLDING, 3, 1) == [0x0102]
        unit.close()


async def test_nobody_there_is_unreachable() -> None:
    async with slave() as port:
        pass
    unit = PymodbusUnit("127.0.0.1", port, 7, 0.5)
    with pytest.raises(DeviceUnreachable):
        await unit.read(Table.HOLDING, 0, 1)
    unit.close()


async def test_a_silent_slave_is_unreachable_in_the_time_set_and_its_late_answer_is_nobodys() -> None:
    delay = asyncio.Event()

    async def late(*_: object) -> ExcCodes | None:
        if not delay.is_set():
            delay.set()
            await asyncio.sleep(0.6)
        return None

    async with slave(answer=late) as port:
        unit = PymodbusUnit("127.0.0.1", port, 7, 0.2)
        start = time.monotonic()
        with pytest.raises(DeviceUnreachable):
            await unit.read(Table.HOLDING, 0, 1)
        assert time.monotonic() - start < 2
        await asyncio.sleep(0.8)
        assert await unit.read(Table.HOLDING, 3, 1) == [0x0102]
        unit.close()


async def test_a_slave_that_comes_back_is_read_again() -> None:
    async with slave() as port:
        unit = PymodbusUnit("127.0.0.1", port, 7, 0.5)
        assert await unit.read(Table.HOLDING, 0, 1) == [1]
    with pytest.raises(DeviceUnreachable):
        await unit.read(Table.HOLDING, 0, 1)
    async with slave(port):
        assert await unit.read(Table.HOLDING, 0, 1) == [1]
    unit.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_read_that_is_cancelled_while_it_connects_ends(turns: int) -> None:
    """Else an agent that is told to stop in that moment polls on for ever."""
    async with slave() as port:
        unit = PymodbusUnit("127.0.0.1", port, 7, 1.0)
        reading = asyncio.create_task(unit.read(Table.HOLDING, 2, 3))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        done, _ = await asyncio.wait((reading,), timeout=5)
        assert done
        assert reading.cancelled()
        unit.close()
