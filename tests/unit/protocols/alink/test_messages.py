import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.codes import Code, code_of, explain
from protocols.alink.messages import (
    MessageRefused,
    Reply,
    decode_event,
    decode_reply,
    decode_request,
    event_post,
    property_set,
    reply,
)
from protocols.errors import Reason, Refused
from tests.fuzzing import fuzz
from tests.unit.protocols.alink.samples import MODEL

NOW = 1_700_000_000_000

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("params", "time"),
    [
        ('{"code":7,"text":"hot"}', None),  # Node and C
        ('{"value":{"code":7,"text":"hot"},"time":1524448722000}', 1524448722000),  # Py
        ('{"value":{"code":7,"text":"hot"}}', None),
    ],
)
def test_an_event_is_read_wrapped_and_bare(params: str, time: int | None) -> None:
    event = decode_event(MODEL, "Alarm", f'{{"id":5,"params":{params}}}'.encode())
    assert (event.id, event.identifier, event.output, event.time, event.wants_reply) == (
        b"5",
        "Alarm",
        {"code": 7, "text": "hot"},
        time,
        True,
    )


@pytest.mark.parametrize(
    ("params", "output", "time"),
    [
        ('{"value":{"code":1},"time":5}', {"value": {"code": 1}, "time": 5}, None),
        ('{"value":{"value":{"code":1},"time":5},"time":6}', {"value": {"code": 1}, "time": 5}, 6),
    ],
)
def test_an_event_with_outputs_named_value_and_time_is_read_by_the_thing_model(params: str, output: object, time: int | None) -> None:
    event = decode_event(MODEL, "Probed", f'{{"id":"1","params":{params}}}'.encode())
    assert (event.output, event.time) == (output, time)


def test_an_output_that_does_not_fit_is_named_and_the_rest_is_kept() -> None:
    event = decode_event(MODEL, "Alarm", b'{"id":"1","params":{"code":1e999,"text":"x","other":1}}')
    assert event.output == {"text": "x"}
    assert {name: error.reason for name, error in event.refused.items()} == {
        "code": Reason.OUT_OF_RANGE,
        "other": Reason.UNKNOWN_IDENTIFIER,
    }


@pytest.mark.parametrize(
    ("identifier", "params", "reason"),
    [
        ("Nothing", "{}", Reason.UNKNOWN_EVENT),
        ("Alarm", '{"value":{},"time":-1}', Reason.BAD_TIME),
        ("Alarm", f'{{"value":{{}},"time":{NOW + 86_400_001}}}', Reason.BAD_TIME),
        ("Alarm", "7", Reason.BAD_ENVELOPE),
        ("Alarm", "{", Reason.BAD_JSON),
        ("Alarm", '{"text":"\\ud800"}', Reason.BAD_JSON),
    ],
)
def test_an_event_that_cannot_be_read_is_refused(identifier: str, params: str, reason: Reason) -> None:
    with pytest.raises(MessageRefused) as refused:
        decode_event(MODEL, identifier, f'{{"id":"1","params":{params}}}'.encode(), NOW)
    assert refused.value.reason is reason


@given(
    st.fixed_dictionaries({}, optional={"code": st.integers(-(2**53), 2**53), "text": st.text(max_size=9)}), st.none() | st.integers(0, NOW)
)
def test_an_event_survives_the_round_trip(output: dict[str, object], time: int | None) -> None:
    event = decode_event(MODEL, "Alarm", event_post(9, "Alarm", output, time), NOW)
    assert (event.id, event.output, event.time, dict(event.refused)) == (b'"9"', output, time, {})


@given(st.integers(0, 2**32 - 1), st.dictionaries(st.text(), json_values, max_size=4))
def test_a_property_set_survives_the_round_trip(number: int, params: dict[str, object]) -> None:
    request = decode_request(property_set(number, params))
    assert (request.id, request.method, request.params) == (f'"{number}"'.encode(), "thing.service.property.set", params)


