"""What the tests of a session share: one that was opened, and what its client reads."""

from collections.abc import Iterable

from protocols.mqtt.codec import (
    NO_PROPERTIES,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    Properties,
    PublishRun,
    Will,
    encode,
)
from protocols.mqtt.session import Limits, Published, ServerSession
from tests.unit.protocols.mqtt.packets import Publish, decode, singles

WILL = Will("w", b"gone", 1)


def connect(version: int = 4, will: Will | None = None, keepalive: int = 60, properties: Properties = NO_PROPERTIES) -> Connect:
    return Connect("dev|securemode=3|", "dev&pk", b"secret", True, keepalive, will, version, properties)


def opened(
    version: int = 4, will: Will | None = None, limits: Limits | None = None, keepalive: int = 60, properties: Properties = NO_PROPERTIES
) -> ServerSession:
    """A session that was accepted at 0 and has no output left."""
    session = ServerSession(0.0, limits or Limits())
    session.receive(encode(connect(version, will, keepalive, properties)), 0.0)
    assert session.accept() == []
    session.take_output()
    return session


def sent(session: ServerSession) -> list[Packet | Publish]:
    """What the client reads."""
    return singles(decode(session.take_output(), session.version, server_side=False))


def codes(packets: Iterable[Packet | Publish]) -> list[int]:
    return [packet.reason for packet in packets if isinstance(packet, Disconnect | ConnAck)]


def runs(events: Iterable[object]) -> list[PublishRun]:
    return [event.run for event in events if isinstance(event, Published)]
