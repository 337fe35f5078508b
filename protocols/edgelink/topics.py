"""The topics between a gateway and the cloud: one grammar, both ways."""

import enum
import re
from dataclasses import dataclass
from typing import Self

from protocols.edgelink.lanes import LANES, Lane
from protocols.errors import Reason, Refused


class EdgeChannel(enum.StrEnum):
    """The end of an edge topic: direction and what travels there."""

    UP_ALARM = "up/alarm"
    UP_REPLY = "up/reply"
    UP_LIVE = "up/live"
    UP_BULK = "up/bulk"
    UP_EXCHANGE = "up/exchange"
    DOWN_COMMITTED = "down/committed"
    DOWN_EXCHANGE = "down/exchange"
    DOWN_COMMAND = "down/command"
    DOWN_MANIFEST = "down/manifest"

    @property
    def lane(self) -> Lane | None:
        """The lane whose frames travel here; None for everything that is not a frame."""
        return _LANE_OF.get(self)

    @property
    def is_uplink(self) -> bool:
        return self.value.startswith("up/")

    @classmethod
    def of_lane(cls, lane: Lane) -> "EdgeChannel":
        return _CHANNEL_OF[lane]


_CHANNEL_OF = {lane: EdgeChannel(f"up/{lane}") for lane in LANES}
_LANE_OF = {channel: lane for lane, channel in _CHANNEL_OF.items()}
# Names are one topic level: no separator, wildcard or control character. Which names exist is the registry's business.
_TOPIC = re.compile(r"/edge/([^/+#\x00-\x1f\x7f]{1,64})/([^/+#\x00-\x1f\x7f]{1,64})/((?:up|down)/[a-z]+)")


@dataclass(frozen=True, slots=True)
class EdgeTopic:
    """`/edge/{product_key}/{device_name}/{channel}` of a gateway.

    >>> str(EdgeTopic("gateway", "gw1", EdgeChannel.of_lane(Lane.LIVE)))
    '/edge/gateway/gw1/up/live'
    """

    product_key: str
    device_name: str
    channel: EdgeChannel

    def __str__(self) -> str:
        return f"/edge/{self.product_key}/{self.device_name}/{self.channel}"

    @classmethod
    def parse(cls, topic: str) -> Self:
        """Read a topic; raises Refused(UNKNOWN_TOPIC)."""
        match = _TOPIC.fullmatch(topic)
        if match is None:
            raise Refused(Reason.UNKNOWN_TOPIC, f"not an edge topic: {topic[:200]!r}")
        product_key, device_name, channel = match.groups()
        try:
            return cls(product_key, device_name, EdgeChannel(channel))
        except ValueError:
            raise Refused(Reason.UNKNOWN_TOPIC, f"no edge channel {channel[:80]!r}") from None


def uplink_topic(product_key: str, device_name: str, lane: Lane) -> str:
    return str(EdgeTopic(product_key, device_name, EdgeChannel.of_lane(lane)))


def downlink_topics(product_key: str, device_name: str) -> tuple[str, ...]:
    """Everything that may come down to a gateway, as server-side subscriptions."""
    return tuple(str(EdgeTopic(product_key, device_name, channel)) for channel in EdgeChannel if not channel.is_uplink)
