import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.codes import code_of
from protocols.alink.envelope import MessageRefused
from protocols.alink.history import MOST_SAMPLES, check_part, read_history, refused_names
from protocols.alink.topics import Kind
from protocols.errors import Reason
from tests.fuzzing import fuzz
from tests.unit.protocols.alink.samples import MODEL

NOW = 1_700_000_000_000
DAY = 86_400_000
KINDS = (Kind.BATCH_POST, Kind.HISTORY_POST, Kind.PACK_POST)


def message(params: object) -> bytes:
    return json.dumps({"id": "1", "params": params}).encode()


def test_a_batch_holds_many_values_of_one_property_each_with_its_time() -> None:
    post = read_history(
        Kind.BATCH_POST,
        message(
            {
                "properties": {"Level": [{"value": 1, "time": NOW - 2}, {"value": 2, "time": NOW - 1}], "Power": [{"value": 1.5}]},
                "events": {"Alarm": [{"value": {"code": 7}, "time": NOW - 3}]},
            }
        ),
    )
    (part,) = post.parts
    checked = check_part(MODEL, part, NOW, NOW + DAY)
    assert [(s.identifier, s.value, s.time) for s in checked.properties] == [
        ("Level", 1, NOW - 2),
        ("Level", 2, NOW - 1),
        ("Power", 1.5, NOW),
    ]
    assert [(s.identifier, s.value, s.time) for s in checked.events] == [("Alarm", {"code": 7}, NOW - 3)]
    assert not checked.refused


def test_a_history_names_the_device_of_each_entry() -> None:
    entry = {
        "identity": {"productKey": "a1", "deviceName": "sub"},
        "properties": [{"Level": {"value": 1, "time": NOW}}, {"Level": {"value": 2, "time": NOW + 1}}],
        "events": [{"Alarm": {"value": {"code": 1}, "time": NOW}}],
    }
    post = read_history(Kind.HISTORY_POST, message([entry, {"properties": [{"Level": 3}]}]))
    assert post.identities == {("a1", "sub")}
    assert [part.identity for part in post.parts] == [("a1", "sub"), None]
    assert [item.value for item in post.parts[0].properties] == [1, 2]
    assert read_history(Kind.HISTORY_POST, message({"properties": [{"Level": {"value": 1}}]})).parts[0].properties[0].value == 1


def test_a_pack_carries_the_gateways_values_and_its_sub_devices() -> None:
    sub = {"identity": {"productKey": "a1", "deviceName": "sub"}, "properties": {"Level": {"value": 4, "time": NOW}}, "events": {}}
    post = read_history(Kind.PACK_POST, message({"properties": {"Power": {"value": 1, "time": NOW}}, "events": {}, "subDevices": [sub]}))
    assert [(part.identity, [item.identifier for item in part.properties]) for part in post.parts] == [
        (None, ["Power"]),
        (("a1", "sub"), ["Level"]),
    ]


def test_a_struct_whose_own_fields_are_value_and_time_is_read_as_the_thing_model_has_it() -> None:
    bare = {"Probe": {"value": 1, "time": 2}}
    wrapped = {"Probe": {"value": {"value": 1, "time": 2}, "time": NOW - 5}}
    for properties, at in ((bare, NOW), (wrapped, NOW - 5)):
        (part,) = read_history(Kind.BATCH_POST, message({"properties": properties})).parts
        (sample,) = check_part(MODEL, part, NOW, NOW + DAY).properties
        assert (sample.value, sample.time) == ({"value": 1, "time": 2}, at)


