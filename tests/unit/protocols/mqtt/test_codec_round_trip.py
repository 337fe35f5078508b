"""What is encoded decodes to itself, in each version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Refused
from protocols.mqtt.codec import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
    encode,
    encode_publish,
)
from tests.unit.protocols.mqtt.packets import Publish, connects, decode, from_client, from_server, publishes, singles, versions


@given(versions.flatmap(lambda version: connects(version)))
def test_a_connect_survives_the_wire(packet: Connect) -> None:
    assert decode(encode(packet)) == [packet]


@given(versions.flatmap(lambda version: st.tuples(st.just(version), from_client(version))))
def test_packets_of_clients_survive_the_wire(drawn: tuple[int, Packet]) -> None:
    version, packet = drawn
    assert decode(encode(packet, version), version) == [packet]


@given(versions.flatmap(lambda version: st.tuples(st.just(version), from_server(version))))
def test_packets_of_servers_survive_the_wire(drawn: tuple[int, Packet]) -> None:
    version, packet = drawn
    assert decode(encode(packet, version), version, server_side=False) == [packet]


@given(versions.flatmap(lambda version: st.tuples(st.just(version), publishes(version))), st.booleans())
def test_a_publish_survives_the_wire(drawn: tuple[int, Publish], server_side: bool) -> None:
    version, one = drawn
    data = encode_publish(one.topic, one.payload, one.qos, one.packet_id, one.retain, one.dup, version, one.properties)
    runs = decode(data, version, server_side)
    assert singles(runs) == [one]
    assert encode(runs[0], version) == data


# The bytes are written by hand from the specification's figures, so that encoder and decoder cannot be wrong together.
KNOWN: list[tuple[int, bool, Packet, str]] = [
    (4, True, Connect("a", keepalive=60), "100d 0004 4d515454 04 02 003c 0001 61"),
    (3, True, Connect("a", keepalive=60, version=3), "100f 0006 4d5149736470 03 02 003c 0001 61"),
    (5, True, Connect("a", keepalive=60, version=5), "100e 0004 4d515454 05 02 003c 00 0001 61"),
    (
        4,
        True,
        Connect("a", "u", b"p", clean_start=False, keepalive=1, will=Will("w", b"x", 1, True)),
        "1019 0004 4d515454 04 ec 0001 0001 61 0001 77 0001 78 0001 75 0001 70",
    ),
    (4, False, ConnAck(), "2002 00 00"),
    (4, False, ConnAck(True), "2002 01 00"),
    (4, False, ConnAck(False, 4), "2002 00 04"),
    (5, False, ConnAck(False, 0x86), "2003 00 86 00"),
    (4, True, PubAck(0x1234), "4002 1234"),
    (5, True, PubAck(0x1234), "4002 1234"),
    (5, True, PubAck(0x1234, 0x99), "4003 1234 99"),
    (4, True, Subscribe(10, (("a/b", 1), ("c/d", 2))), "820e 000a 0003 612f62 01 0003 632f64 02"),
    (5, True, Subscribe(10, (("a/b", 1),)), "8209 000a 00 0003 612f62 01"),
    (4, False, SubAck(10, (0, 2, 0x80)), "9005 000a 00 02 80"),
    (5, False, SubAck(10, (0x87,)), "9004 000a 00 87"),
    (4, True, Unsubscribe(10, ("a/b",)), "a207 000a 0003 612f62"),
    (4, False, UnsubAck(10), "b002 000a"),
    (5, False, UnsubAck(10, (0x11,)), "b004 000a 00 11"),
    (4, True, PingReq(), "c000"),
    (4, False, PingResp(), "d000"),
    (4, True, Disconnect(), "e000"),
    (5, True, Disconnect(), "e000"),
    (5, False, Disconnect(0x8E), "e001 8e"),
]


@pytest.mark.parametrize(("version", "server_side", "packet", "text"), KNOWN, ids=lambda value: value if isinstance(value, str) else None)
def test_bytes_are_those_of_the_specification(version: int, server_side: bool, packet: Packet, text: str) -> None:
    data = bytes.fromhex(text)
    assert encode(packet, version) == data
    assert decode(data, version, server_side) == [packet]


def test_a_publish_has_the_bytes_of_the_specification() -> None:
    assert encode_publish("a/b", b"hi", 1, 10).hex(" ") == "32 09 00 03 61 2f 62 00 0a 68 69"
    assert encode_publish("a/b", b"hi", 1, 10, retain=True, dup=True).hex(" ") == "3b 09 00 03 61 2f 62 00 0a 68 69"
    assert encode_publish("a/b", b"hi").hex(" ") == "30 07 00 03 61 2f 62 68 69"
    assert encode_publish("a/b", b"hi", version=5).hex(" ") == "30 08 00 03 61 2f 62 00 68 69"
    assert [encode_publish("t", bytes(size))[1:5].hex() for size in (124, 125, 16_380, 16_381)] == [
        "7f000174",
        "80010001",
        "ff7f0001",
        "80800100",
    ]


def test_an_old_connack_password_in_a_new_client_needs_no_user_name() -> None:
    packet = Connect("a", None, b"p", version=5)
    assert decode(encode(packet)) == [packet]
    with pytest.raises(Refused):
        encode(Connect("a", None, b"p"))


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0", "\ud800", "a" * 65_536])
def test_a_topic_nobody_can_publish_to_is_refused(topic: str) -> None:
    with pytest.raises(Refused):
        encode_publish(topic, b"")


@pytest.mark.parametrize(
    "arguments", [{"qos": 1}, {"qos": 1, "packet_id": 65_536}, {"qos": 3, "packet_id": 1}, {"dup": True}, {"packet_id": 1}]
)
def test_flags_that_contradict_each_other_are_a_mistake_of_the_caller(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        encode_publish("a", b"", **arguments)  # type: ignore[arg-type]
