"""What goes to one client: packets in order, none larger than it takes, topics by alias where it offered that, the unsent counted."""

import math

import msgspec

from protocols.mqtt.aliases import SentAliases
from protocols.mqtt.downlink import NEVER, Message
from protocols.mqtt.encoder import encode
from protocols.mqtt.packets import MQTT_5, ConnAck, Disconnect, PubAck, SubAck, UnsubAck
from protocols.mqtt.properties import Properties
from protocols.mqtt.run import encode_publish

UNBOUNDED = 1 << 62


def words(text: str) -> Properties:
    """A reason string, of 200 characters at most."""
    return Properties(reason_string=text[:200])


class Outbound:
    """Bytes that wait for the socket. `packet_maximum` and `alias_maximum` are what the client said (MQTT 5 par. 3.1.2.11)."""

    __slots__ = ("_aliases", "_packets", "alias_maximum", "packet_maximum", "unsent", "version")

    def __init__(self) -> None:
        self.version = 4
        self.packet_maximum = UNBOUNDED
        self.alias_maximum = 0
        self.unsent = 0
        self._packets: list[bytes] | None = None  # most of the time nothing waits
        self._aliases: SentAliases | None = None  # made when needed

    def take(self) -> bytes:
        """The bytes to send now; b"" if none."""
        packets = self._packets
        if not packets:
            return b""
        data = packets[0] if len(packets) == 1 else b"".join(packets)
        self._packets = None
        self.unsent = 0
        return data

    def queue(self, packets: bytes) -> None:
        """Packets that any client takes."""
        if self._packets is None:
            self._packets = [packets]
        else:
            self._packets.append(packets)
        self.unsent += len(packets)

    def send(self, packet: bytes) -> bool:
        """Queue a packet unless it is larger than the client takes: such a one is dropped (par. 3.1.2.11.4)."""
        if len(packet) > self.packet_maximum:
            return False
        self.queue(packet)
        return True

    def explain(self, packet: ConnAck | Disconnect | PubAck | SubAck | UnsubAck, text: str = "") -> None:
        """Send an answer with words for MQTT 5, without them where they do not fit (par. 3.2.2.3.9, 3.14.2.2.3)."""
        if text and self.version == MQTT_5:
            told = encode(msgspec.structs.replace(packet, properties=words(text)), MQTT_5)
            if len(told) <= self.packet_maximum:
                return self.queue(told)
        self.send(encode(packet, self.version))
        return None

    def publish(self, message: Message, qos: int = 0, packet_id: int = 0, dup: bool = False, now: float = 0.0) -> bool:
        """Send a message, for MQTT 5 with the seconds it has left (par. 3.3.2.3.3); False when it is too large for the client."""
        topic, alias, left = message.topic, None, None
        if self.version == MQTT_5:
            if self.alias_maximum and message.room <= self.packet_maximum:  # an alias that is given has to arrive
                if self._aliases is None:
                    self._aliases = SentAliases(self.alias_maximum)
                topic, alias = self._aliases.write(topic)
            left = None if message.expires == NEVER else math.ceil(message.expires - now)
        properties = None if alias is None and left is None else Properties(topic_alias=alias, message_expiry_interval=left)
        return self.send(encode_publish(topic, message.payload, qos, packet_id, dup=dup, version=self.version, properties=properties))
