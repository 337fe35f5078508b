"""Runs of alike PUBLISHes: as fast as they are, they say what a slow decoder says."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Reason, Refused
from protocols.mqtt.codec import NO_PROPERTIES, Decoder, Packet, Properties, PubAck, PublishRun, encode, encode_publish
from tests.unit.protocols.mqtt.packets import Publish, decode, singles, slow_publishes

LINE_1, LINE_2 = Properties(user=(("site", "line-1"),)), Properties(user=(("site", "line-2"),))


def messages_that_differ_little(version: int) -> list[Publish]:
    """Few topics, sizes, flags, ids and properties, one payload that looks like a PUBLISH: runs begin and end everywhere."""
    plain = [
        Publish(topic, qos, retain, qos == 1 and not retain and not payload, packet_id if qos else 0, payload, properties)
        for topic, payload, qos, retain, packet_id, properties in product(
            ("t", "u", "ü"),
            (b"", b"a", b"b", b"\x32\x05\0\1t\0\1"),
            (0, 1),
            (False, True),
            (1, 256, 65_535),
            (NO_PROPERTIES, LINE_1, LINE_2),
        )
    ]
    return [one for one in plain if version == 5 or one.properties is NO_PROPERTIES]


FEW = {version: messages_that_differ_little(version) for version in (4, 5)}


@st.composite
def traffic(draw: st.DrawFn) -> tuple[int, list[Publish]]:
    """A version and messages; each may come several times."""
    version = draw(st.sampled_from([4, 5]))
    drawn = draw(st.lists(st.tuples(st.sampled_from(FEW[version]), st.integers(1, 3)), max_size=6))
    return version, [one for one, times in drawn for _ in range(times)]


def wire(messages: list[Publish], version: int) -> bytes:
    return b"".join(encode_publish(m.topic, m.payload, m.qos, m.packet_id, m.retain, m.dup, version, m.properties) for m in messages)


@given(traffic())
def test_runs_hold_what_a_slow_decoder_finds(drawn: tuple[int, list[Publish]]) -> None:
    version, messages = drawn
    data = wire(messages, version)
    runs = decode(data, version)
    assert singles(runs) == messages
    assert messages == list(slow_publishes(data, version))


@pytest.mark.parametrize("version", [4, 5])
def test_any_two_messages_are_told_apart(version: int) -> None:
    few = [one for one in FEW[version] if one.packet_id in (0, 256)]
    alone = {one: wire([one], version) for one in few}
    for first, second in product(few, few):
        assert singles(decode(alone[first] + alone[second], version)) == [first, second]


@given(traffic())
def test_a_run_is_as_long_as_it_can_be(drawn: tuple[int, list[Publish]]) -> None:
    version, messages = drawn
    shapes = [(m.topic, m.qos, m.retain, m.dup, len(m.payload), m.properties) for m in messages]
    changes = sum(1 for before, after in pairwise(shapes) if before != after)
    assert len(decode(wire(messages, version), version)) == (changes + 1 if messages else 0)


@given(traffic())
def test_acks_are_the_pubacks_in_arrival_order(drawn: tuple[int, list[Publish]]) -> None:
    version, messages = drawn
    runs = [run for run in decode(wire(messages, version), version) if isinstance(run, PublishRun)]
    expected: list[Packet | Publish] = [PubAck(message.packet_id) for message in messages if message.qos]
    assert singles(decode(b"".join(run.acks() for run in runs), version)) == expected
    refusals: list[Packet | Publish] = [PubAck(message.packet_id, 0x87) for message in messages if message.qos]
    assert singles(decode(b"".join(run.acks(0x87, 5) for run in runs), 5)) == refusals


@given(traffic(), st.data())
def test_a_part_of_a_run_is_a_run(drawn: tuple[int, list[Publish]], data: st.DataObject) -> None:
    version, messages = drawn
    for run in decode(wire(messages, version), version):
        assert isinstance(run, PublishRun)
        middle = data.draw(st.integers(0, run.count))
        parts = [run.part(start, stop) for start, stop in ((0, middle), (middle, run.count)) if start < stop]
        assert [one for part in parts for one in singles([part])] == singles([run])
        assert singles(decode(b"".join(encode(part, version) for part in parts), version)) == singles([run])
        assert b"".join(part.acks() for part in parts) == run.acks()


def test_an_empty_part_is_a_mistake() -> None:
    (run,) = decode(encode_publish("t", b"x"))
    assert isinstance(run, PublishRun)
    with pytest.raises(ValueError):
        run.part(1, 1)


def test_a_puback_before_mqtt_5_cannot_refuse() -> None:
    (run,) = decode(encode_publish("t", b"x", 1, 7))
    assert isinstance(run, PublishRun)
    with pytest.raises(ValueError):
        run.acks(0x87, 4)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("bad", range(5))
def test_packet_id_0_inside_a_run_is_refused_after_those_before_it(version: int, bad: int) -> None:
    ids = [256 * (at + 1) for at in range(5)]  # low bytes of 0 are fine
    packets = [encode_publish("t", b"x", 1, one, version=version) for one in ids]
    packets[bad] = packets[bad].replace(ids[bad].to_bytes(2, "big"), b"\0\0")
    decoder = Decoder(version)
    if bad:
        (run,) = decoder.feed(b"".join(packets))
        assert isinstance(run, PublishRun)
        assert run.packet_ids == b"".join(one.to_bytes(2, "big") for one in ids[:bad])
    with pytest.raises(Refused) as refused:
        decoder.feed(b"".join(packets))
    assert refused.value.reason is Reason.MALFORMED_PACKET


def test_a_run_ends_with_the_read() -> None:
    packet = encode_publish("t", b"x" * 50, 1, 7)
    decoder = Decoder()
    counts = [
        run.count for cut in (packet * 3 + packet[:10], packet[10:] + packet) for run in decoder.feed(cut) if isinstance(run, PublishRun)
    ]
    assert counts == [3, 2]
