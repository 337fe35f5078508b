"""An Alink device on aiomqtt: posts rows at QoS 1 with explicit times, holds them until PUBACK, answers what it is asked, and has parts."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiomqtt

from firmware_sim.process import say, until
from firmware_sim.row_log import Row, RowLog
from firmware_sim.wire.commands import KINDS, Commands
from firmware_sim.wire.held import Held, HeldMessages
from protocols.alink.codes import Code
from protocols.alink.credentials import Connection, sign
from protocols.alink.messages import decode_reply, property_post
from protocols.alink.topics import Kind, Topic
from protocols.errors import Refused, TryAgain

_log = logging.getLogger(__name__)
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 2.0
MOST_LOOSE = 1_000  # messages nobody waits for; beyond them the oldest goes
GIVE_UP_AFTER = 5  # CONNECTs refused in a row for the credentials: a typing error, not a bad network
_CREDENTIALS = (4, 5, 134, 135)


class CredentialsRefused(TryAgain):
    """The server keeps refusing who we say we are; `device` says whose secret to look at."""

    def __init__(self, device: str, text: str) -> None:
        super().__init__(f"{device}: the server refuses these credentials: {text}")
        self.device = device


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the device is."""

    product_key: str
    device_name: str
    secret: str = field(repr=False)


@dataclass(slots=True)
class Tally:
    """What happened on the wire; `refused_replies` counts post_replies that name a refused property or carry another code than 200."""

    puback: int = 0
    connections: int = 0
    replies: int = 0
    refused_replies: int = 0
    sets: int = 0
    calls: int = 0


class Restart(Exception):
    """A part of the device ends the connection on purpose: the device starts again."""


class Part(Protocol):
    """What a device does beside its posts: it hears what comes for it and sends through the device."""

    async def start(self) -> None:
        """Before each connection; nobody is connected yet."""

    def receive(self, topic: Topic, payload: bytes) -> bool:
        """Take a message; False when it is for somebody else. Raises Refused for what cannot be read."""

    async def work(self) -> None:
        """While connected; is cancelled with the connection. Raises Restart to end it."""


