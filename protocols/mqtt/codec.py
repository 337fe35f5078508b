"""Bytes to packets (MQTT 5 par. 2 and 3; 3.1.1 likewise, 3.1 tolerated), and the one place to import the codec's names from.

PUBLISH is the hot packet: it never becomes an object a message. Consecutive ones that look alike come out as one `PublishRun`.
"""

from protocols.errors import Reason, Refused
from protocols.mqtt.aliases import ReceivedAliases
from protocols.mqtt.bodies import TO_CLIENT, TO_SERVER
from protocols.mqtt.encoder import encode
from protocols.mqtt.fields import Fields, check_topic_name, decode_text, malformed, protocol_error
from protocols.mqtt.offence import how_it_began
from protocols.mqtt.packets import (
    MAX_PACKET,
    ConnAck,
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    ReasonCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from protocols.mqtt.properties import NO_PROPERTIES, Place, Properties, decode_properties
from protocols.mqtt.run import PublishRun, encode_publish

__all__ = [
    "MAX_PACKET",
    "NO_PROPERTIES",
    "ConnAck",
    "Connect",
    "ConnectCode",
    "Decoder",
    "Disconnect",
    "Packet",
    "PingReq",
    "PingResp",
    "Properties",
    "PubAck",
    "PublishRun",
    "ReasonCode",
    "SubAck",
    "Subscribe",
    "UnsubAck",
    "Unsubscribe",
    "Will",
    "encode",
    "encode_publish",
]


class Decoder:
    """Turns a stream of bytes into packets, whatever way the stream is cut; one per connection and direction.

    `version` is the one spoken (a server learns it from CONNECT), `max_packet` the largest packet taken, in bytes with its header,
    `alias_maximum` how many topic aliases the other end was offered.
    """

    __slots__ = (
        "_aliases",
        "_name",
        "_need",
        "_tail",
        "_topic",
        "alias_maximum",
        "max_packet",
        "offence",
        "refused",
        "server_side",
        "version",
    )

    def __init__(self, version_hint: int = 4, max_packet: int = MAX_PACKET, server_side: bool = True) -> None:
        self.version = version_hint
        self.max_packet = max_packet
        self.server_side = server_side
        self.refused: Refused | None = None
        self.offence = b""
        self.alias_maximum = 0
        self._aliases: ReceivedAliases | None = None
        self._tail: bytearray | None = None
        self._need = 0
        self._name = b""
        self._topic = ""

    @property
    def pending(self) -> int:
        """Bytes held because their packet is not complete (or because they follow a CONNECT)."""
        return len(self._tail) if self._tail is not None else 0

    def hold(self, data: bytes) -> None:
        """Keep bytes for a later `feed(b"")`, unread."""
        if self._tail is None:
            self._tail, self._need = bytearray(), 0
        self._tail += data

    def forget(self) -> None:
        """Let go of bytes that nobody will ask for."""
        self._tail = None

    def feed(self, data: bytes) -> list[Packet | PublishRun]:
        """The packets that `data` completes; raises `Refused`, after which the stream is lost.

        Packets before a bad one are returned first: then `refused` is set, and the next call raises it. `offence` is how the bad one began.
        A CONNECT ends the list, since what follows depends on its answer: `feed(b"")` goes on behind it.
        """
        if self.refused is not None:
            raise self.refused
        if self._tail is not None:
            self._tail += data  # a bytearray grows in place: a large packet in small reads stays linear
            if len(self._tail) < self._need:
                return []
            data = bytes(self._tail)
            self._tail = None
        packets: list[Packet | PublishRun] = []
        try:
            at = self._scan(data, packets)
        except Refused as refused:
            self.refused = refused
            before = sum(packet.count if isinstance(packet, PublishRun) else 1 for packet in packets)
            self.offence = how_it_began(data, before)
            if not packets:
                raise
            return packets
        if at < len(data):
            self._tail = bytearray(data[at:] if at else data)
        return packets

    def _scan(self, data: bytes, packets: list[Packet | PublishRun]) -> int:
        """Appends what `data` holds to `packets`; where the first incomplete packet starts, with its size so far as known in `_need`."""
        at, end = 0, len(data)
        while at < end:
            first = data[at]
            body = at + 2
            if body > end:
                self._need = 2
                return at
            length = data[at + 1]
            if length > 127:  # par. 2.1.4; the other three bytes
                length &= 127
                for shift in (7, 14, 21):
                    if body == end:
                        self._need = body - at + 1
                        return at
                    digit = data[body]
                    length |= (digit & 127) << shift
                    body += 1
                    if digit < 128:
                        break
                else:
                    raise malformed("a remaining length has more than four bytes")
                # MQTT 5 par. 1.5.5; 3.1.1 does not ask for the shortest form, and modems pad it
                if not digit and self.version == 5:
                    raise malformed("a remaining length is longer than it needs to be")
            stop = body + length
            if stop - at > self.max_packet:
                raise self._too_large(stop - at)
            if stop > end:
                self._need = stop - at
                return at
            if 0x30 <= first < 0x40:
                run = self._run(data, at, body, stop, end)
                packets.append(run)
                at += run.count * run.stride
                continue
            if first == 0x40 and length == 2:  # a load generator reads little else
                packet_id = data[body] << 8 | data[body + 1]
                if not packet_id:
                    raise malformed("a packet identifier is 0")
                packets.append(PubAck(packet_id))
                at = stop
                continue
            packet = self._packet(first, data[body:stop])
            packets.append(packet)
            at = stop
            if first == 0x10:
                self._need = 0
                return at
        return at

    def _packet(self, first: int, body: bytes) -> Packet:
        if self.version == 3 and first in (0x8A, 0xAA):
            first &= 0xF7  # MQTT 3.1 par. 3.8, 3.10: these may be duplicates
        decode = (TO_SERVER if self.server_side else TO_CLIENT).get(first)
        if decode is None:
            raise self._unexpected(first)
        fields = Fields(body)
        packet = decode(fields, self.version)
        fields.finish()
        if isinstance(packet, Connect):
            self.version = packet.version
        return packet

    def _too_large(self, size: int) -> Refused:
        text = f"a packet of {size} bytes is larger than the {self.max_packet} that are taken here: send less at once"
        return Refused(Reason.PACKET_TOO_LARGE, text)

    def _unexpected(self, first: int) -> Refused:
        known = {kind & 0xF0 for kind in (TO_SERVER if self.server_side else TO_CLIENT)}
        if first & 0xF0 in known:
            return malformed(f"a packet has the reserved flags 0x{first & 15:X}")
        if first >> 4 in (5, 6, 7):
            return Refused(Reason.UNSUPPORTED_QOS, "QoS 2 is not spoken here")
        if not first >> 4:
            return malformed("packet type 0 is reserved")
        return protocol_error(f"packet type {first >> 4} has no place in this direction")

    def _run(self, data: bytes, at: int, body: int, stop: int, end: int) -> PublishRun:
        """The PUBLISH at `at` (par. 3.3) and those behind it that look the same."""
        first = data[at]
        qos = first >> 1 & 3
        if qos > 1:
            if qos == 3:
                raise malformed("PUBLISH has QoS 3")
            raise Refused(Reason.UNSUPPORTED_QOS, "QoS 2 is not spoken here")
        if first & 0x0A == 0x08:
            raise malformed("PUBLISH has DUP at QoS 0")
        after = body + 2
        name_end = after + (data[body] << 8 | data[body + 1]) if after <= stop else after
        payload = name_end + 2 * qos
        if payload > stop:
            raise malformed("PUBLISH ends inside its topic or packet identifier")
        name = data[after:name_end]
        if name != self._name or not name:
            topic = decode_text(name)
            if topic or self.version < 5:
                self._topic = check_topic_name(topic)
                self._name = name
        topic = self._topic if name else ""
        stride = stop - at
        prefix = data[at:name_end]
        follow, last = stop, end - stride
        properties = NO_PROPERTIES
        if self.version == 5:
            start = payload
            if payload < stop and not data[payload]:
                payload += 1
            else:
                properties, payload = self._publish_properties(data, payload, stop)
            if not name or properties.topic_alias is not None:
                topic = self._aliased(topic, properties.topic_alias)
            extra, shift = data[start:payload], start - at
            while follow <= last and data.startswith(prefix, follow) and data.startswith(extra, follow + shift):
                follow += stride
        else:
            while follow <= last and data.startswith(prefix, follow):
                follow += stride
        count = (follow - at) // stride
        ids = b""
        if qos:
            if count == 1:
                ids = data[name_end : name_end + 2]
                if ids == b"\0\0":
                    raise malformed("a packet identifier is 0")
            else:
                high, low = data[name_end:follow:stride], data[name_end + 1 : follow : stride]
                if 0 in low and any(not one and not two for one, two in zip(high, low, strict=True)):
                    # Only the first is refused here; the run ends before a later one, which is then refused in its turn.
                    count = list(zip(high, low, strict=True)).index((0, 0))
                    if not count:
                        raise malformed("a packet identifier is 0")
                    follow = at + count * stride
                    high, low = high[:count], low[:count]
                both = bytearray(2 * count)
                both[0::2] = high
                both[1::2] = low
                ids = bytes(both)
        held = data if not at and follow == end else data[at:follow]
        # Positional, in the order of the fields: naming them costs a tenth of the whole run.
        return PublishRun(topic, qos, first & 1 == 1, first & 8 == 8, count, held, payload - at, stride, stop - payload, ids, properties)

    def _publish_properties(self, data: bytes, start: int, stop: int) -> tuple[Properties, int]:
        fields = Fields(data[start:stop])
        properties = decode_properties(fields, Place.PUBLISH)
        if properties.response_topic is not None:
            check_topic_name(properties.response_topic)
        if self.server_side and properties.subscription_identifiers:
            raise protocol_error("a client sent a subscription identifier with PUBLISH")
        return properties, start + fields.at

    def _aliased(self, topic: str, alias: int | None) -> str:
        if self._aliases is None:
            self._aliases = ReceivedAliases(self.alias_maximum)
        return self._aliases.resolve(topic, alias)
