"""An Alink device on aiomqtt: posts rows at QoS 1 with explicit times, holds them until PUBACK, answers a property set."""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiomqtt

from firmware_sim.process import say, until
from firmware_sim.row_log import Row, RowLog
from firmware_sim.wire.held import Held, HeldMessages
from protocols.alink.codes import Code, code_of
from protocols.alink.credentials import sign
from protocols.alink.messages import decode_reply, decode_request, property_post, reply
from protocols.alink.topics import Kind, Topic
from protocols.errors import Refused, TryAgain
from protocols.thing.datatypes import Value as ThingValue
from protocols.thing.model import ThingModel

_log = logging.getLogger(__name__)
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 2.0
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


Obey = Callable[[Mapping[str, ThingValue]], None]


class AlinkDevice:
    """One device. `post` logs a row and hands it over; `run` keeps a connection until cancelled; `drained` waits for the last PUBACK."""

    def __init__(
        self,
        identity: Identity,
        host: str,
        port: int,
        log: RowLog,
        *,
        model: ThingModel | None = None,
        obey: Obey | None = None,
        window: int = 20,
        limit: int = 100_000,
        keepalive_s: int = 30,
    ) -> None:
        self.identity, self.log, self.tally = identity, log, Tally()
        self._host, self._port, self._model, self._obey, self._keepalive_s = host, port, model, obey, keepalive_s
        self._window = window
        self.held = HeldMessages(window, limit)
        self._work, self._room, self._empty = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._empty.set()
        self._post = str(Topic(Kind.PROPERTY_POST, identity.product_key, identity.device_name))
        self._set_reply = Topic(Kind.PROPERTY_SET_REPLY, identity.product_key, identity.device_name)

    async def post(self, row: Row) -> None:
        """Log the row, then hold it for sending; waits while the device's memory is full."""
        while self.held.full:
            self._room.clear()
            await self._room.wait()
        self.log.write(row)
        self._hold(self._post, property_post(row.n, row.values, row.time_ms))

    async def drained(self) -> None:
        """Return when every message has its PUBACK."""
        await self._empty.wait()

    def _hold(self, topic: str, payload: bytes) -> None:
        self.held.add(topic, payload)
        self._empty.clear()
        self._work.set()

    async def run(self) -> None:
        """Connect, send, receive; again after every lost connection. Raises CredentialsRefused after five refusals in a row."""
        wait_s, refusals = FIRST_RETRY_S, 0
        while True:
            connections = self.tally.connections
            error = await self._connection()
            code = getattr(error, "rc", None)
            refused = isinstance(error, aiomqtt.exceptions.MqttConnectError) and getattr(code, "value", code) in _CREDENTIALS
            refusals = refusals + 1 if refused else 0
            if refusals >= GIVE_UP_AFTER:
                raise CredentialsRefused(self.identity.device_name, str(error))
            _log.info("device.disconnected %s: %s", self.identity.device_name, error)
            wait_s = FIRST_RETRY_S if self.tally.connections > connections else min(LAST_RETRY_S, wait_s * 2)
            await asyncio.sleep(wait_s)

    async def _connection(self) -> aiomqtt.MqttError:
        """One connection from CONNECT to its end; returns why it ended."""
        fields = sign(self.identity.product_key, self.identity.device_name, self.identity.secret)
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
        ended = aiomqtt.MqttError("the connection ended")
        try:
            async with client:
                self.tally.connections += 1
                self.held.lost()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._receive(client), name="alink.receive")
                    tasks.create_task(self._send(client, tasks), name="alink.send")
        except* aiomqtt.MqttError as group:
            ended = _first(group)
        return ended

    async def _send(self, client: aiomqtt.Client, tasks: asyncio.TaskGroup) -> None:
        while True:
            while (held := self.held.take()) is not None:
                tasks.create_task(self._publish(client, held), name="alink.publish")
                await asyncio.sleep(0)  # let it start: aiomqtt sends in the order in which the tasks run
            self._work.clear()
            await self._work.wait()

    async def _publish(self, client: aiomqtt.Client, held: Held) -> None:
        await client.publish(held.topic, held.payload, qos=1, timeout=math.inf)
        self.held.acked(held)
        self.tally.puback += 1
        self._work.set()
        self._room.set()
        if not len(self.held):
            self._empty.set()

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            try:
                topic = Topic.parse(str(message.topic))
                if topic.kind is Kind.PROPERTY_SET:
                    self._on_set(bytes(message.payload))
                elif topic.kind is Kind.PROPERTY_POST_REPLY:
                    answer = decode_reply(bytes(message.payload))
                    self.tally.replies += 1
                    self.tally.refused_replies += answer.code != Code.DONE or bool(answer.data)
            except Refused as error:  # what the server sends is data too
                _log.warning("device.unreadable %s %s: %s", self.identity.device_name, message.topic, error)

    def _on_set(self, payload: bytes) -> None:
        """Check the values against the thing model, obey, answer; the new values show in the next post (alink.md par. 5)."""
        request = decode_request(payload)
        self.tally.sets += 1
        code, text = Code.DONE, "success"
        try:
            values: Mapping[str, ThingValue] = {} if self._model is None else self._model.coerce_set(request.params)
        except Refused as error:
            code, text = code_of(error), str(error)
        else:
            if self._obey is None:
                code, text = Code.FAILED, "this device takes no commands"
            else:
                self._obey(values)
        self._hold(str(self._set_reply), reply(request.id, "thing.service.property.set", code, message=text))


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
