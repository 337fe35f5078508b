"""Appliances at the gateway's front door: 100 devices, four timed readings a message, counted from PUBACKs to fsynced frames.

Every message is different and encoded beforehand by a generator that knows nothing of our codec. What was acknowledged is held against
the buffer file's own count after the agent has stopped: both must be equal. The cloud is away throughout.
"""

import argparse
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.buffer.peek import peek
from protocols.alink.credentials import sign
from tests.benchmarks.generator import connect, publish
from tests.benchmarks.row import Row

ROOT = Path(__file__).parent.parent.parent
PROPERTIES = ("Temperature", "Humidity", "Power", "Energy")
PRODUCT_KEY, SECRET = "benchpk", "bench-secret"
TARGET = 400_000
PEER = "thingsboard-gateway 3.8.5, best tuned (reference/reliability.md)"
PEER_VALUE = 20_600


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: durable readings/s, CPU shares, memory in MB."""

    rate: float
    generator: float
    agent: float
    rss_mb: float
    idle_mb: float


def _tsl() -> dict[str, Any]:
    return {
        "properties": [
            {"identifier": name, "name": name, "accessMode": "r", "dataType": {"type": "double", "specs": {}}} for name in PROPERTIES
        ],
        "events": [],
        "services": [],
    }


def _payload(device: int, number: int) -> bytes:
    """A post of one length whatever the numbers: four one-decimal values that drift, with a time of their own."""
    at = 1_760_000_000_000 + number * 100
    values = (
        100 + (number * 7 + device * 31) % 800 * 0.1,
        200 + (number * 3 + device) % 600 * 0.1,
        1000 + (number * 13 + device * 5) % 4000 * 0.1,
        5000 + (number % 9000) * 0.1,
    )
    params = ",".join(f'"{name}":{{"value":{value:.1f},"time":{at}}}' for name, value in zip(PROPERTIES, values, strict=True))
    return f'{{"id":"{number + 100_000}","version":"1.0","params":{{{params}}},"method":"thing.event.property.post"}}'.encode()


class _Device:
    """One connection with its messages laid out back to back; a window moves over them as PUBACKs come back."""

    __slots__ = ("_data", "_length", "messages", "sent", "sock", "unsent")

    def __init__(self, port: int, number: int, messages: int) -> None:
        who = sign(PRODUCT_KEY, f"dev{number}", SECRET)
        topic = f"/sys/{PRODUCT_KEY}/dev{number}/thing/event/property/post".encode()
        packets = [publish(topic, _payload(number, index), index % 65_535 + 1) for index in range(messages)]
        self._length = len(packets[0])
        if any(len(packet) != self._length for packet in packets):
            raise ValueError("messages must be of one length")
        self._data = memoryview(b"".join(packets))
        self.messages, self.sent = messages, 0
        self.unsent = 0  # bytes behind `sent` that the socket has not taken
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(connect(who.client_id.encode(), who.username.encode(), who.password))
        if self.sock.recv(4) != b"\x20\x02\x00\x00":
            raise ConnectionError(f"dev{number} was refused")
        self.sock.setblocking(False)

    def send(self, count: int) -> None:
        self.sent = min(self.sent + count, self.messages)
        self.push()

    def push(self) -> None:
        end = self.sent * self._length
        with suppress(BlockingIOError):
            self.unsent += self.sock.send(self._data[self.unsent : end])

    @property
    def behind(self) -> bool:
        return self.unsent < self.sent * self._length


def generate(port: int, devices: int, messages: int, in_flight: int, warm: float) -> dict[str, Any]:
    """Send everything with a full window; the rate is taken from `warm` (a share of all) to the end."""
    lanes = [_Device(port, number, messages) for number in range(devices)]
    poll = select.epoll()
    by_fd = {lane.sock.fileno(): lane for lane in lanes}
    readers = {fd: _Acks() for fd in by_fd}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    total, acked = devices * messages, 0
    warm_at = int(total * warm)
    start = begun = time.monotonic()
    cpu = begun_cpu = time.process_time()
    counted_from = 0
    for fd, lane in by_fd.items():
        lane.send(in_flight)
        if lane.behind:
            poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
    while acked < total:
        for fd, event in poll.poll(10):
            lane = by_fd[fd]
            if event & select.EPOLLIN:
                count = readers[fd].read(lane.sock)
                acked += count
                if count:
                    lane.send(count)
            if event & select.EPOLLOUT:
                lane.push()
            if event & select.EPOLLOUT or lane.behind:
                poll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if lane.behind else 0))
        if time.monotonic() - start > 300:
            raise TimeoutError(f"{total - acked} of {total} messages were never acknowledged")
        if not counted_from and acked >= warm_at:
            counted_from, begun, begun_cpu = acked, time.monotonic(), time.process_time()
    wall = time.monotonic() - begun
    return {
        "acked": acked,
        "rate": (acked - counted_from) * len(PROPERTIES) / wall,
        "seconds": wall,
        "cpu_share": (time.process_time() - begun_cpu) / wall,
        "cpu_s": time.process_time() - cpu,
    }


class _Acks:
    """Counts PUBACKs in a stream that also holds post replies: packets of a first byte, a length, a body."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = b""

    def read(self, sock: socket.socket) -> int:
        data = sock.recv(1 << 18)
        if not data:
            raise ConnectionError("the front door closed a connection under load")
        data = self._left + data if self._left else data
        at, count, size = 0, 0, len(data)
        while size - at >= 2:
            length, used = data[at + 1], 2
            if length > 127:
                if size - at < 3:
                    break
                length, used = (length & 127) + (data[at + 2] << 7), 3
            if at + used + length > size:
                break
            count += data[at] == 0x40
            at += used + length
        self._left = data[at:]
        return count


