"""What a session tells its owner, its limits, and how refusals read in MQTT's own codes."""

import enum
from typing import TypeAlias

import msgspec

from protocols.errors import Reason
from protocols.mqtt.downlink import Downlink
from protocols.mqtt.filters import Subscriptions
from protocols.mqtt.packets import MAX_PACKET, Connect, ConnectCode, ReasonCode, Will
from protocols.mqtt.run import PublishRun


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one session, shared by all of them; each names what happens at it."""

    connect_s: float = 10.0
    """Without a CONNECT by then the connection closes."""
    connect_bytes: int = 16 * 1024
    """A larger CONNECT closes: nobody is authenticated yet."""
    packet_s: float = 120.0
    """A packet that was begun is complete by then, or the connection closes: the largest one passes at 18 kbit/s."""
    unread_s: float = 30.0
    """A client that reads nothing of what waits for it for so long is closed."""
    held_bytes: int = 256 * 1024
    """Bytes kept behind an unanswered CONNECT (one read); more closes."""
    packet_bytes: int = MAX_PACKET
    """A larger packet closes; MQTT 5 clients are told."""
    in_flight: int = 32
    """Downlink QoS 1 messages without PUBACK (or the client's receive maximum, if less); more queue."""
    queued_messages: int = 256
    """Downlink QoS 1 messages waiting for a PUBACK; `deliver` refuses a new one, what was taken keeps its place."""
    queued_bytes: int = 1024 * 1024
    """The same in bytes."""
    session_s: int = 0
    """A session outlives its connection by no more than this, whatever its client asks for; 0 = none does."""
    topic_aliases: int = 16
    """Topic aliases that an MQTT 5 client may use, and that are used towards it if it takes so many."""
    filters: int = 512
    """Filters of one session; another SUBSCRIBE is answered with 0x97 (0x80 before MQTT 5)."""
    filters_characters: int = 64 * 1024
    """The same in characters of all filters together."""
    output_bytes: int = 1024 * 1024
    """Output not taken: `deliver` refuses (QoS 0 is lost), and the next packet from a client that does not read closes."""


class Cause(enum.StrEnum):
    """Why a session ended."""

    DISCONNECTED = "disconnected"  # the client said so
    LOST = "lost"  # the socket ended
    KEEPALIVE = "keepalive"  # nothing was heard for too long: `refusal` says for how long
    TAKEOVER = "takeover"
    REFUSED = "refused"  # the client broke a rule: see `refusal`
    CLOSED = "closed"  # we said so: shutdown, a disabled device


class ConnectRequested(msgspec.Struct, frozen=True, gc=False):
    """A CONNECT waits for `accept` or `refuse`."""

    connect: Connect


class Published(msgspec.Struct, frozen=True, gc=False):
    """Messages came in; QoS 1 ones wait for `acknowledge(run.acks())` in this order."""

    run: PublishRun


class KeptSession(msgspec.Struct):
    """What outlives a connection (par. 4.1), for `expiry_s` seconds: what was promised to the device, subscriptions, a will that waits."""

    expiry_s: int
    downlink: Downlink | None = None
    subscriptions: Subscriptions | None = None
    will: Will | None = None
    will_delay_s: int = 0


class Disconnected(msgspec.Struct, frozen=True):
    """The connection of an accepted session ended (exactly once); `will` is to be published, `clean` = the client said goodbye.

    Without `kept` the session has ended with it.
    """

    will: Will | None
    clean: bool
    cause: Cause
    kept: KeptSession | None = None


Event: TypeAlias = ConnectRequested | Published | Disconnected

_REASON_CODES = {
    Reason.MALFORMED_PACKET: ReasonCode.MALFORMED_PACKET,
    Reason.PACKET_TOO_LARGE: ReasonCode.PACKET_TOO_LARGE,
    Reason.PROTOCOL_ERROR: ReasonCode.PROTOCOL_ERROR,
    Reason.UNSUPPORTED_VERSION: ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    Reason.UNSUPPORTED_QOS: ReasonCode.QOS_NOT_SUPPORTED,
    Reason.BAD_CREDENTIALS: ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    Reason.NOT_AUTHORISED: ReasonCode.NOT_AUTHORIZED,
    Reason.BAD_CERTIFICATE: ReasonCode.NOT_AUTHORIZED,
    Reason.FOREIGN_TOPIC: ReasonCode.NOT_AUTHORIZED,
    Reason.UNKNOWN_TOPIC: ReasonCode.TOPIC_NAME_INVALID,
    Reason.QUOTA_EXCEEDED: ReasonCode.QUOTA_EXCEEDED,
    Reason.KEEPALIVE_TIMEOUT: ReasonCode.KEEP_ALIVE_TIMEOUT,
    Reason.SLOW_WRITER: ReasonCode.QUOTA_EXCEEDED,
    Reason.SLOW_READER: ReasonCode.QUOTA_EXCEEDED,
    Reason.TOO_MANY_CONNECTIONS: ReasonCode.QUOTA_EXCEEDED,
    Reason.BAD_CHECKSUM: ReasonCode.PAYLOAD_FORMAT_INVALID,
    Reason.BAD_FRAME: ReasonCode.PAYLOAD_FORMAT_INVALID,
}


def reason_code(reason: Reason) -> ReasonCode:
    """The MQTT 5 code of a refusal, for DISCONNECT (par. 3.14.2.1) and for PUBACK of what a topic or payload check refuses (par. 3.4.2.1).

    >>> reason_code(Reason.FOREIGN_TOPIC).name
    'NOT_AUTHORIZED'
    """
    return _REASON_CODES.get(reason, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)


# 3.1.1 par. 3.2.2.3 beside MQTT 5 par. 3.2.2.2, and the refusal to count. `UNAVAILABLE` is our fault, so nothing was refused.
_CONNECT_CODES = (
    (ConnectCode.UNSUPPORTED_VERSION, ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, Reason.UNSUPPORTED_VERSION),
    (ConnectCode.CLIENT_ID_REJECTED, ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, Reason.BAD_CREDENTIALS),
    (ConnectCode.UNAVAILABLE, ReasonCode.SERVER_UNAVAILABLE, None),
    (ConnectCode.BAD_CREDENTIALS, ReasonCode.BAD_USER_NAME_OR_PASSWORD, Reason.BAD_CREDENTIALS),
    (ConnectCode.NOT_AUTHORISED, ReasonCode.NOT_AUTHORIZED, Reason.NOT_AUTHORISED),
)


def connect_code(code: int, version: int) -> tuple[int, Reason | None]:
    """A refusal of CONNECT in the client's version, and the reason to count; either version's codes are taken.

    >>> connect_code(ConnectCode.BAD_CREDENTIALS, version=5)
    (<ReasonCode.BAD_USER_NAME_OR_PASSWORD: 134>, <Reason.BAD_CREDENTIALS: 'bad_credentials'>)
    """
    for old, new, reason in _CONNECT_CODES:
        if code in (old, new):
            return (new if version == 5 else old), reason
    if code < ReasonCode.UNSPECIFIED_ERROR:
        raise ValueError(f"{code} is no refusal of CONNECT")
    # What 3.1.1 has no word for: "not authorised" is its closest, and makes SDKs back off.
    return (code if version == 5 else ConnectCode.NOT_AUTHORISED), Reason.NOT_AUTHORISED
