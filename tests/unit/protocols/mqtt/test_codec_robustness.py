"""Whatever arrives, in whatever pieces, ends in packets or in `Refused`."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Refused
from protocols.mqtt.codec import (
    NO_PROPERTIES,
    ConnAck,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
    encode,
    encode_publish,
)
from tests.fuzzing import fuzz
from tests.unit.protocols.mqtt.packets import Publish, decode, drain, singles, versions


def pool(version: int, server_side: bool) -> list[bytes]:
    """Valid packets that between them have every field; made once, because drawing them anew is what costs time in 10,000 examples."""
    modern = version == 5
    user = (("site", "line-1"), ("ü", ""))
    both = Properties(user=user, reason_string="why") if modern else NO_PROPERTIES
    message = Properties(1, 60, "text/plain", "r/t", b"\x01\x02", user=user) if modern else NO_PROPERTIES
    publishes = [
        encode_publish("t", b"", version=version),
        encode_publish("a/ü", b"x" * 20, 1, 7, version=version),
        encode_publish("a/ü", b"y" * 20, 1, 256, version=version),
        encode_publish("a/b", b"z" * 140, 1, 65_535, retain=True, dup=True, version=version, properties=message),
    ]
    if not server_side:
        reasons = (0x11, 0) if modern else ()
        answer = Properties(
            session_expiry_interval=0,
            assigned_client_identifier="c",
            server_keep_alive=30,
            response_information="i",
            server_reference="s",
            receive_maximum=16,
            topic_alias_maximum=0,
            maximum_qos=1,
            retain_available=0,
            user=user,
            maximum_packet_size=4096,
            wildcard_subscription_available=1,
            subscription_identifier_available=0,
            shared_subscription_available=0,
        )
        return publishes + [
            encode(packet, version)
            for packet in (
                ConnAck(True),
                ConnAck(False, 0x86 if modern else 4, answer if modern else NO_PROPERTIES),
                PubAck(9),
                SubAck(3, (0, 1, 0x80), both),
                UnsubAck(4, reasons, both),
                PingResp(),
                Disconnect(0x8E, both) if modern else Disconnect(),
            )
        ]
    asked = Properties(
        session_expiry_interval=10,
        authentication_method="m",
        authentication_data=b"d",
        request_problem_information=1,
        request_response_information=0,
        receive_maximum=16,
        topic_alias_maximum=1,
        user=user,
        maximum_packet_size=4096,
    )
    will_properties = Properties(1, 5, "c", "r", b"d", will_delay_interval=3, user=user)
    will = Will("w/t", b"gone", 1, True, will_properties if modern else NO_PROPERTIES)
    return publishes + [
        encode(packet, version)
        for packet in (
            Connect("dev|securemode=3|", "dev&pk", b"secret", True, 60, version=version),
            Connect("", "u", None, False, 0, will, version, asked if modern else NO_PROPERTIES),
            PubAck(9),
            PubAck(9, 0x87 if modern else 0, both),
            Subscribe(3, (("a/+/b", 1), ("#", 0)), Properties(subscription_identifiers=(200,), user=user) if modern else NO_PROPERTIES),
            Unsubscribe(4, ("a/b", "+/#"), Properties(user=user) if modern else NO_PROPERTIES),
            PingReq(),
            Disconnect(4, both) if modern else Disconnect(),
        )
    ]


POOLS = {(version, server_side): pool(version, server_side) for version in (3, 4, 5) for server_side in (True, False)}


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, bool, bytes]:
    """A version, a direction and a valid stream, in which alike publishes meet."""
    version, server_side = key = draw(st.sampled_from(sorted(POOLS)))
    return version, server_side, b"".join(draw(st.lists(st.sampled_from(POOLS[key]), max_size=8)))


# An offset or a bit of a stream, modulo its size: drawing within the size would cost more than the test itself.
anywhere = st.integers(0, 2**16 - 1)


def attempt(data: bytes, version: int, server_side: bool, cuts: list[int]) -> tuple[list[Packet | Publish], str | None]:
    """The packets and the refusal of a stream fed in pieces; anything but `Refused` falls through."""
    decoder, packets = Decoder(version, server_side=server_side), []
    edges = [0, *sorted(cuts), len(data)]
    try:
        for start, stop in pairwise(edges):
            found = decoder.feed(data[start:stop])
            while found:
                packets += found
                found = decoder.feed(b"")
    except Refused as refused:
        return singles(packets), refused.reason
    return singles(packets), None


@fuzz
@given(st.binary(max_size=200), versions, st.booleans())
def test_arbitrary_bytes_end_in_packets_or_refused(data: bytes, version: int, server_side: bool) -> None:
    attempt(data, version, server_side, [])


@fuzz
@given(st.integers(0, 255), st.binary(max_size=100), versions, st.booleans())
def test_arbitrary_bodies_end_in_packets_or_refused(first: int, body: bytes, version: int, server_side: bool) -> None:
    attempt(bytes((first, len(body))) + body, version, server_side, [])


@pytest.mark.parametrize(("version", "server_side"), sorted(POOLS))
def test_every_packet_cut_at_every_offset_is_the_same_packet(version: int, server_side: bool) -> None:
    for raw in POOLS[version, server_side]:
        whole = decode(raw, version, server_side)
        for cut in range(len(raw)):
            decoder = Decoder(version, server_side=server_side)
            assert decoder.feed(raw[:cut]) == []
            assert decoder.pending == cut
            assert decoder.feed(raw[cut:]) == whole


@fuzz
@given(streams(), st.lists(anywhere, min_size=1, max_size=4))
def test_a_stream_cut_anywhere_gives_the_same_packets(stream: tuple[int, bool, bytes], offsets: list[int]) -> None:
    version, server_side, data = stream
    whole = singles(decode(data, version, server_side))
    for cut in (offset % (len(data) + 1) for offset in offsets):
        decoder = Decoder(version, server_side=server_side)
        head = drain(decoder, data[:cut])
        assert singles(head + drain(decoder, data[cut:])) == whole
        assert decoder.pending == 0


@given(streams(), st.lists(anywhere, max_size=10))
def test_a_stream_in_any_pieces_gives_the_same_packets(stream: tuple[int, bool, bytes], cuts: list[int]) -> None:
    version, server_side, raw = stream
    assert attempt(raw, version, server_side, [cut % (len(raw) + 1) for cut in cuts]) == attempt(raw, version, server_side, [])


@fuzz
@given(streams(), st.lists(anywhere, min_size=1, max_size=3), st.lists(anywhere, max_size=4))
def test_flipped_bits_end_the_same_way_in_any_pieces(stream: tuple[int, bool, bytes], flips: list[int], cuts: list[int]) -> None:
    version, server_side, raw = stream
    broken = bytearray(raw or b"\0")
    for bit in flips:
        broken[bit // 8 % len(broken)] ^= 1 << bit % 8
    whole = attempt(bytes(broken), version, server_side, [])
    assert attempt(bytes(broken), version, server_side, [cut % len(broken) for cut in cuts]) == whole


@given(streams())
def test_whatever_is_decoded_encodes_to_something_that_decodes_to_it(stream: tuple[int, bool, bytes]) -> None:
    version, server_side, data = stream
    packets = decode(data, version, server_side)
    assert singles(decode(b"".join(encode(packet, version) for packet in packets), version, server_side)) == singles(packets)
