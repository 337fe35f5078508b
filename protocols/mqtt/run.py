"""PUBLISH: many alike as one value, and the fast way to write one (MQTT 5 par. 3.3)."""

from typing import Self

import msgspec

from protocols.mqtt.fields import encode_topic_name, encode_variable
from protocols.mqtt.properties import NO_PROPERTIES, Place, Properties, encode_properties


class PublishRun(msgspec.Struct, frozen=True, gc=False):
    """Consecutive PUBLISH packets of one read with the same fixed header, topic and properties: one value, no object a message.

    `data` holds the `count` packets back to back; payload i is `data[first + i * stride:][:size]`.
    `packet_ids` holds two big-endian bytes a message, nothing for QoS 0.
    """

    topic: str
    qos: int
    retain: bool
    dup: bool
    count: int
    data: bytes
    first: int
    stride: int
    size: int
    packet_ids: bytes = b""
    properties: Properties = NO_PROPERTIES

    def payloads(self) -> list[bytes]:
        """The payloads in arrival order."""
        data, size, stride = self.data, self.size, self.stride
        return [data[at : at + size] for at in range(self.first, self.first + self.count * stride, stride)]

    def acks(self, reason: int = 0, version: int = 4) -> bytes:
        """The PUBACKs of the run in arrival order (par. 3.4), nothing for QoS 0; a reason other than 0 needs MQTT 5 (ValueError)."""
        if not self.qos:
            return b""
        ids = self.packet_ids
        if not reason:  # par. 3.4.2.1: the reason may be left out when it is success
            packets = bytearray(b"\x40\x02\0\0" * self.count)
            packets[2::4] = ids[0::2]
            packets[3::4] = ids[1::2]
            return bytes(packets)
        if version < 5:
            raise ValueError("a PUBACK before MQTT 5 cannot say no: close the connection")
        packets = bytearray(bytes((0x40, 3, 0, 0, reason)) * self.count)
        packets[2::5] = ids[0::2]
        packets[3::5] = ids[1::2]
        return bytes(packets)

    def part(self, start: int, stop: int) -> Self:
        """Messages `start` to `stop` (exclusive) as a run of their own; ValueError if there is none."""
        start, stop, _ = slice(start, stop).indices(self.count)
        if start >= stop:
            raise ValueError(f"no messages from {start} to {stop}")
        if stop - start == self.count:
            return self
        return msgspec.structs.replace(
            self,
            count=stop - start,
            data=self.data[start * self.stride : stop * self.stride],
            packet_ids=self.packet_ids[2 * start : 2 * stop],
        )


def encode_publish(
    topic: str,
    payload: bytes,
    qos: int = 0,
    packet_id: int = 0,
    retain: bool = False,
    dup: bool = False,
    version: int = 4,
    properties: Properties | None = None,
) -> bytes:
    """One PUBLISH packet; raises `Refused` for a bad topic, ValueError for a QoS, packet id or DUP that cannot be (par. 3.3.1, 2.2.1).

    The topic may be empty where a topic alias stands for it.
    """
    variable = b"\0\0" if not topic and properties is not None and properties.topic_alias else encode_topic_name(topic)
    if qos:
        if qos > 2 or not 0 < packet_id < 65_536:
            raise ValueError(f"QoS {qos} with packet id {packet_id}")
        variable += packet_id.to_bytes(2, "big")
    elif dup or packet_id:
        raise ValueError("QoS 0 has no packet id and no DUP")
    if version == 5:
        variable += encode_properties(properties, Place.PUBLISH) if properties else b"\0"
    size = len(variable) + len(payload)
    first = 0x30 | dup << 3 | qos << 1 | retain
    if size < 128:
        return bytes((first, size)) + variable + payload
    if size < 16_384:
        return bytes((first, size & 127 | 128, size >> 7)) + variable + payload
    return bytes((first,)) + encode_variable(size) + variable + payload


def count_acks(acks: bytes) -> int:
    """How many PUBACKs stand back to back.

    >>> count_acks(bytes.fromhex("40020001 4003000287 40020003"))
    3
    """
    if len(acks) < 8:
        return 1 if acks else 0
    count, rest = divmod(len(acks), 4)
    if not rest and acks[0::4] == b"\x40" * count and acks[1::4] == b"\x02" * count:
        return count
    count = at = 0
    while at < len(acks):
        at += 1
        size = shift = 0
        while acks[at] > 127:
            size |= (acks[at] & 127) << shift
            shift += 7
            at += 1
        at += 1 + (size | acks[at] << shift)
        count += 1
    return count
