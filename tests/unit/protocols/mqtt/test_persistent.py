"""Sessions that outlive their connection: who gets one, for how long, what is in it, and what becomes of the will."""

from typing import Any

import pytest

from protocols.mqtt.codec import NO_PROPERTIES, ConnAck, Connect, Disconnect, Properties, PubAck, ReasonCode, Subscribe, Will, encode
from protocols.mqtt.events import KeptSession
from protocols.mqtt.session import Cause, Disconnected, Limits, ServerSession
from tests.unit.protocols.mqtt.packets import Publish
from tests.unit.protocols.mqtt.sessions import codes, sent

LIMITS = Limits(session_s=600, in_flight=4, queued_messages=6)
FOR_EVER = 0xFFFF_FFFF


def asks(version: int, *, clean: bool = False, expiry: int | None = 60, will: Will | None = None, **more: Any) -> Connect:
    properties = Properties(session_expiry_interval=expiry, **more) if version == 5 else NO_PROPERTIES
    return Connect("dev", "dev&pk", b"secret", clean, 60, will, version, properties)


def begun(
    connect: Connect, kept: KeptSession | None = None, now: float = 0.0, limits: Limits = LIMITS
) -> tuple[ServerSession, ConnAck, list[Publish]]:
    """A session, its CONNACK, and what was sent again."""
    session = ServerSession(now, limits)
    session.receive(encode(connect, connect.version), now)
    session.accept(kept, now=now)
    answer, *again = sent(session)
    assert isinstance(answer, ConnAck)
    return session, answer, [one for one in again if isinstance(one, Publish)]


def left(session: ServerSession) -> KeptSession:
    """What a lost connection leaves."""
    (event,) = session.connection_lost()
    assert isinstance(event, Disconnected)
    assert event.kept is not None
    return event.kept


def told(publishes: list[Publish]) -> list[tuple[int, bool, bytes]]:
    """Packet id, DUP and payload."""
    return [(one.packet_id, one.dup, one.payload) for one in publishes]


def messages(session: ServerSession) -> list[tuple[int, bool, bytes]]:
    """What the client reads now."""
    return told([one for one in sent(session) if isinstance(one, Publish)])


# for how long


@pytest.mark.parametrize(
    ("version", "clean", "asked", "granted"),
    [
        (5, True, None, 0),
        (5, True, 0, 0),
        (5, True, 60, 60),
        (5, False, 601, 600),
        (5, False, FOR_EVER, 600),
        (4, True, None, 0),
        (4, False, None, 600),
        (3, True, None, 0),
        (3, False, None, 600),
    ],
)
def test_a_session_outlives_its_connection_as_long_as_was_asked_and_is_allowed(
    version: int, clean: bool, asked: int | None, granted: int
) -> None:
    session, answer, _ = begun(asks(version, clean=clean, expiry=asked))
    assert answer.properties.session_expiry_interval == (granted if version == 5 else None)
    assert (answer.session_present, session.expiry_s) == (False, granted)
    (event,) = session.connection_lost()
    assert isinstance(event, Disconnected)
    assert (event.kept.expiry_s if event.kept else 0) == granted


@pytest.mark.parametrize("version", [3, 4, 5])
def test_where_nothing_is_kept_a_client_is_told_so(version: int) -> None:
    session, answer, _ = begun(asks(version, expiry=FOR_EVER), limits=Limits())
    assert answer.properties.session_expiry_interval == (0 if version == 5 else None)
    assert session.connection_lost() == [Disconnected(None, False, Cause.LOST)]


@pytest.mark.parametrize(("asked", "then", "granted"), [(60, 0, 0), (60, 30, 30), (60, 5_000, 600), (60, None, 60), (0, 0, 0)])
def test_a_farewell_may_change_how_long(asked: int, then: int | None, granted: int) -> None:
    session, _, _ = begun(asks(5, expiry=asked))
    (event,) = session.receive(encode(Disconnect(0, Properties(session_expiry_interval=then)), 5), 1.0)
    assert isinstance(event, Disconnected)
    assert (event.clean, event.kept.expiry_s if event.kept else 0) == (True, granted)


