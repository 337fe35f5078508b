"""10,000 devices at the front door of a whole platform (`hearthline up`), each with its own sealed secret in the registry.

`access.session_bytes`: what their sessions take of the memory of `access`. `access.reconnect_10k`: all connections are reset, and all
devices come back at once. How many there are is told by the CONNACKs and by the front door's own gauge: both have to be 10,000.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from cloud.app import prepare_directory
from cloud.devices.registry import create_device
from cloud.foundation.db import Database
from cloud.foundation.vault import Vault
from cloud.products.service import create_product
from cloud.settings import Settings
from cloud.tenancy.service import tenant_id
from protocols.alink.credentials import sign
from tests.benchmarks.row import Row
from tests.e2e.platform import Cloud

ROOT = Path(__file__).parent.parent.parent
DEVICES = 10_000
WARM = 200  # devices that were there before, so that every path was taken once
SESSION_BYTES = 6 * 1024
RECONNECT_S = 2.0
SATURATED = 0.95


def registry(data: Path, count: int) -> tuple[str, list[list[str]]]:
    """Make a data directory with so many devices in it: its key, and rows for the fleet (client id, topic, user name, password)."""
    settings = Settings().for_directory(data)
    settings.run_dir.mkdir(parents=True)
    admin_key = prepare_directory(settings)
    assert admin_key is not None
    database, vault = Database(settings.database), Vault.from_file(settings.secret_key_file)
    try:
        with database.system_reading() as work:
            tenant = tenant_id(work, "default")
        clients = []
        with database.unit_of_work(tenant) as work:
            key = create_product(work, "fleet", {"properties": []}).product_key
            for number in range(count):
                name = f"device-{number:05}"
                signed = sign(key, name, create_device(work, vault, key, name, None))
                clients.append([signed.client_id, "", signed.username, signed.password.decode()])
            work.commit()
    finally:
        database.close()
    return admin_key, clients


class Fleet:
    """The process with the devices in it."""

    def __init__(self, port: int, clients: Path) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.fleet", str(port), str(clients)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)

    def order(self, what: str) -> dict[str, Any]:
        """Have it done; what came of it. Raises RuntimeError when the process ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what.encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the fleet ended; its error is above")
        result: dict[str, Any] = json.loads(line)
        return result


@contextmanager
def _fleet(port: int, clients: Path) -> Iterator[Fleet]:
    fleet = Fleet(port, clients)
    try:
        yield fleet
    finally:
        fleet.process.kill()
        fleet.process.wait()


def _sessions(cloud: Cloud) -> int:
    """What the front door itself says."""
    for line in httpx.get(f"{cloud.api_url}/metrics", timeout=10).text.splitlines():
        if line.startswith("hearthline_access_sessions{"):
            return int(float(line.rsplit(" ", 1)[1]))
    raise AssertionError("no gauge of sessions")


def _until_sessions(cloud: Cloud, count: int) -> None:
    deadline = time.monotonic() + 60
    while (found := _sessions(cloud)) != count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{found} sessions, not {count}")
        time.sleep(0.1)


def _rss(cloud: Cloud) -> int:
    pid = cloud.role_pid("access")
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_s(cloud: Cloud, role: str) -> float:
    fields = Path(f"/proc/{cloud.role_pid(role)}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(count: int, repeats: int) -> dict[str, Any]:
    """Bytes a session, and the seconds of each reconnect."""
    with tempfile.TemporaryDirectory() as folder:
        clients = Path(folder) / "clients.json"
        cloud = Cloud(Path(folder), crash_points=False)
        clients.write_text(json.dumps(registry(cloud.data, count)[1]))
        with cloud, _fleet(cloud.mqtt_port, clients) as fleet:
            fleet.order(f"connect {WARM}")
            fleet.order("drop")
            _until_sessions(cloud, 0)
            idle = _rss(cloud)
            first = fleet.order("connect")
            _until_sessions(cloud, count)
            time.sleep(2)  # the last sessions are announced, garbage is gone
            held = _rss(cloud)
            again = []
            for _ in range(repeats):
                fleet.order("drop")
                _until_sessions(cloud, 0)
                os.sync()
                before = _cpu_s(cloud, "access")
                result = fleet.order("connect")
                result["access"] = (_cpu_s(cloud, "access") - before) / result["seconds"]
                _until_sessions(cloud, count)
                again.append(result)
    for result in (first, *again):
        if result["connacks"] != count:
            raise AssertionError(f"{result['connacks']} CONNACKs, not {count}")
    return {"session_bytes": (held - idle) / count, "idle_mb": idle / 2**20, "held_mb": held / 2**20, "first": first, "again": again}


def rows(count: int = DEVICES, repeats: int = 3) -> list[Row]:
    """The rows of `make bench`."""
    found = measure(count, repeats)
    size, seconds = found["session_bytes"], statistics.median(result["seconds"] for result in found["again"])
    share = max(result["cpu_share"] for result in found["again"])
    every = ", ".join(f"{result['seconds']:.2f}" for result in found["again"])
    note = f"each run: {every} s, the very first {found['first']['seconds']:.2f} s;"
    note += f" CPU of the fleet {share:.2f}, of access {max(result['access'] for result in found['again']):.2f}"
    if share >= SATURATED:
        note += "; the fleet was saturated: the platform may be faster"
    return [
        Row(
            "access.session_bytes",
            round(size),
            "bytes",
            target=f"<= {SESSION_BYTES:,} bytes at {count:,} sessions",
            met=size <= SESSION_BYTES,
            note=f"RSS of access {found['idle_mb']:.1f} MB before, {found['held_mb']:.1f} MB with {count:,} sessions (gauge and CONNACKs)",
        ),
        Row(
            "access.reconnect_10k", round(seconds, 2), "s", target=f"<= {RECONNECT_S:g} s, plain TCP", met=seconds <= RECONNECT_S, note=note
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for row in rows(options.devices, options.repeats):
        print(json.dumps(row.as_dict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
