"""The server's side of one MQTT connection as a state machine: bytes and times in, events and bytes out, no socket and no clock.

A complete server for one connection, with asyncio; the owner decides who may come in, and acknowledges what it has made durable::

    import asyncio, time

    class Connection(asyncio.Protocol):
        def __init__(self, server):
            self.server, self.session, self.writing = server, ServerSession(time.monotonic()), True

        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.handle(self.session.receive(data, time.monotonic()))

        def handle(self, events):
            session = self.session
            for event in events:
                match event:
                    case ConnectRequested(connect):  # or later: what arrives meanwhile is held
                        if self.server.knows(connect):
                            self.handle(session.accept())
                        else:
                            session.refuse(ConnectCode.BAD_CREDENTIALS)
                    case Published(run):
                        self.server.store(run)
                        session.acknowledge(run.acks())
                    case Disconnected(will):
                        self.server.forget(self, will)
            self.flush()

        def flush(self):
            if self.writing and (output := self.session.take_output()):
                self.transport.write(output)
            if self.session.should_close:
                return self.transport.close()
            self.transport.pause_reading() if self.session.holding else self.transport.resume_reading()

        def pause_writing(self):  # output stays in the session, which bounds it
            self.writing = False

        def resume_writing(self):
            self.writing = True
            self.flush()

        def connection_lost(self, error):
            self.handle(self.session.connection_lost())

and, every second or so, `connection.handle(connection.session.tick(time.monotonic()))`.
`deliver` sends to the device whether it subscribed or not: Alink devices rely on that (subscriptions are the server's).
A session outlives its connection where `Limits.session_s` allows it and the client asks for it: then `Disconnected.kept` is what is left of
it, and `accept(kept)` goes on with it (see kept.py, which keeps many). With the default of 0 seconds none does, and CONNACK says so.
"""

import enum
from collections.abc import Callable

