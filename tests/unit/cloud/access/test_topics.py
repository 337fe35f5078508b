"""A session publishes in its own name only."""

import pytest

from cloud.access.topics import check_frames, may_listen, uplink_lane
from cloud.devices.model import Credentials
from protocols.edgelink.frame import FrameHeader, encode_frame
from protocols.edgelink.lanes import LANES, Lane
from protocols.edgelink.topics import uplink_topic
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Decoder, PublishRun, encode_publish


def device(name: str, *, is_gateway: bool = False) -> Credentials:
    return Credentials(
        tenant_id=1, device_id=2, product_key="pk", device_name=name, site_id=None, is_gateway=is_gateway, enabled=True, secret=b""
    )


OWN = (
    "/sys/pk/dn/thing/event/property/post",
    "/sys/pk/dn/thing/event/property/post?_rid=1",
    "/sys/pk/dn/thing/event/alarm/post",
    "/sys/pk/dn/thing/service/property/set_reply",
    "/sys/pk/dn/thing/nobody/knows/this",
    "/pk/dn/user/anything/at/all",
    "/ext/ntp/pk/dn/request",
    "/ota/device/inform/pk/dn",
    "/ext/rrpc/17/sys/pk/dn/thing/service/x",
)
FOREIGN = (
    "/sys/pk/dn2/thing/event/property/post",
    "/sys/pk/d/thing/event/property/post",
    "/sys/pk2/dn/thing/event/property/post",
    "/pk/dn2/user/x",
    "/ext/rrpc/17/sys/pk/dn2/thing/service/x",
    "/ota/device/inform/pk/dn2",
    "/ota/device/inform/pk/dnx",
    "/edge/pk/dn/up/live",
    "sys/pk/dn/thing/event/property/post",
    "/",
    "$SYS/x",
)


@pytest.mark.parametrize("topic", OWN)
def test_a_device_publishes_on_its_own_topics(topic: str) -> None:
    assert uplink_lane(device("dn"), topic) is None


@pytest.mark.parametrize("topic", FOREIGN)
def test_a_device_publishes_nowhere_else(topic: str) -> None:
    with pytest.raises(Refused) as refused:
        uplink_lane(device("dn"), topic)
    assert refused.value.reason is Reason.FOREIGN_TOPIC


@pytest.mark.parametrize("lane", LANES)
def test_a_gateway_has_lanes(lane: Lane) -> None:
    assert uplink_lane(device("dn", is_gateway=True), uplink_topic("pk", "dn", lane)) is lane


def test_a_gateway_has_no_other_gateways_lanes_and_no_downlink() -> None:
    gateway = device("dn", is_gateway=True)
    assert uplink_lane(gateway, "/edge/pk/dn/up/exchange") is None
    for topic in ("/edge/pk/dn2/up/live", "/edge/pk/dn/down/command", "/edge/pk/dn/up/nonsense", "/edge/pk/dn"):
        with pytest.raises(Refused):
            uplink_lane(gateway, topic)


def test_subscriptions_stay_within_what_is_pushed_anyway() -> None:
    plain, gateway = device("dn"), device("dn", is_gateway=True)
    assert may_listen(plain, "/sys/pk/dn/#")
    assert may_listen(gateway, "/edge/pk/dn/down/committed")
    for topic_filter in ("#", "/sys/#", "/sys/pk/+/thing/#", "/sys/pk/dn2/#", "/edge/pk/dn2/down/committed"):
        assert not may_listen(gateway, topic_filter)
    assert not may_listen(plain, "/edge/pk/dn/down/committed")


def test_frames_are_checked_before_they_are_acknowledged() -> None:
    frame = encode_frame(FrameHeader(bytes(16), 1, Lane.LIVE, 5, 1, 0, 5))
    check_frames(run_of(frame), Lane.LIVE)
    for payload, lane in ((frame, Lane.ALARM), (frame[:-1] + b"!", Lane.LIVE), (b"", Lane.LIVE), (b"{}", Lane.LIVE)):
        with pytest.raises(Refused):
            check_frames(run_of(payload), lane)


def run_of(payload: bytes) -> PublishRun:
    (run,) = Decoder().feed(encode_publish("/t", payload))
    assert isinstance(run, PublishRun)
    return run
