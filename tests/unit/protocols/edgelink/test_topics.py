"""Edge topics: one grammar, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.edgelink.lanes import LANES, GapReason, Lane
from protocols.edgelink.topics import EdgeChannel, EdgeTopic, downlink_topics, uplink_topic
from protocols.errors import Reason, Refused
from tests.fuzzing import fuzz, thorough

names = st.text("abcxyzABC019_.:@-物", min_size=1, max_size=32)


@thorough
@given(st.builds(EdgeTopic, names, names, st.sampled_from(EdgeChannel)))
def test_a_topic_comes_back(topic: EdgeTopic) -> None:
    assert EdgeTopic.parse(str(topic)) == topic


@fuzz
@given(st.text() | st.text("/edgupownlivbk+#").map("/edge/".__add__))
def test_any_text_is_a_topic_that_comes_back_or_refused(text: str) -> None:
    try:
        topic = str(EdgeTopic.parse(text))
    except Refused as refused:
        topic = refused.reason
    assert topic in (text, Reason.UNKNOWN_TOPIC)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/edge/gateway/gw1",
        "/edge/gateway/gw1/up/urgent",
        "/edge/gateway/gw1/down/live",
        "/edge//gw1/up/live",
        "/edge/gateway/+/up/live",
        "/edge/gateway/#/up/live",
        "/edge/gateway/gw1/up/live/",
        "/edge/gateway/gw1/up/live\n",
        "edge/gateway/gw1/up/live",
        "/edge/a/b/gw1/up/live",
        f"/edge/{'x' * 65}/gw1/up/live",
    ],
)
def test_what_is_no_edge_topic_is_refused(topic: str) -> None:
    with pytest.raises(Refused):
        EdgeTopic.parse(topic)


def test_every_lane_has_its_topic_and_every_downlink_is_subscribed() -> None:
    assert [EdgeTopic.parse(uplink_topic("gateway", "gw1", lane)).channel.lane for lane in LANES] == list(LANES)
    assert downlink_topics("gateway", "gw1") == tuple(
        f"/edge/gateway/gw1/down/{name}" for name in ("committed", "exchange", "command", "manifest")
    )


def test_lanes_stand_in_order_of_priority() -> None:
    assert [(lane.value, lane.code) for lane in LANES] == [("alarm", 0), ("reply", 1), ("live", 2), ("bulk", 3)]
    assert Lane("live") is Lane.LIVE


def test_every_gap_reason_has_an_english_and_a_chinese_text() -> None:
    for reason in GapReason:
        assert reason.english.isascii()
        assert not reason.chinese.isascii()
    assert len({reason.english for reason in GapReason}) == len({reason.chinese for reason in GapReason}) == len(GapReason)
