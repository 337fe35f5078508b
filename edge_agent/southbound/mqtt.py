"""The gateway's own front door: appliances attach here over MQTT and speak Alink, with the cloud there or away.

A message is acknowledged once the frame that holds it is fsynced, in arrival order; then comes its `post_reply`. One that is already in the
buffer (sent again because an acknowledgement got lost, or the agent was killed before it) is acknowledged and not stored twice.

Checklist: bounded reads and queues, keepalive, newest connection wins, presence reported, secrets never logged.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial

from edge_agent.domain.clock import Clock
from edge_agent.domain.seen import SeenRing
from edge_agent.ports import DeviceKey, Intake, PresenceBoard, Route
from edge_agent.southbound.appliance import Appliance, Reception
from protocols.alink.credentials import parse_username, verify
from protocols.alink.messages import Reply, property_set
from protocols.alink.topics import may_subscribe
from protocols.edgelink.lanes import Lane
from protocols.errors import Reason, Refused
from protocols.mqtt.packets import ConnectCode, ReasonCode
from protocols.mqtt.run import PublishRun
from protocols.mqtt.session import ConnectRequested, Disconnected, Event, Limits, Published, ServerSession

log = logging.getLogger("edge.front_door")

SOURCE = "front_door"
LIMITS = Limits(packet_bytes=128 * 1024, queued_messages=64, queued_bytes=256 * 1024)
UNDURABLE_MESSAGES = 2_000  # of one connection: its socket is not read beyond
RECEIVE_MAXIMUM = 1_000  # what MQTT 5 clients are told


class FrontDoor:
    """The listening side: who is attached, and what all connections share."""

    def __init__(
        self,
        appliances: Mapping[DeviceKey, Appliance],
        intake: Intake,
        presence: PresenceBoard,
        routes: MutableMapping[DeviceKey, Route],
        seen: Mapping[Lane, SeenRing],
        clock: Clock,
        answered: Callable[[DeviceKey, Reply], None],
    ) -> None:
        self.appliances, self.intake, self.presence, self.routes = appliances, intake, presence, routes
        self.clock = clock
        self.reception = Reception(intake, seen, clock, answered)
        self.connections: set[Connection] = set()
        self.attached: dict[DeviceKey, Connection] = {}
        self.counts = self.reception.counts
        self.port = 0
        self._server: asyncio.Server | None = None
        self._unflushed: dict[Connection, None] = {}
        self._paused = False

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1_024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def run(self) -> None:
        """Once a second: keepalives; and let reading go on when there is room again."""
        while True:
            await asyncio.sleep(1.0)
            now = self.clock.monotonic()
            for connection in list(self.connections):
                connection.tick(now)

    def stop_reading(self) -> None:
        """Take nothing more in; what was taken will still be acknowledged."""
        if self._server is not None:
            self._server.close()
        self._paused = True
        for connection in self.connections:
            connection.pace()

    async def close(self) -> None:
        """Say goodbye to everybody. Twice is harmless."""
        self.stop_reading()
        for connection in list(self.connections):
            connection.goodbye()
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        """So much waits for the disk that no socket is read until there is room."""
        if not self._paused:
            self._paused = True
            for connection in self.connections:
                connection.pace()
            self._resumer = asyncio.get_running_loop().create_task(self._resume(), name="front-door-room")

    async def _resume(self) -> None:
        await self.intake.room()
        if self._server is not None and self._server.is_serving():
            self._paused = False
            for connection in self.connections:
                connection.pace()

    def flush_soon(self, connection: "Connection") -> None:
        """Write a connection's output when this turn of the loop is done, once."""
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unflushed[connection] = None

    def _flush(self) -> None:
        connections, self._unflushed = self._unflushed, {}
        for connection in connections:
            connection.flush()


