"""Topic aliases: what a client may write instead of a topic, and what it gets instead of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Reason, Refused
from protocols.mqtt.aliases import REMEMBERED, SentAliases
from protocols.mqtt.codec import NO_PROPERTIES, Decoder, Disconnect, Properties, PublishRun, ReasonCode, encode_publish
from protocols.mqtt.downlink import Message
from protocols.mqtt.outbound import Outbound
from protocols.mqtt.session import Limits
from tests.unit.protocols.mqtt.packets import Publish, singles
from tests.unit.protocols.mqtt.sessions import opened, runs, sent


def aliased(topic: str, alias: int | None, payload: bytes = b"x", packet_id: int = 0) -> bytes:
    properties = None if alias is None else Properties(topic_alias=alias)
    return encode_publish(topic, payload, 1 if packet_id else 0, packet_id, version=5, properties=properties)


def zero(topic: str) -> bytes:
    """A PUBLISH with the topic alias 0, which no encoder writes without its topic."""
    body = len(topic).to_bytes(2, "big") + topic.encode() + bytes.fromhex("03 23 0000")
    return bytes((0x30, len(body))) + body


# towards the server


def test_an_alias_stands_for_the_topic_it_was_sent_with_and_can_be_given_another() -> None:
    session = opened(5)
    wire = aliased("a", 1) + aliased("", 1) + aliased("b", 16) + aliased("", 1) + aliased("c", 1) + aliased("", 1) + aliased("", 16)
    assert [run.topic for run in runs(session.receive(wire, 1.0)) for _ in range(run.count)] == ["a", "a", "b", "a", "c", "c", "b"]


def test_messages_with_an_alias_run_together_like_all_others() -> None:
    session = opened(5)
    session.receive(aliased("some/topic", 3, packet_id=1), 1.0)
    (run,) = runs(session.receive(b"".join(aliased("", 3, b"%02d" % n, packet_id=n + 2) for n in range(50)), 1.0))
    assert (run.topic, run.count, run.payloads()) == ("some/topic", 50, [b"%02d" % n for n in range(50)])
    assert len(run.acks()) == 200


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (zero("t"), ReasonCode.TOPIC_ALIAS_INVALID),
        (zero(""), ReasonCode.TOPIC_ALIAS_INVALID),
        (aliased("t", 17), ReasonCode.TOPIC_ALIAS_INVALID),
        (aliased("", 17), ReasonCode.TOPIC_ALIAS_INVALID),
        (aliased("", 2), ReasonCode.PROTOCOL_ERROR),
        (bytes.fromhex("30 03 0000 00"), ReasonCode.PROTOCOL_ERROR),
    ],
)
def test_an_alias_that_was_not_offered_or_stands_for_nothing_closes(wire: bytes, code: int) -> None:
    session = opened(5)
    session.receive(aliased("known", 1), 1.0)
    assert runs(session.receive(wire, 1.0)) == []
    (goodbye,) = sent(session)
    assert isinstance(goodbye, Disconnect)
    assert (goodbye.reason, session.should_close) == (code, True)


def test_where_no_aliases_are_offered_none_are_taken() -> None:
    session = opened(5, limits=Limits(topic_aliases=0))
    session.receive(aliased("t", 1), 1.0)
    (goodbye,) = sent(session)
    assert isinstance(goodbye, Disconnect)
    assert goodbye.reason == ReasonCode.TOPIC_ALIAS_INVALID


def test_aliases_end_with_their_connection() -> None:
    opened(5).receive(aliased("t", 1), 1.0)
    session = opened(5)
    assert runs(session.receive(aliased("", 1), 1.0)) == []
    assert session.should_close


def test_before_mqtt_5_an_empty_topic_is_no_alias() -> None:
    with pytest.raises(Refused) as refused:
        Decoder(4).feed(bytes.fromhex("30 02 0000"))
    assert refused.value.reason is Reason.MALFORMED_PACKET


# towards the client


def test_a_topic_that_comes_again_is_sent_by_alias_and_arrives_as_itself() -> None:
    session = opened(5, properties=Properties(topic_alias_maximum=3))
    for n in range(4):
        assert session.deliver("/sys/pk/dn/thing/event/property/post_reply", b"%d" % n)
    wire = session.take_output()
    assert wire.count(b"post_reply") == 2
    client = Decoder(5, server_side=False)
    client.alias_maximum = 3
    found = [one for one in singles(client.feed(wire)) if isinstance(one, Publish)]
    assert [(one.topic, one.payload) for one in found] == [("/sys/pk/dn/thing/event/property/post_reply", b"%d" % n) for n in range(4)]
    assert [one.properties.topic_alias for one in found] == [None, 1, 1, 1]


def test_a_client_that_takes_no_aliases_gets_none() -> None:
    for version, properties in ((4, NO_PROPERTIES), (5, NO_PROPERTIES), (5, Properties(topic_alias_maximum=0))):
        session = opened(version, properties=properties)
        for _ in range(3):
            session.deliver("t", b"", 1)
            session.deliver("t", b"")
        assert all(one.topic == "t" and one.properties is NO_PROPERTIES for one in sent(session) if isinstance(one, Publish))


topics = st.lists(st.sampled_from(["a", "b", "c", "dd", "e/e", "f"]), max_size=40)


@given(topics, st.integers(0, 5), st.integers(8, 60))
def test_what_is_sent_by_alias_is_what_was_meant_whatever_is_too_large(names: list[str], maximum: int, packet_maximum: int) -> None:
    out = Outbound()
    out.version, out.alias_maximum, out.packet_maximum = 5, maximum, packet_maximum
    client = Decoder(5, server_side=False)
    client.alias_maximum = maximum
    meant, read = [], []
    for n, name in enumerate(names):
        if out.publish(Message(name, bytes(n % 30))):
            meant.append((name, n % 30))
        wire = out.take()
        assert len(wire) <= packet_maximum
        read += [(one.topic, len(one.payload)) for one in singles(client.feed(wire)) if isinstance(one, Publish)]
    assert read == meant


def test_topics_that_come_once_take_no_alias_from_those_that_come_again() -> None:
    aliases = SentAliases(2)
    for n in range(1_000):
        assert aliases.write(f"rrpc/{n}") == (f"rrpc/{n}", None)
    assert [aliases.write("again")[1] for _ in range(3)] == [None, 1, 1]
    kept = [aliases.write(f"rrpc/{n}")[1] for n in range(1_000 - REMEMBERED + 1, 1_000)]
    assert kept[0] == 2  # remembered, and the last one that is free
    assert set(kept[1:]) == {None}


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 4)), max_size=30))
def test_a_decoder_agrees_with_a_dictionary(sequence: list[tuple[str, int]]) -> None:
    decoder = Decoder(5)
    decoder.alias_maximum = 3
    known: dict[int, str] = {}
    for topic, alias in sequence:
        bad = not 0 < alias <= 3 or (not topic and alias not in known)
        wire = aliased(topic, alias) if alias else zero(topic)
        if bad:
            with pytest.raises(Refused):
                decoder.feed(wire)
            return
        known[alias] = topic or known[alias]
        (run,) = decoder.feed(wire)
        assert isinstance(run, PublishRun)
        assert run.topic == known[alias]
