"""The properties of MQTT 5 (par. 2.2.2): one table, both ways."""

import enum
from typing import Any

import msgspec

from protocols.mqtt.fields import Fields, encode_binary, encode_text, encode_variable, malformed, protocol_error


class Place(enum.IntFlag):
    """Where a property may stand: the columns of table 2-4 in par. 2.2.2.2."""

    CONNECT = enum.auto()
    WILL = enum.auto()
    CONNACK = enum.auto()
    PUBLISH = enum.auto()
    PUBACK = enum.auto()
    SUBSCRIBE = enum.auto()
    SUBACK = enum.auto()
    UNSUBSCRIBE = enum.auto()
    UNSUBACK = enum.auto()
    DISCONNECT = enum.auto()


class Properties(msgspec.Struct, frozen=True, gc=False):
    """What MQTT 5 sends beside a packet's fields; None (or an empty tuple) = absent."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry_interval: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_interval: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user: tuple[tuple[str, str], ...] = ()
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


NO_PROPERTIES = Properties()


class _Kind(enum.Enum):
    BYTE, TWO, FOUR, VARIABLE, TEXT, BINARY, PAIR = range(7)


class _Row(msgspec.Struct, frozen=True):
    """One property: its identifier, its field, its type, where it may stand, and the least and greatest number."""

    identifier: int
    name: str
    kind: _Kind
    places: Place
    least: int = 0
    most: int = 0xFFFF_FFFF


_MESSAGE = Place.PUBLISH | Place.WILL
_CONNECTION = Place.CONNECT | Place.CONNACK
_REASONED = Place.CONNACK | Place.PUBACK | Place.SUBACK | Place.UNSUBACK | Place.DISCONNECT
_EVERYWHERE = Place(2 * Place.DISCONNECT - 1)

_TABLE = (
    _Row(0x01, "payload_format_indicator", _Kind.BYTE, _MESSAGE, most=1),
    _Row(0x02, "message_expiry_interval", _Kind.FOUR, _MESSAGE),
    _Row(0x03, "content_type", _Kind.TEXT, _MESSAGE),
    _Row(0x08, "response_topic", _Kind.TEXT, _MESSAGE),
    _Row(0x09, "correlation_data", _Kind.BINARY, _MESSAGE),
    _Row(0x0B, "subscription_identifiers", _Kind.VARIABLE, Place.PUBLISH | Place.SUBSCRIBE, least=1),
    _Row(0x11, "session_expiry_interval", _Kind.FOUR, _CONNECTION | Place.DISCONNECT),
    _Row(0x12, "assigned_client_identifier", _Kind.TEXT, Place.CONNACK),
    _Row(0x13, "server_keep_alive", _Kind.TWO, Place.CONNACK),
    _Row(0x15, "authentication_method", _Kind.TEXT, _CONNECTION),
    _Row(0x16, "authentication_data", _Kind.BINARY, _CONNECTION),
    _Row(0x17, "request_problem_information", _Kind.BYTE, Place.CONNECT, most=1),
    _Row(0x18, "will_delay_interval", _Kind.FOUR, Place.WILL),
    _Row(0x19, "request_response_information", _Kind.BYTE, Place.CONNECT, most=1),
    _Row(0x1A, "response_information", _Kind.TEXT, Place.CONNACK),
    _Row(0x1C, "server_reference", _Kind.TEXT, Place.CONNACK | Place.DISCONNECT),
    _Row(0x1F, "reason_string", _Kind.TEXT, _REASONED),
    _Row(0x21, "receive_maximum", _Kind.TWO, _CONNECTION, least=1),
    _Row(0x22, "topic_alias_maximum", _Kind.TWO, _CONNECTION),
    _Row(0x23, "topic_alias", _Kind.TWO, Place.PUBLISH),  # 0 has a code of its own: see aliases.py
    _Row(0x24, "maximum_qos", _Kind.BYTE, Place.CONNACK, most=1),
    _Row(0x25, "retain_available", _Kind.BYTE, Place.CONNACK, most=1),
    _Row(0x26, "user", _Kind.PAIR, _EVERYWHERE),
    _Row(0x27, "maximum_packet_size", _Kind.FOUR, _CONNECTION, least=1),
    _Row(0x28, "wildcard_subscription_available", _Kind.BYTE, Place.CONNACK, most=1),
    _Row(0x29, "subscription_identifier_available", _Kind.BYTE, Place.CONNACK, most=1),
    _Row(0x2A, "shared_subscription_available", _Kind.BYTE, Place.CONNACK, most=1),
)
_BY_IDENTIFIER = {row.identifier: row for row in _TABLE}


def _read(fields: Fields, kind: _Kind) -> int | str | bytes | tuple[str, str]:
    match kind:
        case _Kind.BYTE:
            return fields.byte()
        case _Kind.TWO:
            return fields.two()
        case _Kind.FOUR:
            return fields.four()
        case _Kind.VARIABLE:
            return fields.variable()
        case _Kind.TEXT:
            return fields.text()
        case _Kind.BINARY:
            return fields.binary()
        case _Kind.PAIR:
            return fields.text(), fields.text()


def decode_properties(fields: Fields, place: Place) -> Properties:
    """Properties from their length on; raises `Refused` for one that is unknown, misplaced, doubled or out of range (par. 2.2.2.2)."""
    size = fields.variable()
    if not size:
        return NO_PROPERTIES
    inside = Fields(fields.raw(size))
    found: dict[str, Any] = {}
    user: list[tuple[str, str]] = []
    subscriptions: list[int] = []
    while inside.left:
        row = _BY_IDENTIFIER.get(inside.variable())
        if row is None:
            raise malformed("a property is unknown")
        if place not in row.places:
            raise protocol_error(f"property {row.name} has no place in {place.name}")
        value = _read(inside, row.kind)
        if isinstance(value, int) and not row.least <= value <= row.most:
            raise protocol_error(f"property {row.name} is {value}")
        if isinstance(value, tuple):
            user.append(value)
        elif row.kind is _Kind.VARIABLE and isinstance(value, int):
            if subscriptions and place is not Place.PUBLISH:
                raise protocol_error("a subscription has two identifiers")
            subscriptions.append(value)
        elif row.name in found:
            raise protocol_error(f"property {row.name} stands twice")
        else:
            found[row.name] = value
    return Properties(user=tuple(user), subscription_identifiers=tuple(subscriptions), **found)


def _write(kind: _Kind, value: object) -> bytes:
    match kind, value:
        case _Kind.BYTE, int():
            return value.to_bytes(1, "big")
        case _Kind.TWO, int():
            return value.to_bytes(2, "big")
        case _Kind.FOUR, int():
            return value.to_bytes(4, "big")
        case _Kind.VARIABLE, int():
            return encode_variable(value)
        case _Kind.TEXT, str():
            return encode_text(value)
        case _Kind.BINARY, bytes():
            return encode_binary(value)
        case _Kind.PAIR, (str() as name, str() as text):
            return encode_text(name) + encode_text(text)
    raise TypeError(f"{value!r} is no {kind.name}")


def encode_properties(properties: Properties, place: Place) -> bytes:
    """Properties with their length; raises `Refused` for one that has no place there or is out of range."""
    if properties is NO_PROPERTIES:
        return b"\0"
    parts: list[bytes] = []
    for row in _TABLE:
        held = getattr(properties, row.name)
        for value in held if isinstance(held, tuple) else () if held is None else (held,):
            if place not in row.places:
                raise protocol_error(f"property {row.name} has no place in {place.name}")
            if isinstance(value, int) and not row.least <= value <= row.most:
                raise protocol_error(f"property {row.name} is {value}")
            parts.append(bytes((row.identifier,)) + _write(row.kind, value))
    body = b"".join(parts)
    return encode_variable(len(body)) + body
