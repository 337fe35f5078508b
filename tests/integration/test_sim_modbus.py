"""Simulated machines polled by a real Modbus client."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pymodbus.client import AsyncModbusTcpClient

from firmware_sim.line import LineOptions
from firmware_sim.line import serve as serve_line
from firmware_sim.replay import ModbusReplay, Pace, as_modbus
from firmware_sim.series import read_series
from firmware_sim.wire.registers import parse_place


async def ready(capsys: pytest.CaptureFixture[str]) -> int:
    """The port a simulator says it listens on."""
    async with asyncio.timeout(10):
        while True:
            for line in capsys.readouterr().out.splitlines():
                if json.loads(line)["event"] == "ready":
                    return int(json.loads(line)["port"])
            await asyncio.sleep(0.01)


@pytest.fixture
async def steel(tmp_path: Path) -> Path:
    path = tmp_path / "steel.csv"
    rows = "".join(f"2018-01-01 {n // 4:02}:{n % 4 * 15:02}:00,{n * 1.1},{n}\n" for n in range(40))
    path.write_text("timestamp_end,Usage_kWh,NSM\n" + rows)
    return path


async def client_of(port: int) -> AsyncModbusTcpClient:
    client = AsyncModbusTcpClient("127.0.0.1", port=port)
    assert await client.connect()
    return client


def unpacked(code: str, words: Sequence[int]) -> tuple[float, ...]:
    return struct.unpack(code, struct.pack(f">{len(words)}H", *words))


async def test_every_row_stays_until_it_was_polled_twice(steel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = asyncio.Event()
    options = ModbusReplay("127.0.0.1", 0, "steel-1", tmp_path / "logs", Pace(rate=100_000), map_out=tmp_path / "map.json")
    task = asyncio.ensure_future(as_modbus(read_series(steel), options, dict([parse_place("Usage_kWh=input:72")]), stop))
    client = await client_of(await ready(capsys))
    seen = []
    for _ in range(80):  # two polls a row, each as the agent does it: counter, values, counter
        before = (await client.read_holding_registers(0, count=8)).registers
        value = (await client.read_input_registers(72, count=2)).registers
        after = (await client.read_holding_registers(0, count=2)).registers
        assert before[:2] == after
        n, time_ms, nsm = unpacked(">IQf", before)
        seen.append((n, time_ms, unpacked(">f", value)[0], nsm))
        await asyncio.sleep(0)
    assert [n for n, *_ in seen] == [n for n in range(1, 41) for _ in range(2)]
    assert seen[2] == (2, 1_514_765_700_000, struct.unpack(">f", struct.pack(">f", 1.1))[0], 1.0)
    log = [json.loads(line) for line in (tmp_path / "logs" / "steel-1.jsonl").read_text().splitlines()]
    assert [(entry["n"], entry["time_ms"]) for entry in log] == [(n, time_ms) for n, time_ms, *_ in seen[::2]]
    assert json.loads((tmp_path / "map.json").read_text())[2] == {
        "name": "Usage_kWh",
        "property": "Usage_kWh",
        "table": "input",
        "address": 72,
        "type": "float32",
    }
    assert unpacked(">I", (await client.read_holding_registers(0, count=2)).registers) == (40,)  # the last row stays
    stop.set()
    assert await task == 0
    client.close()


async def test_the_line_goes_on_at_its_own_rate_while_nobody_polls(steel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = asyncio.Event()
    options = ModbusReplay("127.0.0.1", 0, "steel-1", tmp_path, Pace(rate=1_000), idle_s=0.05)
    task = asyncio.ensure_future(as_modbus(read_series(steel), options, {}, stop))
    client = await client_of(await ready(capsys))
    await asyncio.sleep(0.1)
    assert len((tmp_path / "steel-1.jsonl").read_text().splitlines()) == 1  # nobody has polled yet: the line has not started
    await client.read_holding_registers(0, count=2)
    async with asyncio.timeout(5):
        while "done" not in capsys.readouterr().out:
            await asyncio.sleep(0.01)
    assert len((tmp_path / "steel-1.jsonl").read_text().splitlines()) == 40
    stop.set()
    assert await task == 0
    client.close()


@pytest.fixture
async def line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[AsyncModbusTcpClient]:
    stop = asyncio.Event()
    options = LineOptions("127.0.0.1", 0, tmp_path / "logs", rate=1_000, map_out=tmp_path / "map.json")
    task = asyncio.ensure_future(serve_line(options, stop))
    client = await client_of(await ready(capsys))
    yield client
    client.close()
    stop.set()
    assert await task == 0


async def test_the_line_shows_a_meter_and_a_press_and_logs_what_it_shows(line: AsyncModbusTcpClient, tmp_path: Path) -> None:
    for _ in range(4):
        counter, time_ms = unpacked(">IQ", (await line.read_holding_registers(0, count=6, device_id=1)).registers)
        power = unpacked(">f", (await line.read_input_registers(52, count=2, device_id=1)).registers)[0]
        strokes = unpacked(">I", (await line.read_holding_registers(7, count=2, device_id=2)).registers)[0]
        await line.read_holding_registers(0, count=2, device_id=1)
    entries = [json.loads(text) for text in (tmp_path / "logs" / "meter-1.jsonl").read_text().splitlines()]
    entry = next(entry for entry in entries if entry["n"] == counter)
    assert entry["time_ms"] == time_ms
    assert struct.pack(">f", entry["values"]["Power"]) == struct.pack(">f", power)
    press = json.loads((tmp_path / "logs" / "press-1.jsonl").read_text().splitlines()[0])
    assert press["values"]["StrokeCount"] == strokes
    units = json.loads((tmp_path / "map.json").read_text())
    assert {name: entry["unit_id"] for name, entry in units.items()} == {"meter-1": 1, "press-1": 2}
    assert {"name": "Power", "property": "Power", "table": "input", "address": 52, "type": "float32"} in units["meter-1"]["points"]


async def test_a_block_read_across_unused_registers_works_and_a_write_is_refused(line: AsyncModbusTcpClient) -> None:
    assert not (await line.read_input_registers(12, count=64, device_id=1)).isError()
    assert (await line.read_input_registers(5_000, count=2, device_id=1)).isError()
    assert (await line.write_register(6, 1, device_id=2)).isError()
