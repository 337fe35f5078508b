"""`fwsim swarm`: raw MQTT load. Many connections, a window of QoS 1 messages in flight on each, PUBACKs counted."""

import asyncio
import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from firmware_sim.load import Load
from protocols.errors import TryAgain
from protocols.mqtt.codec import Decoder
from protocols.mqtt.encoder import encode
from protocols.mqtt.packets import ConnAck, Disconnect, PubAck
from protocols.mqtt.run import PublishRun

CONNECT_S = 30.0
STALL_S = 60.0
REPLIES_S = 10.0
_TICK_S = 0.001
_REPLY_ID = b'{"id":"'


class SwarmFailed(TryAgain):
    """A connection was refused or lost, or PUBACKs stopped; `done` says how many had come."""

    def __init__(self, text: str, done: int) -> None:
        super().__init__(f"{text} after {done} PUBACKs")
        self.done = done


@dataclass(frozen=True, slots=True)
class Result:
    """What one run took. `cpu` is this process' own use of one core: near 1, the generator is the limit and the rate means nothing."""

    devices: int
    puback: int
    seconds: float
    rate: float
    cpu: float
    bytes_sent: int
    replies: int
    puback_p50_ms: float | None = None
    puback_p99_ms: float | None = None
    reply_p50_ms: float | None = None
    reply_p99_ms: float | None = None


@dataclass(slots=True)
class Shared:
    """What all connections of a run share."""

    window: int
    timing: bool
    done: asyncio.Event
    waiting: int
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    failure: str | None = None
    puback: int = 0
    bytes_sent: int = 0
    replies: int = 0


class Connection(asyncio.Protocol):
    """One device. `allow` is how many messages it may have sent by now; without pacing, all of them."""

    def __init__(self, load: Load, shared: Shared) -> None:
        self._load, self._shared = load, shared
        self._blob = memoryview(load.blob)
        self._decoder = Decoder(server_side=False)
        self._transport: asyncio.Transport | None = None
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.allow = load.total if load.total is not None else 1 << 62
        self.sent = self.acked = 0
        self._finished = False
        self.sent_at: list[float] = []
        self.acked_at: list[float] = []
        self.reply_ms: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(encode(self._load.connect, 4))

    def push(self) -> None:
        """Send what window, pace and end allow."""
        load, shared, transport = self._load, self._shared, self._transport
        count = min(shared.window - (self.sent - self.acked), self.allow - self.sent)
        if transport is None or shared.stopping or count <= 0:
            return
        if shared.timing:
            self.sent_at += [time.perf_counter()] * count
        while count:
            first = self.sent % load.ring
            some = min(count, load.ring - first)
            start, end = load.ends[first], load.ends[first + some]
            transport.write(self._blob[start:end])
            shared.bytes_sent += end - start
            self.sent += some
            count -= some

    def data_received(self, data: bytes) -> None:
        count = len(data) // 4
        if not self._decoder.pending and len(data) == 4 * count and data[::4] == b"\x40" * count:
            self._on_acks(count)
        else:
            for packet in self._decoder.feed(data):
                if isinstance(packet, PubAck):
                    self._on_acks(1)
                elif isinstance(packet, PublishRun):
                    self._on_replies(packet)
                elif isinstance(packet, ConnAck) and packet.reason == 0:
                    self.connected.set_result(None)
                elif isinstance(packet, ConnAck):
                    self._fail(f"{self._load.connect.username}: CONNECT refused with {packet.reason}")
        self.push()
        self.check()

    def _on_acks(self, count: int) -> None:
        if self._shared.timing:
            self.acked_at += [time.perf_counter()] * count
        self.acked += count
        self._shared.puback += count

    def _on_replies(self, run: PublishRun) -> None:
        now = time.perf_counter()
        self._shared.replies += run.count
        if run.qos and self._transport is not None:
            self._transport.write(run.acks())
        if self._shared.timing:
            for payload in run.payloads():
                if payload.startswith(_REPLY_ID):
                    number = int(payload[len(_REPLY_ID) : payload.index(b'"', len(_REPLY_ID))])
                    self.reply_ms.append((now - self.sent_at[number - 1]) * 1_000)
        if self._shared.done.is_set() and self._shared.replies >= self._shared.puback:
            self._shared.answered.set()

    def check(self) -> None:
        """Note the end: everything sent and acknowledged."""
        over = self.sent == self.acked and (self._shared.stopping or self.sent == self._load.total)
        if over and not self._finished:
            self._finished = True
            self._shared.waiting -= 1
            if not self._shared.waiting:
                self._shared.done.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._finished:
            self._fail(f"{self._load.connect.username}: connection lost ({exc or 'closed by the server'})")

    def _fail(self, text: str) -> None:
        self._shared.failure = self._shared.failure or text
        if not self.connected.done():
            self.connected.set_result(None)
        self._shared.done.set()

    def close(self) -> None:
        self._finished = True
        if self._transport is not None:
            self._transport.write(encode(Disconnect(), 4))
            self._transport.close()


