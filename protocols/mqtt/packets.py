"""MQTT control packets as values (MQTT 5 par. 3, 3.1.1 par. 3); the version only matters on the wire."""

import enum
from typing import Final, TypeAlias

import msgspec

from protocols.mqtt.properties import NO_PROPERTIES, Properties

MQTT_31: Final = 3
MQTT_311: Final = 4
MQTT_5: Final = 5

MAX_PACKET: Final = 260 * 1024
"""Bytes of the largest packet taken: a payload of 256 KiB with its topic and header."""


class ReasonCode(enum.IntEnum):
    """Reason codes of MQTT 5 (par. 2.4)."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


class ConnectCode(enum.IntEnum):
    """Answers to a CONNECT, 3.1.1 par. 3.2.2.3; the session translates them for MQTT 5."""

    ACCEPTED = 0
    UNSUPPORTED_VERSION = 1
    CLIENT_ID_REJECTED = 2
    UNAVAILABLE = 3
    BAD_CREDENTIALS = 4
    NOT_AUTHORISED = 5


class Will(msgspec.Struct, frozen=True, gc=False):
    """What to publish when the connection ends without a clean DISCONNECT (par. 3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES


class Connect(msgspec.Struct, frozen=True, gc=False):
    """CONNECT (par. 3.1). `version` is 3 (MQTT 3.1), 4 (3.1.1) or 5; `keepalive` in seconds, 0 = none."""

    client_id: str
    username: str | None = None
    password: bytes | None = None
    clean_start: bool = True
    keepalive: int = 60
    will: Will | None = None
    version: int = MQTT_311
    properties: Properties = NO_PROPERTIES


class ConnAck(msgspec.Struct, frozen=True, gc=False):
    """CONNACK (par. 3.2): `reason` is a `ConnectCode` for 3.1.1 and a `ReasonCode` for 5."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = NO_PROPERTIES


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """PUBACK (par. 3.4); `reason` is always 0 before MQTT 5."""

    packet_id: int
    reason: int = 0
    properties: Properties = NO_PROPERTIES


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """SUBSCRIBE (par. 3.8): filters with their options byte; its low two bits are the greatest QoS, the rest is MQTT 5's."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]
    properties: Properties = NO_PROPERTIES


class SubAck(msgspec.Struct, frozen=True, gc=False):
    """SUBACK (par. 3.9): one code a filter, in their order."""

    packet_id: int
    reasons: tuple[int, ...]
    properties: Properties = NO_PROPERTIES


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """UNSUBSCRIBE (par. 3.10)."""

    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NO_PROPERTIES


class UnsubAck(msgspec.Struct, frozen=True, gc=False):
    """UNSUBACK (par. 3.11): `reasons` only exist in MQTT 5."""

    packet_id: int
    reasons: tuple[int, ...] = ()
    properties: Properties = NO_PROPERTIES


class PingReq(msgspec.Struct, frozen=True, gc=False):
    """PINGREQ (par. 3.12)."""


class PingResp(msgspec.Struct, frozen=True, gc=False):
    """PINGRESP (par. 3.13)."""


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """DISCONNECT (par. 3.14); before MQTT 5 only the client sends it, without a reason."""

    reason: int = 0
    properties: Properties = NO_PROPERTIES


Packet: TypeAlias = Connect | ConnAck | PubAck | Subscribe | SubAck | Unsubscribe | UnsubAck | PingReq | PingResp | Disconnect

CONNACK_REASONS = frozenset((0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F))
PUBACK_REASONS = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
SUBACK_REASONS = frozenset((0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2))
UNSUBACK_REASONS = frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91))
DISCONNECT_REASONS = frozenset((0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, *range(0x93, 0xA3)))
