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
from tests.fuzzing import fuzz

KINDS = (Exchange, ExchangeReply, Committed, Command)
buffer_ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
seqs = st.integers(0, 2**56 - 1)
spans = st.tuples(st.integers(1, 2**55), st.integers(0, 2**55 - 1)).map(lambda pair: LaneSpan(pair[0], pair[0] + pair[1]))
watermarks = st.dictionaries(st.sampled_from(Lane), seqs)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
json_values: st.SearchStrategy[object] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Exchange, buffer_ids, st.integers(0, 2**32 - 1), st.dictionaries(st.sampled_from(Lane), spans)),
    st.builds(ExchangeReply, buffer_ids, watermarks),
    st.builds(Committed, buffer_ids, watermarks),
    st.builds(
        Command, st.text(), st.text(), st.text(), st.text(), st.dictionaries(st.text(), json_values, max_size=3), st.integers(0, 2**53)
    ),
)


@fuzz
@given(messages)
def test_a_message_comes_back(message: Message) -> None:
    assert decode_message(type(message), encode_message(message)) == message


@fuzz
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_arbitrary_bytes_end_in_refused(kind: type[Message], payload: bytes) -> None:
    with pytest.raises(Refused):
        decode_message(kind, payload)


@fuzz
@given(messages, st.data())
def test_cut_or_damaged_messages_end_in_a_value_or_refused(message: Message, data: st.DataObject) -> None:
    payload = bytearray(encode_message(message))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_message(type(message), bytes(payload[: data.draw(st.integers(0, len(payload)))]))
    except Refused:
        return
    assert isinstance(found, type(message))


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
