import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.codes import code_of
from protocols.alink.deviceinfo import ClockQuestion, Tag, clock_answer, reduced_tsl
from protocols.alink.envelope import MessageRefused
from protocols.alink.history import read_history
from protocols.alink.requests import DeviceRequest, is_request, read_request
from protocols.alink.shadow import ShadowCode, ShadowMessage, ShadowRefused
from protocols.alink.topics import Kind, Sender, Topic
from protocols.alink.topology import MOST_A_BATCH, sign_identity
from protocols.errors import Reason
from protocols.thing.export import full_tsl
from tests.fuzzing import fuzz
from tests.unit.protocols.alink.samples import MODEL

REQUESTS = [kind for kind in Kind if is_request(kind)]
PAIR = {"productKey": "a1", "deviceName": "s"}


def message(params: object, raw_id: object = "1") -> bytes:
    return json.dumps({"id": raw_id, "params": params}).encode()


GOOD: dict[Kind, object] = {
    Kind.DESIRED_GET: ["Power"],
    Kind.DESIRED_DELETE: {"Power": {"version": 1}, "WF": {}},
    Kind.TAGS_UPDATE: [{"attrKey": "k", "attrValue": "v"}, {"attrKey": "s", "attrValue": 7, "domain": "SYSTEM"}],
    Kind.TAGS_DELETE: [{"attrKey": "k"}],
    Kind.TSL_GET: "{}",
    Kind.DYNAMIC_TSL_GET: {"nodes": ["type"], "addDefault": False},
    Kind.CONFIG_GET: {"configScope": "product", "getType": "file"},
    Kind.LOG_CONFIG_GET: {"configScope": "device", "getType": "content"},
    Kind.LOG_POST: [{"utcTime": "2024-01-01T00:00:00.000+0000", "logLevel": "WARN", "module": "m", "code": "1", "logContent": "x"}],
    Kind.OTHER_LOG_POST: {"template": "t", "contents": [1, "x"]},
    Kind.DIAG_POST: {"p": {"wifi": {"rssi": -60}, "_time": 1}, "model": "format=simple"},
    Kind.RESET: {},
    Kind.OTA_INFORM: {"version": "1.0.0", "module": "default"},
    Kind.OTA_PROGRESS: {"step": "-1", "desc": "", "module": "default"},
    Kind.OTA_REQUEST: {},
    Kind.OTA_FIRMWARE_GET: {"module": "mcu"},
    Kind.JOB_GET: {"taskId": "$next"},
    Kind.JOB_UPDATE: {"taskId": "1", "status": "IN_PROGRESS", "progress": 50},
    Kind.SUB_REGISTER: [PAIR],
    Kind.PRODUCT_REGISTER: {"proxieds": [{**PAIR, "random": "r", "sign": "ab"}]},
    Kind.TOPO_ADD: [sign_identity("a1", "s", "x", "c", "1")],
    Kind.TOPO_DELETE: [PAIR],
    Kind.TOPO_GET: {},
    Kind.LIST_FOUND: [PAIR],
    Kind.LOGIN: {**sign_identity("a1", "s", "x", "c", "1"), "cleanSession": "true"},
    Kind.BATCH_LOGIN: {"signMethod": "hmacSha256", "deviceList": [sign_identity("a1", "s", "x", "c", "1")]},
    Kind.LOGOUT: PAIR,
    Kind.BATCH_LOGOUT: [PAIR],
    Kind.AWSS_MATCH: {"token": "ab"},
}


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if kind not in (Kind.SHADOW_UPDATE, Kind.NTP_REQUEST)])
def test_a_request_as_the_sdks_send_it_is_read(kind: Kind) -> None:
    assert Topic(kind, "a1", "d").sender is Sender.DEVICE
    request = read_request(kind, message(GOOD.get(kind, {}), 12))
    assert (request.kind, request.id, request.wants_reply) == (kind, b"12", True)


@pytest.mark.refusal(Reason.TOO_MANY_DESIRED)
@pytest.mark.parametrize(
    ("kind", "params", "code"),
    [
        (Kind.DESIRED_GET, ["x"] * 201, 6104),
        (Kind.DESIRED_GET, [], 460),
        (Kind.DESIRED_GET, {"a": 1}, 460),
        (Kind.TAGS_UPDATE, [{"attrValue": "v"}], 6302),
        (Kind.TAGS_UPDATE, [{"attrKey": "", "attrValue": "v"}], 460),
        (Kind.TAGS_UPDATE, [{"attrKey": "k", "attrValue": "v" * 2000}], 460),
        (Kind.TAGS_UPDATE, [{"attrKey": f"k{n}", "attrValue": "v"} for n in range(101)], 460),
        (Kind.TAGS_DELETE, None, 6302),
        (Kind.OTA_INFORM, {}, 6302),
        (Kind.LOG_POST, [], 460),
        (Kind.TOPO_ADD, [{**PAIR}], 6302),
        (Kind.TOPO_ADD, [sign_identity("a1", "s", "x", "c", "1")] * 6, 6357),
        (Kind.BATCH_LOGIN, {"deviceList": []}, 460),
        (Kind.LOGIN, [PAIR], 460),
        (Kind.LOGOUT, {"productKey": "a1"}, 6302),
        (Kind.SUB_REGISTER, [PAIR] * 201, 6357),
        (Kind.BATCH_LOGOUT, [PAIR] * 6, 6357),
        (Kind.AWSS_MATCH, {}, 6302),
    ],
)
def test_a_request_that_cannot_be_taken_has_a_code_and_its_id(kind: Kind, params: object, code: int) -> None:
    with pytest.raises(MessageRefused) as refused:
        read_request(kind, message(params, "7"))
    assert (code_of(refused.value), refused.value.id) == (code, b'"7"')


