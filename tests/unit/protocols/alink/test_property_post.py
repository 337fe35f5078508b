import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.messages import MessageRefused, Post, PostDecoder, check_times, post_decoder, property_post
from protocols.errors import Reason
from protocols.thing import library
from protocols.thing.datatypes import is_numeric
from protocols.thing.model import parse_thing_model
from tests.fuzzing import fuzz, thorough
from tests.unit.protocols.alink import samples
from tests.unit.protocols.alink.samples import MODEL

T = 1524448722000


def post(params: str, rest: str = "") -> bytes:
    return f'{{"id":"12","version":"1.0","params":{params},"method":"thing.event.property.post"{rest}}}'.encode()


def decode(params: str, rest: str = "") -> Post:
    return PostDecoder(MODEL).decode(post(params, rest))


def refusal(payload: bytes) -> MessageRefused:
    with pytest.raises(MessageRefused) as refused:
        PostDecoder(MODEL).decode(payload)
    return refused.value


def reading(post: Post) -> dict[str, object]:
    return dict(zip(post.identifiers, post.values, strict=True))


def stamps(post: Post) -> dict[str, int | None] | None:
    return None if post.times is None else dict(zip(post.identifiers, post.times, strict=True))


def test_bare_and_stamped_values_may_stand_in_one_message() -> None:
    found = decode('{"Switch":1,"Temp":{"value":21.5,"time":1524448722000}}')
    assert reading(found) == {"Switch": 1, "Temp": 21.5}
    assert stamps(found) == {"Switch": None, "Temp": T}
    assert not found.refused


def test_a_message_without_any_time_has_no_times() -> None:
    assert decode('{"Power":1,"Temp":2}').times is None
    assert decode('{"Power":{"value":1},"Temp":{"value":2,"time":null}}').times is None


def test_every_type_is_kept_in_the_form_that_is_stored() -> None:
    params = ",".join(f'"{name}":{part}' for name, part in samples.good.items())
    found = decode("{" + params + "}")
    assert reading(found) == {
        "Power": 345.2, "Temp": 21.0, "Count": -7, "Level": 3, "Switch": 1, "Mode": 3, "Note": "ok", "Start": T,
        "Probe": {"value": 5, "time": 6}, "Timer": {"Burner": 1}, "Curve": [1.0, 2.5],
    }  # fmt: skip
    assert [type(value) for value in found.values] == [float, float, int, int, int, int, str, int, dict, dict, list]


@pytest.mark.parametrize(
    ("value", "kept", "time"),
    [
        ('{"value":5,"time":6}', {"value": 5, "time": 6}, None),
        ('{"value":5}', {"value": 5}, None),
        ('{"time":6}', {"time": 6}, None),
        ('{"value":{"value":5,"time":6},"time":1524448722000}', {"value": 5, "time": 6}, T),
        ('{"value":{"value":5}}', {"value": 5}, None),
    ],
)
def test_a_struct_with_fields_named_value_and_time_is_read_by_the_thing_model(value: str, kept: object, time: int | None) -> None:
    found = decode(f'{{"Probe":{value}}}')
    assert reading(found) == {"Probe": kept}
    assert (found.times or (None,)) == (time,)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("Unknown", "1", Reason.UNKNOWN_IDENTIFIER),
        ("Count", "9007199254740993", Reason.INTEGER_TOO_LARGE),
        ("Count", "-9007199254740993", Reason.INTEGER_TOO_LARGE),
        ("Count", "9" * 300, Reason.INTEGER_TOO_LARGE),
        ("Count", "9" * 5000, Reason.OUT_OF_RANGE),
        ("Power", "1e999", Reason.OUT_OF_RANGE),
        ("Power", '{"value":1e999,"time":1}', Reason.OUT_OF_RANGE),
        ("Power", '"1"', Reason.WRONG_TYPE),
        ("Power", "true", Reason.WRONG_TYPE),
        ("Power", "null", Reason.WRONG_TYPE),
        ("Power", "{}", Reason.WRONG_TYPE),
        ("Power", '{"value":1,"time":-1}', Reason.BAD_TIME),
        ("Power", '{"value":1,"time":"1524448722000"}', Reason.BAD_TIME),
        ("Power", '{"value":1,"time":253402300800000}', Reason.BAD_TIME),
        ("Temp", "250.6", Reason.OUT_OF_RANGE),
        ("Level", "10", Reason.OUT_OF_RANGE),
        ("Switch", "2", Reason.WRONG_TYPE),
        ("Mode", "1", Reason.OUT_OF_RANGE),
        ("Note", '"123456"', Reason.OUT_OF_RANGE),
        ("Timer", '{"Other":1}', Reason.WRONG_TYPE),
        ("Curve", "[1,2,3,4]", Reason.OUT_OF_RANGE),
    ],
)
def test_a_property_that_does_not_fit_is_named_and_the_rest_is_kept(name: str, value: str, reason: Reason) -> None:
    other = "Level" if name != "Level" else "Power"
    found = decode(f'{{"{name}":{value},"{other}":3}}')
    assert reading(found) == {other: 3}
    assert {key: error.reason for key, error in found.refused.items()} == {name: reason}
    assert str(found.refused[name]).startswith(name)
    assert found.refused[name].__traceback__ is None  # a kept refusal keeps no frames alive


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "nan", "01", "1.", "'x'", '"\\q"', '"\x01"', "[1,]", ""])
def test_what_is_no_json_refuses_the_whole_message(value: str) -> None:
    assert refusal(post(f'{{"Power":{value},"Level":3}}')).reason is Reason.BAD_JSON