def test_a_farewell_cannot_ask_for_a_session_that_connect_did_not_ask_for() -> None:
    session, _, _ = begun(asks(5, expiry=0, will=Will("w", b"gone")))
    (event,) = session.receive(encode(Disconnect(0, Properties(session_expiry_interval=60)), 5), 1.0)
    assert event == Disconnected(Will("w", b"gone"), False, Cause.REFUSED)
    assert codes(sent(session)) == [ReasonCode.PROTOCOL_ERROR]


@pytest.mark.parametrize("end", ["takeover", "close", "connection_lost"])
def test_however_a_connection_ends_its_session_is_kept(end: str) -> None:
    session, _, _ = begun(asks(5))
    (event,) = getattr(session, end)()
    assert event.kept is not None
    for packet in sent(session):
        assert isinstance(packet, Disconnect)
        assert packet.properties.session_expiry_interval is None  # par. 3.14.2.2.2: never from a server


# what is in it


@pytest.mark.parametrize("version", [3, 4, 5])
def test_what_has_no_puback_comes_again_as_a_duplicate_before_anything_else_and_in_order(version: int) -> None:
    session, _, _ = begun(asks(version))
    assert all(session.deliver("t", b"%d" % n, 1) for n in range(7))
    assert messages(session) == [(n + 1, False, b"%d" % n) for n in range(4)]
    session.receive(encode(PubAck(2), version), 1.0)
    assert messages(session) == [(5, False, b"4")]
    kept = left(session)
    session, answer, again = begun(asks(version), kept, 2.0)
    assert answer.session_present is (version > 3)  # 3.1 has no such bit
    assert session.deliver("t", b"new", 1)
    assert told(again) == [(1, True, b"0"), (3, True, b"2"), (4, True, b"3"), (5, True, b"4")]
    session.receive(b"".join(encode(PubAck(one), version) for one in (1, 3, 4, 5)), 3.0)
    assert messages(session) == [(6, False, b"5"), (7, False, b"6"), (8, False, b"new")]


def test_the_window_of_the_new_connection_holds_for_what_is_sent_again() -> None:
    session, _, _ = begun(asks(5))
    assert all(session.deliver("t", b"%d" % n, 1) for n in range(4))
    session, _, again = begun(asks(5, receive_maximum=2), left(session))
    assert told(again) == [(1, True, b"0"), (2, True, b"1")]
    session, _, again = begun(asks(5, receive_maximum=3), left(session))
    assert told(again) == [(1, True, b"0"), (2, True, b"1"), (3, True, b"2")]
    session.receive(encode(PubAck(1), 5) + encode(PubAck(2), 5), 1.0)
    assert messages(session) == [(4, True, b"3")]


def test_what_has_become_too_large_counts_as_sent_and_the_next_goes_on() -> None:
    session, _, _ = begun(asks(5))
    for payload in (b"small", bytes(200), b"tiny"):
        assert session.deliver("t", payload, 1)
    session, _, again = begun(asks(5, receive_maximum=1, maximum_packet_size=60), left(session))
    assert told(again) == [(1, True, b"small")]
    session.receive(encode(PubAck(1), 5), 1.0)
    assert messages(session) == [(3, True, b"tiny")]
    session.receive(encode(PubAck(3), 5), 1.0)
    assert session.awaiting == 0


def test_a_message_that_a_client_refuses_is_not_sent_again() -> None:
    session, _, _ = begun(asks(5))
    session.deliver("t", b"0", 1)
    session.receive(encode(PubAck(1, ReasonCode.NOT_AUTHORIZED), 5), 1.0)
    session, _, again = begun(asks(5), left(session))
    assert again == []


def test_a_session_may_go_on_in_another_version_of_mqtt() -> None:
    session, _, _ = begun(asks(4))
    session.deliver("t", b"0", 1)
    session, answer, again = begun(asks(5), left(session))
    assert (answer.session_present, told(again)) == (True, [(1, True, b"0")])


def test_subscriptions_are_kept_and_a_clean_start_has_none_of_it() -> None:
    for clean in (False, True):
        session, _, _ = begun(asks(5))
        session.deliver("t", b"0", 1)
        session.receive(encode(Subscribe(1, (("a/+", 1),)), 5), 1.0)
        session, answer, again = begun(asks(5, clean=clean), left(session))
        assert (answer.session_present, session.subscribed("a/b")) == (not clean, not clean)
        assert len(again) == (not clean)


