"""What a session sends down: to whoever never subscribed too, in order, within bounds."""

import pytest

from protocols.errors import Reason, Refused
from protocols.mqtt.codec import (
    PingReq,
    Properties,
    PubAck,
    encode,
)
from protocols.mqtt.session import Cause, Disconnected, Limits
from tests.unit.protocols.mqtt.packets import Publish
from tests.unit.protocols.mqtt.sessions import WILL, opened, sent


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_device_that_never_subscribed_is_reached(version: int) -> None:
    session = opened(version)
    assert session.deliver("a/b", b"zero")
    assert session.deliver("a/b", b"one", 1)
    assert sent(session) == [Publish("a/b", 0, False, False, 0, b"zero"), Publish("a/b", 1, False, False, 1, b"one")]
    assert session.awaiting == 1
    session.receive(encode(PubAck(1), version), 1.0)
    assert session.awaiting == 0


@pytest.mark.parametrize(("version", "asked", "window"), [(4, None, 4), (5, None, 4), (5, 2, 2), (5, 100, 4)])
def test_the_window_is_the_smaller_of_ours_and_the_clients(version: int, asked: int | None, window: int) -> None:
    session = opened(version, limits=Limits(in_flight=4), properties=Properties(receive_maximum=asked))
    assert all(session.deliver("t", b"%d" % at, 1) for at in range(10))
    first = [packet for packet in sent(session) if isinstance(packet, Publish)]
    assert [packet.payload for packet in first] == [b"%d" % at for at in range(window)]
    session.receive(b"".join(encode(PubAck(packet.packet_id), version) for packet in first), 1.0)
    assert [packet.payload for packet in sent(session) if isinstance(packet, Publish)] == [b"%d" % at for at in range(window, 2 * window)]


def test_a_full_queue_refuses_the_new_message_and_keeps_the_old() -> None:
    session = opened(limits=Limits(in_flight=1, queued_messages=2))
    assert [session.deliver("t", b"%d" % at, 1) for at in range(5)] == [True, True, True, False, False]
    for at in range(3):
        assert sent(session) == [Publish("t", 1, False, False, at + 1, b"%d" % at)]
        session.receive(encode(PubAck(at + 1)), 1.0)
    assert session.deliver("t", b"again", 1)


def test_the_queue_is_bounded_in_bytes_too() -> None:
    session = opened(limits=Limits(in_flight=1, queued_bytes=1000))
    assert [session.deliver("t", bytes(400), 1) for _ in range(5)] == [True, True, True, False, False]


def test_what_the_client_does_not_read_is_bounded() -> None:
    session = opened(4, WILL, Limits(output_bytes=1000))
    taken = 0
    while session.deliver("t", bytes(100)):
        taken += 1
    assert taken == 10
    assert session.receive(encode(PingReq()), 1.0) == [Disconnected(WILL, False, Cause.REFUSED)]
    assert session.refusal is not None
    assert session.refusal.reason is Reason.SLOW_READER


def test_a_packet_larger_than_the_client_takes_is_not_sent() -> None:
    session = opened(5, limits=Limits(in_flight=1), properties=Properties(maximum_packet_size=100))
    for qos in (0, 1, 1):
        assert session.deliver("t", bytes(100), qos) is False
    assert session.deliver("t", bytes(50), 1)
    assert len(session.take_output()) <= 100


def test_a_bad_topic_is_the_callers_mistake_even_when_it_would_queue() -> None:
    session = opened(limits=Limits(in_flight=1))
    session.deliver("t", b"", 1)
    for qos in (0, 1):
        with pytest.raises(Refused):
            session.deliver("a/+", b"", qos)


def test_packet_ids_in_flight_are_not_used_again() -> None:
    session = opened()
    assert session.deliver("t", b"stuck", 1)
    for _ in range(65_535):
        session.deliver("t", b"", 1)
        ids = [packet.packet_id for packet in sent(session) if isinstance(packet, Publish) and packet.payload == b""]
        assert 1 not in ids
        session.receive(b"".join(encode(PubAck(one)) for one in ids), 1.0)
    assert session.awaiting == 1


def test_a_puback_for_nothing_is_ignored() -> None:
    session = opened()
    session.receive(encode(PubAck(77)), 1.0)
    session.deliver("t", b"", 1)
    session.receive(encode(PubAck(77)), 1.0)
    assert (session.awaiting, session.should_close) == (1, False)