from protocols.errors import Reason, Refused
from protocols.mqtt.aliases import BadAlias
from protocols.mqtt.codec import Decoder
from protocols.mqtt.downlink import NEVER, Downlink, Message
from protocols.mqtt.encoder import PINGRESP, encode
from protocols.mqtt.events import (
    Cause,
    ConnectRequested,
    Disconnected,
    Event,
    KeptSession,
    Limits,
    Published,
    connect_code,
    reason_code,
)
from protocols.mqtt.fields import malformed, protocol_error
from protocols.mqtt.filters import Subscriptions
from protocols.mqtt.offence import STRANGERS_SAMPLE, other_protocol, speaks_mqtt_5
from protocols.mqtt.outbound import UNBOUNDED, Outbound, words
from protocols.mqtt.packets import (
    MQTT_5,
    MQTT_31,
    ConnAck,
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    ReasonCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from protocols.mqtt.patience import Patience
from protocols.mqtt.properties import Properties
from protocols.mqtt.run import PublishRun, count_acks, encode_publish
from protocols.mqtt.terms import Terms, declined

__all__ = [
    "Cause",
    "ConnectRequested",
    "Disconnected",
    "Event",
    "KeptSession",
    "Limits",
    "Published",
    "ServerSession",
    "connect_code",
    "reason_code",
]

_LIMITS = Limits()


class _State(enum.Enum):
    NEW, ASKED, OPEN, CLOSED = range(4)


def _allow_all(_filter: str) -> bool:
    return True


def _allow_none(_filter: str) -> bool:
    return False


def _name(packet: Packet | PublishRun) -> str:
    return "PUBLISH" if isinstance(packet, PublishRun) else type(packet).__name__.upper()


class ServerSession:
    """One connection. `now` is monotonic seconds; each method that may end or advance the session returns events, in order.

    `refusal` says why the session was refused (for counters), `offence` how the bytes began that broke a rule (for people; never a
    secret), `version` what it speaks, `keepalive_s` what holds (0 = none).
    """

    __slots__ = (
        "_decoder",
        "_denial",
        "_downlink",
        "_out",
        "_patience",
        "_receive_maximum",
        "_state",
        "_subscriptions",
        "_terms",
        "_unacknowledged",
        "_will",
        "allow_filter",
        "keepalive_s",
        "limits",
        "offence",
        "refusal",
        "version",
    )

    def __init__(self, now: float = 0.0, limits: Limits = _LIMITS, allow_filter: Callable[[str], bool] = _allow_all) -> None:
        self.limits = limits
        self.allow_filter = allow_filter
        self.refusal: Refused | None = None
        self.offence = b""
        self.version = 4
        self.keepalive_s = 0
        self._terms: Terms | None = None  # known with CONNECT
        self._decoder = Decoder(max_packet=limits.connect_bytes)
        self._state = _State.NEW
        self._patience = Patience(now, limits)
        self._denial: tuple[ConnAck, str, float] | None = None  # the answer to a CONNECT that is not to be told before then
        self._will: Will | None = None
        self._out = Outbound()
        self._receive_maximum = self._unacknowledged = 0  # what an MQTT 5 client may have in flight (0 = no limit), and has
        self._downlink: Downlink | None = None  # made when needed: most devices are sent QoS 0 only
        self._subscriptions: Subscriptions | None = None  # likewise

    @property
    def connected(self) -> bool:
        """Accepted, and not ended."""
        return self._state is _State.OPEN

    @property
    def holding(self) -> bool:
        """A CONNECT waits for its answer: stop reading the socket until then."""
        return self._state is _State.ASKED

    @property
    def should_close(self) -> bool:
        """Send the remaining output, then close the socket."""
        return self._state is _State.CLOSED

    @property
    def expiry_s(self) -> int:
        """How long the session will outlive its connection."""
        return 0 if self._terms is None else self._terms.expiry_s

    @property
    def deadline(self) -> float | None:
        """When `tick` will close the session if no packet is completed; None = never."""
        if self._state not in (_State.NEW, _State.OPEN):
            return None
        return self._patience.deadline(self._state is _State.OPEN, self.keepalive_s)

    @property
    def awaiting(self) -> int:
        """Downlink QoS 1 messages sent or queued and without PUBACK."""
        return 0 if self._downlink is None else len(self._downlink)

    def granted(self, topic: str) -> int | None:
        """The QoS that the client was granted for a topic by its subscriptions; None if it has not subscribed to it."""
        return None if self._subscriptions is None else self._subscriptions.granted(topic)

    def subscribed(self, topic: str) -> bool:
        """Whether a filter that the client subscribed matches the topic; `deliver` does not ask."""
        return self.granted(topic) is not None

    # what comes in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the client; never raises: what breaks a rule ends the session (par. 4.13)."""
        if self._state is _State.CLOSED:
            return []
        if self._state is _State.ASKED:
            return self._hold(data, now) if self._denial is None else []
        return self._read(data, now)

    def _hold(self, data: bytes, now: float) -> list[Event]:
        events: list[Event] = []
        self._patience.heard = now
        if self._decoder.pending + len(data) > self.limits.held_bytes:
            self._refuse(Refused(Reason.QUOTA_EXCEEDED, "too much was sent behind a CONNECT without an answer"), events)
        else:
            self._decoder.hold(data)
        return events

    def _read(self, data: bytes, now: float) -> list[Event]:
        events: list[Event] = []
        try:
            packets = self._decoder.feed(data)
        except Refused as refused:
            self._refuse_bytes(refused, events)
            return events
        if packets:
            self._patience.heard = now  # par. 3.1.2.10 counts packets, not bytes: a packet sent drop by drop is no sign of life
        for packet in packets:
            if self._state is not _State.OPEN:
                self._open(packet, events)
            elif type(packet) is not PublishRun:
                self._handle(packet, events)
            elif packet.retain and self.version == MQTT_5:
                # CONNACK said Retain Available = 0 (par. 3.2.2.3.5); 3.1.1 cannot be told, so its flag means nothing here.
                self._refuse(protocol_error("retained messages are not kept here"), events, ReasonCode.RETAIN_NOT_SUPPORTED)
            else:
                if packet.qos and self._receive_maximum:
                    self._unacknowledged += packet.count
                    if self._unacknowledged > self._receive_maximum:
                        self._exceed(packet, events)
                        return events
                events.append(Published(packet))
            if self._state is _State.CLOSED:
                return events
        if self._decoder.refused is not None:
            self._refuse_bytes(self._decoder.refused, events)
        elif self._out.unsent > self.limits.output_bytes:
            self._refuse(Refused(Reason.SLOW_READER, f"the client has left {self._out.unsent} bytes unread and sends more"), events)
        return events

    def _exceed(self, run: PublishRun, events: list[Event]) -> None:
        """An MQTT 5 client has more messages without PUBACK than it was told (par. 3.3.4, 4.9); those within the limit still count."""
        room = run.count - (self._unacknowledged - self._receive_maximum)
        if room > 0:
            events.append(Published(run.part(0, room)))
        why = f"more than {self._receive_maximum} messages without PUBACK: wait for acknowledgements, as CONNACK's receive maximum says"
        self._refuse(protocol_error(why), events, ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)

    def _refuse_bytes(self, refused: Refused, events: list[Event]) -> None:
        """What came is not taken; a client that is not let in yet has proved nothing, so less of it is kept."""
        offence = self._decoder.offence
        if self._state is _State.NEW:
            self.offence = offence[:STRANGERS_SAMPLE]
            if other := other_protocol(offence):
                refused = malformed(f"this is {other}, and the port speaks MQTT without TLS: look at the client's address and port")
            if speaks_mqtt_5(offence) and refused.reason is not Reason.UNSUPPORTED_VERSION:  # par. 4.13.2: CONNACK may say so
                self.version = self._out.version = MQTT_5
                self._out.explain(ConnAck(False, reason_code(refused.reason)), str(refused))
        else:
            self.offence = offence
        self._refuse(refused, events, ReasonCode.TOPIC_ALIAS_INVALID if isinstance(refused, BadAlias) else None)

    def _open(self, packet: Packet | PublishRun, events: list[Event]) -> None:
        """The first packet has to be a CONNECT (par. 3.1), and one that can be answered."""
        if not isinstance(packet, Connect):
            return self._refuse(protocol_error(f"the first packet is {_name(packet)}, not CONNECT"), events)
        self._state = _State.ASKED
        self.version = self._out.version = packet.version
        self.keepalive_s = packet.keepalive
        self._will = packet.will
        self._terms = Terms.of(packet, self.limits)
        asked = packet.properties  # empty before MQTT 5
        self._out.packet_maximum = asked.maximum_packet_size or UNBOUNDED
        self._out.alias_maximum = min(asked.topic_alias_maximum or 0, self.limits.topic_aliases)
        if (answer := declined(packet)) is not None:
            return self.refuse(*answer)
        return events.append(ConnectRequested(packet))

    def _handle(self, packet: Packet | PublishRun, events: list[Event]) -> None:
        match packet:
            case PubAck():
                if self._downlink is not None and self._downlink.acknowledged(packet.packet_id):
                    self._send_ready(self._patience.heard)
            case PingReq():
                self._out.send(PINGRESP)
            case Subscribe():
                if packet.properties.subscription_identifiers:
                    refused = protocol_error("subscription identifiers are not kept here")
                    return self._refuse(refused, events, ReasonCode.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)
                self._out.send(encode(SubAck(packet.packet_id, self._subscribe(packet.filters)), self.version))
            case Unsubscribe():
                removed = self._held().unsubscribe(packet.filters)
                reasons = tuple(ReasonCode.SUCCESS if one else ReasonCode.NO_SUBSCRIPTION_EXISTED for one in removed)
                self._out.send(encode(UnsubAck(packet.packet_id, reasons), self.version))
            case Disconnect():
                try:
                    self._terms = self._agreed.goodbye(packet.properties.session_expiry_interval)
                except Refused as refused:
                    return self._refuse(refused, events)
                clean = packet.reason == ReasonCode.SUCCESS  # par. 3.14.4: any other reason keeps the will
                self._end(Cause.DISCONNECTED, events, clean=clean)
            case _:
                self._refuse(protocol_error("a second CONNECT"), events)  # par. 3.1.0
        return None

    def _subscribe(self, filters: tuple[tuple[str, int], ...]) -> tuple[int, ...]:
        """The SUBACK codes of filters (par. 3.9.3): at most QoS 1; what is not allowed, or too much, fails alone."""
        full = ReasonCode.QUOTA_EXCEEDED if self.version == MQTT_5 else ReasonCode.UNSPECIFIED_ERROR
        codes = [self._judge(text, options & 3) for text, options in filters]
        asked = [(text, code) for (text, _), code in zip(filters, codes, strict=True) if code <= 1]
        taken = iter(self._held().subscribe(asked))
        return tuple(code if code > 1 or next(taken) else full for code in codes)

    def _judge(self, text: str, qos: int) -> int:
        modern = self.version == MQTT_5
        if modern and text.startswith("$share/"):
            return ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        if not self.allow_filter(text):
            return ReasonCode.NOT_AUTHORIZED if modern else ReasonCode.UNSPECIFIED_ERROR
        return min(qos, 1)

    def _held(self) -> Subscriptions:
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(self.limits.filters, self.limits.filters_characters)
        return self._subscriptions

    # what the owner decides

    def accept(
        self,
        kept: KeptSession | None = None,
        *,
        now: float | None = None,
        receive_maximum: int | None = None,
        server_keepalive: int | None = None,
        assigned_client_identifier: str | None = None,
        allow_filter: Callable[[str], bool] | None = None,
    ) -> list[Event]:
        """Answer CONNECT with yes (par. 3.2); what was held behind it comes back as events. Nothing if it has closed meanwhile.

        `kept` is what an earlier connection of the device left, and is sent again first; a client that starts anew gets nothing of it.
        The receive maximum (which is enforced), the keepalive and the identifier (of a client without one) only reach MQTT 5 clients.
        RuntimeError if no CONNECT waits.
        """
        if not self._answering():
            return []
        self._state = _State.OPEN
        self._decoder.max_packet = self.limits.packet_bytes
        if allow_filter is not None:
            self.allow_filter = allow_filter
        terms, properties = self._agreed, Properties()
        if terms.clean:
            kept = None
        if self.version == MQTT_5:
            self._receive_maximum = receive_maximum or 0
            self._decoder.alias_maximum = self.limits.topic_aliases
            if server_keepalive is not None:
                self.keepalive_s = server_keepalive
            properties = terms.told(receive_maximum, server_keepalive, assigned_client_identifier)
        if kept is not None:
            self._downlink, self._subscriptions = kept.downlink, kept.subscriptions
        # 3.1 knows no sessions in its CONNACK: the bit is reserved there.
        answer = ConnAck(kept is not None and self.version > MQTT_31, ConnectCode.ACCEPTED, properties)
        if not self._out.send(encode(answer, self.version)):
            return self._cannot_answer()
        if self._downlink is not None:
            self._downlink.resume(terms.window)
            self._send_ready(self._patience.heard if now is None else now)
        return self._read(b"", self._patience.heard)

    def _cannot_answer(self) -> list[Event]:
        """CONNACK is larger than what the client takes, and so is what else we would say (par. 3.1.2.11.4, 3.14.0)."""
        why = f"the client takes packets of {self._out.packet_maximum} bytes, and CONNACK is larger: let it take some more"
        self.refusal = Refused(Reason.PACKET_TOO_LARGE, why)
        events: list[Event] = []
        self._end(Cause.REFUSED, events)
        return events

    def refuse(self, code: int, text: str = "", not_before: float | None = None) -> None:
        """Answer CONNECT with no: a `ConnectCode` (translated for MQTT 5) or a `ReasonCode`; nothing if it has closed meanwhile.

        MQTT 5 is told `text` too. With `not_before` it is `tick` that answers then, so that guessing is slow; a session that ends earlier
        answers as it ends. RuntimeError if no CONNECT waits, ValueError for a code that refuses nothing.
        """
        if not self._answering():
            return
        answer, reason = connect_code(code, self.version)
        if reason is not None:
            self.refusal = Refused(reason, text or f"CONNECT was answered with {answer}")
        self._denial = ConnAck(False, answer), text, 0.0 if not_before is None else not_before
        self._decoder.forget()  # what came behind a CONNECT that is denied is not kept while the answer waits
        if not_before is None:
            self._deny()

    def _deny(self) -> None:
        assert self._denial is not None
        answer, text, _ = self._denial
        self._out.explain(answer, text)
        self._end(Cause.REFUSED, [])

    @property
    def _agreed(self) -> Terms:
        assert self._terms is not None, "no CONNECT came yet"
        return self._terms

    def _answering(self) -> bool:
        if self._state in (_State.NEW, _State.OPEN):
            raise RuntimeError("no CONNECT waits for an answer")
        return self._state is _State.ASKED

    def acknowledge(self, acks: bytes) -> None:
        """Queue PUBACKs (`run.acks()`); call in the order of the messages (par. 4.6). Dropped if the session has ended."""
        if self._state is _State.OPEN:
            if self._receive_maximum:
                self._unacknowledged -= count_acks(acks)
            self._out.queue(acks)

    def refusing(self, run: PublishRun, refused: Refused) -> bytes:
        """The PUBACKs that refuse a run (MQTT 5 only, par. 3.4), for `acknowledge` in their turn; the first of them says why in words."""
        code = reason_code(refused.reason)
        first = run.packet_ids[:2]
        if not first or not self._agreed.explains:
            return run.acks(code, MQTT_5)
        ack = encode(PubAck(int.from_bytes(first, "big"), code, words(str(refused))), MQTT_5)
        if len(ack) > self._out.packet_maximum:
            return run.acks(code, MQTT_5)
        return ack + (run.part(1, run.count).acks(code, MQTT_5) if run.count > 1 else b"")

    def deliver(self, topic: str, payload: bytes, qos: int = 0, *, expires: float = NEVER, now: float = 0.0) -> bool:
        """Send a message to the device, subscribed or not, and not after `expires`; raises `Refused` for a bad topic.

        QoS 1 waits for its turn behind `in_flight` messages without PUBACK. False = not taken: ended, expired, too large for the client, or
        full (see `Limits`): the new message is refused, because what was taken before it (commands, replies) was promised first.
        """
        out = self._out
        if self._state is not _State.OPEN or out.unsent > self.limits.output_bytes:
            return False
        if not qos and expires == NEVER and not out.alias_maximum:
            return out.send(encode_publish(topic, payload, version=self.version))
        now = max(now, self._patience.heard)
        message = Message(topic, payload, expires)
        if expires <= now or (qos and message.room > out.packet_maximum):
            return False
        if not qos:
            return out.publish(message, now=now)
        if self._downlink is None:
            limits = self.limits
            terms = self._agreed
            self._downlink = Downlink(terms.window, limits.queued_messages, limits.queued_bytes, keeps=terms.expiry_s > 0)
        taken = self._downlink.offer(message, now)
        self._send_ready(now)
        return taken

    def _send_ready(self, now: float) -> None:
        """Send what the window has room for; what has become too large for the client counts as sent (par. 3.1.2.11.4)."""
        assert self._downlink is not None
        while ready := self._downlink.ready(now):
            for packet_id, dup, message in ready:
                if not self._out.publish(message, 1, packet_id, dup, now):
                    self._downlink.acknowledged(packet_id)

    def fail(self, refused: Refused) -> list[Event]:
        """The client broke a rule that its owner checks: MQTT 5 is told why (par. 3.14), 3.1.1 is closed."""
        events: list[Event] = []
        self._refuse(refused, events)
        return events

    def takeover(self) -> list[Event]:
        """The device has a newer connection: end this one (par. 3.1.4, 0x8E)."""
        return self.close(ReasonCode.SESSION_TAKEN_OVER, Cause.TAKEOVER)

    def close(self, code: int = ReasonCode.ADMINISTRATIVE_ACTION, cause: Cause = Cause.CLOSED) -> list[Event]:
        """End the session from our side; MQTT 5 is told `code`. Closing twice is harmless."""
        events: list[Event] = []
        if self._denial is not None and self._state is _State.ASKED:
            self._deny()
        self._say_goodbye(Disconnect(code))
        self._end(cause, events)
        return events

    def connection_lost(self) -> list[Event]:
        """The socket has ended, whoever ended it."""
        events: list[Event] = []
        self._end(Cause.LOST, events)
        return events

    def tick(self, now: float, paused: bool = False, unread: int = 0) -> list[Event]:
        """Time has passed: no CONNECT in time, half a packet for too long, a client that does not read, or 1.5 keepalives of silence
        (par. 3.1.2.10) end the session.

        `paused`: the owner has stopped reading the socket, so silence is not the client's. `unread`: bytes that the socket does not take,
        while the owner waits for it.
        """
        if self._denial is not None and self._state is _State.ASKED and now >= self._denial[2]:
            self._deny()
        events: list[Event] = []
        refused = self._patience.passes(now, self._decoder.pending, paused, unread)
        if refused is None and self._state in (_State.NEW, _State.OPEN):
            refused = self._patience.over(now, self._state is _State.OPEN, self.keepalive_s, self._decoder.pending)
        if refused is not None:
            cause = Cause.KEEPALIVE if refused.reason is Reason.KEEPALIVE_TIMEOUT else Cause.REFUSED
            self._refuse(refused, events, cause=cause)
        return events

    # what goes out

    def take_output(self) -> bytes:
        """The bytes to send now; b"" if none."""
        return self._out.take()

    def _say_goodbye(self, packet: Disconnect, text: str = "") -> None:
        if self._state is _State.OPEN and self.version == MQTT_5:
            self._out.explain(packet, text)

    def _refuse(self, refused: Refused, events: list[Event], code: int | None = None, cause: Cause = Cause.REFUSED) -> None:
        if self._state is _State.CLOSED:
            return None
        if self._denial is not None:  # a refusal that waits was first
            return self._deny()
        self.refusal = refused.settled()
        if self._state is _State.NEW and refused.reason is Reason.UNSUPPORTED_VERSION:
            self._out.send(encode(ConnAck(False, ConnectCode.UNSUPPORTED_VERSION)))  # 3.1.1 par. 3.1.2.2
        self._say_goodbye(Disconnect(reason_code(refused.reason) if code is None else code), str(refused))
        self._end(cause, events)
        return None

    def _end(self, cause: Cause, events: list[Event], clean: bool = False) -> None:
        if self._state is _State.OPEN:
            events.append(self._leave(None if clean else self._will, clean, cause))
        self._state = _State.CLOSED
        self._decoder.forget()
        self._will = self._downlink = self._subscriptions = None
        self.allow_filter = _allow_none  # the owner's may hold the owner, which holds this session: who is gone is to be freed at once

    def _leave(self, will: Will | None, clean: bool, cause: Cause) -> Disconnected:
        """What is left of the session; a will waits no longer than it (par. 3.1.3.2.2)."""
        if not self.expiry_s:
            return Disconnected(will, clean, cause)
        if self._downlink is not None:
            self._downlink.rest()
        delay = min(will.properties.will_delay_interval or 0, self.expiry_s) if will is not None else 0
        kept = KeptSession(self.expiry_s, self._downlink, self._subscriptions, will if delay else None, delay)
        return Disconnected(None if delay else will, clean, cause, kept)
