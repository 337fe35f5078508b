"""What a session may publish: its own name space, and for a gateway the edge's uplink, whose frames have to be whole."""

from cloud.devices.model import Credentials
from protocols.alink.topics import belongs_to, may_subscribe
from protocols.edgelink.frame import decode_header
from protocols.edgelink.lanes import Lane
from protocols.edgelink.topics import EdgeTopic, downlink_topics
from protocols.errors import Reason, Refused
from protocols.mqtt.run import PublishRun


def uplink_lane(credentials: Credentials, topic: str) -> Lane | None:
    """The lane whose frames travel on `topic`, None for any other topic of the device's own; raises Refused(FOREIGN_TOPIC)."""
    product_key, device_name = credentials.product_key, credentials.device_name
    if belongs_to(topic, product_key, device_name):
        return None
    if credentials.is_gateway and topic.startswith("/edge/"):
        edge = EdgeTopic.parse(topic)
        if edge.channel.is_uplink and (edge.product_key, edge.device_name) == (product_key, device_name):
            return edge.channel.lane
    raise Refused(Reason.FOREIGN_TOPIC, f"{device_name} of {product_key} may not publish on {topic[:128]}")


def check_frames(run: PublishRun, lane: Lane) -> None:
    """Every payload is a frame of `lane` that arrived as it was sent; raises Refused(BAD_FRAME | BAD_CHECKSUM)."""
    for payload in run.payloads():
        if decode_header(payload).lane != lane:
            raise Refused(Reason.BAD_FRAME, f"a frame of another lane came on {lane}")


def needs_subscription(topic: str) -> bool:
    """Whether a message on `topic` only goes to sessions that subscribed it; everything else is pushed (alink.md par. 1, 8)."""
    return topic.startswith("/broadcast/")


def may_listen(credentials: Credentials, topic_filter: str) -> bool:
    """Whether a SUBSCRIBE is granted. It changes nothing: what comes down is pushed to the session anyway."""
    product_key, device_name = credentials.product_key, credentials.device_name
    if may_subscribe(topic_filter, product_key, device_name):
        return True
    return credentials.is_gateway and topic_filter in (
        *downlink_topics(product_key, device_name),
        f"/edge/{product_key}/{device_name}/down/#",
    )
