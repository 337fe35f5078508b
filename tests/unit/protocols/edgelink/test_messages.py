"""The messages beside frames: they come back, and no bytes do harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import (
    MAX_MESSAGE_BYTES,
    Command,
    Committed,
    Exchange,
    ExchangeReply,
    LaneSpan,
    Message,
    decode_message,
    encode_message,
)
from protocols.errors import Reason, Refused
from tests.fuzzing import fuzz, thorough

KINDS = (Exchange, ExchangeReply, Committed, Command)
buffer_ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
seqs = st.integers(0, 2**56 - 1)
spans = st.tuples(st.integers(1, 2**55), st.integers(0, 2**55 - 1)).map(lambda pair: LaneSpan(pair[0], pair[0] + pair[1]))
watermarks = st.dictionaries(st.sampled_from(Lane), seqs, max_size=4)
names = st.text(max_size=8)
json_values: st.SearchStrategy[object] = st.one_of(
    st.none() | st.booleans() | st.text(max_size=8) | st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(), max_size=2),
    st.just({"inner": {"deep": [1, "x", None]}}),
)
params = st.dictionaries(names, json_values, max_size=2)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Exchange, buffer_ids, st.integers(0, 2**32 - 1), st.dictionaries(st.sampled_from(Lane), spans, max_size=4)),
    st.builds(ExchangeReply, buffer_ids, watermarks),
    st.builds(Committed, buffer_ids, watermarks),
    st.builds(
        Command, st.text(), st.text(), st.text(), st.text(), st.dictionaries(st.text(), json_values, max_size=3), st.integers(0, 2**53)
    ),
)


@thorough
@given(messages)
def test_a_message_comes_back(message: Message) -> None:
    assert decode_message(type(message), encode_message(message)) == message


@fuzz
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_arbitrary_bytes_end_in_refused(kind: type[Message], payload: bytes) -> None:
    with pytest.raises(Refused):
        decode_message(kind, payload)


SAMPLES: tuple[Message, ...] = (
    Exchange("0f" * 16, 3, {Lane.LIVE: LaneSpan(2, 9), Lane.ALARM: LaneSpan(1, 1)}),
    ExchangeReply("0f" * 16, {Lane.LIVE: 4}),
    Committed("0f" * 16, {Lane.LIVE: 2**40, Lane.BULK: 0}),
    Command("c1", "hood", "h1", "thing.service.property.set", {"Speed": 2, "Light": {"On": True}}, 1_760_000_000_000),
)


@fuzz
@given(st.sampled_from(SAMPLES), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_message_ends_in_a_value_or_refused(message: Message, at: int, byte: int) -> None:
    payload = bytearray(encode_message(message))
    payload[at % len(payload)] = byte
    try:
        found = decode_message(type(message), bytes(payload))
    except Refused:
        return
    assert isinstance(found, type(message))


@pytest.mark.parametrize("message", SAMPLES)
def test_a_message_cut_at_any_offset_is_refused(message: Message) -> None:
    payload = encode_message(message)
    for end in range(len(payload)):
        with pytest.raises(Refused):
            decode_message(type(message), payload[:end])


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        (Committed, b'{"buffer_id":"00","committed":{}}', Reason.BAD_ENVELOPE),
        (Committed, b'{"buffer_id":"%s","committed":{}}' % (b"G" * 32), Reason.BAD_ENVELOPE),
        (Committed, b'{"buffer_id":"%s","committed":{"live":-1}}' % (b"0" * 32), Reason.BAD_ENVELOPE),
        (Committed, b'{"buffer_id":"%s","committed":{"urgent":1}}' % (b"0" * 32), Reason.BAD_ENVELOPE),
        (Exchange, b'{"buffer_id":"%s","boot":1,"lanes":{"live":{"floor":3,"next":2}}}' % (b"0" * 32), Reason.BAD_ENVELOPE),
        (Exchange, b'{"buffer_id":"%s","boot":-1,"lanes":{}}' % (b"0" * 32), Reason.BAD_ENVELOPE),
        (Command, b'{"params":{"a":' + b"[" * 100_000, Reason.BAD_JSON),
        (Exchange, b'{"buffer_id":"\xff"}', Reason.BAD_JSON),
        (Exchange, b" " * (MAX_MESSAGE_BYTES + 1), Reason.TOO_MANY),
    ],
)
def test_what_is_wrong_with_a_message_has_a_reason(kind: type[Message], payload: bytes, reason: Reason) -> None:
    with pytest.raises(Refused) as refused:
        decode_message(kind, payload)
    assert refused.value.reason is reason
