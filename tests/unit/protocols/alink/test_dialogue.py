import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.dialogue import Dialogue
from protocols.alink.messages import event_post, property_post
from protocols.alink.topics import Kind, Sender, Topic
from protocols.errors import Reason
from tests.unit.protocols.alink import samples
from tests.unit.protocols.alink.samples import MODEL

NOW = 1_700_000_000_000
POST = "/sys/a1/d/thing/event/property/post"

dialogue = Dialogue("a1", "d", MODEL)


def test_a_good_post_is_kept_and_answered_200_with_all_six_fields() -> None:
    outcome = dialogue.handle(POST, property_post(7, {"Level": 3}), NOW)
    assert outcome.post is not None
    assert (outcome.post.identifiers, outcome.post.values) == (("Level",), (3,))
    assert outcome.answer_topic == POST + "_reply"
    assert json.loads(outcome.answer or b"") == {
        "id": "7",
        "code": 200,
        "data": {},
        "message": "success",
        "method": "thing.event.property.post",
        "version": "1.0",
    }


def test_a_post_with_bad_properties_is_answered_200_naming_each() -> None:
    outcome = dialogue.handle(POST, property_post(7, {"Level": 3, "BadOne": 1, "Count": 2**53 + 1}), NOW)
    assert outcome.post is not None
    assert outcome.post.identifiers == ("Level",)
    assert outcome.refused is None
    answer = json.loads(outcome.answer or b"")
    assert answer["code"] == 200
    assert answer["data"]["BadOne"] == "tsl parse: params not exist"
    assert "2^53" in answer["data"]["Count"]


def test_a_time_too_far_ahead_is_named_too() -> None:
    outcome = dialogue.handle(POST, property_post(7, {"Level": 3}, NOW + 2 * 86_400_000), NOW)
    assert outcome.post is not None
    assert outcome.post.identifiers == ()
    assert "24 h" in json.loads(outcome.answer or b"")["data"]["Level"]


@pytest.mark.parametrize(
    ("payload", "code", "raw_id"),
    [
        (b"{", 6207, "0"),
        (b'{"id":12,"params":7}', 460, 12),
        (b'{"id":"a","params":{' + b",".join(b'"P%d":1' % n for n in range(201)) + b"}}", 6106, "a"),
    ],
)
def test_a_message_refused_as_a_whole_is_answered_with_its_code_and_id(payload: bytes, code: int, raw_id: object) -> None:
    outcome = dialogue.handle(POST, payload, NOW)
    assert outcome.post is None
    assert outcome.refused is not None
    answer = json.loads(outcome.answer or b"")
    assert (answer["code"], answer["id"], outcome.answer_topic) == (code, raw_id, POST + "_reply")


@pytest.mark.parametrize("params", ['{"Level":1}', '{"Level":"x"}', "7"])
def test_a_device_that_wants_no_reply_gets_none(params: str) -> None:
    outcome = dialogue.handle(POST, f'{{"id":"1","sys":{{"ack":0}},"params":{params}}}'.encode(), NOW)
    assert (outcome.answer, outcome.answer_topic) == (None, None)


def test_an_event_is_kept_and_answered() -> None:
    outcome = dialogue.handle("/sys/a1/d/thing/event/Alarm/post?_rid=1", event_post(3, "Alarm", {"code": 1}, 5), NOW)
    assert outcome.event is not None
    assert (outcome.event.identifier, outcome.event.output, outcome.event.time) == ("Alarm", {"code": 1}, 5)
    assert outcome.answer_topic == "/sys/a1/d/thing/event/Alarm/post_reply"
    assert json.loads(outcome.answer or b"")["method"] == "thing.event.Alarm.post"


def test_an_unknown_event_is_answered_as_not_found() -> None:
    outcome = dialogue.handle("/sys/a1/d/thing/event/Nope/post", event_post(3, "Nope", {}), NOW)
    assert outcome.refused is not None
    assert outcome.refused.reason is Reason.UNKNOWN_EVENT
    assert json.loads(outcome.answer or b"")["code"] == 5160


def test_the_answer_to_a_property_set_is_handed_on_and_not_answered() -> None:
    outcome = dialogue.handle("/sys/a1/d/thing/service/property/set_reply", b'{"id":"9001","code":200,"data":{}}', NOW)
    assert outcome.reply is not None
    assert (outcome.reply.id, outcome.reply.code) == ("9001", 200)
    assert outcome.answer is None
    broken = dialogue.handle("/sys/a1/d/thing/service/property/set_reply", b"{", NOW)
    assert broken.refused is not None
    assert broken.answer is None


def test_a_custom_message_is_handed_on_as_it_is() -> None:
    assert dialogue.handle("/a1/d/user/raw", b"\xff\x00", NOW).custom == b"\xff\x00"


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("/sys/a1/other/thing/event/property/post", Reason.FOREIGN_TOPIC),
        ("/sys/a1/d/thing/nothing", Reason.UNKNOWN_TOPIC),
        ("/sys/a1/d/thing/service/property/set", Reason.UNKNOWN_TOPIC),
        ("/sys/a1/d/thing/event/property/post_reply", Reason.UNKNOWN_TOPIC),
    ],
)
def test_a_topic_that_is_not_for_the_device_to_send_on_is_refused_unanswered(topic: str, reason: Reason) -> None:
    outcome = dialogue.handle(topic, property_post(1, {}), NOW)
    assert outcome.refused is not None
    assert (outcome.refused.reason, outcome.answer) == (reason, None)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_topic_that_a_device_sends_on_is_understood_and_no_other(kind: Kind) -> None:
    topic = Topic(kind, "a1", "d", "x", "7")
    refused = dialogue.handle(str(topic), b"", NOW).refused
    unknown = refused is not None and refused.reason is Reason.UNKNOWN_TOPIC
    assert unknown == (topic.sender is Sender.SERVER)


@given(
    st.binary(max_size=80) | samples.payloads,
    st.sampled_from([POST, "/sys/a1/d/thing/event/Alarm/post", "/sys/a1/d/thing/service/property/set_reply"]),
)
def test_whatever_a_device_sends_has_an_outcome_and_a_readable_answer(payload: bytes, topic: str) -> None:
    outcome = dialogue.handle(topic, payload, NOW)
    assert (outcome.refused is None) or (outcome.post is None and outcome.event is None)
    if outcome.answer is not None:
        assert json.loads(outcome.answer).keys() == {"id", "code", "data", "message", "method", "version"}


@pytest.mark.parametrize(
    ("topic", "payload", "code", "data"),
    [
        ("/ext/rrpc/77/sys/a1/d/thing/service/Blink", b'{"id":"1","code":200,"data":{"done":1}}', 200, {"done": 1}),
        ("/sys/a1/d/rrpc/response/77", b'{"id":"other","code":100001,"data":{}}', 100001, {}),
        ("/ext/rrpc/77/a1/d/user/x", b"pong \xff", 200, "pong \ufffd"),
        ("/sys/a1/d/rrpc/response/77", b"[1]", 200, "[1]"),
    ],
)
def test_an_answer_to_a_call_is_known_by_its_topic(topic: str, payload: bytes, code: int, data: object) -> None:
    outcome = dialogue.handle(topic, payload, NOW)
    assert outcome.reply is not None
    assert (outcome.reply.id, outcome.reply.code, outcome.reply.data) == ("77", code, data)
