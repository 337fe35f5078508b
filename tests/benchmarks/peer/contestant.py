"""What is compared: a gateway between appliances that speak MQTT and a platform behind a link, and what its appliances were promised."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import psutil

from tests.benchmarks.generator import Client, publish
from tests.benchmarks.uplink import connect, split
from tests.e2e.link import Link

WINDOW = 20  # publishes of one appliance on their way
VALUES = ("N", "Temperature", "Power", "Energy")  # of a message; N counts, so that one that is missing is seen


class Contestant(Protocol):
    """A gateway with its platform. `uplink` can be cut; `data` is where it stores, made before `start`."""

    name: str
    uplink: Link
    data: Path

    @property
    def front_port(self) -> int: ...
    def client(self, device: int) -> Client:
        """How an appliance says who it is, and its topic."""
        ...

    def payload(self, device: int, number: int) -> bytes:
        """A message of four readings, the first of which is its number."""
        ...

    def start(self) -> None:
        """Start the gateway and wait until it takes messages."""
        ...

    def kill(self) -> None: ...
    @property
    def pid(self) -> int: ...
    def delivered(self) -> int:
        """How many messages the platform has, roughly: for those who wait."""
        ...

    def found(self) -> set[tuple[int, int]]:
        """Which messages the platform has."""
        ...

    def close(self) -> None: ...


class Appliances(threading.Thread):
    """Send `per_second` messages/s over all devices until `end`; what was acknowledged is what the gateway promised to keep."""

    def __init__(self, contestant: Contestant, devices: int, per_second: float) -> None:
        super().__init__(daemon=True)
        self._contestant, self._per_second = contestant, per_second
        self._socks = [connect(contestant.client(device), contestant.front_port) for device in range(devices)]
        self._topics = [contestant.client(device).topic.encode() for device in range(devices)]
        self._rest = [b""] * devices
        self._unsent = [b""] * devices
        self.sent, self._acked = [0] * devices, [0] * devices
        self._over = threading.Event()
        self.start()

    def promised(self) -> set[tuple[int, int]]:
        """What was acknowledged up to now; acknowledgements come in order."""
        return {(device, number) for device, count in enumerate(list(self._acked)) for number in range(1, count + 1)}

    def wait_for(self, messages: int, timeout_s: float = 120.0) -> None:
        """Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while sum(self._acked) < messages:
            if time.monotonic() > deadline or not self.is_alive():
                raise TimeoutError(f"{sum(self._acked)} of {messages} messages were acknowledged")
            time.sleep(0.01)

    def end(self) -> None:
        self._over.set()
        self.join()
        for sock in self._socks:
            sock.close()

    def run(self) -> None:
        began, due = time.monotonic(), 0
        with contextlib.suppress(OSError):  # the gateway is dead: nobody acknowledges any more
            while not self._over.is_set():
                wanted = int((time.monotonic() - began) * self._per_second)
                for turn in range(due, wanted):
                    self._send(turn % len(self._socks))
                due = wanted
                for device, sock in enumerate(self._socks):
                    self._exchange(device, sock)
                time.sleep(0.004)

    def _send(self, device: int) -> None:
        if self.sent[device] - self._acked[device] >= WINDOW:
            return
        self.sent[device] += 1
        payload = self._contestant.payload(device, self.sent[device])
        self._unsent[device] += publish(self._topics[device], payload, self.sent[device] % 65_535 + 1)

    def _exchange(self, device: int, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._unsent[device]:
                self._unsent[device] = self._unsent[device][sock.send(self._unsent[device]) :]
        with contextlib.suppress(BlockingIOError):
            data = sock.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            acks, _, self._rest[device] = split(self._rest[device] + data)
            self._acked[device] += acks


def family(pid: int) -> Sequence[psutil.Process]:
    """A process and what it started."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def rss_mb(pid: int) -> float:
    return float(sum(process.memory_info().rss for process in family(pid))) / 2**20


def cpu_s(pid: int) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in family(pid)))


def settle(contestant: Contestant, wanted: int, *, still_s: float, most_s: float) -> None:
    """Wait until the platform has `wanted` messages, or nothing has come for `still_s`, or `most_s` are over."""
    deadline = time.monotonic() + most_s
    count, since = contestant.delivered(), time.monotonic()
    while count < wanted and time.monotonic() < min(deadline, since + still_s):
        time.sleep(0.25)
        now = contestant.delivered()
        if now != count:
            count, since = now, time.monotonic()


def fill_up(folder: Path) -> Path:
    """Take all the room that is left on the file system of `folder`; the file to delete."""
    filler = folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(64 * 1024))
    with filler.open("ab") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(512))
    return filler
