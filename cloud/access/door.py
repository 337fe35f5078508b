"""The sessions of all devices: of one device the newest wins, and messages find their session by device, whatever it subscribed to."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from cloud.access.admission import Denied, Verdict
from cloud.access.away import Away, Farewell, expires_at
from cloud.access.certificates import Trust, named_by
from cloud.access.gate import FrameGate
from cloud.access.group import GroupCommit, Owner
from cloud.access.model import Broadcast, Downlink
from cloud.access.proof import fingerprint, standing
from cloud.access.refusals import Client, RefusalLedger, claimed
from cloud.access.slowed import Slowed
from cloud.access.sub_devices import Carried, SubDevices
from cloud.access.topics import may_listen, needs_subscription
from cloud.devices.model import Credentials
from cloud.foundation.clock import now_ms
from protocols.alink.codes import Code
from protocols.alink.credentials import answers_on_the_topic
from protocols.alink.registration import Grant
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Connect
from protocols.mqtt.events import Disconnected, Event, KeptSession
from protocols.mqtt.lobby import Bounds, Lobby, no_room
from protocols.mqtt.pace import Pace
from protocols.mqtt.packets import ConnectCode
from protocols.mqtt.session import ServerSession
from protocols.mqtt.throttle import Throttle

Key = tuple[str, str]


class Attendee(Owner, Protocol):
    """A connection as the door sees it."""

    session: ServerSession
    address: str
    certificate: bytes | None
    credentials: Credentials | None
    row: bytes
    fingerprint: int
    noted: bool
    modern: bool
    carried: Carried | None

    def handle(self, events: list[Event]) -> None: ...
    def flush(self) -> None: ...
    def forget_ways(self) -> None: ...
    def tick(self, now: float) -> None: ...
    def open(self, credentials: Credentials, epoch: int, kept: KeptSession | None) -> None: ...
    def hand_over(self, grant: Grant) -> None: ...


Waiting = tuple[Attendee, Credentials, bool]
"""A connection that is let in later, with its credentials and whether it starts a clean session."""


class FrontDoor:
    """All connections. `epoch` grows with every session, over restarts too: microseconds of the clock, or one more than the last."""

    def __init__(self, commit: GroupCommit, bounds: Bounds | None = None) -> None:
        self.commit, self.gate = commit, FrameGate(commit)
        bounds = bounds or Bounds()
        self.limits = bounds.limits()
        self.ask: Callable[[Attendee, Connect, bool], None]  # the last: it comes from where much has failed
        self.connections: set[Attendee] = set()
        self.lobby: Lobby[Attendee] = Lobby(bounds.connections, bounds.strangers)
        self.sessions: dict[Key, Attendee] = {}
        self.refusals = RefusalLedger()
        self.refused_first = asyncio.Event()
        self.accepted = 0
        self.registered = 0
        self.trust = Trust()
        self.undelivered = 0
        self.away = Away(bounds.kept_bytes, self.limits, self.gate, self._refuse_will)
        self.subs = SubDevices(commit, self.next_epoch, self._take_over)
        self._throttle = Throttle()
        self._pace, self._slowed = Pace(), Slowed[Key, Waiting]()
        self._epoch = 0

    def next_epoch(self) -> int:
        self._epoch = max(self._epoch + 1, time.time_ns() // 1_000)
        return self._epoch

    def entered(self, connection: Attendee) -> None:
        """A socket was accepted."""
        self.connections.add(connection)
        if (leaving := self.lobby.enter(connection)) is not None:
            leaving.handle(leaving.session.fail(no_room(len(self.lobby))))

    def asked(self, connection: Attendee, connect: Connect) -> None:
        """A CONNECT came."""
        self.lobby.asked(connection)
        if connection.certificate is not None:
            connect = named_by(connection.certificate, connect)
        self.ask(connection, connect, self._throttle.suspected(_host(connection.address), time.monotonic()))

    def decided(self, connection: Attendee, connect: Connect, verdict: Verdict) -> None:
        """Admission answers a CONNECT."""
        if not connection.session.holding:
            return  # it went away meanwhile
        connection.modern = answers_on_the_topic(connect.client_id)
        if isinstance(verdict, Denied):
            self._deny(connection, connect, verdict)
        elif isinstance(verdict, Grant):
            self.lobby.admitted(connection)
            self.registered += 1
            connection.hand_over(verdict)
        else:
            now = time.monotonic()
            key = (verdict.product_key, verdict.device_name)
            if wait_s := self._pace.came(key, now):
                self._let_wait(connection, verdict, connect.clean_start, now + wait_s)
            else:
                self._turn_away(self._slowed.overtaken(key))
                self._let_in(key, connection, verdict, connect.clean_start)

    def _let_wait(self, connection: Attendee, credentials: Credentials, clean_start: bool, due: float) -> None:
        """Let a device in later that connects again and again, and tell its owner; of its connections only the newest waits."""
        detail = "it connects again and again: two devices may have its identity, or its firmware does not wait before it reconnects"
        client = Client(connection.address, credentials.product_key, credentials.device_name, tenant_id=credentials.tenant_id)
        self.refuse(client, Refused(Reason.TOO_MANY_CONNECTS, detail))
        key = (credentials.product_key, credentials.device_name)
        self._turn_away(self._slowed.wait(key, (connection, credentials, clean_start), due))

    def _turn_away(self, waiting: Waiting | None, why: str = "a newer connection of the same device has come") -> None:
        if waiting is not None and waiting[0].session.holding:
            waiting[0].session.refuse(ConnectCode.UNAVAILABLE, why)
            waiting[0].flush()

    def _let_in(self, key: Key, connection: Attendee, verdict: Credentials, clean_start: bool) -> None:
        self._take_over(key)
        self.subs.end(key, Code.CONNECTED_ELSEWHERE, "the sub-device has connected by itself")
        self.sessions[key] = connection
        self.lobby.admitted(connection)
        self.accepted += 1
        connection.open(verdict, self.next_epoch(), self.away.back(key, verdict, clean_start))

    def _take_over(self, key: Key) -> None:
        if (older := self.sessions.get(key)) is not None:
            older.handle(older.session.takeover())

    def _deny(self, connection: Attendee, connect: Connect, denied: Denied) -> None:
        """Say no, slowly to an address that was told no often; the right secret is never slowed."""
        slowly = None
        if denied.reason is not None:
            connection.noted = True
            self.refuse(claimed(connection.address, connect), Refused(denied.reason, denied.detail))
            now = time.monotonic()
            if delay_s := self._throttle.failed(_host(connection.address), now):
                slowly = now + delay_s
                self.lobby.denied(connection)
        connection.session.refuse(denied.code, denied.words, slowly)
        connection.flush()

    def refuse(self, client: Client, refused: Refused, *, topic: str = "", sample: bytes = b"", count: int = 1) -> None:
        """Count what was refused, and have it noted."""
        if self.refusals.refuse(client, refused, now_ms(), topic=topic, sample=sample, count=count):
            self.refused_first.set()

    def may_listen(self, connection: Attendee, credentials: Credentials, topic_filter: str) -> bool:
        """Whether a SUBSCRIBE is granted; counts it if not."""
        if may_listen(credentials, topic_filter) or self.subs.may_listen(connection, topic_filter, may_listen):
            return True
        refused = Refused(Reason.FOREIGN_TOPIC, "a device may only subscribe to what is sent to it: correct the filter, or leave it out")
        self.refuse(client_of(connection), refused, topic=topic_filter)
        return False

    def leaves(self, connection: Attendee) -> None:
        """A connection begins to close: what it is closed for is counted, unless it was already."""
        self.lobby.left(connection)
        session = connection.session
        if session.refusal is not None and not connection.noted:
            self.refuse(client_of(connection), session.refusal, sample=session.offence)

    def gone(self, connection: Attendee) -> None:
        """A socket is closed."""
        self.connections.discard(connection)
        self.lobby.left(connection)

    def left(self, connection: Attendee, farewell: Farewell, event: Disconnected) -> None:
        """The connection of a session has ended."""
        key = (farewell.credentials.product_key, farewell.credentials.device_name)
        if self.sessions.get(key) is connection:
            del self.sessions[key]
        self.away.left(key, farewell, event)

    def _refuse_will(self, farewell: Farewell, refused: Refused, topic: str, sample: bytes) -> None:
        known = farewell.credentials
        client = Client(farewell.address, known.product_key, known.device_name, tenant_id=known.tenant_id)
        self.refuse(client, refused, topic=topic, sample=sample)

    def deliver(self, messages: Iterable[Downlink]) -> int:
        """Hand messages to the sessions of their devices; how many were taken. What waits for a device that is away is not."""
        taken, now = 0, time.monotonic()
        touched: set[Attendee] = set()
        for message in messages:
            key = (message.product_key, message.device_name)
            connection = self.sessions.get(key) or self._carrier(key)
            if connection is None:
                self.away.deliver(message)
                continue
            session, topic = connection.session, message.topic
            if message.qos or message.expires_ms or message.modern_topic or needs_subscription(topic):
                if message.modern_topic and connection.modern:
                    topic = message.modern_topic
                if needs_subscription(topic) and not session.subscribed(topic):
                    continue
                sent = session.deliver(topic, message.payload, message.qos, expires=expires_at(message), now=now)
            else:  # an answer, as nearly all of them are
                sent = session.deliver(topic, message.payload, message.qos)
            if sent:
                touched.add(connection)
                taken += 1
            else:
                self.undelivered += 1
        for connection in touched:
            connection.flush()
        return taken

    def _carrier(self, key: Key) -> Attendee | None:
        return cast("Attendee | None", self.subs.carriers.get(key))

    def broadcast(self, product_key: str, topic: str, payload: bytes, qos: int = 0, expires_ms: int = 0) -> int:
        """Send a message to the sessions of a product that subscribed it, at the QoS they were granted at most; how many took it.

        One that expires waits for subscribers that are away, too, and does not count there.
        """
        return sum(self._tell_subscriber(key, topic, payload, qos, expires_ms) for key in self.all_keys(product_key))

    def _tell_subscriber(self, key: Key, topic: str, payload: bytes, qos: int, expires_ms: int = 0) -> int:
        connection = self.sessions.get(key)
        if connection is None and key in self.subs.carriers:
            return 0  # its gateway is a subscriber of its own, and the session that the device left is not what it listens on now
        granted = self.away.kept.granted(key, topic) if connection is None else connection.session.granted(topic)
        return 0 if granted is None else self.deliver((Downlink(*key, topic, payload, min(qos, granted), expires_ms, waits=True),))

    def tell(self, key: Key, message: Broadcast) -> int:
        """A device its copy of a broadcast: 1 when its session took it."""
        if not message.kind:
            return self._tell_subscriber(key, message.topic, message.payload, message.qos)
        topic = str(Topic(Kind(message.kind), *key, call=message.call))
        return self.deliver((Downlink(*key, topic, message.payload, message.qos),))

    def all_keys(self, product_key: str | None = None) -> list[Key]:
        """The devices with a session, connected or kept; of one product only if it is given."""
        keys = list(dict.fromkeys((*self.sessions, *self.away.kept, *self.subs.carriers, *self._slowed)))
        return keys if product_key is None else [key for key in keys if key[0] == product_key]

    def keys_of(self, product_key: str, device_name: str | None) -> list[Key]:
        """The devices with a session that a change of the registry concerns."""
        if device_name is None:
            return self.all_keys(product_key)
        key = (product_key, device_name)
        return [key] if any(key in held for held in (self.sessions, self.away.kept, self.subs.carriers, self._slowed)) else []

    def recheck(self, key: Key, credentials: Credentials | None) -> None:
        """End the session of a device that is gone, disabled, or whose proof does not stand any more."""
        now = now_ms()
        stands = set[int]() if credentials is None else standing(credentials, self.trust.of(credentials.tenant_id, now), now)
        connection = self.sessions.get(key)
        if connection is not None:
            until_ms = None if connection.credentials is None else connection.credentials.proof_until_ms
            if connection.fingerprint not in stands or (until_ms is not None and now >= until_ms):
                connection.handle(connection.session.close())
        waiting = self._slowed.get(key)
        if waiting is not None and fingerprint(waiting[1]) not in stands:
            self._turn_away(self._slowed.overtaken(key), "what it proved does not stand any more")
        self.away.recheck(key, stands)

    async def sweep(self, now: float) -> None:
        """Close who is silent for too long, let in who has waited long enough; yields to others now and then."""
        for waiting, credentials, clean_start in self._slowed.due(now):
            if waiting.session.holding:
                self._let_in((credentials.product_key, credentials.device_name), waiting, credentials, clean_start)
        for n, connection in enumerate(tuple(self.connections), 1):
            connection.tick(now)
            if n % 200 == 0:
                await asyncio.sleep(0)
        self.away.sweep(now)

    def close_all(self, code: int) -> None:
        """Tell everybody to come back later."""
        for connection in tuple(self.connections):
            connection.handle(connection.session.close(code))
        self.away.close()


def client_of(connection: Attendee) -> Client:
    """Who a connection is, for a refusal: a device that was let in, or an address."""
    known = connection.credentials
    if known is None:
        return Client(connection.address)
    return Client(connection.address, known.product_key, known.device_name, tenant_id=known.tenant_id)


def _host(address: str) -> str:
    return address.rpartition(":")[0]
