"""Connections as a front door counts them: who has proved who it is, who has not yet, and who has to go when there is no room.

Whoever was let in stays. A new connection beyond a bound takes the place of the oldest stranger: one that has sent no CONNECT, or whose
refused CONNECT waits for its slowed answer. One whose CONNECT is just being looked up is nobody's place to take.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from protocols.errors import Reason, Refused
from protocols.mqtt.events import Limits

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a front door takes of whom, with the defaults of a small cloud; each names what happens at it."""

    connections: int = 50_000
    """Open connections; beyond them the oldest stranger leaves, else the new one."""
    strangers: int = 20_000
    """Of these not let in yet; beyond them the oldest leaves. A fleet that reconnects at once is so many for a moment."""
    connect_s: float = 10.0
    """Without a CONNECT by then a connection is closed."""
    packet_s: float = 120.0
    """A packet that was begun is complete by then, or its connection is closed."""
    unread_s: float = 30.0
    """A connection that reads nothing of what it is sent for so long is closed."""
    session_s: int = 3_600
    """A session whose client asks for it outlives its connection by no more than this; 0 = none does."""
    kept_bytes: int = 64 * 1024 * 1024
    """Of all sessions without a connection; beyond, the one that has waited longest ends."""

    def limits(self, **others: int) -> Limits:
        """The limits of each session."""
        return Limits(connect_s=self.connect_s, packet_s=self.packet_s, unread_s=self.unread_s, session_s=self.session_s, **others)


class Lobby(Generic[C]):
    """At most `connections` in all, of them at most `strangers` that were not let in."""

    def __init__(self, connections: int, strangers: int) -> None:
        self._most = connections
        self._most_strangers = strangers
        self._evictable: dict[C, None] = {}  # oldest first
        self._judged: set[C] = set()
        self._inside: set[C] = set()

    def __len__(self) -> int:
        """Connections in all."""
        return self.strangers + len(self._inside)

    @property
    def strangers(self) -> int:
        """Connections that were not let in (yet)."""
        return len(self._evictable) + len(self._judged)

    def enter(self, connection: C) -> C | None:
        """A connection is made; returns who has to leave for it: the oldest stranger, or the new one itself. It has left the lobby."""
        if len(self) < self._most and self.strangers < self._most_strangers:
            self._evictable[connection] = None
            return None
        if not self._evictable:
            return connection
        oldest = next(iter(self._evictable))
        del self._evictable[oldest]
        self._evictable[connection] = None
        return oldest

    def asked(self, connection: C) -> None:
        """Its CONNECT is looked up now."""
        if connection in self._evictable:
            del self._evictable[connection]
            self._judged.add(connection)

    def denied(self, connection: C) -> None:
        """Its CONNECT was wrong, and the answer waits."""
        if connection in self._judged:
            self._judged.remove(connection)
            self._evictable[connection] = None

    def admitted(self, connection: C) -> None:
        """Its CONNECT was right."""
        if connection in self._judged:
            self._judged.remove(connection)
            self._inside.add(connection)

    def left(self, connection: C) -> None:
        """It is closed. Twice is harmless."""
        self._evictable.pop(connection, None)
        self._judged.discard(connection)
        self._inside.discard(connection)


def no_room(connections: int) -> Refused:
    """The refusal of who has to leave."""
    return Refused(
        Reason.TOO_MANY_CONNECTIONS,
        f"{connections} connections are open: close those that are not needed, or raise the limit of the front door",
    )