class AlinkDevice:
    """One device. `post` logs a row and hands it over; `run` keeps a connection until cancelled; `drained` waits for the last PUBACK.

    `credentials` makes the CONNECT fields anew for each connection; without it the identity's secret does. Add `parts` before `run`.
    """

    def __init__(
        self,
        identity: Identity,
        host: str,
        port: int,
        log: RowLog,
        *,
        commands: Commands | None = None,
        credentials: Callable[[], Awaitable[Connection]] | None = None,
        window: int = 20,
        limit: int = 100_000,
        keepalive_s: int = 30,
    ) -> None:
        self.identity, self.log, self.tally = identity, log, Tally()
        self._host, self._port, self._keepalive_s = host, port, keepalive_s
        self._commands, self._credentials = commands or Commands(), credentials
        self._window = window
        self.held = HeldMessages(window, limit)
        self.parts: list[Part] = []
        self.posted: Callable[[], None] | None = None  # is called behind each post
        self._loose: deque[tuple[str, bytes]] = deque(maxlen=MOST_LOOSE)
        self._when_acked: dict[int, Callable[[], None]] = {}
        self._work, self._room, self._empty = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._empty.set()
        self._post = str(Topic(Kind.PROPERTY_POST, identity.product_key, identity.device_name))

    async def post(self, row: Row) -> None:
        """Log the row, then hold it for sending; waits while the device's memory is full."""
        while self.held.full:
            self._room.clear()
            await self._room.wait()
        self.log.write(row)
        self.send(self._post, property_post(row.n, row.values, row.time_ms))
        if self.posted is not None:
            self.posted()

    async def drained(self) -> None:
        """Return when every message has its PUBACK."""
        await self._empty.wait()

    def send(self, topic: str, payload: bytes, acked: Callable[[], None] | None = None) -> None:
        """Hold a message until its PUBACK, whatever becomes of the connection; then call `acked`."""
        number = self.held.add(topic, payload)
        if acked is not None:
            self._when_acked[number] = acked
        self._empty.clear()
        self._work.set()

    def mention(self, topic: str, payload: bytes) -> None:
        """Send once, with QoS 0; it is forgotten with the connection."""
        self._loose.append((topic, payload))
        self._work.set()

    async def run(self) -> None:
        """Connect, send, receive; again after every lost connection. Raises CredentialsRefused after five refusals in a row."""
        wait_s, refusals = FIRST_RETRY_S, 0
        while True:
            connections = self.tally.connections
            for part in self.parts:
                await part.start()
            error = await self._connection()
            if error is None:
                continue
            code = getattr(error, "rc", None)
            refused = isinstance(error, aiomqtt.exceptions.MqttConnectError) and getattr(code, "value", code) in _CREDENTIALS
            refusals = refusals + 1 if refused else 0
            if refusals >= GIVE_UP_AFTER:
                raise CredentialsRefused(self.identity.device_name, str(error))
            _log.info("device.disconnected %s: %s", self.identity.device_name, error)
            wait_s = FIRST_RETRY_S if self.tally.connections > connections else min(LAST_RETRY_S, wait_s * 2)
            await asyncio.sleep(wait_s)

    async def _connection(self) -> aiomqtt.MqttError | None:
        """One connection from CONNECT to its end; returns why it ended, None when the device wanted it."""
        try:
            fields = await self._fields()
        except aiomqtt.MqttError as error:
            return error
        client = aiomqtt.Client(
            self._host,
            self._port,
            username=fields.username,
            password=fields.password.decode(),
            identifier=fields.client_id,
            keepalive=self._keepalive_s,
            max_inflight_messages=self._window,
        )
        client.pending_calls_threshold = self._window + 1
        ended: aiomqtt.MqttError | None = aiomqtt.MqttError("the connection ended")
        try:
            async with client:
                self.tally.connections += 1
                self.held.lost()
                self._loose.clear()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._receive(client), name="alink.receive")
                    tasks.create_task(self._send(client, tasks), name="alink.send")
                    for part in self.parts:
                        tasks.create_task(part.work(), name=f"alink.{type(part).__name__}")
        except* Restart:
            ended = None
        except* aiomqtt.MqttError as group:
            ended = None if ended is None else _first(group)
        return ended

    async def _fields(self) -> Connection:
        if self._credentials is not None:
            return await self._credentials()
        return sign(self.identity.product_key, self.identity.device_name, self.identity.secret)

    async def _send(self, client: aiomqtt.Client, tasks: asyncio.TaskGroup) -> None:
        while True:
            while self._loose:
                await client.publish(*self._loose.popleft(), qos=0)
            while (held := self.held.take()) is not None:
                tasks.create_task(self._publish(client, held), name="alink.publish")
                await asyncio.sleep(0)  # let it start: aiomqtt sends in the order in which the tasks run
            self._work.clear()
            await self._work.wait()

    async def _publish(self, client: aiomqtt.Client, held: Held) -> None:
        await client.publish(held.topic, held.payload, qos=1, timeout=math.inf)
        self.held.acked(held)
        self.tally.puback += 1
        if (acked := self._when_acked.pop(held.number, None)) is not None:
            acked()
        self._work.set()
        self._room.set()
        if not len(self.held):
            self._empty.set()

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            try:
                self._take(Topic.parse(str(message.topic)), bytes(message.payload))
            except Refused as error:  # what the server sends is data too
                _log.warning("device.unreadable %s %s: %s", self.identity.device_name, message.topic, error)

    def _take(self, topic: Topic, payload: bytes) -> None:
        if (topic.product_key, topic.device_name) == (self.identity.product_key, self.identity.device_name):
            if topic.kind in KINDS:
                self.send(*self._commands.answer(topic, payload))
                self.tally.sets, self.tally.calls = self._commands.sets, self._commands.calls
                return
            if topic.kind is Kind.PROPERTY_POST_REPLY:
                answer = decode_reply(payload)
                self.tally.replies += 1
                self.tally.refused_replies += answer.code != Code.DONE or bool(answer.data)
                return
        for part in self.parts:
            if part.receive(topic, payload):
                return


async def run_devices(devices: Sequence[AlinkDevice], work: Coroutine[Any, Any, None], stop: asyncio.Event, drain_s: float) -> int:
    """Keep the devices connected while `work` makes rows, then until the last PUBACK; after `stop`, for at most `drain_s` more.

    Says one summary line. Returns 0, or 1 when messages were left without a PUBACK.
    """
    async with asyncio.TaskGroup() as tasks:
        connections = [tasks.create_task(device.run(), name=f"alink.{device.identity.device_name}") for device in devices]
        finished = await until(stop, work) and await until(stop, _drained(devices))
        if not finished:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await _drained(devices)
        for connection in connections:
            connection.cancel()
    unsent = sum(len(device.held) for device in devices)
    totals = {name: sum(getattr(device.tally, name) for device in devices) for name in Tally.__slots__}
    for device in devices:
        device.log.close()
    say(
        "summary",
        rows=sum(device.log.rows for device in devices),
        readings=sum(device.log.readings for device in devices),
        unsent=unsent,
        resent=sum(device.held.resent for device in devices),
        **totals,
    )
    return 1 if unsent else 0


async def _drained(devices: Sequence[AlinkDevice]) -> None:
    for device in devices:
        await device.drained()


def _first(group: ExceptionGroup[aiomqtt.MqttError]) -> aiomqtt.MqttError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner


def now_after(last_ms: int, now_ms: int) -> int:
    """A time for the next row: the clock's, or one ms after the last row when the clock stands or goes back.

    >>> now_after(1000, 1000)
    1001
    """
    return max(last_ms + 1, now_ms)
