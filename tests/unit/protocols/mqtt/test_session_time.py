"""Deadlines of a session: silence, half packets, clients that never say CONNECT. Time is passed in."""

import pytest

from protocols.errors import Reason
from protocols.mqtt.codec import (
    PingReq,
    ReasonCode,
    encode,
    encode_publish,
)
from protocols.mqtt.session import Cause, Disconnected, Limits, ServerSession
from tests.unit.protocols.mqtt.sessions import WILL, codes, connect, opened, sent


@pytest.mark.parametrize("version", [4, 5])
def test_silence_of_one_and_a_half_keepalives_closes(version: int) -> None:
    session = opened(version, WILL, keepalive=10)
    assert session.deadline == 15.0
    assert session.tick(15.0) == []
    session.receive(encode(PingReq()), 15.0)
    assert session.tick(30.0) == []
    assert session.tick(30.1) == [Disconnected(WILL, False, Cause.KEEPALIVE)]
    assert codes(sent(session)) == ([ReasonCode.KEEP_ALIVE_TIMEOUT] if version == 5 else [])
    assert session.tick(99.0) == []
    assert session.refusal is not None
    assert session.refusal.reason is Reason.KEEPALIVE_TIMEOUT


def test_keepalive_0_never_closes() -> None:
    session = opened(keepalive=0)
    assert session.deadline is None
    assert session.tick(1e9) == []


def test_half_a_packet_is_no_sign_of_life() -> None:
    session = opened(keepalive=10)
    session.receive(encode_publish("t", b"x" * 50)[:20], 14.0)
    assert session.deadline == 15.0


def test_silence_while_the_owner_does_not_read_is_not_the_clients() -> None:
    session = opened(keepalive=10)
    assert session.tick(100.0, paused=True) == []
    assert session.tick(115.0) == []
    assert session.tick(115.1) == [Disconnected(None, False, Cause.KEEPALIVE)]


def test_without_a_connect_the_connection_closes() -> None:
    session = ServerSession(100.0)
    session.receive(encode(connect())[:5], 109.0)
    assert session.tick(110.0) == []
    assert not session.should_close
    assert session.tick(110.1) == []
    assert session.should_close
    assert session.refusal is not None
    assert session.refusal.reason is Reason.CONNECT_TIMEOUT


@pytest.mark.parametrize(("version", "keepalive"), [(4, 0), (5, 600)])
def test_half_a_packet_and_no_more_closes(version: int, keepalive: int) -> None:
    session = opened(version, WILL, Limits(packet_s=20.0), keepalive=keepalive)
    packet = encode_publish("t", b"x" * 50, 1, 1, version=version)
    session.receive(packet[:20], 30.0)
    assert session.tick(31.0) == []
    session.receive(packet[20:40], 50.0)  # byte by byte is no progress
    assert session.tick(51.0) == []
    assert session.tick(51.1) == [Disconnected(WILL, False, Cause.REFUSED)]
    assert session.refusal is not None
    assert session.refusal.reason is Reason.SLOW_WRITER


def test_a_packet_may_take_its_time_and_so_may_the_next() -> None:
    session = opened(limits=Limits(packet_s=20.0), keepalive=0)
    packet = encode_publish("t", b"x" * 50, 1, 1)
    for at in range(0, 400, 19):
        session.receive(packet[:20], float(at))
        assert session.tick(at + 1.0) == []
        assert session.tick(at + 18.0) == []
        assert len(session.receive(packet[20:], at + 18.5)) == 1


def test_half_a_packet_while_the_owner_does_not_read_is_not_the_clients_fault() -> None:
    session = opened(limits=Limits(packet_s=20.0), keepalive=0)
    session.receive(encode_publish("t", b"x" * 50, 1, 1)[:20], 1.0)
    for now in range(2, 100):
        assert session.tick(float(now), paused=True) == []
    assert session.tick(100.0) == []
    assert session.tick(121.0) == [Disconnected(None, False, Cause.REFUSED)]


def test_an_unanswered_connect_is_the_owners_matter() -> None:
    session = ServerSession()
    session.receive(encode(connect()), 0.0)
    assert session.deadline is None