@fuzz
@given(
    st.sampled_from(REQUESTS),
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PAIR, "attrKey", "version", "deviceList", "p"]), inner)
        ),
    ).map(message),
)
def test_any_payload_is_a_request_or_refused(kind: Kind, payload: bytes) -> None:
    try:
        request = read_request(kind, payload)
    except MessageRefused as refused:
        if code_of(refused) == 400:
            raise
    else:
        assert isinstance(request, DeviceRequest)


def test_a_broken_shadow_message_is_a_value_since_the_shadow_answers_it_in_its_own_way() -> None:
    request = read_request(Kind.SHADOW_UPDATE, b"{")
    assert isinstance(request.params, ShadowRefused)
    assert request.params.code is ShadowCode.NOT_JSON
    assert isinstance(read_request(Kind.SHADOW_UPDATE, b'{"method":"get"}').params, ShadowMessage)


def test_the_time_is_told_with_the_devices_own_text_echoed() -> None:
    request = read_request(Kind.NTP_REQUEST, b'{"deviceSendTime":"1571724098000"}')
    assert isinstance(request.params, ClockQuestion)
    assert json.loads(clock_answer(request.params, 5, 6)) == {
        "deviceSendTime": "1571724098000",
        "serverRecvTime": "5",
        "serverSendTime": "6",
    }
    for broken in (b"{}", b"[]", b"x", b'{"deviceSendTime":{}}', b'{"deviceSendTime":"%b"}' % (b"9" * 99)):
        with pytest.raises(MessageRefused):
            read_request(Kind.NTP_REQUEST, broken)


@given(st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_tags_value_is_text(value: str | float | bool) -> None:
    assert Tag("k", value).text == (str(value).lower() if isinstance(value, bool) else str(value))


def test_a_reduced_thing_model_names_every_identifier_and_its_type() -> None:
    reduced = reduced_tsl(MODEL.to_dict(), ("type", "identifier"))
    properties = reduced["properties"]
    assert isinstance(properties, list)
    assert {entry["identifier"]: entry["dataType"]["type"] for entry in properties} == {
        name: entry["dataType"]["type"]
        for name, entry in ((e["identifier"], e) for e in MODEL.to_dict()["properties"])  # type: ignore[attr-defined]
    }


def test_the_generated_service_that_lists_names_keeps_them_in_a_reduced_thing_model() -> None:
    services = reduced_tsl(full_tsl(MODEL, "a1"), ("type", "identifier"))["services"]
    assert isinstance(services, list)
    (get,) = [service for service in services if service["identifier"] == "get"]
    assert get["inputData"] == list(MODEL.properties)


NUL = {"productKey": "a1", "deviceName": "a\0b"}
PROOF = {"random": "1", "sign": "0", "clientId": "x"}


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (Kind.LOGIN, NUL | PROOF),
        (Kind.BATCH_LOGIN, {"deviceList": [NUL | PROOF]}),
        (Kind.LOGOUT, NUL),
        (Kind.TOPO_ADD, [NUL | PROOF]),
        (Kind.TOPO_DELETE, [NUL]),
        (Kind.SUB_REGISTER, [NUL]),
        (Kind.PRODUCT_REGISTER, {"proxieds": [NUL | PROOF]}),
        (Kind.PRODUCT_REGISTER, {"proxieds": []}),
        (Kind.PRODUCT_REGISTER, {"proxieds": [PAIR | PROOF] * (MOST_A_BATCH + 1)}),
    ],
)
def test_names_with_nul_and_lists_out_of_bounds_are_refused(kind: Kind, params: object) -> None:
    """NUL is no text for PostgreSQL: past this door it would trip over it in the middle of many devices' work."""
    with pytest.raises(MessageRefused):
        read_request(kind, message(params))


def test_a_pack_of_a_device_with_nul_in_its_name_is_refused() -> None:
    with pytest.raises(MessageRefused):
        read_history(Kind.PACK_POST, message({"properties": {}, "subDevices": [{"identity": NUL, "properties": {}}]}))