class Connection(asyncio.Protocol):
    """One socket: bytes to the session, its events to the intake, acknowledgements back."""

    __slots__ = ("_appliance", "_door", "_reading", "_session", "_transport", "_undurable", "_writing")

    def __init__(self, door: FrontDoor) -> None:
        self._door = door
        self._session = ServerSession(door.clock.monotonic(), LIMITS)
        self._appliance: Appliance | None = None
        self._transport: asyncio.Transport
        self._undurable = 0
        self._reading = self._writing = True

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._door.connections.add(self)
        self.pace()

    def data_received(self, data: bytes) -> None:
        self._handle(self._session.receive(data, self._door.clock.monotonic()))
        if self._door.intake.full:
            self._door.pause()

    def pause_writing(self) -> None:
        self._writing = False

    def resume_writing(self) -> None:
        self._writing = True
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._handle(self._session.connection_lost())
        self._door.connections.discard(self)

    # --- the session's events

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Published(run):
                    self._published(run)
                case ConnectRequested(connect):
                    self._connect(connect.client_id, connect.username, connect.password)
                case Disconnected():
                    self._detached()
        self.flush()

    def _connect(self, client_id: str, username: str | None, password: bytes | None) -> None:
        door = self._door
        try:
            key = DeviceKey(*parse_username(username))
            appliance = door.appliances.get(key)
            if appliance is None or not verify(client_id, username, password, appliance.secret):
                raise Refused(Reason.BAD_CREDENTIALS, f"{username!r:.80}: unknown, or the signature does not fit")
        except Refused as refused:
            door.reception.count_refusal(None, refused)
            return self._session.refuse(ConnectCode.BAD_CREDENTIALS)
        self._appliance = appliance
        other = door.attached.get(key)
        door.attached[key] = self
        door.routes[key] = self
        if other is not None:
            other._taken_over()
        door.counts["connects"] += 1
        door.presence.changed(key, True, SOURCE)
        held = self._session.accept(
            receive_maximum=RECEIVE_MAXIMUM, allow_filter=lambda text: may_subscribe(text, key.product_key, key.device_name)
        )
        return self._handle(held)

    def _detached(self) -> None:
        assert self._appliance is not None
        key = self._appliance.key
        if self._door.attached.get(key) is self:
            del self._door.attached[key]
            self._door.routes.pop(key, None)
            self._door.presence.changed(key, False, SOURCE)

    def _taken_over(self) -> None:
        self._door.counts["takeovers"] += 1
        self._handle(self._session.takeover())

    def _published(self, run: PublishRun) -> None:
        assert self._appliance is not None
        self._undurable += run.count
        taken = self._door.reception.take(self._appliance, run, self._session.version)
        if taken.ends is not None:
            return self._handle(self._session.fail(taken.ends))
        self._door.intake.when_durable(partial(self._durable, taken.acks, run.count, taken.answers))
        if self._undurable >= UNDURABLE_MESSAGES:
            self.pace()
        return None

    # --- what goes out

    def _durable(self, acks: bytes, count: int, answers: tuple[tuple[str, bytes], ...]) -> None:
        """What `count` messages brought is fsynced: acknowledge, then answer."""
        session = self._session
        self._undurable -= count
        if acks:
            session.acknowledge(acks)
        for topic, answer in answers:
            session.deliver(topic, answer)
        self._door.flush_soon(self)

    def set_properties(self, command_id: str, params: Mapping[str, object]) -> None:
        """The `Route` of this appliance: a property set with QoS 1; raises Refused(QUOTA_EXCEEDED, BAD_ENVELOPE)."""
        assert self._appliance is not None
        if not self._session.deliver(self._appliance.set_topic, property_set(command_id, params), 1):
            raise Refused(Reason.QUOTA_EXCEEDED, f"{self._appliance.key} does not take more messages now")
        self.flush()

    def flush(self) -> None:
        if self._writing and (output := self._session.take_output()):
            self._transport.write(output)
        if self._session.should_close:
            self._transport.close()
        else:
            self.pace()

    def pace(self) -> None:
        """Read the socket, or not: the session waits, the disk is behind, or this connection has enough under way."""
        wanted = not (self._session.holding or self._door.paused or self._undurable >= UNDURABLE_MESSAGES)
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def tick(self, now: float) -> None:
        self._handle(self._session.tick(now, paused=not self._reading))

    def goodbye(self) -> None:
        """End from our side: the agent stops."""
        self._handle(self._session.close(ReasonCode.SERVER_SHUTTING_DOWN))
        self._transport.close()
