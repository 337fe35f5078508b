"""The bodies of packets, read and checked: all but PUBLISH, which the decoder reads itself (MQTT 5 par. 3; 3.1.1 par. 3)."""

from collections.abc import Callable

from protocols.errors import Reason, Refused
from protocols.mqtt.fields import Fields, check_topic_filter, check_topic_name, malformed, protocol_error
from protocols.mqtt.packets import (
    CONNACK_REASONS,
    DISCONNECT_REASONS,
    PUBACK_REASONS,
    SUBACK_REASONS,
    UNSUBACK_REASONS,
    ConnAck,
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from protocols.mqtt.properties import NO_PROPERTIES, Place, decode_properties

_PINGREQ, _PINGRESP = PingReq(), PingResp()
_PROTOCOLS = {("MQIsdp", 3), ("MQTT", 4), ("MQTT", 5)}


def _connect(fields: Fields) -> Connect:
    """CONNECT (MQTT 5 par. 3.1)."""
    name, version, flags = fields.text(), fields.byte(), fields.byte()
    if name not in ("MQTT", "MQIsdp"):
        raise protocol_error("the protocol name is not MQTT")
    if (name, version) not in _PROTOCOLS:
        raise Refused(Reason.UNSUPPORTED_VERSION, f"{name} level {version} is not spoken here; 3.1, 3.1.1 and 5 are")
    if flags & 0x01:
        raise malformed("the reserved flag of CONNECT is set")
    has_will, will_qos = flags & 0x04, flags >> 3 & 3
    if will_qos == 3 or (not has_will and flags & 0x38):
        raise malformed("the will flags of CONNECT contradict each other")
    if version < 5 and flags & 0x40 and not flags & 0x80:
        raise malformed("CONNECT has a password without a user name")
    keepalive = fields.two()
    properties = decode_properties(fields, Place.CONNECT) if version == 5 else NO_PROPERTIES
    if properties.authentication_data is not None and properties.authentication_method is None:
        raise protocol_error("CONNECT has authentication data without a method")
    client_id = fields.text()
    will = None
    if has_will:
        will_properties = decode_properties(fields, Place.WILL) if version == 5 else NO_PROPERTIES
        will = Will(check_topic_name(fields.text()), fields.binary(), will_qos, bool(flags & 0x20), will_properties)
    username = fields.text() if flags & 0x80 else None
    password = fields.binary() if flags & 0x40 else None
    return Connect(client_id, username, password, bool(flags & 0x02), keepalive, will, version, properties)


def _reason(fields: Fields, allowed: frozenset[int], what: str) -> int:
    reason = fields.byte()
    if reason not in allowed:
        raise malformed(f"{what} has the reason 0x{reason:02X}, which it cannot have")
    return reason


def _connack(fields: Fields, version: int) -> ConnAck:
    """CONNACK (par. 3.2)."""
    flags = fields.byte()
    if flags > 1:
        raise malformed("reserved flags of CONNACK are set")
    if version == 5:
        reason = _reason(fields, CONNACK_REASONS, "CONNACK")
        properties = decode_properties(fields, Place.CONNACK)
    else:
        reason, properties = fields.byte(), NO_PROPERTIES
        if reason > ConnectCode.NOT_AUTHORISED:
            raise malformed(f"CONNACK has the code {reason}")
    if flags and reason:
        raise protocol_error("CONNACK refuses and has a session")
    return ConnAck(bool(flags), reason, properties)


def _puback(fields: Fields, version: int) -> PubAck:
    """PUBACK (par. 3.4)."""
    packet_id = fields.packet_id()
    if version < 5 or not fields.left:
        return PubAck(packet_id)
    reason = _reason(fields, PUBACK_REASONS, "PUBACK")
    return PubAck(packet_id, reason, decode_properties(fields, Place.PUBACK) if fields.left else NO_PROPERTIES)


def _subscribe(fields: Fields, version: int) -> Subscribe:
    """SUBSCRIBE (par. 3.8)."""
    packet_id = fields.packet_id()
    properties = decode_properties(fields, Place.SUBSCRIBE) if version == 5 else NO_PROPERTIES
    filters: list[tuple[str, int]] = []
    while fields.left:
        text, options = check_topic_filter(fields.text()), fields.byte()
        if options & 3 == 3 or options & (0xC0 if version == 5 else 0xFC) or options & 0x30 == 0x30:
            raise malformed(f"SUBSCRIBE has the options 0x{options:02X}")
        if options & 4 and text.startswith("$share/"):
            raise protocol_error("a shared subscription has No Local")
        filters.append((text, options))
    if not filters:
        raise protocol_error("SUBSCRIBE has no filter")
    return Subscribe(packet_id, tuple(filters), properties)


def _suback(fields: Fields, version: int) -> SubAck:
    """SUBACK (par. 3.9)."""
    packet_id = fields.packet_id()
    properties = decode_properties(fields, Place.SUBACK) if version == 5 else NO_PROPERTIES
    reasons = tuple(fields.raw(fields.left))
    if not reasons or not SUBACK_REASONS.issuperset(reasons) or (version < 5 and not {0, 1, 2, 0x80}.issuperset(reasons)):
        raise malformed(f"SUBACK has the codes {reasons}")
    return SubAck(packet_id, reasons, properties)


def _unsubscribe(fields: Fields, version: int) -> Unsubscribe:
    """UNSUBSCRIBE (par. 3.10)."""
    packet_id = fields.packet_id()
    properties = decode_properties(fields, Place.UNSUBSCRIBE) if version == 5 else NO_PROPERTIES
    filters: list[str] = []
    while fields.left:
        filters.append(check_topic_filter(fields.text()))
    if not filters:
        raise protocol_error("UNSUBSCRIBE has no filter")
    return Unsubscribe(packet_id, tuple(filters), properties)


def _unsuback(fields: Fields, version: int) -> UnsubAck:
    """UNSUBACK (par. 3.11)."""
    packet_id = fields.packet_id()
    if version < 5:
        return UnsubAck(packet_id)
    properties = decode_properties(fields, Place.UNSUBACK)
    reasons = tuple(fields.raw(fields.left))
    if not reasons or not UNSUBACK_REASONS.issuperset(reasons):
        raise malformed(f"UNSUBACK has the codes {reasons}")
    return UnsubAck(packet_id, reasons, properties)


def _disconnect(fields: Fields, version: int) -> Disconnect:
    """DISCONNECT (par. 3.14)."""
    if version < 5 or not fields.left:
        return Disconnect()
    reason = _reason(fields, DISCONNECT_REASONS, "DISCONNECT")
    return Disconnect(reason, decode_properties(fields, Place.DISCONNECT) if fields.left else NO_PROPERTIES)


def _pingreq(_fields: Fields, _version: int) -> PingReq:
    return _PINGREQ


def _pingresp(_fields: Fields, _version: int) -> PingResp:
    return _PINGRESP


Decode = Callable[[Fields, int], Packet]
# By the first byte, reserved flags included (par. 2.1.3): what a server reads, and what a client reads.
TO_SERVER: dict[int, Decode] = {
    0x10: lambda fields, _version: _connect(fields),
    0x40: _puback,
    0x82: _subscribe,
    0xA2: _unsubscribe,
    0xC0: _pingreq,
    0xE0: _disconnect,
}
TO_CLIENT: dict[int, Decode] = {0x20: _connack, 0x40: _puback, 0x90: _suback, 0xB0: _unsuback, 0xD0: _pingresp, 0xE0: _disconnect}
