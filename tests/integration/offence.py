"""A front door that is offended while a good device goes on: what it answers and counts, and what an operator finds of it."""

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cloud.access.model import Kind, UplinkBatch
from cloud.ingest.evaluation import Evaluator, open_message
from cloud.ingest.model import Quarantined, SeriesBook
from cloud.ingest.registry import Registry
from cloud.telemetry.model import Position
from protocols.errors import Reason
from tests.integration.access_rig import Door, Nats, RawClient, kill_all, wait_for
from tests.integration.bad_input import HOSTS, Good

OPERATOR = 9  # of the made-up registry, beside the devices' tenant 1
SHORT = {"connect_s": 1.0, "packet_s": 1.0, "unread_s": 1.0}


@dataclass
class Front:
    """A running front door, and what it says about an offence."""

    nats: Nats
    door: Door
    names: Iterator[str] = field(default_factory=lambda: (f"d{n}" for n in itertools.count()))

    def client(self, name: str | None = None, *, version: int = 4, keepalive: int = 60) -> RawClient:
        """A device of its own, from an address of its own."""
        return RawClient(self.door.port, name or next(self.names), version=version, keepalive=keepalive, host=next(HOSTS))

    def good(self, name: str) -> Good:
        return Good(RawClient(self.door.port, name).open(), lambda n: f"{name}:{n}".encode())

    def raw(self, data: bytes = b"") -> socket.socket:
        """A plain connection from an address of its own."""
        sock = socket.create_connection(("127.0.0.1", self.door.port), timeout=10, source_address=(next(HOSTS), 0))
        sock.sendall(data)
        return sock

    def quarantined(self, after: int) -> list[Quarantined]:
        """What the door's notes behind a sequence become in the quarantine."""
        evaluator = Evaluator(Position("s", after), SeriesBook([]), {}, Registry())
        for seq, data in self.nats.messages(after):
            evaluator.evaluate(open_message(seq, data))
        return [entry for entry in evaluator.cut().quarantined if not entry.replayable]

    def published(self, after: int, name: str) -> list[bytes]:
        """The payloads of a device in the stream, in order."""
        rows = (row for _, data in self.nats.messages(after) for row in UplinkBatch.from_bytes(data))
        return [payload for row in rows if row.kind is Kind.PUBLISH and row.session.device_name == name for payload in row.payloads()]


@dataclass
class Offence:
    """What has to be true around one offence: filled in by the test, judged when it is over."""

    front: Front
    reason: Reason
    good: Good
    after: int
    before: float
    entries: list[Quarantined] = field(default_factory=list)

    @property
    def counted(self) -> int:
        return int(refused(self.front, self.reason) - self.before)

    def entry(self, address: str) -> Quarantined:
        """The entry about who came from `address`."""
        host = address.rpartition(":")[0] or address

        def found() -> bool:
            self.entries = [
                entry
                for entry in self.front.quarantined(self.after)
                if entry.reason == self.reason and entry.address.rpartition(":")[0] == host
            ]
            return bool(self.entries)

        wait_for(found)
        (entry,) = self.entries
        assert entry.count >= 1
        assert len(entry.detail) > 10
        assert 0 <= entry.last_ms - entry.received_ms < 60_000
        assert abs(entry.last_ms / 1000 - time.time()) < 60
        return entry


def refused(front: Front, reason: Reason) -> float:
    return front.door.metrics().get(f'hearthline_access_refused_total{{reason="{reason}"}}', 0.0)


@contextmanager
def offence(front: Front, reason: Reason, count: int = 1) -> Iterator[Offence]:
    """An offence that is counted `count` times, while a good device publishes."""
    name = next(front.names)
    good = front.good(name)
    good.start()
    good.goes_on(2)
    seen = Offence(front, reason, good, front.nats.last_sequence(), refused(front, reason))
    start = front.nats.last_sequence() - 1_000
    yield seen
    good.goes_on()
    wait_for(lambda: seen.counted >= count)
    assert seen.counted == count
    sent = good.finish()
    assert front.published(max(0, start), name) == sent


@contextmanager
def running(directory: Path, **bounds: float) -> Iterator[Front]:
    with ExitStack() as stack:
        nats = Nats(directory)
        stack.callback(lambda: kill_all([nats.process]))
        door = Door(nats, directory, **bounds)
        stack.callback(lambda: kill_all([door.process]))
        yield Front(nats, door)
