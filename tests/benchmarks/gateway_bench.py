"""A gateway with one machine on Modbus TCP: how long the agent takes to start, and what memory it takes under load.

The machine is `fwsim line`, a process of its own; the agent polls every register of its power meter, without rules and models, and the
cloud is away, so that the buffer grows. `edge.start` counts from the start of the process to its line `agent.ready`, each time in a
fresh directory. What the buffer holds at the end is counted against the rows that the machine wrote into its log.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.buffer.peek import peek
from tests.benchmarks.row import Row

ROOT = Path(__file__).parent.parent.parent
ROWS_A_SECOND = 100
POLL_MS = 4
RSS_MB = 60.0
START_S = 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """The line that is polled: its port, the points of its meter, the log of the meter's rows."""

    port: int
    points: list[dict[str, Any]]
    log: Path

    def rows(self) -> int:
        return len(self.log.read_bytes().splitlines())


@contextmanager
def line(folder: Path) -> Iterator[Machine]:
    """`fwsim line`, turning."""
    arguments = [
        "line",
        "--port",
        "0",
        "--log-dir",
        str(folder / "line"),
        "--rate",
        str(ROWS_A_SECOND),
        "--map-out",
        str(folder / "map.json"),
    ]
    process = subprocess.Popen([sys.executable, "-m", "firmware_sim", *arguments], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        points = json.loads((folder / "map.json").read_text())["meter-1"]["points"]
        yield Machine(port, points, folder / "line" / "meter-1.jsonl")
    finally:
        process.terminate()
        process.wait(20)


def configure(home: Path, machine: Machine) -> Path:
    """A gateway's configuration in a directory of its own."""
    home.mkdir()
    points = ""
    for point in machine.points:
        points += "[[connector.point]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in point.items())
    text = f"""\
[gateway]
product_key = "gateway"
device_name = "gw"
[uplink]
host = "127.0.0.1"
port = 9
[[device]]
product_key = "bench"
device_name = "meter-1"
thing_model = "power_meter"
[[connector]]
name = "meter"
kind = "modbus-tcp"
device = "meter-1"
host = "127.0.0.1"
port = {machine.port}
unit_id = 1
poll_ms = {POLL_MS}
sample_on = "counter"
time_from = "time_ms"
{points}"""
    (home / "edge.toml").write_text(text)
    (home / "gateway.secret").touch(mode=0o600)
    (home / "gateway.secret").write_text("x")
    return home / "edge.toml"


@contextmanager
def agent(configuration: Path) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    """The agent and the seconds it took until it said that it was ready."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "edge_agent", "--config", str(configuration)], stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None
    said = b""
    try:
        while b'"agent.ready"' not in said:
            said = process.stderr.readline()
            if not said:
                raise RuntimeError("the agent ended before it was ready")
        yield process, time.monotonic() - begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def _memory_mb(pid: int, line_name: str) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{line_name}:")[1].split()[0]) / 1024


def measure(starts: int, seconds: float) -> dict[str, Any]:
    """Start times in s, memory in MB; raises AssertionError when rows of the machine are missing."""
    with tempfile.TemporaryDirectory() as name, line(Path(name)) as machine:
        took = []
        for number in range(starts):
            with agent(configure(Path(name) / f"start-{number}", machine)) as (_, ready_s):
                took.append(ready_s)
        home = Path(name) / "load"
        with agent(configure(home, machine)) as (process, _):
            time.sleep(1)
            before, began = machine.rows(), time.monotonic()
            time.sleep(seconds)
            rows, wall = machine.rows() - before, time.monotonic() - began
            rss, most = _memory_mb(process.pid, "VmRSS"), _memory_mb(process.pid, "VmHWM")
        state = peek(home / "data" / "buffer.db", 1 << 30)
        assert state is not None
        properties = sum("property" in point for point in machine.points)
        held = sum(lane.readings for lane in state.lanes.values())
        if held < rows * properties or rows < ROWS_A_SECOND * seconds / 2:
            raise AssertionError(
                f"the machine showed {rows} rows of {properties} properties in {wall:.0f} s and the buffer holds {held} readings"
            )
    return {"start_s": took, "rss_mb": rss, "most_mb": most, "rows": rows, "readings_a_second": rows * properties / wall, "held": held}


def rows(starts: int = 7, seconds: float = 15.0) -> list[Row]:
    """The rows of `make bench`."""
    found = measure(starts, seconds)
    start = statistics.median(found["start_s"])
    load = f"{found['readings_a_second']:,.0f} readings/s from one machine, {found['held']:,} readings in the buffer, the cloud away"
    every = ", ".join(f"{one:.2f}" for one in found["start_s"])
    return [
        Row(
            "edge.rss",
            round(found["most_mb"], 1),
            "MB",
            target=f"<= {RSS_MB:g} MB, one connector",
            met=found["most_mb"] <= RSS_MB,
            note=f"the most it ever took; {found['rss_mb']:.1f} MB at the end; {load}",
        ),
        Row("edge.start", round(start, 2), "s", target=f"<= {START_S:g} s to ready", met=start <= START_S, note=f"each start: {every} s"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    for row in rows(options.starts, options.seconds):
        print(json.dumps(row.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