def test_the_last_of_a_repeated_key_counts() -> None:
    assert reading(decode('{"Level":"x","Level":1,"Level":2}')) == {"Level": 2}
    assert reading(decode('{"Level":1,"Level":{"value":4,"time":5}}')) == {"Level": 4}
    assert decode('{"Level":1,"Level":"x"}').identifiers == ()


@pytest.mark.parametrize("raw_id", ['"12"', "12", "0012"[2:], '"1|exp-topic|/sys/a1/d"', '"a\\/b\\u0041"', "1.50", '"é"', '""'])
def test_the_id_comes_back_byte_for_byte(raw_id: str) -> None:
    for params in ('{"Level":1}', '{"Level":"x"}', '"{}"'):
        found = PostDecoder(MODEL).decode(f'{{"id": {raw_id} ,"params":{params}}}'.encode())
        assert found.id == raw_id.encode()
        assert found.wants_reply


@pytest.mark.parametrize("raw_id", ["true", "{}", "[1]", f'"{"9" * 300}"'])
def test_an_id_that_cannot_be_echoed_is_refused(raw_id: str) -> None:
    assert refusal(f'{{"id":{raw_id},"params":{{"Level":1}}}}'.encode()).reason is Reason.BAD_ENVELOPE


def test_without_an_id_the_values_are_kept_and_no_reply_is_wanted() -> None:
    for payload in (b'{"params":{"Level":1}}', b'{"id":null,"params":{"Level":1}}'):
        found = PostDecoder(MODEL).decode(payload)
        assert (reading(found), found.wants_reply) == ({"Level": 1}, False)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [('{"ack":0}', False), ('{"ack":1}', True), ("{}", True), ("null", True), ('"x"', True), ('{"ack":"0"}', True)],
)
def test_only_ack_zero_wants_no_reply(options: str, wanted: bool) -> None:
    assert decode('{"Level":1}', f',"sys":{options}').wants_reply is wanted
    assert decode('{"Level":"x"}', f',"sys":{options}').wants_reply is wanted


def test_params_as_the_string_of_an_empty_object_are_empty() -> None:
    assert decode('"{}"').identifiers == ()
    assert decode("{}").identifiers == ()


@pytest.mark.parametrize("params", ["null", "7", "[]", '"x"', '"[]"', "true"])
def test_params_that_are_no_object_are_refused_with_the_id_kept(params: str) -> None:
    refused = refusal(post(params))
    assert (refused.reason, refused.id, refused.wants_reply) == (Reason.BAD_ENVELOPE, b'"12"', True)


def test_missing_params_are_refused() -> None:
    assert refusal(b'{"id":"1"}').reason is Reason.BAD_ENVELOPE


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\xfe", b"nonsense", b'{"id":"1","params":{"Level":1}', b'{"id":"1","params":{}} x'])
def test_bytes_that_are_no_json_are_refused(payload: bytes) -> None:
    assert refusal(payload).reason is Reason.BAD_JSON


