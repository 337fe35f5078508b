"""A gateway with one Modbus machine and no model: how soon it is ready, and how much memory it takes while it polls."""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.row import Row
from tests.e2e.platform import ROOT, simulator
from tests.e2e.scenes import said, toml

STARTS, POLLED_S, RATE = 7, 20.0, 50.0
START_S, RSS_MB = 1.0, 60.0
HEAD = '[gateway]\nproduct_key = "gateway"\ndevice_name = "gw"\n[uplink]\nhost = "127.0.0.1"\nport = 9\n'


@contextmanager
def _machine(folder: Path) -> Iterator[str]:
    """`fwsim line`; the [[device]] and [[connector]] tables for its press."""
    words = ["line", "--port", "0", "--log-dir", str(folder), "--rate", str(RATE), "--map-out", str(folder / "map.json")]
    with simulator("line", words, folder) as line:
        port = said(line, "ready")["port"]
        press = json.loads((folder / "map.json").read_text())["press-1"]
        head = {
            "name": "press-1",
            "kind": "modbus-tcp",
            "device": "press-1",
            "host": "127.0.0.1",
            "port": port,
            "unit_id": press["unit_id"],
        }
        head |= {"poll_ms": 10, "sample_on": "counter", "time_from": "time_ms"}
        points = "".join("[[connector.point]]\n" + toml({k: v for k, v in point.items() if v is not None}) for point in press["points"])
        device = toml({"product_key": "press", "device_name": "press-1", "thing_model": "stamping_press"})
        yield f"[[device]]\n{device}[[connector]]\n{toml(head)}{points}"


@contextmanager
def _agent(home: Path, tables: str) -> Iterator[tuple["subprocess.Popen[str]", float]]:
    """The agent, and the seconds from its start until it says that it is ready."""
    home.mkdir()
    (home / "gateway.secret").touch(mode=0o600)
    (home / "gateway.secret").write_text("x")
    (home / "edge.toml").write_text(HEAD + tables)
    began = time.monotonic()
    command = [sys.executable, "-m", "edge_agent", "--config", str(home / "edge.toml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if '"agent.ready"' in line:
                break
        else:
            raise RuntimeError("the agent ended before it was ready")
        yield process, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def _memory_mb(pid: int, line: str) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{line}:")[1].split()[0]) / 1024


def rows() -> list[Row]:
    """`edge.start` and `edge.rss`."""
    starts = []
    with tempfile.TemporaryDirectory() as folder, _machine(Path(folder) / "line") as tables:
        for n in range(STARTS):
            with _agent(Path(folder) / f"start-{n}", tables) as (_, seconds):
                starts.append(seconds)
        home = Path(folder) / "polling"
        with _agent(home, tables) as (process, _):
            time.sleep(POLLED_S)
            rss, most = _memory_mb(process.pid, "VmRSS"), _memory_mb(process.pid, "VmHWM")
            status = json.loads((home / "data" / "status.json").read_text())
            polled = status["connectors"][0]["rows"]
    assert polled > RATE * POLLED_S / 2, polled
    start = statistics.median(starts)
    takes = ", ".join(f"{seconds:.2f}" for seconds in starts)
    memory = f"{polled:,} rows polled in {POLLED_S:g} s; {rss:.0f} MB at the end"
    return [
        Row("edge.start", start, "s", target="<= 1 s", met=start <= START_S, note=f"from exec to ready, one connector; each: {takes}"),
        Row("edge.rss", most, "MB", target="<= 60 MB", met=most <= RSS_MB, note=memory),
    ]
