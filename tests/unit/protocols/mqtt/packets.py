"""Hypothesis strategies for MQTT packets, and a slow decoder of PUBLISH to measure the fast one against."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st

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
    PublishRun,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)

versions = st.sampled_from([3, 4, 5])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=30)
levels = st.one_of(st.just("+"), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#/"), max_size=5))
filters = st.builds(lambda parts, last: "/".join([*parts, *last]), st.lists(levels, max_size=4), st.sampled_from([["#"], ["a"], ["+"]]))
packet_ids = st.integers(1, 65_535)
qualities = st.integers(0, 1)
payloads = st.binary(max_size=300)

_byte, _two, _four = st.integers(0, 1), st.integers(0, 65_535), st.integers(0, 2**32 - 1)
# MQTT 5 table 2-4, written down a second time: name, values, packets.
_PROPERTIES: tuple[tuple[str, st.SearchStrategy[Any], str], ...] = (
    ("payload_format_indicator", _byte, "publish will"),
    ("message_expiry_interval", _four, "publish will"),
    ("content_type", texts, "publish will"),
    ("response_topic", topics, "publish will"),
    ("correlation_data", st.binary(max_size=9), "publish will"),
    ("subscription_identifiers", st.tuples(st.integers(1, 268_435_455)), "subscribe"),
    ("session_expiry_interval", _four, "connect connack disconnect"),
    ("assigned_client_identifier", texts, "connack"),
    ("server_keep_alive", _two, "connack"),
    ("authentication_method", texts, "connect connack"),
    ("request_problem_information", _byte, "connect"),
    ("will_delay_interval", _four, "will"),
    ("request_response_information", _byte, "connect"),
    ("response_information", texts, "connack"),
    ("server_reference", texts, "connack disconnect"),
    ("reason_string", texts, "connack puback suback unsuback disconnect"),
    ("receive_maximum", st.integers(1, 65_535), "connect connack"),
    ("topic_alias_maximum", _two, "connect connack"),
    ("maximum_qos", _byte, "connack"),
    ("retain_available", _byte, "connack"),
    (
        "user",
        st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(tuple),
        "connect connack publish puback will subscribe suback unsubscribe unsuback disconnect",
    ),
    ("maximum_packet_size", st.integers(1, 2**32 - 1), "connect connack"),
    ("wildcard_subscription_available", _byte, "connack"),
    ("subscription_identifier_available", _byte, "connack"),
    ("shared_subscription_available", _byte, "connack"),
)


def properties(place: str, version: int) -> st.SearchStrategy[Properties]:
    """Properties that may stand in a packet of `version`."""
    if version < 5:
        return st.just(NO_PROPERTIES)
    allowed = {name: values for name, values, places in _PROPERTIES if place in places.split()}
    return st.fixed_dictionaries({}, optional=allowed).map(lambda found: Properties(**found))


@st.composite
def wills(draw: st.DrawFn, version: int) -> Will:
    return draw(st.builds(Will, topics, payloads, st.integers(0, 2), st.booleans(), properties("will", version)))


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    username = draw(st.none() | texts)
    password = None if username is None and version < 5 else draw(st.none() | st.binary(max_size=20))
    will = draw(st.none() | wills(version))
    return Connect(draw(texts), username, password, draw(st.booleans()), draw(_two), will, version, draw(properties("connect", version)))


@st.composite
def connacks(draw: st.DrawFn, version: int) -> ConnAck:
    reason = draw(st.sampled_from([0, 0x80, 0x86, 0x9F] if version == 5 else range(6)))
    return ConnAck(draw(st.booleans()) and not reason, reason, draw(properties("connack", version)))


@st.composite
def disconnects(draw: st.DrawFn, version: int) -> Disconnect:
    if version < 5:
        return Disconnect()
    return Disconnect(draw(st.sampled_from([0, 4, 0x81, 0x8E, 0xA2])), draw(properties("disconnect", version)))


def from_client(version: int) -> st.SearchStrategy[Packet]:
    """Packets that a server reads after CONNECT, PUBLISH apart."""
    modern = version == 5
    options = st.builds(
        lambda qos, no_local, as_published, handling: qos | no_local << 2 | as_published << 3 | handling << 4,
        st.integers(0, 2),
        st.just(0),
        _byte if modern else st.just(0),
        st.integers(0, 2) if modern else st.just(0),
    )
    asked = st.lists(st.tuples(filters, options), min_size=1, max_size=4).map(tuple)
    reasons = st.sampled_from([0, 0x10, 0x87, 0x99] if modern else [0])
    return st.one_of(
        st.builds(PubAck, packet_ids, reasons, properties("puback", version)),
        st.builds(Subscribe, packet_ids, asked, properties("subscribe", version)),
        st.builds(Unsubscribe, packet_ids, st.lists(filters, min_size=1, max_size=4).map(tuple), properties("unsubscribe", version)),
        st.just(PingReq()),
        disconnects(version),
    )


def from_server(version: int) -> st.SearchStrategy[Packet]:
    """Packets that a client reads, PUBLISH apart."""
    granted = st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=5).map(tuple)
    left = st.lists(st.sampled_from([0, 0x11, 0x87]), min_size=1, max_size=5).map(tuple) if version == 5 else st.just(())
    return st.one_of(
        connacks(version),
        st.builds(SubAck, packet_ids, granted, properties("suback", version)),
        st.builds(UnsubAck, packet_ids, left, properties("unsuback", version)),
        st.just(PingResp()),
        disconnects(version),
    )


class Publish(msgspec.Struct, frozen=True):
    """One message, as the slow decoder sees it."""

    topic: str
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    payload: bytes
    properties: Properties = NO_PROPERTIES


@st.composite
def publishes(draw: st.DrawFn, version: int, max_size: int = 300) -> Publish:
    qos = draw(qualities)
    return Publish(
        draw(topics),
        qos,
        draw(st.booleans()),
        bool(qos and draw(st.booleans())),
        draw(packet_ids) if qos else 0,
        draw(st.binary(max_size=max_size)),
        draw(properties("publish", version)),
    )


def slow_publishes(data: bytes, version: int) -> Iterator[Publish]:
    """A whole stream of valid PUBLISH packets, one at a time and byte by byte (properties by the decoder's own table)."""
    at = 0
    while at < len(data):
        first, size, shift = data[at], 0, 0
        at += 1
        while True:
            size += (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                break
        body, at = data[at : at + size], at + size
        length = body[0] * 256 + body[1]
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        qos, packet_id = (first & 6) // 2, 0
        if qos:
            packet_id, rest = rest[0] * 256 + rest[1], rest[2:]
        found = NO_PROPERTIES
        if version == 5:
            alone = b"\x30" + bytes((len(rest) + 3,)) + b"\0\1t" + rest if len(rest) < 125 else b""
            if rest[0] == 0:
                rest = rest[1:]
            else:
                assert alone, "keep properties and payload short"
                (run,) = Decoder(5).feed(alone)
                assert isinstance(run, PublishRun)
                found, rest = run.properties, run.payloads()[0]
        yield Publish(topic, qos, bool(first & 1), bool(first & 8), packet_id, rest, found)


def singles(packets: Iterable[Packet | PublishRun]) -> list[Packet | Publish]:
    """Packets with runs taken apart: how a stream is cut into runs is nobody's business."""
    apart: list[Packet | Publish] = []
    for packet in packets:
        if isinstance(packet, PublishRun):
            ids = [int.from_bytes(packet.packet_ids[at : at + 2], "big") for at in range(0, len(packet.packet_ids), 2)] or [
                0
            ] * packet.count
            apart += [
                Publish(packet.topic, packet.qos, packet.retain, packet.dup, one, payload, packet.properties)
                for one, payload in zip(ids, packet.payloads(), strict=True)
            ]
        else:
            apart.append(packet)
    return apart


def decode(data: bytes, version: int = 4, server_side: bool = True) -> list[Packet | PublishRun]:
    """Everything in `data`, past a CONNECT too; raises `Refused` where `feed` does."""
    decoder = Decoder(version, server_side=server_side)
    return drain(decoder, data)


def drain(decoder: Decoder, data: bytes) -> list[Packet | PublishRun]:
    """Feed, and go on behind each CONNECT."""
    packets: list[Packet | PublishRun] = []
    found = decoder.feed(data)
    while found:
        packets += found
        found = decoder.feed(b"") if isinstance(found[-1], Connect) or decoder.refused is not None else []
    return packets
