"""Statements of the specification that no other test shows by the way; docs/reference/mqtt.md says which is which."""

import string

import pytest

from protocols.errors import Reason, Refused
from protocols.mqtt.codec import (
    ConnAck,
    Connect,
    Decoder,
    Disconnect,
    Properties,
    PubAck,
    ReasonCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
    encode,
    encode_publish,
)
from protocols.mqtt.session import Cause, Disconnected, Limits, ServerSession
from tests.unit.protocols.mqtt.packets import Publish
from tests.unit.protocols.mqtt.sessions import WILL, opened, runs, sent

BOM = "\ufeff"
FOR_DEVICES = (4, 5)


# strings


@pytest.mark.parametrize("version", FOR_DEVICES)
def test_a_zero_width_no_break_space_is_a_character_like_any_other(version: int) -> None:
    (connect,) = Decoder().feed(encode(Connect(BOM + "a", BOM + "u", version=version), version))
    assert isinstance(connect, Connect)
    assert (connect.client_id, connect.username) == (BOM + "a", BOM + "u")
    session = opened(version)
    (run,) = runs(session.receive(encode_publish(BOM + "t", b"", version=version), 1.0))
    assert run.topic == BOM + "t"
    session.receive(encode(Subscribe(1, ((BOM + "t", 1),)), version), 1.0)
    assert (session.subscribed(BOM + "t"), session.subscribed("t")) == (True, False)


@pytest.mark.parametrize(
    "properties",
    [
        "03 0002 ffff",  # content type
        "08 0002 c080",  # response topic
        "26 0001 61 0002 eda0",  # user property: the value
        "26 0002 0061 0001 61",  # user property: NUL in the name
    ],
)
def test_a_property_that_is_no_utf_8_closes(properties: str) -> None:
    body = bytes.fromhex("0001 74") + bytes((len(bytes.fromhex(properties)),)) + bytes.fromhex(properties)
    session = opened(5)
    assert runs(session.receive(bytes((0x30, len(body))) + body, 1.0)) == []
    (goodbye,) = sent(session)
    assert isinstance(goodbye, Disconnect)
    assert goodbye.reason == ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize("version", [3, 4, 5])
def test_every_client_id_of_1_to_23_letters_and_digits_is_taken(version: int) -> None:
    letters = string.digits + string.ascii_letters
    for client_id in (*letters, letters[:23], letters[-23:]):
        session = ServerSession()
        assert len(session.receive(encode(Connect(client_id, version=version), version), 1.0)) == 1


# CONNECT and its answer


def test_an_mqtt_5_client_is_promised_nothing_that_is_not_here() -> None:
    asked = Properties(request_response_information=1, user=(("a", "b"),), topic_alias_maximum=9)
    for properties in (asked, Properties(), Properties(request_response_information=0)):
        session = ServerSession()
        session.receive(encode(Connect("a", version=5, properties=properties), 5), 1.0)
        session.accept()
        (answer,) = sent(session)
        assert isinstance(answer, ConnAck)
        found = answer.properties
        assert found.response_information is None
        assert (found.authentication_method, found.authentication_data, found.server_reference) == (None, None, None)
        assert (found.assigned_client_identifier, found.reason_string, found.user) == (None, None, ())
        assert (found.maximum_qos, found.retain_available) == (1, 0)
        assert found.wildcard_subscription_available is None  # absent: they are
        assert (found.shared_subscription_available, found.subscription_identifier_available) == (0, 0)


def test_a_client_without_a_client_id_is_told_the_one_it_was_given() -> None:
    for client_id, expected in (("", "made-up"), ("mine", None)):
        session = ServerSession()
        session.receive(encode(Connect(client_id, version=5), 5), 1.0)
        session.accept(assigned_client_identifier="made-up")
        (answer,) = sent(session)
        assert isinstance(answer, ConnAck)
        assert answer.properties.assigned_client_identifier == expected


def test_a_client_that_takes_not_even_a_connack_is_closed_without_a_word() -> None:
    session = ServerSession()
    session.receive(encode(Connect("a", will=WILL, version=5, properties=Properties(maximum_packet_size=12)), 5), 1.0)
    assert session.accept() == [Disconnected(WILL, False, Cause.REFUSED)]
    assert (session.take_output(), session.should_close) == (b"", True)
    assert session.refusal is not None
    assert session.refusal.reason is Reason.PACKET_TOO_LARGE


@pytest.mark.parametrize("wire", ["f0 00", "f0 02 18 00", "f0 02 19 00"])
def test_auth_is_refused_before_and_after_connect(wire: str) -> None:
    stranger = ServerSession()
    assert stranger.receive(bytes.fromhex(wire), 1.0) == []
    assert (stranger.should_close, stranger.take_output()) == (True, b"")
    session = opened(5)
    session.receive(bytes.fromhex(wire), 1.0)
    (goodbye,) = sent(session)
    assert isinstance(goodbye, Disconnect)
    assert goodbye.reason == ReasonCode.PROTOCOL_ERROR


def test_will_properties_are_taken_in_any_combination() -> None:
    properties = Properties(
        payload_format_indicator=1,
        message_expiry_interval=9,
        content_type="text/plain",
        response_topic="r",
        correlation_data=b"\0",
        user=(("b", "1"), ("a", "2"), ("b", "3")),
        will_delay_interval=0,
    )
    will = Will("w", b"\xff", 1, False, properties)
    session = opened(5, will, Limits(session_s=60), properties=Properties(session_expiry_interval=60))
    (event,) = session.connection_lost()
    assert isinstance(event, Disconnected)
    assert event.will == will
    assert event.will.properties.user == (("b", "1"), ("a", "2"), ("b", "3"))