@pytest.mark.parametrize("payload", [b"[]", b"7", b'"x"', b"null"])
def test_json_that_is_no_envelope_is_refused(payload: bytes) -> None:
    assert refusal(payload).reason is Reason.BAD_ENVELOPE


@pytest.mark.parametrize(
    "place", ['{"id":"\udcff","params":{"Level":1}}', '{"params":{"Level":1},"x":"\udcff"}', '{"params":{"Note":"\udcff"}}']
)
def test_bytes_that_are_no_utf8_are_refused_wherever_they_stand(place: str) -> None:
    assert refusal(place.encode("utf-8", "surrogateescape")).reason is Reason.BAD_JSON


@pytest.mark.parametrize(
    "place", ['{{"params":{}}}', '{{"params":{{"Curve":{}}}}}', '{{"params":{{"Unknown":{}}}}}', '{{"x":{},"params":{{}}}}', "{}"]
)
@pytest.mark.parametrize("closed", [True, False])
def test_deep_nesting_is_refused(place: str, closed: bool) -> None:
    deep = "[" * 100_000 + "]" * 100_000 * closed
    assert refusal(place.format(deep).encode()).reason in (Reason.BAD_JSON, Reason.BAD_ENVELOPE)


def test_more_than_200_properties_are_refused_with_the_id_kept() -> None:
    params = ",".join(f'"P{number}":1' for number in range(201))
    refused = refusal(post("{" + params + "}"))
    assert (refused.reason, refused.id) == (Reason.TOO_MANY, b'"12"')
    assert len(decode("{" + params[: params.rindex(",")] + "}").refused) == 200


def test_a_model_of_more_than_200_properties_takes_200_at_a_time() -> None:
    entries = [{"identifier": f"P{number}", "dataType": {"type": "int"}} for number in range(250)]
    decoder = PostDecoder(parse_thing_model({"properties": entries}))
    for count in (200, 200, 200, 7):
        assert len(decoder.decode(property_post(1, {f"P{number}": number for number in range(count)})).values) == count
    for _ in range(3):
        with pytest.raises(MessageRefused) as refused:
            decoder.decode(property_post(1, {f"P{number}": number for number in range(201)}))
        assert refused.value.reason is Reason.TOO_MANY


def test_posts_of_one_shape_share_one_tuple_of_identifiers() -> None:
    decoder = PostDecoder(MODEL)
    payloads = [
        post('{"Power":1,"Level":2}'),
        post('{"Level":2,"Power":3}'),
        post('{"Power":{"value":1,"time":1},"Level":{"value":2,"time":1}}'),
        post('{"Power":1,"Level":{"value":2,"time":1}}'),
        post('{"Power":1,"Level":2,"Unknown":3}'),
    ]
    shapes = {id(decoder.decode(payload).identifiers) for payload in payloads for _ in range(4)}
    assert len(shapes) == 1


def test_a_device_that_invents_shapes_does_not_fill_memory() -> None:
    decoder = PostDecoder(library.load("integrated_stove"))
    names = list(decoder.model.properties)
    for number in range(3000):
        subset = {name: 0 for bit, name in enumerate(names) if number >> bit & 1}
        for _ in range(2):
            decoder.decode(property_post(1, subset))
    assert len(decoder._shapes) <= 1024
    assert len(decoder._forms) <= 64


def test_devices_of_a_product_share_one_decoder() -> None:
    again = parse_thing_model(MODEL.to_dict())
    assert post_decoder(again) is post_decoder(MODEL)


def test_a_payload_may_be_a_view_into_a_batch() -> None:
    batch = b"...." + post('{"Level":1}')
    assert reading(PostDecoder(MODEL).decode(memoryview(batch)[4:])) == {"Level": 1}


def test_what_a_device_sends_comes_back() -> None:
    sent = {"Power": 1.5, "Level": 3, "Note": "集成灶"}
    found = PostDecoder(MODEL).decode(property_post(7, sent, T))
    assert (reading(found), set(found.times or ())) == (sent, {T})


def test_a_time_more_than_a_day_ahead_is_refused_by_name() -> None:
    now = 1_700_000_000_000
    day = 86_400_000
    found = decode(f'{{"Level":{{"value":1,"time":{now + day}}},"Power":{{"value":2,"time":{now + day + 1}}},"Count":3}}')
    checked = check_times(found, now)
    assert (reading(checked), stamps(checked)) == ({"Level": 1, "Count": 3}, {"Level": now + day, "Count": None})
    assert {name: error.reason for name, error in checked.refused.items()} == {"Power": Reason.BAD_TIME}
    assert check_times(found, now + 1) is found
    assert check_times(decode(f'{{"Level":{{"value":1,"time":{now * 2}}}}}'), now).times is None


