"""Durable QoS 1 publishes through the front door (one fsync a group) beside Mosquitto without durability: same generator, same packets.

Mosquitto is measured at its best: with one subscriber (QoS 0, that reads seldom and much), and without one. Ours is measured without
and with a reader of the stream. Runs alternate, so that a busy machine hits all of them, and medians are compared.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud.access.model import UPLINK_STREAM, UplinkBatch
from cloud.foundation.bus import Bus
from cloud.foundation.nats_server import command, free_port, wait_ready, write_configuration
from cloud.foundation.stream_reader import StreamReader
from tests.benchmarks.row import Row
from tests.fakes.front_door import clients

ROOT = Path(__file__).parent.parent.parent
TOKEN = "bench"  # of a server that lives for this run
SATURATED = 0.95
MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
log_type error
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A load: `target` is the least ratio to Mosquitto with one subscriber.

    design.md asks twice Mosquitto's rate of many small messages (50x10, and so 500x20). One connection with large messages is bound by its
    window and by what the disk takes a second: there durable has to be no slower than not durable.
    """

    name: str
    connections: int
    in_flight: int
    size: int
    target: float | None


SHAPES = (
    Shape("50x10.200B", 50, 10, 200, 2.0),
    Shape("1x100.200B", 1, 100, 200, None),
    Shape("1x100.2KB", 1, 100, 2048, 1.0),
    Shape("500x20.200B", 500, 20, 200, 2.0),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: publishes/s, and the share of one CPU that each process took."""

    rate: float
    generator: float
    server: float
    nats: float = 0.0


def _median(runs: Sequence[Measured]) -> Measured:
    return Measured(*(statistics.median(getattr(run, name) for run in runs) for name in ("rate", "generator", "server", "nats")))


def _load(port: int, client_file: Path, shape: Shape, seconds: float, *pids: int) -> Measured:
    arguments = ["--port", str(port), "--clients", str(client_file), "--connections", str(shape.connections)]
    arguments += ["--in-flight", str(shape.in_flight), "--size", str(shape.size), "--seconds", str(seconds), "--watch", *map(str, pids)]
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.generator", *arguments], stdout=subprocess.PIPE, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    if result["misordered"]:
        raise AssertionError(f"{result['misordered']} PUBACKs came out of order")
    return Measured(result["rate"], result["cpu_share"], *result["watched"])


@contextmanager
def _process(arguments: Sequence[str], *, talks: bool = False) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE if talks else subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        yield process, json.loads(process.stdout.readline()) if process.stdout else {}
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _front_door(directory: Path, *, reader: bool) -> Iterator[tuple[int, int, int]]:
    """Port, process id of access, process id of NATS."""
    port = free_port()
    configuration = write_configuration(directory, port, TOKEN, max_file_store=40 << 30)
    with ExitStack() as stack:
        nats, _ = stack.enter_context(_process(command(configuration)))
        asyncio.run(wait_ready(port))
        url = f"nats://127.0.0.1:{port}"
        arguments = [sys.executable, "-m", "tests.fakes.front_door", "--nats", url, "--token", TOKEN, "--stream-bytes", str(30 << 30)]
        access, ready = stack.enter_context(_process(arguments, talks=True))
        if reader:
            stack.enter_context(_process([sys.executable, "-m", "tests.benchmarks.access_bench", "--read", url], talks=True))
        yield ready["port"], access.pid, nats.pid


@contextmanager
def _mosquitto(directory: Path, *, subscriber: bool, seconds: float) -> Iterator[tuple[int, int]]:
    port = free_port()
    configuration = directory / "mosquitto.conf"
    configuration.write_text(MOSQUITTO.format(port=port))
    binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with ExitStack() as stack:
        process, _ = stack.enter_context(_process([binary, "-c", str(configuration)]))
        time.sleep(0.5)
        if subscriber:
            arguments = ["--port", str(port), "--subscribe", "#", "--seconds", str(seconds + 20)]
            stack.enter_context(_process([sys.executable, "-m", "tests.benchmarks.generator", *arguments], talks=True))
        yield port, process.pid


async def _read(url: str) -> None:
    """Read the stream and its batches for ever, as `ingest` would begin."""
    bus = await Bus.connect(url, TOKEN, "reader")
    info = await bus.stream_info(UPLINK_STREAM)
    reader = StreamReader(bus, UPLINK_STREAM, info.stream_id, after=info.last_seq)
    print('{"ready": true}', flush=True)
    while True:
        for message in await reader.next(64):
            UplinkBatch.from_bytes(message.data)


def measure(seconds: float, repeats: int) -> dict[str, Measured]:
    """Medians by shape, with `.peer` and `.peer.alone` only where Mosquitto is installed, and `.read` of the first."""
    runs: dict[str, list[Measured]] = {}
    mosquitto = shutil.which("mosquitto") is not None or Path("/usr/sbin/mosquitto").exists()
    (ROOT / "build").mkdir(exist_ok=True)
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="access-bench-") as name:
            directory = Path(name)
            client_file = directory / "clients.json"
            client_file.write_text(json.dumps(clients(max(shape.connections for shape in SHAPES))))
            with _front_door(directory, reader=True) as (port, access, nats):
                runs.setdefault(f"{SHAPES[0].name}.read", []).append(_load(port, client_file, SHAPES[0], seconds, access, nats))
            with _front_door(directory, reader=False) as (port, access, nats):
                for shape in SHAPES:
                    runs.setdefault(shape.name, []).append(_load(port, client_file, shape, seconds, access, nats))
            if mosquitto:
                for name, subscriber in (("peer", True), ("peer.alone", False)):
                    with _mosquitto(directory, subscriber=subscriber, seconds=len(SHAPES) * (seconds + 2)) as (port, pid):
                        for shape in SHAPES:
                            runs.setdefault(f"{shape.name}.{name}", []).append(_load(port, client_file, shape, seconds, pid))
    return {name: _median(several) for name, several in runs.items()}


def _row(name: str, ours: Measured, peer: Measured | None, peer_name: str, target: float | None) -> Row:
    note = f"CPU: generator {ours.generator:.2f}, access {ours.server:.2f}, nats {ours.nats:.2f}"
    valid = ours.generator < SATURATED
    met = None
    if peer is not None:
        note += f"; beside the peer: generator {peer.generator:.2f}, mosquitto {peer.server:.2f}"
        valid = valid and peer.generator < SATURATED
        if target is not None:
            met = valid and ours.rate >= target * peer.rate
    if not valid:
        note += "; the generator was saturated: the ratio says nothing"
    return Row(
        name=name,
        value=ours.rate,
        unit="durable publishes/s",
        peer=peer_name if peer is not None else None,
        peer_value=peer.rate if peer is not None else None,
        target=f">= {target:g}x" if target is not None else None,
        met=met,
        note=note,
    )


def rows(seconds: float = 4.0, repeats: int = 3) -> list[Row]:
    """The rows of `make bench`."""
    found = measure(seconds, repeats)
    listened, alone = "mosquitto, one subscriber, nothing on disk", "mosquitto, no subscriber, nothing on disk"
    rows = []
    for shape in SHAPES:
        name, ours = f"access.{shape.name}", found[shape.name]
        rows.append(_row(name, ours, found.get(f"{shape.name}.peer"), listened, shape.target))
        rows.append(_row(f"{name}.alone", ours, found.get(f"{shape.name}.peer.alone"), alone, None))
    first = SHAPES[0].name
    return [*rows, _row(f"access.{first}.read", found[f"{first}.read"], found.get(f"{first}.peer"), listened, None)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", metavar="URL", help="be the reader of the stream instead")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.read:
        asyncio.run(_read(options.read))
    for row in rows(options.seconds, options.repeats):
        print(json.dumps(row.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
