"""Which messages of appliances are already in the buffer: an appliance repeats what was not acknowledged, also after a kill.

A ring of digests, stored in the same transaction as the frames that hold the messages. It reaches back 4,096 commits or 16,384 messages,
whichever is less, and what the agent's previous run left stays known for as long as this one lasts.
"""

from collections import deque
from collections.abc import Mapping
from hashlib import blake2b

SLOTS = 4_096
DIGESTS = 16_384
SIZE = 8  # bytes of a digest: a chance of 1 in 2^36 that any two of 16,384 messages are taken for one


class Digests:
    """Digests of the messages on one topic: equal payloads of different devices stay apart."""

    __slots__ = ("_begun",)

    def __init__(self, topic: str) -> None:
        self._begun = blake2b(digest_size=SIZE, key=blake2b(topic.encode(), digest_size=16).digest())

    def of(self, payload: bytes, packet_id: bytes = b"") -> bytes:
        """Eight bytes. Give the packet id where equal payloads may be different messages (values without times)."""
        digest = self._begun.copy()
        digest.update(payload)
        if packet_id:
            digest.update(b"\xff" + packet_id)  # no payload ends so: 0xff is in no UTF-8
        return digest.digest()


class SeenRing:
    """Digests of one lane. `stored` are its marks (key -> slot number, then digests) as the outbox kept them."""

    __slots__ = ("_prefix", "_recent", "_slot", "_slots", "_stale", "_total", "before", "fresh")

    def __init__(self, prefix: str, stored: Mapping[str, bytes]) -> None:
        self._prefix = prefix
        held = sorted(((value, key) for key, value in stored.items() if key.startswith(prefix) and len(value) >= 8), reverse=True)
        before: set[bytes] = set()
        self._stale: list[str] = []  # beyond what is kept: freed with the next frame
        for value, key in held:  # newest first: a value begins with its slot number
            if len(before) < DIGESTS:
                before.update(value[at : at + SIZE] for at in range(8, len(value) - SIZE + 1, SIZE))
            else:
                self._stale.append(key)
        self.before = frozenset(before)
        self._slots: deque[tuple[int, list[bytes]]] = deque()
        self._recent: dict[bytes, None] = {}
        self._slot = int.from_bytes(held[0][0][:8], "big") + 1 if held else 1
        self._total = 0
        self.fresh: list[bytes] = []

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._recent or digest in self.before

    def add(self, digest: bytes) -> None:
        """Remember a message that enters the open frame."""
        self._recent[digest] = None
        self.fresh.append(digest)

    def add_new(self, digests: list[bytes]) -> bool:
        """Remember messages that enter the open frame, if none of them is known and no two are equal."""
        recent, new = self._recent, dict.fromkeys(digests)
        if len(new) != len(digests) or not recent.keys().isdisjoint(new) or not self.before.isdisjoint(new):
            return False
        recent.update(new)
        self.fresh += digests
        return True

    def take(self) -> dict[str, bytes]:
        """The marks to write with the frame that is closing; empty values free old slots."""
        if not self.fresh:
            return {}
        slot, digests = self._slot, self.fresh
        self._slot, self.fresh = slot + 1, []
        self._slots.append((slot, digests))
        self._total += len(digests)
        marks = dict.fromkeys(self._stale, b"")
        self._stale = []
        while (self._total > DIGESTS and len(self._slots) > 1) or len(self._slots) >= SLOTS:
            old, gone = self._slots.popleft()
            self._total -= len(gone)
            for digest in gone:
                self._recent.pop(digest, None)
            marks[self._key(old)] = b""
        marks[self._key(slot)] = slot.to_bytes(8, "big") + b"".join(digests)
        return marks

    def _key(self, slot: int) -> str:
        return f"{self._prefix}{slot % SLOTS:04d}"
