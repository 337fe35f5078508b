"""What a client that connects may rely on, and what a front door makes of one that may not."""

import tracemalloc
from collections.abc import Callable

import pytest

from protocols.errors import Reason, Refused
from protocols.mqtt.codec import (
    ConnAck,
    Connect,
    ConnectCode,
    Disconnect,
    PingReq,
    Properties,
    PubAck,
    ReasonCode,
    Subscribe,
    Will,
    encode,
    encode_publish,
)
from protocols.mqtt.session import Cause, ConnectRequested, Disconnected, Limits, Published, ServerSession
from tests.unit.protocols.mqtt.packets import decode
from tests.unit.protocols.mqtt.sessions import WILL, codes, connect, opened, runs, sent

# CONNECT


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_connect_waits_for_its_answer(version: int) -> None:
    session = ServerSession()
    asked = connect(version)
    assert session.receive(encode(asked), 1.0) == [ConnectRequested(asked)]
    assert (session.holding, session.connected, session.take_output()) == (True, False, b"")
    assert session.accept() == []
    assert (session.holding, session.connected, session.version, session.keepalive_s) == (False, True, version, 60)
    (answer,) = sent(session)
    assert isinstance(answer, ConnAck)
    assert (answer.session_present, answer.reason) == (False, 0)


def test_an_mqtt_5_client_is_told_what_is_spoken_here() -> None:
    session = ServerSession()
    session.receive(encode(connect(5, properties=Properties(session_expiry_interval=100))), 1.0)
    session.accept(receive_maximum=16, server_keepalive=30, assigned_client_identifier="made-up")
    (answer,) = sent(session)
    assert isinstance(answer, ConnAck)
    assert answer.properties == Properties(
        session_expiry_interval=0,
        receive_maximum=16,
        maximum_qos=1,
        retain_available=0,
        maximum_packet_size=Limits().packet_bytes,
        topic_alias_maximum=16,
        subscription_identifier_available=0,
        shared_subscription_available=0,
        server_keep_alive=30,
    )
    assert session.keepalive_s == 30


@pytest.mark.parametrize("version", [3, 4])
def test_an_old_client_keeps_the_keepalive_it_asked_for(version: int) -> None:
    session = ServerSession()
    session.receive(encode(connect(version)), 1.0)
    session.accept(server_keepalive=30)
    assert session.keepalive_s == 60


@pytest.mark.parametrize(
    ("code", "old", "new", "reason"),
    [
        (ConnectCode.CLIENT_ID_REJECTED, 2, 0x85, Reason.BAD_CREDENTIALS),
        (ConnectCode.UNAVAILABLE, 3, 0x88, None),
        (ConnectCode.BAD_CREDENTIALS, 4, 0x86, Reason.BAD_CREDENTIALS),
        (ConnectCode.NOT_AUTHORISED, 5, 0x87, Reason.NOT_AUTHORISED),
        (ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4, 0x86, Reason.BAD_CREDENTIALS),
        (ReasonCode.BANNED, 5, 0x8A, Reason.NOT_AUTHORISED),
    ],
)
def test_a_refusal_reads_right_in_each_version(code: int, old: int, new: int, reason: Reason | None) -> None:
    for version, expected in ((3, old), (4, old), (5, new)):
        session = ServerSession()
        session.receive(encode(connect(version, WILL)) + encode_publish("t", b"x", version=version), 1.0)
        session.refuse(code)
        assert codes(sent(session)) == [expected]
        assert session.should_close
        assert (session.refusal and session.refusal.reason) == reason
        assert session.accept() == session.receive(b"\xc0\0", 2.0) == session.connection_lost() == []


def test_a_code_that_refuses_nothing_is_a_mistake() -> None:
    session = ServerSession()
    session.receive(encode(connect()), 1.0)
    with pytest.raises(ValueError):
        session.refuse(0)


def test_answering_without_a_question_is_a_mistake() -> None:
    for session in (ServerSession(), opened()):
        with pytest.raises(RuntimeError):
            session.accept()
        with pytest.raises(RuntimeError):
            session.refuse(ConnectCode.UNAVAILABLE)


