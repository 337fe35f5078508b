import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.topics import Kind, Sender, Topic, belongs_to, downlink_filters, may_subscribe
from protocols.errors import Reason, Refused
from tests.fuzzing import fuzz

NAMED = (Kind.EVENT_POST, Kind.EVENT_POST_REPLY, Kind.SERVICE, Kind.SERVICE_REPLY)
CALLED = (Kind.RRPC_REQUEST, Kind.RRPC_RESPONSE, Kind.BROADCAST_REQUEST)
OF_NOBODY = (Kind.REGISTERED, Kind.REGISTERED_NO_WHITELIST)
SPECIAL = (*NAMED, *CALLED, *OF_NOBODY, Kind.RRPC_SERVICE, Kind.RRPC_CUSTOM, Kind.BROADCAST, Kind.CUSTOM)
PLAIN = tuple(kind for kind in Kind if kind not in SPECIAL)

keys = st.from_regex(r"[A-Za-z0-9_\-.@:]{1,32}", fullmatch=True)
product_keys = keys.filter(lambda key: key not in ("sys", "ext", "shadow", "ota", "broadcast", "edge"))
events = st.from_regex(r"[A-Za-z0-9_:]{1,32}", fullmatch=True).filter(lambda name: name != "property")
services = events.filter(lambda name: not name.endswith("_reply"))
calls = st.integers(1, 2**32 - 1).map(str)
custom = st.lists(keys, min_size=1, max_size=4).map("/".join)
topics = st.one_of(
    st.builds(Topic, st.sampled_from(PLAIN), product_keys, keys),
    st.builds(Topic, st.sampled_from([Kind.EVENT_POST, Kind.EVENT_POST_REPLY]), product_keys, keys, events),
    st.builds(Topic, st.sampled_from([Kind.SERVICE, Kind.SERVICE_REPLY]), product_keys, keys, services),
    st.builds(Topic, st.sampled_from(CALLED), product_keys, keys, st.just(""), calls),
    st.builds(Topic, st.just(Kind.RRPC_SERVICE), product_keys, keys, services, calls),
    st.builds(Topic, st.just(Kind.RRPC_CUSTOM), product_keys, keys, custom, calls),
    st.builds(Topic, st.just(Kind.CUSTOM), product_keys, keys, custom),
)
everything = (
    topics
    | st.builds(Topic, st.just(Kind.BROADCAST), product_keys, st.just(""), custom)
    | st.builds(Topic, st.sampled_from(OF_NOBODY), st.just(""), st.just(""))
)


@given(everything)
def test_a_topic_survives_the_round_trip(topic: Topic) -> None:
    assert Topic.parse(str(topic)) == topic


@given(topics, st.text(alphabet="abc=&?_", max_size=8))
def test_a_tail_behind_a_question_mark_is_dropped(topic: Topic, tail: str) -> None:
    assert Topic.parse(f"{topic}?{tail}") == topic


@fuzz
@given(st.text(max_size=60) | st.lists(st.sampled_from(["", "sys", "a1", "d", "thing", "event", "property", "post", "user"])).map("/".join))
def test_any_text_is_a_topic_or_refused(text: str) -> None:
    try:
        topic = Topic.parse(text)
    except Refused as refused:
        if refused.reason is not Reason.UNKNOWN_TOPIC:
            raise
    else:
        assert str(topic) == text.partition("?")[0]


@pytest.mark.parametrize(
    ("text", "kind", "name", "method", "reply"),
    [
        (
            "/sys/a1/d/thing/event/property/post",
            Kind.PROPERTY_POST,
            "",
            "thing.event.property.post",
            "/sys/a1/d/thing/event/property/post_reply",
        ),
        ("/sys/a1/d/thing/event/Alarm/post", Kind.EVENT_POST, "Alarm", "thing.event.Alarm.post", "/sys/a1/d/thing/event/Alarm/post_reply"),
        ("/sys/a1/d/thing/event/oven:Fault/post", Kind.EVENT_POST, "oven:Fault", "thing.event.oven:Fault.post", None),
        (
            "/sys/a1/d/thing/service/property/set",
            Kind.PROPERTY_SET,
            "",
            "thing.service.property.set",
            "/sys/a1/d/thing/service/property/set_reply",
        ),
        ("/sys/a1/d/thing/service/property/set_reply", Kind.PROPERTY_SET_REPLY, "", "thing.service.property.set", ""),
        ("/a1/d/user/deep/er", Kind.CUSTOM, "deep/er", "", ""),
    ],
)
def test_the_grammar_reads_the_vendors_topics(text: str, kind: Kind, name: str, method: str, reply: str | None) -> None:
    topic = Topic.parse(text)
    assert (topic.kind, topic.product_key, topic.device_name, topic.name, topic.method) == (kind, "a1", "d", name, method)
    if reply is not None:
        assert str(topic.reply or "") == reply


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/sys/a1/d/thing/event/property/other/post",
        "/sys/a1/d/thing/event//post",
        "/sys/a1/d/thing/service/Blink/more",
        "/broadcast/a1/",
        "/ext/rrpc/7/a1/d/x",
        '/sys/a1/d/thing/event/a"b/post',
        "/sys/a1/d/thing/event/+/post",
        "/sys/a1/d/e/thing/event/property/post",
        "/sys/a1/user/x",
        "/a1/d/user/",
        "/a1/d/user/+",
        "a1/d/user/x",
        "/edge/gw/user/live",
    ],
)
def test_other_topics_are_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        Topic.parse(text)
    assert refused.value.reason is Reason.UNKNOWN_TOPIC


