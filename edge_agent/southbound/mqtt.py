"""The gateway's own front door: appliances attach here over MQTT and speak Alink, with the cloud there or away.

A message is acknowledged once the frame that holds it is fsynced, in arrival order; then comes its `post_reply`. One that is already in the
buffer (sent again because an acknowledgement got lost, or the agent was killed before it) is acknowledged and not stored twice.

Checklist: bounded reads, queues and connections, deadlines, keepalive, newest connection wins, presence reported, secrets never logged.
"""

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial

from edge_agent.domain.clock import Clock
from edge_agent.domain.seen import SeenRing
from edge_agent.ports import DeviceKey, Intake, PresenceBoard, Route
from edge_agent.southbound.appliance import Appliance, Reception
from edge_agent.southbound.plan import FRONT_DOOR_BOUNDS
from protocols.alink.credentials import parse_username, verify
from protocols.alink.messages import Reply, property_set
from protocols.alink.topics import may_subscribe
from protocols.edgelink.lanes import Lane
from protocols.errors import Reason, Refused
from protocols.mqtt.lobby import Bounds, Lobby, no_room
from protocols.mqtt.packets import MQTT_5, ConnectCode, ReasonCode
from protocols.mqtt.run import PublishRun
from protocols.mqtt.session import ConnectRequested, Disconnected, Event, Published, ServerSession
from protocols.mqtt.throttle import Throttle

SOURCE = "front_door"
PACKET_BYTES = 128 * 1024
QUEUED_MESSAGES = 64
QUEUED_BYTES = 256 * 1024
UNDURABLE_MESSAGES = 2_000  # of one connection: its socket is not read beyond
RECEIVE_MAXIMUM = 1_000  # what MQTT 5 clients are told
GOODBYE_S = 5.0  # for a closing socket to take its last bytes
WRONG = "user name (deviceName&productKey) or password is wrong: compare product key, device name and secret"


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
        bounds: Bounds = FRONT_DOOR_BOUNDS,
    ) -> None:
        self.appliances, self.intake, self.presence, self.routes = appliances, intake, presence, routes
        self.clock = clock
        self.reception = Reception(intake, seen, clock, answered)
        self.connections: set[Connection] = set()
        self.attached: dict[DeviceKey, Connection] = {}
        self.counts, self.refusals = self.reception.counts, self.reception.refusals
        self.lobby: Lobby[Connection] = Lobby(bounds.connections, bounds.strangers)
        self.throttle = Throttle(addresses=1_000)
        self.limits = bounds.limits(packet_bytes=PACKET_BYTES, queued_messages=QUEUED_MESSAGES, queued_bytes=QUEUED_BYTES)
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

    def status(self) -> dict[str, object]:
        """For `edgectl status`."""
        lobby = self.lobby
        state = {"port": self.port, "attached": len(self.attached), "connections": len(lobby), "strangers": lobby.strangers}
        return {**state, **self.counts, "refused": self.refusals.summary()}

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

    __slots__ = (
        "_address",
        "_appliance",
        "_closing_since",
        "_door",
        "_noted",
        "_reading",
        "_session",
        "_transport",
        "_undurable",
        "_writing",
    )

    def __init__(self, door: FrontDoor) -> None:
        self._door = door
        self._session = ServerSession(door.clock.monotonic(), door.limits)
        self._address = ""
        self._closing_since = 0.0
        self._noted = False  # the refusal that ends it is counted already
        self._appliance: Appliance | None = None
        self._transport: asyncio.Transport
        self._undurable = 0
        self._reading = self._writing = True

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._address = (transport.get_extra_info("peername") or ("",))[0]
        self._door.connections.add(self)
        if (leaving := self._door.lobby.enter(self)) is not None:
            leaving.make_room()
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
        self._door.connections.discard(self)
        self._door.lobby.left(self)
        self._handle(self._session.connection_lost())

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
        door.lobby.asked(self)
        try:
            key = DeviceKey(*parse_username(username))
            appliance = door.appliances.get(key)
            if appliance is None:
                raise Refused(Reason.UNKNOWN_DEVICE, "no such appliance: give it a [[device]] and a secret, or correct the names it sends")
            if not verify(client_id, username, password, appliance.secret):
                raise Refused(Reason.BAD_CREDENTIALS, "the password is not the one that the appliance's secret makes")
        except Refused as refused:
            return self._deny(refused, username or "")
        self._appliance = appliance
        other = door.attached.get(key)
        door.attached[key] = self
        door.routes[key] = self
        if other is not None:
            other._taken_over()
        door.lobby.admitted(self)
        door.counts["connects"] += 1
        door.presence.changed(key, True, SOURCE)
        held = self._session.accept(receive_maximum=RECEIVE_MAXIMUM, allow_filter=self._may_listen)
        return self._handle(held)

    def _deny(self, refused: Refused, username: str) -> None:
        """Say no, slowly to an address that was told no often."""
        door, now = self._door, self._door.clock.monotonic()
        self._count(refused, username)
        self._noted = True
        slowly = None
        if delay_s := door.throttle.failed(self._address, now):
            slowly = now + delay_s
            door.lobby.denied(self)
        self._session.refuse(ConnectCode.BAD_CREDENTIALS, WRONG, slowly)

    def _count(self, refused: Refused, who: str = "", times: int = 1) -> None:
        who = who if self._appliance is None else str(self._appliance.key)
        self._door.refusals.count(refused, self._door.clock.now_ms(), who=who, address=self._address, times=times)

    def _may_listen(self, text: str) -> bool:
        assert self._appliance is not None
        key = self._appliance.key
        if may_subscribe(text, key.product_key, key.device_name):
            return True
        self._count(Refused(Reason.FOREIGN_TOPIC, f"{text[:128]}: an appliance may only subscribe to what is sent to it"))
        return False

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
        acks = taken.acks
        if taken.refused is not None:
            if self._session.version != MQTT_5:
                self._noted = True
                return self._handle(self._session.fail(taken.refused))
            acks = self._session.refusing(run, taken.refused)
        self._door.intake.when_durable(partial(self._durable, acks, run.count, taken.answers))
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
        session = self._session
        if session.should_close:
            return self._close()
        if self._writing and (output := session.take_output()):
            self._transport.write(output)
        return self.pace()

    def _close(self) -> None:
        if not self._closing_since:
            self._closing_since = self._door.clock.monotonic()
            if self._session.refusal is not None and not self._noted:
                self._count(self._session.refusal)
            self._door.lobby.left(self)
            if not self._transport.is_closing():
                self._transport.write(self._session.take_output())  # also to who does not read: it may begin to
            self._transport.close()

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
        unread = 0 if self._writing else self._transport.get_write_buffer_size()
        self._handle(self._session.tick(now, paused=not self._reading, unread=unread))
        if self._closing_since and now > self._closing_since + GOODBYE_S:
            self._transport.abort()

    def make_room(self) -> None:
        """There are too many connections, and this one has to leave."""
        self._handle(self._session.fail(no_room(len(self._door.lobby))))

    def goodbye(self) -> None:
        """End from our side: the agent stops."""
        self._handle(self._session.close(ReasonCode.SERVER_SHUTTING_DOWN))
        self._transport.close()
