"""The front door's sockets. Every rule lives elsewhere: the session (protocols/mqtt), topics, admission, group commit; this is the glue."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import cast

from cloud.access.away import Farewell
from cloud.access.door import FrontDoor, client_of
from cloud.access.model import Kind, PresenceNote, SessionRow, session_key
from cloud.access.proof import fingerprint
from cloud.access.sub_devices import Carried, Way
from cloud.access.topics import check_frames
from cloud.devices.model import ONLY_ITS_SECRET, Credentials
from cloud.foundation.clock import now_ms
from protocols.alink.registration import Grant
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import PublishRun
from protocols.mqtt.events import ConnectRequested, Disconnected, Event, KeptSession, Published
from protocols.mqtt.offence import SAMPLE
from protocols.mqtt.packets import MQTT_5
from protocols.mqtt.session import ServerSession

IN_FLIGHT_MESSAGES = 1_000  # of one connection, at which its socket is read no further until some are on disk
IN_FLIGHT_BYTES = 1 << 20
WAITING_BYTES = 64 << 20  # of all connections: any of them that sends more is read no further
REMEMBERED_TOPICS = 32
REMEMBERED_TOPICS_OF_GATEWAYS = 4_096
LONGEST_KEEPALIVE_S = 1200
GOODBYE_S = 5.0  # for a closing socket to take its last bytes
REGISTERED_S = 10.0  # for a device that was handed its secret to disconnect by itself


class Connection(asyncio.Protocol):
    """One socket and its session."""

    __slots__ = (
        "_ways",
        "address",
        "broken",
        "bytes",
        "carried",
        "certificate",
        "closing_since",
        "credentials",
        "door",
        "fingerprint",
        "leave_by",
        "messages",
        "modern",
        "noted",
        "paused",
        "row",
        "session",
        "transport",
        "writing",
    )

    def __init__(self, door: FrontDoor) -> None:
        self.door = door
        self.session = ServerSession(time.monotonic(), door.limits)
        self.credentials: Credentials | None = None
        self.fingerprint = 0
        self.row = b""
        self.messages = self.bytes = 0  # gathered and not yet on disk
        self.closing_since = 0.0
        self.leave_by = 0.0  # a registration: no session of the device, and over by then
        self.paused = False
        self.broken = False
        self.noted = False  # the refusal that ends it is counted already
        self.writing = True
        self.modern = False  # it takes calls on its own topics
        self.carried: Carried | None = None  # sub-devices, once it asked for any
        self._ways: dict[str, Way] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        peer = transport.get_extra_info("peername") or ("gone", 0)
        self.address = f"{peer[0]}:{peer[1]}"
        tls = transport.get_extra_info("ssl_object")
        self.certificate: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
        self.door.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.gone(self)
        self.writing = False
        self.handle(self.session.connection_lost())

    def pause_writing(self) -> None:
        self.writing = False

    def resume_writing(self) -> None:
        self.writing = True
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.handle(self.session.receive(data, time.monotonic()))

    def handle(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is Published:
                self._published(event.run)
            elif isinstance(event, ConnectRequested):
                self.door.asked(self, event.connect)
            elif isinstance(event, Disconnected):
                self._ended(event)
        self.flush()

    def flush(self) -> None:
        """Send what the session has to say, and read on or stop, as the bounds have it."""
        session = self.session
        if session.should_close:
            return self._close()
        if self.writing and (output := session.take_output()):
            self.transport.write(output)
        waiting = self.messages
        door = self.door
        crowded = waiting and (door.commit.waiting_bytes >= WAITING_BYTES or door.gate.holds_too_much(self))
        full = waiting >= IN_FLIGHT_MESSAGES or self.bytes >= IN_FLIGHT_BYTES or crowded
        if (pause := bool(full) or session.holding) is not self.paused and not self.transport.is_closing():
            self.paused = pause
            self.transport.pause_reading() if pause else self.transport.resume_reading()
        return None

    def _close(self) -> None:
        if not self.closing_since:
            self.closing_since = time.monotonic()
            self.door.leaves(self)
            if not self.transport.is_closing():
                self.transport.write(self.session.take_output())  # also to who does not read: it may begin to
            self.transport.close()

    def tick(self, now: float) -> None:
        self.handle(self.session.tick(now, self.paused, 0 if self.writing else self.transport.get_write_buffer_size()))
        if self.leave_by and now > self.leave_by:
            self.handle(self.session.close())
        if self.closing_since and now > self.closing_since + GOODBYE_S:
            self.transport.abort()

    def open(self, credentials: Credentials, epoch: int, kept: KeptSession | None) -> None:
        """The CONNECT was right; `kept` is the session that it goes on with."""
        self.fingerprint = fingerprint(credentials)
        self.credentials = credentials = replace(credentials, secret=b"", identity=ONLY_ITS_SECRET)  # they have served their purpose
        self.certificate = None
        self.row = session_key(
            SessionRow(credentials.tenant_id, credentials.device_id, credentials.product_key, credentials.device_name, epoch)
        )
        self.door.commit.note(Kind.OPENED, self.row, now_ms(), PresenceNote(self.address, ""))
        keepalive_s = None if 0 < self.session.keepalive_s <= LONGEST_KEEPALIVE_S else LONGEST_KEEPALIVE_S
        self.handle(
            self.session.accept(
                kept,
                now=time.monotonic(),
                receive_maximum=IN_FLIGHT_MESSAGES,
                server_keepalive=keepalive_s,
                assigned_client_identifier=f"{credentials.product_key}&{credentials.device_name}",
                allow_filter=partial(self.door.may_listen, self, credentials),
            )
        )

    def hand_over(self, grant: Grant) -> None:
        """The CONNECT asked for a secret: push it, subscribed or not. No session of the device begins; it may publish nothing."""
        self.leave_by, self.certificate = time.monotonic() + REGISTERED_S, None
        events = self.session.accept(receive_maximum=IN_FLIGHT_MESSAGES, allow_filter=lambda text: text == grant.topic)
        self.session.deliver(grant.topic, grant.to_bytes())
        self.handle(events)

    def _published(self, run: PublishRun) -> None:
        if self.broken:
            return None  # what came behind the refused publish of a closed session is not looked at
        if self.credentials is None:
            return self._refuse(
                run, Refused(Reason.NOT_AUTHORISED, "a device that registers may publish nothing: connect with what it was given")
            )
        try:
            lane, row = self._ways[run.topic]
        except KeyError:
            try:
                way = self.door.subs.way(self, run.topic)
            except Refused as refused:
                return self._refuse(run, refused)
            if way is None:
                self.door.gate.acknowledge_in_turn(self, run.acks())
                return self.door.subs.asked(self, run)
            lane, row = way
            if len(self._ways) < (REMEMBERED_TOPICS if self.carried is None else REMEMBERED_TOPICS_OF_GATEWAYS):
                self._ways[run.topic] = way
        if lane is not None:
            if run.count > 1:  # each frame is taken or refused by itself
                for n in range(run.count):
                    self._published(run.part(n, n + 1))
                return None
            try:
                check_frames(run, lane)
            except Refused as refused:
                return self._refuse(run, refused)
        self.door.gate.gather(self, row, run, run.acks(), now_ms(), lane)
        self.messages += run.count
        self.bytes += len(run.data)
        return None

    def _refuse(self, run: PublishRun, refused: Refused) -> None:
        """MQTT 5 is told in the PUBACK, in its turn; 3.1.1 has no word for it and is closed."""
        ends = self.session.version != MQTT_5
        first = run.data[run.first : run.first + run.size][:SAMPLE]
        self.door.refuse(client_of(self), refused, topic=run.topic, sample=first, count=1 if ends else run.count)
        if ends:
            self.broken = self.noted = True
            self.handle(self.session.fail(refused))
        else:
            self.door.gate.acknowledge_in_turn(self, self.session.refusing(run, refused))

    def forget_ways(self) -> None:
        """A sub-device came or went: what it may publish is looked at anew."""
        self._ways.clear()

    def _ended(self, event: Disconnected) -> None:
        if self.credentials is None:
            return  # it registered
        self.door.subs.carrier_left(self, event.cause)
        self.door.left(self, Farewell(self.credentials, self.fingerprint, self.row, self.address), event)
        self.door.commit.note(Kind.CLOSED, self.row, now_ms(), PresenceNote(self.address, event.cause))

    def committed(self, acks: bytes, messages: int, size: int) -> None:
        """From group commit: this much is on disk."""
        self.messages -= messages
        self.bytes -= size
        if acks:
            self.session.acknowledge(acks)
        self.flush()
