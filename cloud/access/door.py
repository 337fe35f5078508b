"""The sessions of all devices: of one device the newest wins, and messages find their session by device, whatever it subscribed to."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from cloud.access.admission import Verdict
from cloud.access.group import GroupCommit, Owner
from cloud.access.model import Downlink
from cloud.devices.model import Credentials
from protocols.mqtt.codec import Connect
from protocols.mqtt.events import Event
from protocols.mqtt.session import ServerSession

Key = tuple[str, str]


class Attendee(Owner, Protocol):
    """A connection as the door sees it."""

    session: ServerSession
    fingerprint: int

    def handle(self, events: list[Event]) -> None: ...
    def flush(self) -> None: ...
    def tick(self, now: float) -> None: ...
    def open(self, credentials: Credentials, epoch: int) -> None: ...


def fingerprint(credentials: Credentials) -> int:
    """Changes when a session has to end: another secret or another site. Only comparable within this process."""
    return hash((credentials.device_id, credentials.secret, credentials.site_id, credentials.tenant_id))


class FrontDoor:
    """All connections. `epoch` grows with every session, over restarts too: microseconds of the clock, or one more than the last."""

    def __init__(self, commit: GroupCommit) -> None:
        self.commit = commit
        self.ask: Callable[[Attendee, Connect], None]
        self.connections: set[Attendee] = set()
        self.sessions: dict[Key, Attendee] = {}
        self.refused: Counter[str] = Counter()
        self.accepted = 0
        self._epoch = 0

    def next_epoch(self) -> int:
        self._epoch = max(self._epoch + 1, time.time_ns() // 1_000)
        return self._epoch

    def decided(self, connection: Attendee, verdict: Verdict) -> None:
        """Admission answers a CONNECT."""
        if not connection.session.holding:
            return  # it went away meanwhile
        if not isinstance(verdict, Credentials):
            connection.session.refuse(verdict)
            connection.flush()
            return
        key = (verdict.product_key, verdict.device_name)
        if (older := self.sessions.get(key)) is not None:
            older.handle(older.session.takeover())
        self.sessions[key] = connection
        self.accepted += 1
        connection.open(verdict, self.next_epoch())

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
            if connection is not None and connection.session.deliver(message.topic, message.payload, message.qos):
                touched.add(connection)
                taken += 1
        for connection in touched:
            connection.flush()
        return taken

    def keys_of(self, product_key: str, device_name: str | None) -> list[Key]:
        """The devices with a session that a change of the registry concerns."""
        if device_name is not None:
            return [(product_key, device_name)] if (product_key, device_name) in self.sessions else []
        return [key for key in self.sessions if key[0] == product_key]

    def recheck(self, key: Key, credentials: Credentials | None) -> None:
        """End the session of a device that is gone, disabled, or known otherwise than when it connected."""
        connection = self.sessions.get(key)
        if connection is None:
            return
        if credentials is None or not credentials.enabled or fingerprint(credentials) != connection.fingerprint:
            connection.handle(connection.session.close())

    async def sweep(self, now: float) -> None:
        """Close who is silent for too long; yields to others now and then."""
        for n, connection in enumerate(tuple(self.connections), 1):
            connection.tick(now)
            if n % 1_000 == 0:
                await asyncio.sleep(0)

    def close_all(self, code: int) -> None:
        """Tell everybody to come back later."""
        for connection in tuple(self.connections):
            connection.handle(connection.session.close(code))
