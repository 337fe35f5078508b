"""QoS 1 towards one client: a window of messages without PUBACK, and a bounded queue behind it (MQTT 5 par. 4.3.2, 4.4, 4.9).

It may outlive its connection: then what has no PUBACK is sent again to the next one, as a duplicate, before anything else.
"""

import math
from collections import deque
from typing import Final

import msgspec

from protocols.mqtt.fields import encode_topic_name

NEVER: Final = math.inf
_OVERHEAD = 19
"""Bytes of a PUBLISH beside topic and payload at most: fixed header 5, packet id 2, properties 4, an expiry 5, an alias 3."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """What is sent to a client; not after `expires` (monotonic seconds)."""

    topic: str
    payload: bytes
    expires: float = NEVER

    @property
    def room(self) -> int:
        """Bytes its packet takes at most; raises `Refused` for a bad topic."""
        return len(encode_topic_name(self.topic)) + len(self.payload) + _OVERHEAD


class Downlink:
    """Messages leave in the order they were offered; at most `window` of them wait for a PUBACK, `messages` and `size` bytes queue.

    Full, a new message is refused: what was taken before it (commands, replies) was promised first. With `keeps` the messages in the
    window are held until their PUBACK, and count as bytes too.
    """

    __slots__ = ("_in_flight", "_keeps", "_last_id", "_messages", "_most", "_queue", "_window", "size")

    def __init__(self, window: int, messages: int, size: int, keeps: bool = False) -> None:
        self._window = window
        self._messages = messages
        self._most = size
        self._keeps = keeps
        # None while empty: an empty dict and deque would be most of an idle session.
        self._in_flight: dict[int, Message | None] | None = None
        self._queue: deque[tuple[int, Message]] | None = None  # with the packet id it was sent under before, or 0
        self._last_id = 0
        self.size = 0

    def __len__(self) -> int:
        """Messages taken and without PUBACK."""
        return len(self._in_flight or ()) + len(self._queue or ())

    def offer(self, message: Message, now: float) -> bool:
        """Take a message, `ready` says when it is to be sent; False if there is no room. Raises `Refused` for a bad topic."""
        room = message.room
        if self._full(room) and not (self._expire(now) and not self._full(room)):
            return False
        if self._queue is None:
            self._queue = deque()
        self._queue.append((0, message))
        self.size += room
        return True

    def _full(self, room: int) -> bool:
        if len(self._in_flight or ()) >= self._window and len(self._queue or ()) >= self._messages:
            return True
        return bool(self.size) and self.size + room > self._most

    def _expire(self, now: float) -> bool:
        """Let go of what is too old to be sent; whether there was any."""
        before = len(self._queue or ())
        self._queue = deque(one for one in self._queue or () if one[1].expires > now or self._forget(one[1])) or None
        return len(self._queue or ()) < before

    def _forget(self, message: Message) -> bool:
        self.size -= message.room
        return False

    def ready(self, now: float) -> list[tuple[int, bool, Message]]:
        """What is to be sent now: packet id, whether it is a duplicate, message. What has expired meanwhile is dropped (par. 3.3.2.3.3)."""
        found: list[tuple[int, bool, Message]] = []
        while self._queue and len(self._in_flight or ()) < self._window:
            before, message = self._queue.popleft()
            if message.expires <= now:
                self._forget(message)
                continue
            if not self._keeps:
                self._forget(message)
            packet_id = before or self._next_id()
            if self._in_flight is None:
                self._in_flight = {}
            self._in_flight[packet_id] = message if self._keeps else None
            found.append((packet_id, bool(before), message))
        self._queue = self._queue or None
        return found

    def acknowledged(self, packet_id: int) -> bool:
        """A PUBACK came, and `ready` may know more. False for an unknown id, which harms nobody."""
        if self._in_flight is None or packet_id not in self._in_flight:
            return False
        message = self._in_flight.pop(packet_id)
        if message is not None:
            self._forget(message)
        self._in_flight = self._in_flight or None
        return True

    def rest(self) -> None:
        """The connection has ended: what has no PUBACK stands before the queue, under its packet id. Only with `keeps`."""
        again = [(packet_id, message) for packet_id, message in (self._in_flight or {}).items() if message is not None]
        if again:
            self._queue = self._queue or deque()
            self._queue.extendleft(reversed(again))
        self._in_flight = None
        self._window = 0

    def resume(self, window: int) -> None:
        """There is a connection again, with its own window."""
        self._window = window

    def _next_id(self) -> int:
        taken = self._in_flight or {}
        packet_id = self._last_id % 65_535 + 1
        while packet_id in taken:
            packet_id = packet_id % 65_535 + 1
        self._last_id = packet_id
        return packet_id
