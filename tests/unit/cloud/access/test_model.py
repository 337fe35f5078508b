"""The uplink batch: what the front door wrote is what ingest reads, and anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.access.model import (
    BatchWriter,
    Downlink,
    Kind,
    PresenceNote,
    RefusalNote,
    SessionRow,
    UplinkBatch,
    decode_downlinks,
    encode_batch,
    encode_downlinks,
    session_key,
)
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Decoder, PublishRun, encode_publish
from tests.fuzzing import fuzz

sessions = st.builds(
    SessionRow,
    st.integers(1, 2**31),
    st.integers(1, 2**31),
    st.text(max_size=12),
    st.text(max_size=12),
    st.integers(0, 2**62),
)
topics = st.text(st.characters(exclude_characters="#+\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
published = st.lists(
    st.tuples(sessions, topics, st.integers(0, 2**42), st.lists(st.binary(max_size=40), min_size=1, max_size=5)), max_size=6
)


@given(published)
def test_a_batch_reads_back_in_arrival_order(rows: list[tuple[SessionRow, str, int, list[bytes]]]) -> None:
    batch = UplinkBatch.from_bytes(encode_batch(rows))
    read = [(row.session, row.topic, row.received_ms, payload) for row in batch for payload in row.payloads()]
    assert read == [(session, topic, at, payload) for session, topic, at, payloads in rows for payload in payloads]
    assert batch.messages == len(read)


@given(sessions, topics, st.lists(st.binary(min_size=3, max_size=3), min_size=1, max_size=30), st.integers(1, 60_000))
def test_packets_are_stored_as_they_came_and_payloads_found_in_them(
    session: SessionRow, topic: str, payloads: list[bytes], packet_id: int
) -> None:
    data = b"".join(encode_publish(topic, payload, qos=1, packet_id=packet_id + i) for i, payload in enumerate(payloads))
    (run,) = Decoder(4).feed(data)
    assert isinstance(run, PublishRun)
    writer = BatchWriter()
    writer.add_note(Kind.OPENED, session_key(session), 5, PresenceNote("127.0.0.1:9", ""))
    writer.add_run(session_key(session), run.topic, 7, run.data, run.first, run.stride, run.size, run.count)
    writer.add_note(Kind.CLOSED, session_key(session), 9, PresenceNote("127.0.0.1:9", "keepalive"))
    opened, uplink, closed = UplinkBatch.from_bytes(writer.to_bytes())
    assert (opened.kind, opened.session, opened.received_ms) == (Kind.OPENED, session, 5)
    assert (uplink.kind, uplink.topic, uplink.received_ms, uplink.payloads()) == (Kind.PUBLISH, topic, 7, payloads)
    assert (closed.kind, closed.note()) == (Kind.CLOSED, PresenceNote("127.0.0.1:9", "keepalive"))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
refusals = st.builds(
    RefusalNote,
    st.sampled_from(Reason),
    *[texts] * 7,
    st.integers(1, 2**40),
    st.integers(0, 2**42),
    st.integers(0, 2**42),
    st.binary(max_size=1024),
)


@given(st.lists(st.tuples(sessions, refusals), min_size=1, max_size=5), published)
def test_what_was_refused_reads_back_in_its_place(
    refused: list[tuple[SessionRow, RefusalNote]], rows: list[tuple[SessionRow, str, int, list[bytes]]]
) -> None:
    writer = BatchWriter()
    for session, note in refused:
        writer.add_note(Kind.REFUSED, session_key(session), 7, note)
        for owner, topic, at, payloads in rows:
            for payload in payloads:
                writer.add_run(session_key(owner), topic, at, payload, 0, len(payload), len(payload), 1)
    batch = UplinkBatch.from_bytes(writer.to_bytes())
    read = [(row.session, row.refusal()) for row in batch if row.kind is Kind.REFUSED]
    assert read == refused
    assert batch.messages == len(refused) * sum(len(payloads) for _, _, _, payloads in rows)


# Drawn from few rows, and places modulo the size: drawing them whole would cost ten times the test itself.
ROWS = [
    (SessionRow(tenant, device, product, name, 3), topic, 1_700_000_000_000, payloads)
    for tenant, device, product, name in ((1, 2, "pk", "dn"), (2**31, 1, "", "名"), (7, 9, "k" * 12, "n"))
    for topic, payloads in (("t", [b"x"]), ("/sys/a/b/thing/event/property/post", [b"", b"y" * 40, b"{}"]), ("é", [b"\0"] * 5))
]


@given(st.lists(st.sampled_from(ROWS), max_size=6), st.integers(0, 2**16 - 1), st.integers(0, 2**13 - 1))
@fuzz
def test_a_damaged_batch_is_a_value_or_refused(rows: list[tuple[SessionRow, str, int, list[bytes]]], bit: int, cut: int) -> None:
    damaged = bytearray(encode_batch(rows))
    damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
    _read(bytes(damaged[: cut % (len(damaged) + 1)]))
    _read(bytes(damaged))


@given(st.binary(max_size=200))
@fuzz
def test_any_bytes_are_a_batch_or_refused(data: bytes) -> None:
    _read(data)
    _read(b"HLU1" + data)


def _read(data: bytes) -> None:
    try:
        for row in UplinkBatch.from_bytes(data):
            if row.kind is Kind.PUBLISH:
                assert all(len(payload) == row.size for payload in row.payloads())
            elif row.kind is Kind.REFUSED:
                row.refusal()
            else:
                row.note()
    except Refused:
        pass


def test_a_batch_whose_rows_point_outside_it_is_refused() -> None:
    whole = encode_batch([(SessionRow(1, 1, "p", "d", 1), "/t", 1, [b"payload"])])
    with pytest.raises(Refused):
        UplinkBatch.from_bytes(whole[:-1])


def test_downlinks_read_back() -> None:
    messages = [Downlink("p", "d", "/sys/p/d/x", b"{}", 1), Downlink("p", "e", "/sys/p/e/x", b"")]
    assert decode_downlinks(encode_downlinks(messages)) == messages
