"""What other roles ask of the front door, over the bus."""

from collections.abc import Mapping, Sequence

import msgspec

from cloud.access.model import (
    DELIVER_SUBJECT,
    DOWN_SUBJECT,
    REPLAY_SUBJECT,
    Delivered,
    Downlink,
    ReplayAnswer,
    ReplayRequest,
    encode_downlink,
    encode_downlinks,
)
from cloud.foundation.bus import Bus
from protocols.alink.messages import property_set
from protocols.alink.topics import Kind, Topic
from protocols.edgelink.messages import Command, encode_message
from protocols.edgelink.topics import EdgeChannel, EdgeTopic

DELIVER_TIMEOUT_S = 3.0
REPLAY_TIMEOUT_S = 6.0

_decode_replayed = msgspec.msgpack.Decoder(ReplayAnswer).decode
_decode_delivered = msgspec.msgpack.Decoder(Delivered).decode


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

    async def deliver_command(
        self,
        target: tuple[str, str],
        gateway: tuple[str, str] | None,
        command_id: str,
        method: str,
        params: Mapping[str, object],
        expires_ms: int,
    ) -> bool:
        """True: a session took it. Raises TryAgain when the front door does not answer."""
        if gateway is None:
            topic, payload = str(Topic(Kind.PROPERTY_SET, *target)), property_set(command_id, params)
            message = Downlink(*target, topic, payload, qos=1, expires_ms=expires_ms)
        else:
            topic = str(EdgeTopic(*gateway, EdgeChannel.DOWN_COMMAND))
            payload = encode_message(Command(command_id, *target, method, dict(params), expires_ms))
            message = Downlink(*gateway, topic, payload, qos=1)  # the gateway looks at the command's own time
        answer = await self._bus.request(DELIVER_SUBJECT, encode_downlink(message), timeout_s=DELIVER_TIMEOUT_S)
        return _decode_delivered(answer).delivered
