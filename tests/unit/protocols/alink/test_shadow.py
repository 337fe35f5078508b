import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocols.alink.shadow import (
    MOST_ATTRIBUTES,
    Entry,
    ShadowCode,
    ShadowDocument,
    ShadowMessage,
    ShadowRefused,
    apply_shadow_message,
    read_shadow_message,
    shadow_clear_desired,
    shadow_content,
    shadow_delta,
    shadow_done,
    shadow_failed,
    shadow_question,
    shadow_removal,
    shadow_report,
)
from tests.fuzzing import fuzz

NOW = 1_469_564_576_123
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
values = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.lists(st.integers(), max_size=2)


def report(values: object, version: object = 1) -> bytes:
    return json.dumps({"method": "update", "state": {"reported": values}, "version": version}).encode()


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"{", ShadowCode.NOT_JSON),
        (b"[]", ShadowCode.NOT_JSON),
        (b"\xff", ShadowCode.NOT_JSON),
        (b"", ShadowCode.EMPTY),
        (b"{}", ShadowCode.NO_METHOD),
        (b'{"method":"put"}', ShadowCode.UNKNOWN_METHOD),
        (b'{"method":"update","version":1}', ShadowCode.NO_STATE),
        (b'{"method":"update","state":{"reported":{"a":1}}}', ShadowCode.BAD_VERSION),
        (report({"a": 1}, "1"), ShadowCode.BAD_VERSION),
        (report({"a": 1}, True), ShadowCode.BAD_VERSION),
        (b'{"method":"update","state":{},"version":1}', ShadowCode.NO_REPORTED),
        (b'{"method":"delete","state":{},"version":1}', ShadowCode.NO_REPORTED),
        (report({}), ShadowCode.EMPTY_REPORTED),
        (b'{"method":"delete","state":{"reported":{}},"version":1}', ShadowCode.EMPTY_REPORTED),
        (report({f"a{n}": n for n in range(MOST_ATTRIBUTES + 1)}), ShadowCode.TOO_MANY),
    ],
)
def test_what_is_wrong_with_a_shadow_message_has_the_vendors_code(payload: bytes, code: ShadowCode) -> None:
    with pytest.raises(ShadowRefused) as refused:
        read_shadow_message(payload)
    assert refused.value.code is code
    answer = json.loads(shadow_failed(refused.value, NOW))
    assert answer["payload"]["status"] == "error"
    assert answer["payload"]["content"]["errorcode"] == str(int(code))
    assert answer["timestamp"] == NOW // 1000


@fuzz
@given(
    st.binary(max_size=60)
    | st.recursive(values, lambda inner: st.dictionaries(names, inner, max_size=3)).map(lambda v: json.dumps(v).encode())
)
def test_any_payload_is_a_shadow_message_or_refused(payload: bytes) -> None:
    try:
        message = read_shadow_message(payload)
    except ShadowRefused as refused:
        if not str(refused):
            raise
    else:
        assert isinstance(message, ShadowMessage)


def test_a_version_has_to_exceed_the_stored_one_and_takes_its_place() -> None:
    document = apply_shadow_message(ShadowDocument(), read_shadow_message(report({"a": 1}, 7)), NOW)
    assert (document.version, document.reported) == (7, {"a": Entry(1, NOW)})
    with pytest.raises(ShadowRefused) as refused:
        apply_shadow_message(document, read_shadow_message(report({"a": 2}, 7)), NOW)
    assert refused.value.code is ShadowCode.CONFLICT
    again = apply_shadow_message(document, read_shadow_message(report({"a": 2}, -1)), NOW)
    assert (again.version, again.reported["a"].value) == (0, 2)


def test_what_is_shown_has_times_in_seconds_and_both_halves() -> None:
    document = ShadowDocument(2, {"a": Entry(1, NOW)}, {"b": Entry("on", NOW)})
    shown = json.loads(shadow_content(document, NOW, method="control"))
    second = NOW // 1000
    assert shown == {
        "method": "control",
        "payload": {
            "status": "success",
            "state": {"reported": {"a": 1}, "desired": {"b": "on"}},
            "metadata": {"reported": {"a": {"timestamp": second}}, "desired": {"b": {"timestamp": second}}},
        },
        "version": 2,
        "timestamp": second,
    }
    assert json.loads(shadow_done(3, NOW)) == {"method": "reply", "payload": {"status": "success", "version": 3}, "timestamp": second}


class Shadows(RuleBasedStateMachine):
    """The document against two plain dictionaries and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.document = ShadowDocument(0, {}, {"wanted": Entry(1, NOW)})
        self.reported: dict[str, object] = {}
        self.desired: dict[str, object] = {"wanted": 1}
        self.version = 0

    def send(self, payload: bytes, version: int) -> bool:
        message = read_shadow_message(payload)
        try:
            self.document = apply_shadow_message(self.document, message, NOW)
        except ShadowRefused as refused:
            if refused.code is not ShadowCode.CONFLICT or not 0 < version <= self.version:
                raise
            return False
        assert not 0 < version <= self.version
        self.version = max(version, 0)
        return True

    @rule(values=st.dictionaries(names, values, min_size=1, max_size=4), version=st.integers(-1, 9))
    def report(self, values: dict[str, object], version: int) -> None:
        if self.send(shadow_report(version, values), version):
            self.reported |= values

    @rule(names=st.lists(names, min_size=1, max_size=3), version=st.integers(-1, 9))
    def take_back(self, names: list[str], version: int) -> None:
        if self.send(shadow_removal(version, names), version):
            for name in names:
                self.reported.pop(name, None)

    @rule(version=st.integers(-1, 9))
    def take_everything_back(self, version: int) -> None:
        if self.send(shadow_removal(version), version):
            self.reported.clear()

    @rule(version=st.integers(-1, 9))
    def clear_desired(self, version: int) -> None:
        if self.send(shadow_clear_desired(version), version):
            self.desired.clear()

    @rule()
    def ask(self) -> None:
        assert read_shadow_message(shadow_question()).asks
        shown = json.loads(shadow_content(self.document, NOW))
        assert shown["payload"]["state"] == {"reported": self.reported, "desired": self.desired}

    @invariant()
    def agrees(self) -> None:
        assert {name: entry.value for name, entry in self.document.reported.items()} == self.reported
        assert {name: entry.value for name, entry in self.document.desired.items()} == self.desired
        assert self.document.version == self.version


TestShadows = Shadows.TestCase


@given(st.dictionaries(names, values), st.dictionaries(names, values))
def test_a_device_that_does_what_the_delta_says_has_none_left(desired: dict[str, object], reported: dict[str, object]) -> None:
    delta = shadow_delta(desired, reported)
    assert shadow_delta(desired, {**reported, **delta}) == {}
    assert delta.keys() <= desired.keys()
