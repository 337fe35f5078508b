"""What is kept of a refused packet: its beginning, and nothing that could be a secret."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Refused
from protocols.mqtt.codec import Connect, Decoder, PingReq, encode, encode_publish
from protocols.mqtt.fields import encode_variable
from protocols.mqtt.offence import SAMPLE, STRANGERS_SAMPLE, how_it_began
from protocols.mqtt.session import ConnectRequested, ServerSession

PASSWORD = b"T0p-Secret-Passw0rd"

whole = st.one_of(
    st.builds(lambda payload, qos: encode_publish("t", payload, qos, 7 if qos else 0), st.binary(max_size=300), st.integers(0, 1)),
    st.just(encode(PingReq())),
)
bad = st.one_of(
    st.binary(max_size=1500).map(lambda body: b"\xd1" + encode_variable(len(body)) + body),  # reserved flags
    st.binary(max_size=1500).map(lambda body: b"\xf0\xff\xff\x7f" + body),  # too large
    st.just(b"\x36\x05\x00\x01t\x00\x01"),  # QoS 3
)
connects = st.builds(
    lambda client_id, username, version: encode(Connect(client_id, username, PASSWORD, version=version), version),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=3, max_size=30),
    st.sampled_from([3, 4, 5]),
)


def offence_of(data: bytes, cut: int) -> bytes:
    decoder = Decoder()
    try:
        for at in range(0, len(data), cut):
            decoder.feed(data[at : at + cut])
            if decoder.refused is not None:
                break
    except Refused:
        pass
    assert decoder.refused is not None
    return decoder.offence


@given(st.lists(whole, max_size=6), bad, st.integers(1, 4000))
def test_the_sample_is_the_beginning_of_the_packet_that_was_refused(before: list[bytes], offender: bytes, cut: int) -> None:
    sample = offence_of(b"".join(before) + offender + bytes(8), cut)
    assert 0 < len(sample) <= SAMPLE
    assert (offender + bytes(8)).startswith(sample)


@given(st.binary(max_size=40), connects, st.binary(max_size=40))
def test_a_password_is_never_in_the_sample_wherever_its_connect_stands(before: bytes, connect: bytes, behind: bytes) -> None:
    data = before + connect + behind
    assert PASSWORD in data
    for at in range(len(before) + 1):
        assert PASSWORD not in how_it_began(data[at:], 0)


@given(connects, st.integers(0, 200), st.integers(0, 7))
def test_a_connect_with_a_flipped_bit_leaves_no_more_than_its_header(connect: bytes, place: int, bit: int) -> None:
    damaged = bytearray(connect)
    damaged[place % len(connect)] ^= 1 << bit
    session = ServerSession()
    events = session.receive(bytes(damaged), 0.0)
    assert len(session.offence) <= STRANGERS_SAMPLE
    if session.refusal is None:
        assert not events or isinstance(events[0], ConnectRequested)
