"""QoS 1 towards one client: a window of messages without PUBACK, and a bounded queue behind it (MQTT 5 par. 4.3.2, 4.4, 4.9)."""

from collections import deque

from protocols.mqtt.fields import encode_topic_name
from protocols.mqtt.run import encode_publish

_OVERHEAD = 11
"""Bytes of a PUBLISH beside topic and payload at most: fixed header 5, packet id 2, properties 4."""


class Downlink:
    """Messages leave in the order they were offered; at most `window` of them wait for a PUBACK, `messages` and `size` bytes queue.

    Full, a new message is refused: what was taken before it (commands, replies) was promised first.
    """

    __slots__ = ("_in_flight", "_last_id", "_messages", "_queue", "_queued", "_size", "_version", "_window")

    def __init__(self, window: int, messages: int, size: int, version: int) -> None:
        self._window = window
        self._messages = messages
        self._size = size
        self._version = version
        # None while empty: an empty set and deque would be most of an idle session.
        self._in_flight: set[int] | None = None
        self._queue: deque[tuple[str, bytes]] | None = None
        self._queued = 0
        self._last_id = 0

    def __len__(self) -> int:
        """Messages taken and without PUBACK."""
        return len(self._in_flight or ()) + len(self._queue or ())

    @staticmethod
    def room(topic: str, payload: bytes) -> int:
        """Bytes the packet takes at most; raises `Refused` for a bad topic."""
        return len(encode_topic_name(topic)) + len(payload) + _OVERHEAD

    def offer(self, topic: str, payload: bytes) -> bytes | None:
        """The packet to send now, b"" if it queues, None if it is refused; raises `Refused` for a bad topic."""
        if len(self._in_flight or ()) < self._window:  # then nothing queues: `acknowledged` fills the window first
            return self._next(topic, payload)
        room = self.room(topic, payload)
        if self._queued + room > self._size or len(self._queue or ()) >= self._messages:
            return None
        if self._queue is None:
            self._queue = deque()
        self._queue.append((topic, payload))
        self._queued += room
        return b""

    def acknowledged(self, packet_id: int) -> bytes:
        """A PUBACK came: the packets to send now. An unknown id is ignored, since it harms nobody."""
        if self._in_flight is None or packet_id not in self._in_flight:
            return b""
        self._in_flight.remove(packet_id)
        packets = b""
        while self._queue and len(self._in_flight) < self._window:
            topic, payload = self._queue.popleft()
            self._queued -= self.room(topic, payload)
            packets += self._next(topic, payload)
        self._queue = self._queue or None
        self._in_flight = self._in_flight or None
        return packets

    def _next(self, topic: str, payload: bytes) -> bytes:
        taken = self._in_flight if self._in_flight is not None else set()
        packet_id = self._last_id % 65_535 + 1
        while packet_id in taken:
            packet_id = packet_id % 65_535 + 1
        packet = encode_publish(topic, payload, 1, packet_id, version=self._version)
        taken.add(packet_id)
        self._in_flight, self._last_id = taken, packet_id
        return packet
