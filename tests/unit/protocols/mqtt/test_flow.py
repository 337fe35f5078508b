"""Flow control of what comes in: an MQTT 5 client has no more without PUBACK than it was told, whatever its owner waits for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Reason
from protocols.mqtt.codec import Connect, PingReq, PingResp, Properties, PubAck, ReasonCode, encode, encode_publish
from protocols.mqtt.run import count_acks
from protocols.mqtt.session import Cause, Disconnected, Published, ServerSession
from tests.unit.protocols.mqtt.sessions import codes, runs, sent


def allowed(maximum: int | None, version: int = 5) -> ServerSession:
    session = ServerSession()
    session.receive(encode(Connect("dev", version=version)), 0.0)
    session.accept(receive_maximum=maximum)
    session.take_output()
    return session


def publishes(count: int, qos: int = 1, version: int = 5, first: int = 1) -> bytes:
    return b"".join(encode_publish("t", b"x", qos, first + n if qos else 0, version=version) for n in range(count))


def test_a_client_that_sends_more_than_it_was_told_is_closed_and_what_was_within_counts() -> None:
    session = allowed(5)
    assert [run.count for run in runs(session.receive(publishes(3), 1.0))] == [3]
    published, gone = session.receive(publishes(4, first=4), 1.0)
    assert isinstance(published, Published)
    assert published.run.packet_ids == bytes.fromhex("0004 0005")
    assert gone == Disconnected(None, False, Cause.REFUSED)
    assert codes(sent(session)) == [ReasonCode.RECEIVE_MAXIMUM_EXCEEDED]
    assert session.refusal is not None
    assert session.refusal.reason is Reason.PROTOCOL_ERROR


def test_one_that_has_nothing_left_is_closed_by_its_next_message() -> None:
    session = allowed(2)
    session.receive(publishes(2), 1.0)
    assert session.receive(publishes(1, first=3), 1.0) == [Disconnected(None, False, Cause.REFUSED)]


def test_acknowledged_messages_make_room_refused_ones_too() -> None:
    session = allowed(4)
    for _ in range(10):
        (run,) = runs(session.receive(publishes(4), 1.0))
        session.acknowledge(run.part(0, 2).acks() + run.part(2, 4).acks(ReasonCode.NOT_AUTHORIZED, 5))
    assert not session.should_close


def test_qos_0_is_not_counted_and_pings_are_answered_without_room() -> None:
    session = allowed(2)
    session.receive(publishes(2), 1.0)
    assert [run.count for run in runs(session.receive(publishes(50, qos=0), 1.0))] == [50]
    session.receive(encode(PingReq()), 1.0)
    assert sent(session) == [PingResp()]


@pytest.mark.parametrize(("version", "maximum"), [(3, 2), (4, 2), (5, None)])
def test_who_was_told_no_limit_has_none(version: int, maximum: int | None) -> None:
    session = allowed(maximum, version)
    assert [run.count for run in runs(session.receive(publishes(100, version=version), 1.0))] == [100]


@given(
    st.lists(st.tuples(st.integers(1, 65_535), st.sampled_from([0, 0x10, 0x87, 0x99]), st.sampled_from(["", "no", "x" * 300])), max_size=20)
)
def test_pubacks_are_counted_whatever_they_say(acks: list[tuple[int, int, str]]) -> None:
    wire = b"".join(encode(PubAck(one, reason, Properties(reason_string=text or None)), 5) for one, reason, text in acks)
    assert count_acks(wire) == len(acks)
