"""What other roles ask of the front door, over the bus."""

from collections.abc import Sequence

import msgspec

from cloud.access.model import (
    BROADCAST_SUBJECT,
    DELIVER_SUBJECT,
    DOWN_SUBJECT,
    REPLAY_SUBJECT,
    Broadcast,
    Delivered,
    Downlink,
    Reached,
    ReplayAnswer,
    ReplayRequest,
    encode_downlink,
    encode_downlinks,
)
from cloud.devices.model import Order
from cloud.foundation.bus import Bus
from protocols.alink.messages import command_topic, encode_command
from protocols.alink.topics import Kind, Topic
from protocols.edgelink.messages import Command, encode_message
from protocols.edgelink.topics import EdgeChannel, EdgeTopic

DELIVER_TIMEOUT_S = 3.0
REPLAY_TIMEOUT_S = 6.0
BROADCAST_TIMEOUT_S = 20.0

_decode_replayed = msgspec.msgpack.Decoder(ReplayAnswer).decode
_decode_delivered = msgspec.msgpack.Decoder(Delivered).decode
_decode_reached = msgspec.msgpack.Decoder(Reached).decode


async def send_down(bus: Bus, messages: Sequence[Downlink]) -> None:
    """Send messages to devices that are connected, at most once. Raises BusAway."""
    await bus.publish(DOWN_SUBJECT, encode_downlinks(messages))


async def replay(bus: Bus, request: ReplayRequest) -> bool:
    """Put a message out of the quarantine into the stream; False when it did not get on disk in time. Raises TryAgain."""
    answer = await bus.request(REPLAY_SUBJECT, msgspec.msgpack.encode(request), timeout_s=REPLAY_TIMEOUT_S)
    return _decode_replayed(answer).committed


class AccessDownlink:
    """`cloud.devices.ports.Downlink` on the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def deliver_command(self, order: Order) -> bool:
        """True: a session took it. Raises TryAgain when the front door does not answer."""
        message = downlink_of(order)
        answer = await self._bus.request(DELIVER_SUBJECT, encode_downlink(message), timeout_s=DELIVER_TIMEOUT_S)
        return _decode_delivered(answer).delivered

    async def deliver_message(self, target: tuple[str, str], topic: str, payload: bytes, qos: int = 0) -> bool:
        """The same for any other message."""
        message = Downlink(*target, topic, payload, qos)
        answer = await self._bus.request(DELIVER_SUBJECT, encode_downlink(message), timeout_s=DELIVER_TIMEOUT_S)
        return _decode_delivered(answer).delivered

    async def tell_all(self, product_key: str, kind: Kind, payload: bytes, qos: int = 0, *, call: str = "") -> int:
        """Each connected device of a product, on its own topic of this kind."""
        return await self._broadcast(Broadcast(product_key, payload, qos, kind=kind.value, call=call))

    async def tell_subscribers(self, product_key: str, topic: str, payload: bytes, qos: int = 0) -> int:
        """Those that subscribed `topic`."""
        return await self._broadcast(Broadcast(product_key, payload, qos, topic=topic))

    async def _broadcast(self, message: Broadcast) -> int:
        answer = await self._bus.request(BROADCAST_SUBJECT, msgspec.msgpack.encode(message), timeout_s=BROADCAST_TIMEOUT_S)
        return _decode_reached(answer).devices


def downlink_of(order: Order) -> Downlink:
    """The message that carries a command: a gateway of ours is told at QoS 1 and remembers it, a device once, at QoS 0."""
    if order.gateway is not None:  # it looks at the command's own time
        topic = str(EdgeTopic(*order.gateway, EdgeChannel.DOWN_COMMAND))
        payload = encode_message(Command(order.command_id, *order.target, order.method, order.params, order.expires_ms))
        return Downlink(*order.gateway, topic, payload, qos=1)
    if order.raw is not None:
        return Downlink(*order.target, str(Topic(Kind.RAW_DOWN, *order.target)), order.raw, expires_ms=order.expires_ms)
    payload = encode_command(order.command_id, order.method, order.params)
    kind, name = command_topic(order.method)
    topic, modern = str(Topic(kind, *order.target, name)), ""
    if order.is_call:  # the device takes the answer's place from the topic: which one depends on what its SDK can do
        topic = str(Topic(Kind.RRPC_REQUEST, *order.target, call=order.command_id))
        modern = str(Topic(Kind.RRPC_SERVICE, *order.target, name, order.command_id))
    return Downlink(*order.target, topic, payload, expires_ms=order.expires_ms, modern_topic=modern)
