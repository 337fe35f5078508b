"""The sessions of all devices: of one device the newest wins, and messages find their session by device, whatever it subscribed to."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from cloud.access.admission import Denied, Verdict
from cloud.access.certificates import Trust, named_by
from cloud.access.gate import FrameGate
from cloud.access.group import GroupCommit, Owner
from cloud.access.model import Downlink
from cloud.access.proof import standing
from cloud.access.refusals import Client, RefusalLedger, claimed
from cloud.access.slowed import Slowed
from cloud.access.topics import may_listen
from cloud.devices.model import Credentials
from cloud.foundation.clock import now_ms
from protocols.alink.registration import Grant
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Connect
from protocols.mqtt.events import Event
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
    fingerprint: int
    noted: bool

    def handle(self, events: list[Event]) -> None: ...
    def flush(self) -> None: ...
    def tick(self, now: float) -> None: ...
    def open(self, credentials: Credentials, epoch: int) -> None: ...
    def hand_over(self, grant: Grant) -> None: ...


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
        self._throttle = Throttle()
        self._pace, self._slowed = Pace(), Slowed[tuple[Attendee, Credentials]]()
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
                self._let_wait(connection, verdict, now + wait_s)
            else:
                self._turn_away(self._slowed.overtaken(key))
                self._let_in(connection, verdict)

    def _let_wait(self, connection: Attendee, credentials: Credentials, due: float) -> None:
        """Let a device in later that connects again and again, and tell its owner; of its connections only the newest waits."""
        detail = "it connects again and again: two devices may have its identity, or its firmware does not wait before it reconnects"
        client = Client(connection.address, credentials.product_key, credentials.device_name, tenant_id=credentials.tenant_id)
        self.refuse(client, Refused(Reason.TOO_MANY_CONNECTS, detail))
        key = (credentials.product_key, credentials.device_name)
        self._turn_away(self._slowed.wait(key, (connection, credentials), due))

    def _turn_away(self, waiting: tuple[Attendee, Credentials] | None) -> None:
        if waiting is not None and waiting[0].session.holding:
            waiting[0].session.refuse(ConnectCode.UNAVAILABLE, "a newer connection of the same device has come")
            waiting[0].flush()

    def _let_in(self, connection: Attendee, verdict: Credentials) -> None:
        key = (verdict.product_key, verdict.device_name)
        if (older := self.sessions.get(key)) is not None:
            older.handle(older.session.takeover())
        self.sessions[key] = connection
        self.lobby.admitted(connection)
        self.accepted += 1
        connection.open(verdict, self.next_epoch())

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
        if may_listen(credentials, topic_filter):
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

    def left(self, connection: Attendee, key: Key) -> None:
        """A session has ended."""
        if self.sessions.get(key) is connection:
            del self.sessions[key]

    def deliver(self, messages: Iterable[Downlink]) -> int:
        """Hand messages to the sessions of their devices; how many were taken."""
        taken = 0
        touched: set[Attendee] = set()
        for message in messages:
            connection = self.sessions.get((message.product_key, message.device_name))
            if connection is None:
                continue
            if connection.session.deliver(message.topic, message.payload, message.qos):
                touched.add(connection)
                taken += 1
            else:
                self.undelivered += 1
        for connection in touched:
            connection.flush()
        return taken

    def keys_of(self, product_key: str, device_name: str | None) -> list[Key]:
        """The devices with a session that a change of the registry concerns."""
        if device_name is not None:
            return [(product_key, device_name)] if (product_key, device_name) in self.sessions else []
        return [key for key in self.sessions if key[0] == product_key]

    def recheck(self, key: Key, credentials: Credentials | None) -> None:
        """End the session of a device that is gone, disabled, or whose proof does not stand any more."""
        connection = self.sessions.get(key)
        if connection is None:
            return
        now, held = now_ms(), connection.credentials
        until_ms = None if held is None else held.proof_until_ms
        if (
            credentials is None
            or connection.fingerprint not in standing(credentials, self.trust.of(credentials.tenant_id, now), now)
            or (until_ms is not None and now >= until_ms)
        ):
            connection.handle(connection.session.close())

    async def sweep(self, now: float) -> None:
        """Close who is silent for too long, let in who has waited long enough; yields to others now and then."""
        for waiting, credentials in self._slowed.due(now):
            if waiting.session.holding:
                self._let_in(waiting, credentials)
        for n, connection in enumerate(tuple(self.connections), 1):
            connection.tick(now)
            if n % 200 == 0:
                await asyncio.sleep(0)

    def close_all(self, code: int) -> None:
        """Tell everybody to come back later."""
        for connection in tuple(self.connections):
            connection.handle(connection.session.close(code))


def client_of(connection: Attendee) -> Client:
    """Who a connection is, for a refusal: a device that was let in, or an address."""
    known = connection.credentials
    if known is None:
        return Client(connection.address)
    return Client(connection.address, known.product_key, known.device_name, tenant_id=known.tenant_id)


def _host(address: str) -> str:
    return address.rpartition(":")[0]