@pytest.mark.parametrize("message_id", ["", "x1", "4294967296", 2**32, -1, "1.0", "１"])
def test_an_id_that_some_sdk_would_choke_on_is_not_sent(message_id: str | int) -> None:
    with pytest.raises(Refused):
        property_set(message_id, {})


@given(st.integers(0, 2**32 - 1), st.integers(-(10**6), 10**6), json_values, st.text())
def test_a_reply_survives_the_round_trip(number: int, code: int, data: object, message: str) -> None:
    raw = reply(str(number).encode(), "thing.service.property.set", code, json.dumps(data).encode(), message)
    assert decode_reply(raw) == Reply(str(number), code, data, message)
    assert json.loads(raw).keys() == {"id", "code", "data", "message", "method", "version"}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"id":"9001","code":200,"data":{}}', Reply("9001", 200, {})),
        (b'{"id":9001,"code":"1000"}', Reply("9001", 1000)),
        (b'{"id":"1","code":100001,"data":null,"message":7}', Reply("1", 100001)),
    ],
)
def test_a_devices_reply_may_be_short(payload: bytes, expected: Reply) -> None:
    assert decode_reply(payload) == expected


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", Reason.BAD_JSON),
        (b"\xff", Reason.BAD_JSON),
        (b'{"id":"1","code":200,"data":' + b"[" * 100_000, Reason.BAD_ENVELOPE),
        (b'{"code":200}', Reason.BAD_ENVELOPE),
        (b'{"id":"1"}', Reason.BAD_ENVELOPE),
        (b'{"id":null,"code":200}', Reason.BAD_ENVELOPE),
        (b'{"id":1.5,"code":200}', Reason.BAD_ENVELOPE),
        (b'{"id":"1","code":"many"}', Reason.BAD_ENVELOPE),
        (b'{"id":"1","code":1e999}', Reason.BAD_ENVELOPE),
        (b"[]", Reason.BAD_ENVELOPE),
    ],
)
def test_what_is_no_reply_is_refused(payload: bytes, reason: Reason) -> None:
    with pytest.raises(MessageRefused) as refused:
        decode_reply(payload)
    assert refused.value.reason is reason


@fuzz
@given(st.binary(max_size=100), st.lists(st.integers(0, 1 << 16), max_size=3), st.integers(0, 1 << 16))
def test_any_bytes_are_a_message_or_refused(noise: bytes, flips: list[int], cut: int) -> None:
    payloads = [noise]
    for whole in (
        event_post(1, "Alarm", {"code": 1, "text": "é"}, 5),
        property_set(1, {"Level": 1}),
        b'{"id":"1","code":200,"data":{"a":[1]}}',
    ):
        damaged = bytearray(whole)
        for flip in flips:
            place = flip % (len(whole) * 8)
            damaged[place // 8] ^= 1 << place % 8
        payloads += [bytes(damaged), whole[: cut % len(whole)]]
    for payload in payloads:
        for read in (decode_request, decode_reply, lambda raw: decode_event(MODEL, "Alarm", raw, NOW)):
            try:
                read(payload)
            except MessageRefused:
                continue


def test_a_refusal_is_answered_with_the_vendors_code() -> None:
    codes = {reason: code_of(Refused(reason, "x")) for reason in Reason}
    assert codes[Reason.BAD_JSON] == 6207
    assert codes[Reason.BAD_ENVELOPE] == 460
    assert codes[Reason.TOO_MANY] == 6106
    assert codes[Reason.UNKNOWN_TOPIC] == 6203
    assert codes[Reason.UNKNOWN_IDENTIFIER] == 6320
    assert codes[Reason.PROTOCOL_ERROR] is Code.FAILED


def test_an_unknown_property_is_explained_in_the_vendors_words() -> None:
    assert explain(Refused(Reason.UNKNOWN_IDENTIFIER, "BadOne: ...")) == "tsl parse: params not exist"
    assert explain(Refused(Reason.OUT_OF_RANGE, "Level: 10 is outside [0, 9]")) == "tsl parse: Level: 10 is outside [0, 9]"
