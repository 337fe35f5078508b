"""A real NATS and a real front door as processes, raw MQTT clients, and a look into the stream."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cloud.access.model import UPLINK_STREAM, Kind, Row, UplinkBatch
from cloud.foundation.bus import Bus
from cloud.foundation.nats_server import command, free_port, wait_ready, write_configuration
from protocols.alink.credentials import sign
from protocols.mqtt.codec import Connect, Decoder, Packet, PubAck, PublishRun, encode, encode_publish
from tests.fakes.front_door import PRODUCT_KEY, SECRET

ROOT = Path(__file__).parent.parent.parent
TOKEN = "token-of-the-test"
T = TypeVar("T")


class Nats:
    """A NATS server that can be killed, frozen and started again on the same data and port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._directory = directory
        self._configuration = write_configuration(directory, self.port, TOKEN, max_file_store=1 << 30)
        self.start()

    def start(self) -> None:
        with (self._directory / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(command(self._configuration), stderr=log)
        asyncio.run(wait_ready(self.port))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def on_bus(self, use: Callable[[Bus], Awaitable[T]]) -> T:
        async def run() -> T:
            bus = await Bus.connect(self.url, TOKEN, "test")
            try:
                return await use(bus)
            finally:
                await bus.close()

        return asyncio.run(run())

    def last_sequence(self) -> int:
        """Of the uplink stream."""

        async def ask(bus: Bus) -> int:
            return (await bus.stream_info(UPLINK_STREAM)).last_seq

        return self.on_bus(ask)

    def messages(self, after: int = 0) -> list[tuple[int, bytes]]:
        """The messages of the uplink stream behind a sequence."""

        async def read(bus: Bus) -> list[tuple[int, bytes]]:
            info = await bus.stream_info(UPLINK_STREAM)
            found = []
            for seq in range(max(info.first_seq, after + 1), info.last_seq + 1):
                message = await bus.get_message(UPLINK_STREAM, seq)
                assert message is not None
                found.append((seq, message.data))
            return found

        return self.on_bus(read)

    def rows(self) -> list[Row]:
        """Everything in the uplink stream."""
        return [row for _, data in self.messages() for row in UplinkBatch.from_bytes(data)]

    def payloads(self) -> list[bytes]:
        """What devices published, in the stream's order."""
        return [payload for row in self.rows() if row.kind is Kind.PUBLISH for payload in row.payloads()]


class Door:
    """The front door as a process."""

    def __init__(self, nats: Nats, directory: Path, *, stream_bytes: float = 256 << 20, **bounds: float) -> None:
        self._nats = nats
        self.crash_dir = directory / "crash"
        self.crash_dir.mkdir(exist_ok=True)
        arguments = ["--nats", nats.url, "--token", TOKEN, "--stream-bytes", str(int(stream_bytes)), "--crash-dir", str(self.crash_dir)]
        for name, value in bounds.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        with (directory / "door.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.front_door", *arguments], stdout=subprocess.PIPE, stderr=log, cwd=ROOT
            )
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["port"])

    def arm(self, point: str, passes: int = 0) -> None:
        (self.crash_dir / point).write_text(str(passes))

    def metrics(self) -> dict[str, float]:
        """What a scrape says: values by name with labels."""

        async def ask(bus: Bus) -> bytes:
            return await bus.request("metrics.access", b"", timeout_s=5)

        lines = self._nats.on_bus(ask).decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


class RawClient:
    """A plain socket that speaks MQTT through our codec and says exactly what it saw."""

    def __init__(
        self,
        port: int,
        device_name: str,
        *,
        version: int = 4,
        keepalive: int = 60,
        base: str | None = None,
        host: str = "127.0.0.1",
        product_key: str = PRODUCT_KEY,
        secret: bytes = SECRET,
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(host, 0))
        self.device_name = device_name
        self.version = version
        self.topic = f"/sys/{product_key}/{device_name}/thing/event/property/post"
        self._decoder = Decoder(version, server_side=False)
        self._inbox: list[Packet | PublishRun] = []
        proof = sign(product_key, device_name, secret, base=base)
        self.connect = Connect(proof.client_id, proof.username, proof.password, keepalive=keepalive, version=version)

    def open(self) -> "RawClient":
        self.sock.sendall(encode(self.connect, self.version))
        answer = self.next()
        assert getattr(answer, "reason", None) == 0, answer
        return self

    def publish(self, payload: bytes, packet_id: int = 0, *, topic: str | None = None) -> None:
        self.sock.sendall(encode_publish(topic or self.topic, payload, 1 if packet_id else 0, packet_id, version=self.version))

    def next(self, timeout_s: float = 10.0) -> Packet | PublishRun | None:
        """The next packet, None when the server closed; raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while not self._inbox:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._inbox += self._decoder.feed(data)
        return self._inbox.pop(0)

    def acks(self, count: int, timeout_s: float = 10.0) -> list[tuple[int, int]]:
        """(packet id, reason) of the next `count` PUBACKs."""
        found = []
        for _ in range(count):
            packet = self.next(timeout_s)
            assert isinstance(packet, PubAck), packet
            found.append((packet.packet_id, packet.reason))
        return found

    def close(self) -> None:
        self.sock.close()


class Load(threading.Thread):
    """Publishes numbered messages on one connection, a window in flight, until told to stop or cut off; keeps what was acknowledged."""

    def __init__(self, client: RawClient, window: int = 20) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._window = window
        self._enough = threading.Event()
        self.acked: list[bytes] = []
        self.sent = 0
        self.misordered = 0

    def run(self) -> None:
        waiting: dict[int, bytes] = {}
        try:
            while waiting or not self._enough.is_set():
                while len(waiting) < self._window and not self._enough.is_set():
                    payload = f"{self._client.device_name}:{self.sent}".encode()
                    packet_id = self.sent % 60_000 + 1
                    waiting[packet_id] = payload
                    self.sent += 1
                    self._client.publish(payload, packet_id)
                packet = self._client.next(60)
                if packet is None:
                    return
                assert isinstance(packet, PubAck)
                self.misordered += next(iter(waiting)) != packet.packet_id
                self.acked.append(waiting.pop(packet.packet_id))
        except OSError:
            return

    def finish(self) -> None:
        self._enough.set()
        self.join(60)
        assert not self.is_alive()


def start_loads(door: Door, count: int, window: int = 20) -> list[Load]:
    loads = [Load(RawClient(door.port, f"d{n}").open(), window) for n in range(count)]
    for load in loads:
        load.start()
    return loads


def wait_for(true: Callable[[], object], timeout_s: float = 15.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def wait_for_more(loads: Sequence[Load], count: int) -> None:
    seen = sum(len(load.acked) for load in loads)
    wait_for(lambda: sum(len(load.acked) for load in loads) > seen + count)


def kill_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()