@pytest.mark.parametrize("version", [4, 5])
def test_another_first_packet_closes_without_a_word(version: int) -> None:
    for first in (PingReq(), Subscribe(1, (("a", 0),)), Disconnect()):
        session = ServerSession()
        assert session.receive(encode(first) + encode(connect(version)), 1.0) == []
        assert (session.should_close, session.take_output()) == (True, b"")
        assert session.refusal is not None


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_second_connect_closes(version: int) -> None:
    session = opened(version, WILL)
    again = encode(connect(version))
    assert session.receive(encode_publish("t", b"x", version=version) + again, 1.0)[1:] == [Disconnected(WILL, False, Cause.REFUSED)]
    assert codes(sent(session)) == ([ReasonCode.PROTOCOL_ERROR] if version == 5 else [])
    assert session.should_close


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        ("10 10 0004 4d515454 05 03 003c 00 0003 616263", ReasonCode.MALFORMED_PACKET, Reason.MALFORMED_PACKET),  # reserved flag
        ("10 11 0004 4d515454 05 02 003c 00 0003 616200 00", ReasonCode.MALFORMED_PACKET, Reason.MALFORMED_PACKET),  # NUL, bytes behind
        ("10 ffff03 0004 4d515454 05 02 003c 00 0003 616263", ReasonCode.PACKET_TOO_LARGE, Reason.PACKET_TOO_LARGE),
    ],
)
def test_a_bad_connect_of_an_mqtt_5_client_is_answered_with_why(data: str, code: int, reason: Reason) -> None:
    session = ServerSession()
    assert session.receive(bytes.fromhex(data), 1.0) == []
    (answer,) = decode(session.take_output(), 5, server_side=False)
    assert isinstance(answer, ConnAck)
    assert session.refusal is not None
    assert (answer.reason, session.refusal.reason, session.should_close) == (code, reason, True)
    assert answer.properties.reason_string == str(session.refusal)


def test_a_refused_connect_of_an_mqtt_5_client_says_what_to_do_unless_it_takes_no_words() -> None:
    for size, words in ((None, "check the secret"), (20, None)):
        session = ServerSession()
        session.receive(encode(Connect("a", version=5, properties=Properties(maximum_packet_size=size)), 5), 1.0)
        session.refuse(ConnectCode.BAD_CREDENTIALS, "check the secret")
        (answer,) = sent(session)
        assert isinstance(answer, ConnAck)
        assert (answer.reason, answer.properties.reason_string) == (0x86, words)


def test_nothing_is_kept_of_who_waits_for_a_refusal() -> None:
    session = ServerSession()
    session.receive(encode(connect()) + bytes(200_000), 1.0)
    tracemalloc.start()
    try:
        session.refuse(ConnectCode.BAD_CREDENTIALS, "no", not_before=20.0)
        for _ in range(100):
            assert session.receive(bytes(60_000), 2.0) == []
        assert tracemalloc.get_traced_memory()[0] < 60_000
    finally:
        tracemalloc.stop()
    assert session.holding
    session.tick(20.0)
    assert codes(sent(session)) == [4]


@pytest.mark.parametrize("version", [4, 5])
def test_a_refusal_can_wait_for_its_time_and_is_told_when_the_session_ends_before(version: int) -> None:
    endings: list[tuple[Callable[[ServerSession], object], bool]] = [
        (lambda session: session.tick(20.0), True),
        (lambda session: session.fail(Refused(Reason.TOO_MANY_CONNECTIONS, "no room")), True),
        (lambda session: session.close(ReasonCode.SERVER_SHUTTING_DOWN), True),
        (lambda session: session.connection_lost(), False),
    ]
    for end, told in endings:
        session = ServerSession()
        session.receive(encode(connect(version)), 1.0)
        session.refuse(ConnectCode.BAD_CREDENTIALS, "no", not_before=20.0)
        assert session.tick(19.9) == []
        assert (session.holding, session.take_output()) == (True, b"")
        end(session)
        assert codes(sent(session)) == ([0x86 if version == 5 else 4] if told else [])
        assert session.should_close
        assert session.refusal is not None
        assert session.refusal.reason is Reason.BAD_CREDENTIALS