def test_what_is_held_for_a_session_is_bounded_while_it_is_connected_too() -> None:
    session, _, _ = begun(asks(5), limits=Limits(session_s=600, in_flight=4, queued_messages=6, queued_bytes=1_000))
    assert [session.deliver("t", bytes(300), 1) for _ in range(5)] == [True, True, True, False, False]
    session.receive(encode(PubAck(1), 5), 1.0)
    assert session.deliver("t", bytes(300), 1)


# expiry of messages


def test_an_mqtt_5_client_is_told_the_seconds_that_are_left() -> None:
    session, _, _ = begun(asks(5))
    assert session.deliver("t", b"a", 1, expires=30.0, now=10.0)
    assert session.deliver("t", b"b", 0, expires=30.0, now=10.5)
    assert session.deliver("t", b"c", 1)
    assert [one.properties.message_expiry_interval for one in sent(session) if isinstance(one, Publish)] == [20, 20, None]
    session, _, again = begun(asks(5), left(session), 25.0)
    found = [(one.payload, one.properties.message_expiry_interval) for one in again]
    assert found == [(b"a", 5), (b"c", None)]


@pytest.mark.parametrize("version", [4, 5])
def test_what_has_expired_is_never_sent(version: int) -> None:
    session, _, _ = begun(asks(version))
    for qos in (0, 1):
        assert session.deliver("t", b"late", qos, expires=5.0, now=5.0) is False
    for n in range(6):
        assert session.deliver("t", b"%d" % n, 1, expires=20.0 + n, now=1.0)
    assert len(messages(session)) == 4
    session.receive(encode(PubAck(1), version), 24.5)  # room for one: 4 has expired meanwhile
    assert messages(session) == [(5, False, b"5")]
    session, _, again = begun(asks(version), left(session), 22.5)
    assert [one.payload for one in again] == [b"3", b"5"]


def test_a_queue_that_is_full_of_expired_messages_has_room() -> None:
    session, _, _ = begun(asks(5))
    assert [session.deliver("t", b"old", 1, expires=10.0, now=1.0) for _ in range(11)] == [True] * 10 + [False]
    assert session.deliver("t", b"new", 1, now=10.0)
    session.receive(b"".join(encode(PubAck(n), 5) for n in (1, 2, 3, 4)), 11.0)
    assert messages(session)[-1] == (5, False, b"new")


# wills


@pytest.mark.parametrize(
    ("delay", "expiry", "now", "kept"),
    [(None, 60, True, 0), (0, 60, True, 0), (30, 60, False, 30), (90, 60, False, 60), (FOR_EVER, FOR_EVER, False, 600), (30, 0, True, 0)],
)
def test_a_will_waits_as_long_as_it_says_and_no_longer_than_its_session(delay: int | None, expiry: int, now: bool, kept: int) -> None:
    will = Will("w", b"gone", 0, False, Properties(will_delay_interval=delay))
    session, _, _ = begun(asks(5, expiry=expiry, will=will))
    (event,) = session.connection_lost()
    assert isinstance(event, Disconnected)
    assert event.will == (will if now else None)
    assert (event.kept.will, event.kept.will_delay_s) == (None if now else will, kept) if event.kept else not expiry


def test_a_farewell_takes_a_will_that_would_wait_with_it() -> None:
    will = Will("w", b"gone", 0, False, Properties(will_delay_interval=30))
    for reason, expected in ((0, None), (4, will)):
        session, _, _ = begun(asks(5, will=will))
        (event,) = session.receive(encode(Disconnect(reason), 5), 1.0)
        assert isinstance(event, Disconnected)
        assert event.kept is not None
        assert (event.will, event.kept.will) == (None, expected)


def test_a_farewell_that_ends_the_session_publishes_its_will_at_once() -> None:
    will = Will("w", b"gone", 0, False, Properties(will_delay_interval=30))
    session, _, _ = begun(asks(5, will=will))
    (event,) = session.receive(encode(Disconnect(4, Properties(session_expiry_interval=0)), 5), 1.0)
    assert event == Disconnected(will, False, Cause.DISCONNECTED)
