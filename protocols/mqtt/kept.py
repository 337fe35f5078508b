"""Sessions whose connection has ended, kept until their device comes back or their time is over (MQTT 5 par. 4.1; 3.1.1 par. 3.1.2.4).

In memory only. All of them together are bounded in bytes: beyond that the session that has waited longest ends first.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Generic, TypeVar

import msgspec

from protocols.mqtt.downlink import Downlink, Message
from protocols.mqtt.events import KeptSession, Limits
from protocols.mqtt.packets import Will

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

OVERHEAD: Final = 1_024
"""Bytes that a kept session counts for beside its messages, filters and will."""
_PER_MESSAGE: Final = 200


def size_of(session: KeptSession) -> int:
    """Bytes of memory that a kept session takes, about."""
    size = OVERHEAD
    if session.downlink is not None:
        size += session.downlink.size + _PER_MESSAGE * len(session.downlink)
    if session.subscriptions is not None:
        size += session.subscriptions.size
    if session.will is not None:
        size += len(session.will.topic) + len(session.will.payload)
    return size


class _Entry(msgspec.Struct, Generic[T]):
    session: KeptSession
    owner: T
    size: int
    ends: float
    will_at: float


class KeptSessions(Generic[K, T]):
    """Kept sessions by device, each with what its owner needs to publish the will. `now` is monotonic seconds."""

    def __init__(self, size: int, limits: Limits) -> None:
        self._most = size
        self._limits = limits
        self._entries: dict[K, _Entry[T]] = {}  # the one whose connection ended first is first
        self._next = float("inf")  # nothing is due before
        self.size = 0
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def owner(self, key: K) -> T:
        """What was kept beside the session; KeyError if there is none."""
        return self._entries[key].owner

    def keep(self, key: K, session: KeptSession, owner: T, now: float) -> list[tuple[T, Will]]:
        """Keep what a connection left behind; the wills of sessions that had to end for it."""
        wills = self.end(key)
        ends = now + session.expiry_s
        entry = _Entry(session, owner, size_of(session), ends, now + session.will_delay_s if session.will is not None else ends)
        self._entries[key] = entry
        self.size += entry.size
        self._next = min(self._next, entry.will_at, ends)
        return wills + self._fit()

    def resume(self, key: K) -> KeptSession | None:
        """The session goes on with a new connection, and its will is not published (par. 3.1.3.2.2). None if nothing is kept."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.size -= entry.size
        return entry.session

    def end(self, key: K) -> list[tuple[T, Will]]:
        """The session ends now: its will, if it still has one. Twice is harmless."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return []
        self.size -= entry.size
        return [] if entry.session.will is None else [(entry.owner, entry.session.will)]

    def end_all(self) -> list[tuple[T, Will]]:
        """Every session ends now."""
        return self._end_each(tuple(self._entries))

    def offer(self, key: K, message: Message, now: float) -> tuple[bool, list[tuple[T, Will]]]:
        """Put a QoS 1 message before its device comes back; whether it was taken, and the wills of sessions that had to end for it.

        Raises `Refused` for a bad topic.
        """
        entry = self._entries.get(key)
        if entry is None or entry.ends <= now or message.expires <= now:
            return False, []
        session = entry.session
        if session.downlink is None:
            session.downlink = Downlink(0, self._limits.queued_messages, self._limits.queued_bytes, keeps=True)
        taken = session.downlink.offer(message, now)
        self.size -= entry.size
        entry.size = size_of(session)
        self.size += entry.size
        wills = self._fit()
        return taken and key in self._entries, wills

    def granted(self, key: K, topic: str) -> int | None:
        """The QoS that a kept session was granted for a topic; None if it has not subscribed to it."""
        entry = self._entries.get(key)
        return None if entry is None or entry.session.subscriptions is None else entry.session.subscriptions.granted(topic)

    def due(self, now: float) -> list[tuple[T, Will]]:
        """End what is over; the wills to publish now."""
        if now < self._next:
            return []
        wills: list[tuple[T, Will]] = []
        for entry in self._entries.values():
            if entry.session.will is not None and entry.will_at <= now:
                wills.append((entry.owner, entry.session.will))
                entry.session.will = None
                entry.will_at = entry.ends
        self._end_each([key for key, entry in self._entries.items() if entry.ends <= now])
        self._next = min((entry.will_at for entry in self._entries.values()), default=float("inf"))
        return wills

    def _fit(self) -> list[tuple[T, Will]]:
        wills: list[tuple[T, Will]] = []
        while self.size > self._most:
            self.given_up += 1
            wills += self.end(next(iter(self._entries)))
        return wills

    def _end_each(self, keys: Iterable[K]) -> list[tuple[T, Will]]:
        return [will for key in keys for will in self.end(key)]