@pytest.mark.parametrize(
    ("data", "spoken"),
    [
        (b"GET / HTTP/1.1\r\nHost: gateway\r\nAuthorization: Basic c2VjcmV0\r\n\r\n" + bytes(100), "HTTP"),
        (bytes.fromhex("16 03 01 02 00 01 00 01 fc 03 03") + bytes(600), "TLS"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" + bytes(100), "SSH"),
    ],
)
def test_what_is_no_mqtt_at_all_is_named_and_little_of_it_is_kept(data: bytes, spoken: str) -> None:
    session = ServerSession()
    assert session.receive(data, 1.0) == []
    assert (session.should_close, session.take_output()) == (True, b"")
    assert session.refusal is not None
    assert session.refusal.reason is Reason.MALFORMED_PACKET
    assert spoken in str(session.refusal)
    assert 5 <= len(session.offence) <= 16
    assert data.startswith(session.offence)


def test_a_refused_run_says_why_in_its_first_puback_only_and_only_to_who_wants_words() -> None:
    refused = Refused(Reason.FOREIGN_TOPIC, "not yours: publish below your own name")
    data = b"".join(encode_publish("t", b"x", 1, at, version=5) for at in (7, 8, 9))
    for properties, words in (
        (Properties(), str(refused)),
        (Properties(request_problem_information=0), None),
        (Properties(maximum_packet_size=30), None),
    ):
        session = opened(5, properties=properties)
        (run,) = runs(session.receive(data, 1.0))
        acks = [ack for ack in decode(session.refusing(run, refused), 5) if isinstance(ack, PubAck)]
        assert [(ack.packet_id, ack.reason) for ack in acks] == [(7, 0x87), (8, 0x87), (9, 0x87)]
        assert [ack.properties.reason_string for ack in acks] == [words, None, None]
    (run,) = runs(opened(5).receive(encode_publish("t", b"x", version=5), 1.0))
    assert opened(5).refusing(run, refused) == b""


def test_an_unknown_level_is_answered_with_1() -> None:
    session = ServerSession()
    assert session.receive(bytes.fromhex("10 0d 0004 4d515454 07 02 003c 0001 61"), 1.0) == []
    assert session.take_output().hex() == "20020001"
    assert session.refusal is not None
    assert session.refusal.reason is Reason.UNSUPPORTED_VERSION


@pytest.mark.parametrize(("version", "clean", "code"), [(3, True, 2), (4, False, 2), (4, True, None), (5, False, None)])
def test_an_empty_client_id_needs_a_clean_session(version: int, clean: bool, code: int | None) -> None:
    session = ServerSession()
    events = session.receive(encode(Connect("", clean_start=clean, version=version)), 1.0)
    assert codes(sent(session)) == ([] if code is None else [code])
    assert len(events) == (code is None)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (Connect("a", version=5, properties=Properties(authentication_method="SCRAM")), ReasonCode.BAD_AUTHENTICATION_METHOD),
        (Connect("a", version=5, will=Will("w", b"", 2)), ReasonCode.QOS_NOT_SUPPORTED),
        (Connect("a", version=5, will=Will("w", b"", 1, True)), ReasonCode.RETAIN_NOT_SUPPORTED),
    ],
)
def test_what_mqtt_5_lets_us_decline_is_declined_by_name(asked: Connect, code: int) -> None:
    session = ServerSession()
    assert session.receive(encode(asked), 1.0) == []
    assert codes(sent(session)) == [code]
    assert session.should_close


def test_a_large_connect_closes_before_it_is_received() -> None:
    session = ServerSession()
    session.receive(encode(Connect("a", "u" * 20_000))[:10], 1.0)
    assert session.should_close
    assert session.refusal is not None
    assert session.refusal.reason is Reason.PACKET_TOO_LARGE


# what comes behind a CONNECT


@pytest.mark.parametrize("version", [4, 5])
def test_packets_behind_connect_are_held_and_released_in_order(version: int) -> None:
    data = encode(connect(version)) + b"".join(encode_publish("t", b"%d" % at, 1, at + 1, version=version) for at in range(20))
    session = ServerSession()
    for at in range(0, len(data), 7):
        session.receive(data[at : at + 7], 1.0)
    assert session.take_output() == b""
    events = session.accept()
    assert [payload for run in runs(events) for payload in run.payloads()] == [b"%d" % at for at in range(20)]
    assert isinstance(sent(session)[0], ConnAck)


def test_a_packet_cut_by_the_answer_is_completed_after_it() -> None:
    packet = encode_publish("t", b"x" * 20_000, 1, 1)
    session = ServerSession()
    session.receive(encode(connect()) + packet[:9000], 1.0)
    assert session.accept() == []
    (run,) = runs(session.receive(packet[9000:], 2.0))
    assert run.size == 20_000


@pytest.mark.refusal(Reason.QUOTA_EXCEEDED)
def test_what_is_held_is_bounded() -> None:
    session = ServerSession(limits=Limits(held_bytes=1000))
    session.receive(encode(connect()), 1.0)
    assert session.receive(bytes(1000), 1.0) == []
    assert not session.should_close
    assert session.receive(b"x", 1.0) == []
    assert session.should_close
    assert session.accept() == []
    assert session.refusal is not None
    assert session.refusal.reason is Reason.QUOTA_EXCEEDED


def test_a_bad_packet_behind_connect_closes_after_the_answer() -> None:
    session = ServerSession()
    session.receive(encode(connect(5, WILL)) + encode_publish("t", b"x", version=5) + b"\xff\0", 1.0)
    published, gone = session.accept()
    assert isinstance(published, Published)
    assert gone == Disconnected(WILL, False, Cause.REFUSED)
    assert codes(sent(session)) == [0, ReasonCode.PROTOCOL_ERROR]
