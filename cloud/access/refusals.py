"""What the front door turned away, gathered so that a flood of it is a few rows: the first of a kind is noted at once, then counts.

A kind is (who it claims to be, address without port, reason). Every refusal is counted in exactly one note.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import msgspec

from cloud.access.model import RefusalNote
from protocols.alink.credentials import parse_username
from protocols.errors import Reason, Refused
from protocols.mqtt.packets import Connect

KINDS: Final = 1_000
"""Kinds told apart; what is beyond is counted together, one entry a reason."""
REPEAT_S: Final = 60.0
"""A kind is noted at most this often."""
MOST_NAME: Final = 64
MOST_CLAIM: Final = 128
MOST_TOPIC: Final = 256
MOST_DETAIL: Final = 500

OTHERS: Final = f"counted together, since more than {KINDS:,} kinds of clients were refused within a minute; one of them: "


class Client(msgspec.Struct, frozen=True, gc=False):
    """Who was refused, as far as it is known. Without `tenant_id` the names are only claims."""

    address: str
    product_key: str = ""
    device_name: str = ""
    username: str = ""
    client_id: str = ""
    tenant_id: int | None = None

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]


def claimed(address: str, connect: Connect) -> Client:
    """What a CONNECT that was not believed says of its sender."""
    try:
        product_key, device_name = parse_username(connect.username)
    except Refused:
        product_key = device_name = ""
    return Client(
        address,
        _clipped(product_key, MOST_NAME),
        _clipped(device_name, MOST_NAME),
        _clipped(connect.username or "", MOST_CLAIM),
        _clipped(connect.client_id, MOST_CLAIM),
    )


@dataclass(slots=True, eq=False)
class Entry:
    """One kind: the newest of it, and how many were not noted yet."""

    client: Client
    reason: Reason
    detail: str = ""
    topic: str = ""
    sample: bytes = b""
    count: int = 0
    first_ms: int = 0
    last_ms: int = 0
    noted_at: float | None = None


Kind = tuple[int | None, str, str, str, Reason]


class RefusalLedger:
    """Counts by reason for ever (`totals`), and by kind until they are noted. In a window of `REPEAT_S` a kind gives one note."""

    def __init__(self, kinds: int = KINDS) -> None:
        self._most = kinds
        self._entries: dict[Kind, Entry] = {}
        self._others: dict[Reason, Entry] = {}
        self.totals: Counter[str] = Counter()

    def refuse(self, client: Client, refused: Refused, now_ms: int, *, topic: str = "", sample: bytes = b"", count: int = 1) -> bool:
        """Count it; True if it is the first of its kind."""
        self.totals[refused.reason] += count
        kind = (client.tenant_id, client.product_key, client.device_name, client.host, refused.reason)
        detail, entry = str(refused), self._entries.get(kind)
        if entry is None and len(self._entries) < self._most:
            entry = self._entries[kind] = Entry(client, refused.reason)
        if entry is None:
            entry = self._others.setdefault(refused.reason, Entry(Client(""), refused.reason))
            detail = OTHERS + detail
        else:
            entry.client = client
        entry.detail, entry.topic, entry.sample = _clipped(detail, MOST_DETAIL), _clipped(topic, MOST_TOPIC), sample
        if not entry.count:
            entry.first_ms = now_ms
        entry.count += count
        entry.last_ms = now_ms
        return entry.noted_at is None

    def due(self, now: float) -> list[Entry]:
        """What is to be noted now: the first of a kind, and what was counted since its last note. `now` is monotonic."""
        for kind in [kind for kind, entry in self._entries.items() if not entry.count and _may(entry, now)]:
            del self._entries[kind]
        return [entry for entry in self.unnoted() if _may(entry, now)]

    def unnoted(self) -> list[Entry]:
        """Everything that is counted and not noted."""
        return [entry for entries in (self._entries, self._others) for entry in entries.values() if entry.count]

    def note(self, entry: Entry, now: float) -> RefusalNote:
        """Take what an entry has counted."""
        client = entry.client
        note = RefusalNote(
            entry.reason,
            entry.detail,
            client.address,
            client.product_key,
            client.device_name,
            client.username,
            client.client_id,
            entry.topic,
            entry.count,
            entry.first_ms,
            entry.last_ms,
            entry.sample,
        )
        entry.count, entry.noted_at = 0, now
        return note


def _may(entry: Entry, now: float) -> bool:
    return entry.noted_at is None or now - entry.noted_at >= REPEAT_S


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