@contextmanager
def _agent(home: Path, devices: int) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    (home / "bench.tsl.json").write_text(json.dumps(_tsl()))
    names = [f"dev{number}" for number in range(devices)]
    blocks = [f'[[device]]\nproduct_key = "{PRODUCT_KEY}"\ndevice_name = "{name}"\nthing_model = "bench.tsl.json"\n' for name in names]
    head = '[gateway]\nproduct_key = "gateway"\ndevice_name = "gw"\n[uplink]\nhost = "127.0.0.1"\nport = 9\n'
    (home / "edge.toml").write_text(f"{head}[front_door]\nport = {port}\n" + "".join(blocks))
    for file, text in (("gateway.secret", "x"), ("appliances.toml", f"[{PRODUCT_KEY}]\n" + "".join(f'{n} = "{SECRET}"\n' for n in names))):
        (home / file).touch(mode=0o600)
        (home / file).write_text(text)
    with (home / "agent.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "edge_agent", "--config", str(home / "edge.toml")], stderr=log, cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while b"agent.ready" not in (home / "agent.log").read_bytes():
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((home / "agent.log").read_text())
            time.sleep(0.05)
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _memory_mb(pid: int, line: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{line}:")[1].split()[0]) / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_once(devices: int, messages: int, in_flight: int) -> Measured:
    """One run on a fresh buffer; raises AssertionError if what was acknowledged is not what the buffer holds."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="edge-bench-") as name:
        home = Path(name)
        with _agent(home, devices) as (process, port):
            idle = _memory_mb(process.pid, "VmRSS")
            words = ["--generate", str(port), "--devices", str(devices), "--messages", str(messages), "--in-flight", str(in_flight)]
            before = _cpu_s(process.pid)
            done = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.edge_bench", *words], stdout=subprocess.PIPE, check=True, cwd=ROOT
            )
            result: dict[str, Any] = json.loads(done.stdout)
            agent = _cpu_s(process.pid) - before
            rss = _memory_mb(process.pid, "VmHWM")
        state = peek(home / "data" / "buffer.db", 1 << 30)
        assert state is not None
        held = sum(lane.readings for lane in state.lanes.values())  # of a run of more than ten seconds some lie in `bulk`
        expected = result["acked"] * len(PROPERTIES)
        if held != expected:
            raise AssertionError(f"{expected} readings were acknowledged and the buffer holds {held}")
        return Measured(result["rate"], result["cpu_share"], agent / (result["seconds"] / 0.8), rss, idle)


def measure(devices: int = 100, messages: int = 4_000, in_flight: int = 20, repeats: int = 3) -> Measured:
    """The medians of some runs."""
    runs = [measure_once(devices, messages, in_flight) for _ in range(repeats)]
    names = ("rate", "generator", "agent", "rss_mb", "idle_mb")
    return Measured(*(statistics.median(getattr(run, name) for run in runs) for name in names))


def rows(measured: Measured) -> list[Row]:
    note = f"RSS {measured.idle_mb:.0f} MB idle, {measured.rss_mb:.0f} MB at most; generator {measured.generator:.0%} of a CPU"
    note += f"; {PEER}: {PEER_VALUE:,} readings/s, not measured in this run"
    return [
        Row(
            "edge.mqtt",
            round(measured.rate),
            "readings/s",
            target=f">= {TARGET:,} readings/s to fsynced",
            met=measured.rate >= TARGET,
            note=note,
        )
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--messages", type=int, default=4_000, help="of each device")
    parser.add_argument("--in-flight", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--generate", type=int, metavar="PORT", help="be the generator")
    options = parser.parse_args(arguments)
    if options.generate:
        print(json.dumps(generate(options.generate, options.devices, options.messages, options.in_flight, 0.2)))
        return 0
    for row in rows(measure(options.devices, options.messages, options.in_flight, options.repeats)):
        print(json.dumps(row.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
