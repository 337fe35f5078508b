"""Packets to bytes (MQTT 5 par. 3; 3.1.1 where `version` is below 5)."""

from protocols.errors import Reason, Refused
from protocols.mqtt.fields import (
    check_topic_filter,
    encode_binary,
    encode_text,
    encode_topic_name,
    encode_variable,
    malformed,
)
from protocols.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from protocols.mqtt.properties import Place, Properties, encode_properties
from protocols.mqtt.run import PublishRun

PINGREQ = b"\xc0\0"
PINGRESP = b"\xd0\0"


def _frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_variable(len(body)) + body


def _packet_id(value: int) -> bytes:
    if not 0 < value < 65_536:
        raise malformed(f"a packet identifier is {value}")
    return value.to_bytes(2, "big")


def _reasoned(reason: int, properties: Properties, place: Place) -> bytes:
    """A reason code and properties, left out from the right where they say nothing (par. 3.4.2.1, 3.14.2.1)."""
    encoded = encode_properties(properties, place)
    if encoded != b"\0":
        return bytes((reason,)) + encoded
    return bytes((reason,)) if reason else b""


def _connect(packet: Connect) -> bytes:
    version = packet.version
    if version not in (3, 4, 5):
        raise Refused(Reason.UNSUPPORTED_VERSION, f"MQTT level {version} is none of 3, 4, 5")
    flags = packet.clean_start << 1
    payload = encode_text(packet.client_id)
    if packet.will is not None:
        will = packet.will
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        if version == 5:
            payload += encode_properties(will.properties, Place.WILL)
        payload += encode_topic_name(will.topic) + encode_binary(will.payload)
    if packet.username is not None:
        flags |= 0x80
        payload += encode_text(packet.username)
    if packet.password is not None:
        if packet.username is None and version < 5:
            raise malformed("a password without a user name needs MQTT 5")
        flags |= 0x40
        payload += encode_binary(packet.password)
    head = encode_text("MQIsdp" if version == 3 else "MQTT") + bytes((version, flags)) + packet.keepalive.to_bytes(2, "big")
    if version == 5:
        head += encode_properties(packet.properties, Place.CONNECT)
    return _frame(0x10, head + payload)


def encode(packet: Packet | PublishRun, version: int = 4) -> bytes:
    """A packet's bytes in `version` (3, 4 or 5; a CONNECT carries its own); raises `Refused` for what MQTT cannot say."""
    modern = version == 5
    match packet:
        case PublishRun():
            return packet.data
        case PubAck():
            tail = _reasoned(packet.reason, packet.properties, Place.PUBACK) if modern else b""
            return _frame(0x40, _packet_id(packet.packet_id) + tail)
        case PingReq():
            return PINGREQ
        case PingResp():
            return PINGRESP
        case Connect():
            return _connect(packet)
        case ConnAck():
            tail = encode_properties(packet.properties, Place.CONNACK) if modern else b""
            return _frame(0x20, bytes((packet.session_present, packet.reason)) + tail)
        case Subscribe():
            head = _packet_id(packet.packet_id) + (encode_properties(packet.properties, Place.SUBSCRIBE) if modern else b"")
            filters = (encode_text(check_topic_filter(text)) + bytes((options,)) for text, options in packet.filters)
            return _frame(0x82, head + b"".join(filters))
        case SubAck():
            head = _packet_id(packet.packet_id) + (encode_properties(packet.properties, Place.SUBACK) if modern else b"")
            return _frame(0x90, head + bytes(packet.reasons))
        case Unsubscribe():
            head = _packet_id(packet.packet_id) + (encode_properties(packet.properties, Place.UNSUBSCRIBE) if modern else b"")
            return _frame(0xA2, head + b"".join(encode_text(check_topic_filter(text)) for text in packet.filters))
        case UnsubAck():
            head = _packet_id(packet.packet_id)
            return _frame(0xB0, head + encode_properties(packet.properties, Place.UNSUBACK) + bytes(packet.reasons) if modern else head)
        case Disconnect():
            return _frame(0xE0, _reasoned(packet.reason, packet.properties, Place.DISCONNECT) if modern else b"")
