"""The gateway's own front door: appliances attach here over MQTT and speak Alink, with the cloud there or away.

A message is acknowledged once the frame that holds it is fsynced, in arrival order; then comes its `post_reply`. One that is already in the
buffer (sent again because an acknowledgement got lost, or the agent was killed before it) is acknowledged and not stored twice.

Checklist: bounded reads and queues, keepalive, newest connection wins, presence reported, secrets never logged.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import cast

import msgspec

from edge_agent.domain.batch import Shape
from edge_agent.domain.clock import Clock
from edge_agent.domain.seen import Digests, SeenRing
from edge_agent.ports import DeviceKey, Intake, PresenceBoard, Route
from protocols.alink.codes import Code
from protocols.alink.credentials import parse_username, verify
from protocols.alink.dialogue import Dialogue, refusal, refused_data
from protocols.alink.envelope import MessageRefused
from protocols.alink.messages import AHEAD_MS, EventPost, Post, Reply, check_times, post_decoder, property_set, reply
from protocols.alink.topics import Kind, Topic, may_subscribe
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import EventRecord
from protocols.errors import Reason, Refused
from protocols.mqtt.packets import ConnectCode, ReasonCode
from protocols.mqtt.run import PublishRun, encode_publish
from protocols.mqtt.session import ConnectRequested, Disconnected, Event, Limits, Published, ServerSession, reason_code
from protocols.thing.datatypes import Value
from protocols.thing.model import ThingModel

log = logging.getLogger("edge.front_door")

SOURCE = "front_door"
LIMITS = Limits(packet_bytes=128 * 1024, queued_messages=64, queued_bytes=256 * 1024)
UNDURABLE_MESSAGES = 2_000  # of one connection: its socket is not read beyond
RECEIVE_MAXIMUM = 1_000  # what MQTT 5 clients are told
_METHOD = "thing.event.property.post"
_, _SUCCESS_TAIL = reply(b"\0", _METHOD, Code.DONE).split(b"\0")
_json = msgspec.json.Encoder()


class Appliance:
    """What the front door knows of one device before it attaches."""

    __slots__ = (
        "decode",
        "dialogue",
        "digests",
        "key",
        "model",
        "post_reply_topic",
        "post_topic",
        "reply_heads",
        "secret",
        "set_topic",
        "shapes",
    )

    def __init__(self, key: DeviceKey, model: ThingModel, secret: str) -> None:
        self.key, self.model, self.secret = key, model, secret
        self.dialogue = Dialogue(key.product_key, key.device_name, model)
        self.decode = post_decoder(model).decode
        self.post_topic = str(Topic(Kind.PROPERTY_POST, key.product_key, key.device_name))
        self.post_reply_topic = str(Topic(Kind.PROPERTY_POST_REPLY, key.product_key, key.device_name))
        self.set_topic = str(Topic(Kind.PROPERTY_SET, key.product_key, key.device_name))
        self.digests = Digests(self.post_topic)
        self.shapes: dict[tuple[str, ...], Shape] = {}
        self.reply_heads: dict[int, bytes] = {}

    def shape(self, identifiers: tuple[str, ...]) -> Shape:
        shape = self.shapes.get(identifiers)
        if shape is None:
            if len(self.shapes) >= 1_024:  # a device that invents subsets of its properties must not fill memory
                self.shapes.clear()
            shape = self.shapes[identifiers] = Shape(self.key.product_key, self.key.device_name, self.model, identifiers)
        return shape

    def reply_head(self, id_length: int) -> bytes:
        """A PUBLISH (3.1.1, QoS 0) of a success reply up to its id, for ids of this length."""
        head = self.reply_heads.get(id_length)
        if head is None:
            packet = encode_publish(self.post_reply_topic, reply(b"\0" * id_length, _METHOD, Code.DONE))
            head = self.reply_heads[id_length] = packet[: packet.index(b"\0" * id_length, len(self.post_reply_topic))]
        return head


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
        self.seen_live, self.seen_alarm = seen[Lane.LIVE], seen[Lane.ALARM]
        self.clock, self.answered = clock, answered
        self.connections: set[Connection] = set()
        self.attached: dict[DeviceKey, Connection] = {}
        self.counts: Counter[str] = Counter()
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

    def count_refusal(self, key: DeviceKey | None, refused: Refused) -> None:
        """Count, and say so the first time for each reason."""
        self.counts[f"refused_{refused.reason}"] += 1
        if self.counts[f"refused_{refused.reason}"] == 1:
            log.warning("message.refused", extra={"device": str(key), "reason": refused.reason.value, "problem": str(refused)[:200]})


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
            door.count_refusal(None, refused)
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
        if run.topic.partition("?")[0] == self._appliance.post_topic:
            self._posts(self._appliance, run)
        else:
            self._others(self._appliance, run)
        if self._undurable >= UNDURABLE_MESSAGES:
            self.pace()

    def _posts(self, appliance: Appliance, run: PublishRun) -> None:
        """Property posts, the hot path: rows in, then acknowledgements and replies together once they are durable."""
        door = self._door
        packets = self._alike(appliance, run) if run.count > 1 and self._session.version < 5 else None
        replies = self._each(appliance, run) if packets is None else []
        door.counts["messages"] += run.count
        acks = run.acks() if packets is None else run.acks() + packets
        door.intake.when_durable(partial(self._durable, acks, run.count, appliance.post_reply_topic, replies))

    def _alike(self, appliance: Appliance, run: PublishRun) -> bytes | None:
        """Take in a run whose messages are alike, new, timed and without fault, and return its replies as packets.

        None, and nothing taken in, if they are not all that: then each is looked at.
        """
        decode, digest = appliance.decode, appliance.digests.of
        values: list[Value] = []
        times: list[int | None] = []
        parts: list[bytes] = []
        digests: list[bytes] = []
        identifiers: tuple[str, ...] | None = None
        try:
            for payload in run.payloads():
                post = decode(payload)
                if post.times is None or post.refused or (post.identifiers is not identifiers and identifiers is not None):
                    return None
                identifiers = post.identifiers
                values += post.values
                times += post.times
                digests.append(digest(payload))
                if post.wants_reply:
                    parts += (appliance.reply_head(len(post.id)), post.id, _SUCCESS_TAIL)
        except MessageRefused:
            return None
        if not identifiers or None in times:
            return None
        known = cast("list[int]", times)
        shape = appliance.shape(identifiers)
        if shape.texts or max(known) > self._door.clock.now_ms() + AHEAD_MS or not self._door.seen_live.add_new(digests):
            return None
        self._door.intake.rows(shape, run.count, values, known)
        return b"".join(parts)

    def _each(self, appliance: Appliance, run: PublishRun) -> list[bytes]:
        """Take in message by message; returns the replies."""
        door, ring = self._door, self._door.seen_live
        now_ms = door.clock.now_ms()
        replies: list[bytes] = []
        for index, payload in enumerate(run.payloads()):
            try:
                post = check_times(appliance.decode(payload), now_ms)
            except MessageRefused as refused:
                door.count_refusal(appliance.key, refused)
                answer = refusal(refused, _METHOD)
                if answer is not None:
                    replies.append(answer)
                continue
            times = post.times
            if times is None or None in times:
                # Without times equal payloads may be different messages: only a repeat of the same packet is one message.
                digest = appliance.digests.of(payload, run.packet_ids[2 * index : 2 * index + 2])
                known = run.dup and digest in ring
            else:
                digest = appliance.digests.of(payload)
                known = digest in ring
            if known:
                door.counts["repeated"] += 1
            elif post.identifiers:
                ring.add(digest)
                at = now_ms if times is None else [now_ms if time is None else time for time in times]
                door.intake.row(appliance.shape(post.identifiers), post.values, at)
            if post.refused:
                self._count_refused(appliance, post)
            if post.wants_reply:
                replies.append(reply(post.id, _METHOD, Code.DONE, refused_data(post.refused)))
        return replies

    def _count_refused(self, appliance: Appliance, post: Post) -> None:
        for refused in post.refused.values():
            self._door.count_refusal(appliance.key, refused)

    def _others(self, appliance: Appliance, run: PublishRun) -> None:
        """Events, answers to commands, and what this door does not serve."""
        door = self._door
        now_ms = door.clock.now_ms()
        acks = run.acks()
        for index, payload in enumerate(run.payloads()):
            outcome = appliance.dialogue.handle(run.topic, payload, now_ms)
            refused = outcome.refused
            if outcome.event is not None:
                self._event(appliance, run, payload, outcome.event, now_ms, run.packet_ids[2 * index : 2 * index + 2])
            elif outcome.set_reply is not None:
                door.answered(appliance.key, outcome.set_reply)
            elif outcome.custom is not None:
                refused = Refused(Reason.UNKNOWN_TOPIC, f"{run.topic[:128]}: this gateway does not carry custom topics")
            if refused is not None:
                door.count_refusal(appliance.key, refused)
                if refused.reason is Reason.FOREIGN_TOPIC and self._session.version < 5:
                    return self._handle(self._session.fail(refused))  # 3.1.1 has no other way to say no
                if refused.reason in (Reason.FOREIGN_TOPIC, Reason.UNKNOWN_TOPIC) and self._session.version == 5:
                    acks = run.acks(reason_code(refused.reason), 5)
            if outcome.answer is not None and outcome.answer_topic is not None:
                door.intake.when_durable(partial(self._durable, b"", 0, outcome.answer_topic, [outcome.answer]))
        door.counts["messages"] += run.count
        return door.intake.when_durable(partial(self._durable, acks, run.count, "", []))

    def _event(self, appliance: Appliance, run: PublishRun, payload: bytes, event: EventPost, now_ms: int, packet_id: bytes) -> None:
        level = appliance.model.events[event.identifier].level
        lane = Lane.LIVE if level == "info" else Lane.ALARM
        ring = self._door.seen_live if lane is Lane.LIVE else self._door.seen_alarm
        digest = Digests(run.topic).of(payload, packet_id if event.time is None else b"")
        if digest in ring and (run.dup or event.time is not None):
            self._door.counts["repeated"] += 1
            return
        ring.add(digest)
        time_ms = now_ms if event.time is None else event.time
        output = _json.encode(event.output).decode()
        key = appliance.key
        self._door.intake.record(lane, EventRecord(key.product_key, key.device_name, event.identifier, time_ms, output))

    # --- what goes out

    def _durable(self, acks: bytes, count: int, topic: str, replies: list[bytes]) -> None:
        """What `count` messages brought is fsynced: acknowledge, then answer."""
        session = self._session
        self._undurable -= count
        if acks:
            session.acknowledge(acks)
        for answer in replies:
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