def test_what_does_not_fit_is_named_and_the_rest_is_kept() -> None:
    properties = {
        "Level": [{"value": 1, "time": NOW}, {"value": 77, "time": NOW}],
        "Nope": {"value": 1},
        "Count": {"value": 1, "time": "x"},
    }
    events = {"Alarm": {"value": 3}, "Nothing": {"value": {}}, "Probed": {"value": {"other": 1}, "time": NOW}}
    (part,) = read_history(Kind.BATCH_POST, message({"properties": properties, "events": events})).parts
    checked = check_part(MODEL, part, NOW, NOW + DAY)
    assert [(s.identifier, s.value) for s in checked.properties] == [("Level", 1)]
    assert [(s.identifier, s.value, s.time) for s in checked.events] == [("Probed", {}, NOW)], "an event is no less true without an output"
    assert {name: refused.reason for name, refused in checked.refused.items()} == {
        "Level": Reason.OUT_OF_RANGE,
        "Nope": Reason.UNKNOWN_IDENTIFIER,
        "Count": Reason.BAD_TIME,
        "Alarm": Reason.WRONG_TYPE,
        "Nothing": Reason.UNKNOWN_EVENT,
        "Probed.other": Reason.UNKNOWN_IDENTIFIER,
    }
    assert set(refused_names({None: checked, ("a1", "sub"): checked})) >= {"Level", "sub.Level"}


def test_a_history_may_write_its_times_as_digits_in_quotes() -> None:
    (part,) = read_history(Kind.BATCH_POST, message({"properties": {"Level": [{"value": 1, "time": str(NOW - 5)}]}})).parts
    assert [sample.time for sample in check_part(MODEL, part, NOW, NOW + DAY).properties] == [NOW - 5]


def test_a_time_more_than_a_day_ahead_is_refused() -> None:
    (part,) = read_history(Kind.BATCH_POST, message({"properties": {"Level": {"value": 1, "time": NOW + DAY + 1}}})).parts
    assert check_part(MODEL, part, NOW, NOW + DAY).refused["Level"].reason is Reason.BAD_TIME


def packed(properties: int, events: int, subs: int) -> object:
    identity = {"productKey": "a1", "deviceName": "s"}
    return {
        "properties": {f"P{n}": {"value": 1} for n in range(properties)},
        "events": {f"E{n}": {"value": {}} for n in range(events)},
        "subDevices": [{"identity": identity} for _ in range(subs)],
    }


@pytest.mark.refusal(Reason.TOO_MANY_EVENTS, Reason.TOO_MANY_DEVICES, Reason.MISSING_PARAMETER)
@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        (Kind.PACK_POST, message(packed(201, 0, 0)), 6106),
        (Kind.PACK_POST, message(packed(0, 21, 0)), 6356),
        (Kind.PACK_POST, message(packed(0, 0, 21)), 6357),
        (Kind.PACK_POST, message({"subDevices": [{"properties": {}}]}), 6302),
        (Kind.HISTORY_POST, message([{"identity": {"productKey": "a1"}}]), 6302),
        (Kind.BATCH_POST, b'{"id":"1"}', 6302),
        (Kind.BATCH_POST, message([1]), 460),
        (Kind.BATCH_POST, message({"properties": 7}), 460),
        (Kind.BATCH_POST, b'{"id":"1","params":{', 6207),
        (Kind.BATCH_POST, message({"properties": {"Level": [{"value": 1}] * (MOST_SAMPLES + 1)}}), 6106),
    ],
)
def test_a_post_that_cannot_be_taken_as_a_whole_has_a_code(kind: Kind, payload: bytes, code: int) -> None:
    with pytest.raises(MessageRefused) as refused:
        read_history(kind, payload)
    assert code_of(refused.value) == code


json_values = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(max_size=4) | st.just(NOW),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["value", "time", "Level", "Probe", "Alarm", "identity", "properties", "events", "subDevices"]), inner
        )
    ),
)


@fuzz
@given(st.sampled_from(KINDS), json_values.map(message) | st.binary(max_size=50))
def test_any_payload_is_taken_refused_or_named_value_by_value(kind: Kind, payload: bytes) -> None:
    try:
        post = read_history(kind, payload)
    except MessageRefused as refused:
        if code_of(refused) not in (460, 6106, 6207, 6302, 6356, 6357):
            raise
        return
    for part in post.parts:
        checked = check_part(MODEL, part, NOW, NOW + DAY)
        for sample in checked.properties:
            assert sample.value == MODEL.properties[sample.identifier].data_type.coerce(sample.value)