def outcome(decoder: PostDecoder, payload: bytes, patiently: bool) -> object:
    """What decoding comes to, comparable; any exception but a refusal goes up."""
    try:
        found = decoder.decode_patiently(payload) if patiently else decoder.decode(payload)
    except MessageRefused as error:
        return error.reason, str(error), error.id, error.wants_reply
    for name, value in zip(found.identifiers, found.values, strict=True):
        json.dumps(value, allow_nan=False)
        if is_numeric(MODEL.properties[name].data_type):  # fits a float64 column without another look
            assert type(value) in (int, float)
            assert float(value) == value  # type: ignore[arg-type]  # a number, as the line above says
    refused = {name: (error.reason, str(error)) for name, error in found.refused.items()}
    return found.id, found.wants_reply, found.identifiers, repr(found.values).replace("-0.0", "0.0"), found.times, refused


@pytest.mark.parametrize(
    "params",
    [
        '{"Timer":{"value":{"Burner":1},"time":1,"x":2}}',
        '{"Level":{"value":1,"time":1,"x":2}}',
        '{"Level":{"value":1,"time":253402300799999}}',
        '{"Level":{"value":1,"time":253402300800000}}',
        '{"Level":{"value":1},"Power":{"value":1,"time":5}}',
        '{"Level":{"value":1},"Power":{"value":1}}',
        '{"Switch":true,"Start":1524448722000,"Curve":[1,2]}',
        '{"Switch":{"value":2,"time":1}}',
        '{"Power":-0,"Temp":-0.0,"Count":-0}',
        '{"Power":123456789012345678901234567890}',
    ],
)
def test_a_post_read_often_reads_the_same(params: str) -> None:
    decoder = PostDecoder(MODEL)
    expected = outcome(decoder, post(params), patiently=True)
    for _ in range(4):
        assert outcome(decoder, post(params), patiently=False) == expected


@thorough
@given(
    st.lists(samples.payloads, min_size=1, max_size=2), st.sampled_from([(0,), (0, 0, 0), (0, 1), (0, 0, 1, 0), (0, 0, 1, 1, 0, 1, 0, 0)])
)
def test_the_fast_forms_and_the_patient_path_agree_on_any_params(payloads: list[bytes], order: tuple[int, ...]) -> None:
    expected = [outcome(post_decoder(MODEL), payload, patiently=True) for payload in payloads]
    decoder = PostDecoder(MODEL)  # its forms depend on what it read before, so it reads the payloads in any order
    for number in order:
        number %= len(payloads)
        assert outcome(decoder, payloads[number], patiently=False) == expected[number]


@fuzz
@given(st.binary(max_size=200))
def test_any_bytes_are_a_post_or_refused(payload: bytes) -> None:
    outcome(post_decoder(MODEL), payload, patiently=False)


WHOLE = [
    property_post(12, {"Power": 1.5, "Level": 3}),
    property_post(12, {"Power": 1.5, "Level": 3, "Note": "é"}, T),
    post("{" + ",".join(f'"{name}":{part}' for name, part in samples.good.items()) + "}", ',"sys":{"ack":0}'),
]


@fuzz
@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 1 << 16), max_size=3), st.integers(0, 1 << 16))
def test_a_post_with_flipped_bits_or_cut_short_is_a_post_or_refused(payload: bytes, flips: list[int], cut: int) -> None:
    damaged = bytearray(payload)
    for flip in flips:
        place = flip % (len(payload) * 8)
        damaged[place // 8] ^= 1 << place % 8
    for one in (bytes(damaged), bytes(damaged[: cut % len(payload)])):
        assert outcome(post_decoder(MODEL), one, patiently=False) == outcome(post_decoder(MODEL), one, patiently=True)


@pytest.mark.parametrize("payload", WHOLE)
def test_a_post_cut_at_any_offset_is_refused(payload: bytes) -> None:
    for cut in range(len(payload)):
        assert refusal(payload[:cut]).reason is Reason.BAD_JSON