# PUBLISH


@pytest.mark.parametrize(
    "properties",
    [
        Properties(payload_format_indicator=1),  # and the payload below is no UTF-8: whoever decodes it refuses it, and keeps it
        Properties(payload_format_indicator=0),
        Properties(message_expiry_interval=0),  # stored at once, so it never waits
        Properties(message_expiry_interval=0xFFFF_FFFF),
        Properties(response_topic="r/s", correlation_data=bytes(20)),
        Properties(content_type="application/json", user=(("k", "1"), ("k", "2"))),
    ],
)
def test_what_a_message_says_about_itself_neither_harms_nor_changes_it(properties: Properties) -> None:
    session = opened(5)
    wire = b"".join(encode_publish("t", b"\xff\xfe", 1, one, version=5, properties=properties) for one in (1, 2, 3))
    (run,) = runs(session.receive(wire, 1.0))
    assert (run.properties, run.payloads()) == (properties, [b"\xff\xfe"] * 3)
    session.acknowledge(run.acks())
    assert sent(session) == [PubAck(1), PubAck(2), PubAck(3)]


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_packet_id_that_was_acknowledged_is_a_new_message_whatever_its_dup_says(version: int) -> None:
    session = opened(version)
    for dup in (False, True, True):
        (run,) = runs(session.receive(encode_publish("t", b"x", 1, 7, dup=dup, version=version), 1.0))
        assert (run.count, run.packet_ids) == (1, b"\0\7")
        session.acknowledge(run.acks())
    assert sent(session) == [PubAck(7)] * 3


@pytest.mark.parametrize("version", [3, 4, 5])
def test_what_is_sent_down_is_never_retained_and_has_a_packet_id_with_qos_1_only(version: int) -> None:
    session = opened(version)
    for qos in (0, 1):
        session.deliver("t", b"x", qos)
    found = [(one.qos, one.packet_id > 0, one.dup, one.retain) for one in sent(session) if isinstance(one, Publish)]
    assert found == [(0, False, False, False), (1, True, False, False)]


# SUBSCRIBE and UNSUBSCRIBE


@pytest.mark.parametrize("version", FOR_DEVICES)
def test_many_filters_are_answered_one_by_one_in_their_order_and_without_words(version: int) -> None:
    denied = 0x87 if version == 5 else 0x80
    session = ServerSession(allow_filter=lambda text: not text.startswith("x"))
    session.receive(encode(Connect("a", version=version, properties=Properties()), version), 1.0)
    session.accept()
    session.take_output()
    session.receive(encode(Subscribe(300, (("a", 2), ("x", 1), ("b", 0), ("a", 0), ("x/y", 0))), version), 1.0)
    session.receive(encode(Unsubscribe(301, ("b", "c", "a", "a")), version), 1.0)
    assert sent(session) == [SubAck(300, (1, denied, 0, 0, denied)), UnsubAck(301, (0, 0x11, 0, 0x11) if version == 5 else ())]


def test_who_unsubscribes_still_gets_what_was_under_way() -> None:
    session = opened(4, limits=Limits(in_flight=1))
    session.receive(encode(Subscribe(1, (("t", 1),))), 1.0)
    assert session.deliver("t", b"1", 1)
    assert session.deliver("t", b"2", 1)
    session.receive(encode(Unsubscribe(2, ("t",))) + encode(PubAck(1)), 1.0)
    assert [one.payload for one in sent(session) if isinstance(one, Publish)] == [b"1", b"2"]


# the end


def test_the_words_of_a_goodbye_are_left_out_where_they_do_not_fit() -> None:
    for size, words in ((None, True), (60, False)):
        session = opened(5, properties=Properties(maximum_packet_size=size))
        session.fail(Refused(Reason.FOREIGN_TOPIC, "not yours: publish below your own name, and nowhere else than there"))
        (goodbye,) = sent(session)
        assert isinstance(goodbye, Disconnect)
        assert (goodbye.reason, goodbye.properties.reason_string is not None) == (0x87, words)


@pytest.mark.parametrize("version", FOR_DEVICES)
def test_after_the_goodbye_nothing_more_is_sent_or_heard(version: int) -> None:
    session = opened(version)
    session.deliver("t", b"1", 1)
    (run,) = runs(session.receive(encode_publish("t", b"x", 1, 1, version=version), 1.0))
    session.take_output()
    session.close()
    session.take_output()
    session.acknowledge(run.acks())
    assert session.deliver("t", b"2") is False
    assert session.receive(encode_publish("t", b"y", version=version), 2.0) == []
    assert session.tick(1e9) == []
    assert (session.take_output(), session.should_close) == (b"", True)


@pytest.mark.parametrize("flags", range(1, 16))
def test_reserved_flags_of_a_disconnect_are_answered_as_malformed_and_keep_the_will(flags: int) -> None:
    session = opened(5, WILL)
    assert session.receive(bytes((0xE0 | flags, 0)), 1.0) == [Disconnected(WILL, False, Cause.REFUSED)]
    (goodbye,) = sent(session)
    assert isinstance(goodbye, Disconnect)
    assert goodbye.reason == ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize(
    "wire", ["50 02 0001", "62 02 0001", "60 02 0001", "70 02 0001", "34 05 0001 74 0001", "3c 05 0001 74 0001"], ids=lambda text: text[:2]
)
@pytest.mark.parametrize("version", [3, 4, 5])
def test_every_packet_of_qos_2_closes(wire: str, version: int) -> None:
    session = opened(version, WILL)
    data = bytes.fromhex(wire)
    assert session.receive(data, 1.0) == [Disconnected(WILL, False, Cause.REFUSED)]
    assert session.refusal is not None