def test_a_reply_travels_the_other_way_than_its_request() -> None:
    asked = [topic for kind in Kind if (topic := Topic(kind, "a1", "d", "x", "7")).reply is not None]
    assert len(asked) > 30
    for topic in asked:
        assert topic.reply is not None
        assert str(topic.reply) == f"{topic}_reply"
        assert {topic.sender, topic.reply.sender} == {Sender.DEVICE, Sender.SERVER}
        assert topic.reply.method == topic.method


@pytest.mark.parametrize(
    ("text", "kind", "name", "call", "method"),
    [
        ("/sys/a1/d/thing/event/property/batch/post", Kind.BATCH_POST, "", "", "thing.event.property.batch.post"),
        ("/sys/a1/d/thing/service/Blink", Kind.SERVICE, "Blink", "", "thing.service.Blink"),
        ("/sys/a1/d/thing/service/Blink_reply", Kind.SERVICE_REPLY, "Blink", "", "thing.service.Blink"),
        ("/ext/rrpc/77/sys/a1/d/thing/service/Blink", Kind.RRPC_SERVICE, "Blink", "77", "thing.service.Blink"),
        ("/ext/rrpc/77/a1/d/user/x/y", Kind.RRPC_CUSTOM, "x/y", "77", ""),
        ("/sys/a1/d/rrpc/response/77", Kind.RRPC_RESPONSE, "", "77", ""),
        ("/ext/session/a1/d/combine/batch_login", Kind.BATCH_LOGIN, "", "", "combine.batch_login"),
        ("/sys/a1/d/_thing/diag/post", Kind.DIAG_POST, "", "", "_thing.diag.post"),
        ("/ota/device/inform/a1/d", Kind.OTA_INFORM, "", "", ""),
        ("/shadow/get/a1/d", Kind.SHADOW_GET, "", "", ""),
        ("/broadcast/a1/all/of/you", Kind.BROADCAST, "all/of/you", "", ""),
    ],
)
def test_the_grammar_reads_what_travels_beside_the_properties(text: str, kind: Kind, name: str, call: str, method: str) -> None:
    topic = Topic.parse(text)
    assert (topic.kind, topic.product_key, topic.name, topic.call, topic.method) == (kind, "a1", name, call, method)


@pytest.mark.parametrize(
    "text",
    [
        "/sys/a1/d/thing/event/property/post",
        "/sys/a1/d/thing/event/property/post?_rid=7",
        "/sys/a1/d/_thing/diag/post",
        "/a1/d/user/x",
        "/shadow/update/a1/d",
        "/ota/device/inform/a1/d",
        "/ext/ntp/a1/d/request",
        "/ext/session/a1/d/combine/login",
        "/ext/rrpc/77/sys/a1/d/thing/service/Blink",
        "/ext/rrpc/77/a1/d/user/x",
    ],
)
def test_a_device_owns_its_name_space_and_nobody_elses(text: str) -> None:
    assert belongs_to(text, "a1", "d")
    assert not belongs_to(text, "a1", "d2")
    assert not belongs_to(text, "a", "d")
    assert not belongs_to(text.replace("/a1/d", "/a1/dd"), "a1", "d")


@pytest.mark.parametrize(
    "text", ["", "/", "/sys/a1/d", "/sys/a1", "/shadow/update/a1/d/x", "/ext/rrpc/1", "/ext/rrpc/1/sys/a1/x/", "/edge/a1/d/up/live"]
)
def test_nothing_else_belongs_to_a_device(text: str) -> None:
    assert not belongs_to(text, "a1", "d")


@given(topics)
def test_what_a_device_sends_on_is_its_own_and_what_the_server_sends_on_is_pushed_to_it(topic: Topic) -> None:
    if topic.sender is not Sender.SERVER:
        assert belongs_to(str(topic), topic.product_key, topic.device_name)
    if topic.sender is not Sender.DEVICE:
        assert any(matches(pushed, str(topic)) for pushed in downlink_filters(topic.product_key, topic.device_name))


def matches(topic_filter: str, topic: str) -> bool:
    """A filter with `+` and a `#` at its end."""
    pattern = "/".join({"+": "[^/]+", "#": ".*"}.get(level, re.escape(level)) for level in topic_filter.split("/"))
    return re.fullmatch(pattern, topic) is not None


def test_a_device_may_subscribe_within_what_is_pushed_to_it_anyway() -> None:
    for granted in (
        "/sys/a1/d/thing/event/+/post_reply",
        "/sys/a1/d/#",
        "/sys/a1/d/rrpc/request/+",
        "/shadow/get/a1/d",
        "/ext/session/a1/d/combine/login_reply",
        "/a1/d/user/x",
        "/broadcast/a1/news",
        *downlink_filters("a1", "d"),
    ):
        assert may_subscribe(granted, "a1", "d"), granted
    for refused in ("#", "/sys/#", "/sys/a1/+/thing/event/property/post", "/sys/a1/d2/#", "/shadow/get/a1/+", "/broadcast/#", ""):
        assert not may_subscribe(refused, "a1", "d"), refused