async def run(
    loads: Sequence[Load],
    host: str,
    port: int,
    *,
    window: int,
    rate: float | None = None,
    seconds: float | None = None,
    timing: bool = False,
    replies: bool = False,
) -> Result:
    """Connect everybody, then send: each load up to its total, all of them for `seconds`, together at most `rate` messages a second.

    The clock runs from the first publish to the last PUBACK; with `replies`, answers get 10 s more. Raises SwarmFailed.
    """
    loop = asyncio.get_running_loop()
    shared = Shared(window, timing, asyncio.Event(), len(loads))
    connections = [Connection(load, shared) for load in loads]
    for batch in range(0, len(connections), 200):
        group = connections[batch : batch + 200]
        await asyncio.gather(*(loop.create_connection(lambda it=it: it, host, port) for it in group))  # type: ignore[misc]
        async with asyncio.timeout(CONNECT_S):
            await asyncio.gather(*(connection.connected for connection in group))
    if shared.failure:
        raise SwarmFailed(shared.failure, 0)
    began, cpu = time.perf_counter(), _cpu_s()
    pacing = None
    if rate is not None:
        pacing = asyncio.create_task(_pace(connections, rate / len(connections), began), name="swarm.pace")
    else:
        for connection in connections:
            connection.push()
    if seconds is not None:
        loop.call_later(seconds, _stop, connections, shared)
    await _until_done(shared)
    took, used = time.perf_counter() - began, _cpu_s() - cpu
    if pacing is not None:
        pacing.cancel()
    if replies and shared.replies < shared.puback:
        with suppress(TimeoutError):  # a reply may be lost: the result shows how many came
            async with asyncio.timeout(REPLIES_S):
                await shared.answered.wait()
    for connection in connections:
        connection.close()
    if shared.failure:
        raise SwarmFailed(shared.failure, shared.puback)
    puback_ms = [
        (acked - sent) * 1_000 for connection in connections for sent, acked in zip(connection.sent_at, connection.acked_at, strict=False)
    ]
    reply_ms = [value for connection in connections for value in connection.reply_ms]
    return Result(
        devices=len(loads),
        puback=shared.puback,
        seconds=round(took, 4),
        rate=round(shared.puback / took, 1),
        cpu=round(used / took, 3),
        bytes_sent=shared.bytes_sent,
        replies=shared.replies,
        puback_p50_ms=_percentile(puback_ms, 50),
        puback_p99_ms=_percentile(puback_ms, 99),
        reply_p50_ms=_percentile(reply_ms, 50),
        reply_p99_ms=_percentile(reply_ms, 99),
    )


def _stop(connections: Sequence[Connection], shared: Shared) -> None:
    shared.stopping = True
    for connection in connections:
        connection.check()


async def _until_done(shared: Shared) -> None:
    """Wait for the end; PUBACKs that stop coming are an end too."""
    last = -1
    while not shared.done.is_set():
        try:
            async with asyncio.timeout(STALL_S):
                await shared.done.wait()
        except TimeoutError:
            if shared.puback == last:
                raise SwarmFailed(f"no PUBACK for {STALL_S:g} s", shared.puback) from None
            last = shared.puback


async def _pace(connections: Sequence[Connection], each: float, began: float) -> None:
    """Let every connection send `each` messages a second, spread over the connections."""
    limits = [connection.allow for connection in connections]
    for connection in connections:
        connection.allow = 0
    while True:
        elapsed = time.perf_counter() - began
        for place, connection in enumerate(connections):
            due = int(elapsed * each + place / len(connections))
            if due > connection.sent:
                connection.allow = min(limits[place], due)
                connection.push()
        await asyncio.sleep(_TICK_S)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _percentile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 3) if values else None
