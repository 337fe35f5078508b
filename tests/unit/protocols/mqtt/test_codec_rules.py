"""What the specification forbids is refused, by reason; what devices do beyond it and harms nobody is taken."""

import pytest

from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Connect, Decoder, PubAck, PublishRun, Subscribe, encode, encode_publish
from tests.unit.protocols.mqtt.packets import decode

MALFORMED, WRONG, QOS, VERSION = Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR, Reason.UNSUPPORTED_QOS, Reason.UNSUPPORTED_VERSION

# (what, version, server side, bytes, reason)
FORBIDDEN = [
    # fixed header, par. 2.1
    ("packet type 0", 4, True, "00 00", MALFORMED),
    ("AUTH before MQTT 5 has a use for it here", 5, True, "f0 00", WRONG),
    ("reserved flags of CONNECT", 4, True, "11 0d 0004 4d515454 04 02 003c 0001 61", MALFORMED),
    ("reserved flags of PUBACK", 4, True, "41 02 0001", MALFORMED),
    ("reserved flags of SUBSCRIBE", 4, True, "80 06 000a 0001 61 01", MALFORMED),
    ("duplicate flag of SUBSCRIBE after 3.1", 4, True, "8a 06 000a 0001 61 01", MALFORMED),
    ("reserved flags of PINGREQ", 4, True, "c1 00", MALFORMED),
    ("reserved flags of DISCONNECT", 4, True, "e2 00", MALFORMED),
    ("remaining length of five bytes", 4, True, "c0 80808080 00", MALFORMED),
    ("remaining length longer than needed", 5, True, "c0 80 00", MALFORMED),
    ("bytes behind PINGREQ", 4, True, "c0 01 00", MALFORMED),
    ("bytes behind a PUBACK of 3.1.1", 4, True, "40 03 0001 00", MALFORMED),
    ("bytes behind a DISCONNECT of 3.1.1", 4, True, "e0 01 00", MALFORMED),
    # direction
    ("CONNACK to a server", 4, True, "20 02 0000", WRONG),
    ("SUBACK to a server", 4, True, "90 03 0001 00", WRONG),
    ("PINGRESP to a server", 4, True, "d0 00", WRONG),
    ("CONNECT to a client", 4, False, "10 0d 0004 4d515454 04 02 003c 0001 61", WRONG),
    ("SUBSCRIBE to a client", 4, False, "82 06 000a 0001 61 01", WRONG),
    # QoS 2
    ("PUBLISH with QoS 2", 4, True, "34 05 0001 74 0001", QOS),
    ("PUBREC", 4, True, "50 02 0001", QOS),
    ("PUBREL", 4, True, "62 02 0001", QOS),
    ("PUBCOMP", 5, True, "70 02 0001", QOS),
    # CONNECT, par. 3.1
    ("another protocol name", 4, True, "10 0d 0004 4d515455 04 02 003c 0001 61", WRONG),
    ("an unknown level", 4, True, "10 0d 0004 4d515454 06 02 003c 0001 61", VERSION),
    ("the level of 3.1.1 under the name of 3.1", 4, True, "10 0f 0006 4d5149736470 04 02 003c 0001 61", VERSION),
    ("a bridge's level", 4, True, "10 0d 0004 4d515454 84 02 003c 0001 61", VERSION),
    ("the reserved connect flag", 4, True, "10 0d 0004 4d515454 04 03 003c 0001 61", MALFORMED),
    ("will QoS 3", 4, True, "10 13 0004 4d515454 04 1e 003c 0001 61 0001 77 0001 78", MALFORMED),
    ("will QoS without a will", 4, True, "10 0d 0004 4d515454 04 0a 003c 0001 61", MALFORMED),
    ("will retain without a will", 4, True, "10 0d 0004 4d515454 04 22 003c 0001 61", MALFORMED),
    ("a will to a wildcard", 4, True, "10 13 0004 4d515454 04 06 003c 0001 61 0001 23 0001 78", MALFORMED),
    ("a will to an empty topic", 4, True, "10 12 0004 4d515454 04 06 003c 0001 61 0000 0001 78", MALFORMED),
    ("a password without a user name before 5", 4, True, "10 10 0004 4d515454 04 42 003c 0001 61 0001 70", MALFORMED),
    ("a user name announced and absent", 4, True, "10 0d 0004 4d515454 04 82 003c 0001 61", MALFORMED),
    ("bytes behind the client id", 4, True, "10 0e 0004 4d515454 04 02 003c 0001 61 00", MALFORMED),
    ("NUL in the client id", 4, True, "10 0d 0004 4d515454 04 02 003c 0001 00", MALFORMED),
    ("a surrogate in the client id", 4, True, "10 0f 0004 4d515454 04 02 003c 0003 eda080", MALFORMED),
    ("authentication data without a method", 4, True, "10 12 0004 4d515454 05 02 003c 04 16 0001 61 0001 61", WRONG),
    # properties, par. 2.2.2
    ("receive maximum 0", 4, True, "10 11 0004 4d515454 05 02 003c 03 21 0000 0001 61", WRONG),
    ("maximum packet size 0", 4, True, "10 13 0004 4d515454 05 02 003c 05 27 00000000 0001 61", WRONG),
    ("a property twice", 4, True, "10 14 0004 4d515454 05 02 003c 06 21 0001 21 0001 0001 61", WRONG),
    ("a property of another packet", 4, True, "10 11 0004 4d515454 05 02 003c 03 13 0001 0001 61", WRONG),
    ("an unknown property", 4, True, "10 11 0004 4d515454 05 02 003c 03 7f 0001 0001 61", MALFORMED),
    ("properties that end in a field", 4, True, "10 10 0004 4d515454 05 02 003c 02 21 00 0001 61", MALFORMED),
    ("properties longer than the packet", 4, True, "10 0e 0004 4d515454 05 02 003c 7f 0001 61", MALFORMED),
    ("problem information 2", 4, True, "10 10 0004 4d515454 05 02 003c 02 17 02 0001 61", WRONG),
    # PUBLISH, par. 3.3
    ("QoS 3", 4, True, "36 05 0001 74 0001", MALFORMED),
    ("DUP at QoS 0", 4, True, "38 03 0001 74", MALFORMED),
    ("an empty topic", 4, True, "30 02 0000", MALFORMED),
    ("a topic alias", 5, True, "30 06 0000 03 23 0001", WRONG),
    ("a topic alias beside the topic", 5, True, "30 07 0001 74 03 23 0001", WRONG),
    ("an empty topic, alias or not", 5, True, "30 03 0000 00", WRONG),
    ("+ in the topic", 4, True, "30 03 0001 2b", MALFORMED),
    ("# in the topic", 4, True, "30 03 0001 23", MALFORMED),
    ("NUL in the topic", 4, True, "30 03 0001 00", MALFORMED),
    ("a topic that is not UTF-8", 4, True, "30 03 0001 ff", MALFORMED),
    ("a topic longer than the packet", 4, True, "30 03 0002 74", MALFORMED),
    ("nothing at all", 4, True, "30 00", MALFORMED),
    ("half a topic length", 4, True, "30 01 00", MALFORMED),
    ("packet id 0", 4, True, "32 05 0001 74 0000", MALFORMED),
    ("half a packet id", 4, True, "32 04 0001 74 00", MALFORMED),
    ("no property length", 5, True, "30 03 0001 74", MALFORMED),
    ("a client's subscription identifier", 5, True, "30 06 0001 74 02 0b 01", WRONG),
    ("a wildcard to respond to", 5, True, "30 08 0001 74 04 08 0001 23", MALFORMED),
    # PUBACK, par. 3.4
    ("packet id 0 in PUBACK", 4, True, "40 02 0000", MALFORMED),
    ("a short PUBACK", 4, True, "40 01 00", MALFORMED),
    ("a reason PUBACK does not have", 5, True, "40 03 0001 81", MALFORMED),
    # SUBSCRIBE and UNSUBSCRIBE, par. 3.8, 3.10, 4.7
    ("SUBSCRIBE without a filter", 4, True, "82 02 000a", WRONG),
    ("SUBSCRIBE with packet id 0", 4, True, "82 06 0000 0001 61 01", MALFORMED),
    ("an empty filter", 4, True, "82 05 000a 0000 01", MALFORMED),
    ("# before the end", 4, True, "82 08 000a 0003 232f61 01", MALFORMED),
    ("# beside a letter", 4, True, "82 07 000a 0002 6123 01", MALFORMED),
    ("+ beside a letter", 4, True, "82 07 000a 0002 612b 01", MALFORMED),
    ("QoS 3 asked for", 4, True, "82 06 000a 0001 61 03", MALFORMED),
    ("options of 5 in 3.1.1", 4, True, "82 06 000a 0001 61 05", MALFORMED),
    ("reserved options", 5, True, "82 07 000a 00 0001 61 41", MALFORMED),
    ("retain handling 3", 5, True, "82 07 000a 00 0001 61 31", MALFORMED),
    ("no local on a shared subscription", 5, True, "82 10 000a 00 000a 2473686172652f672f74 05", WRONG),
    ("subscription identifier 0", 5, True, "82 09 000a 02 0b 00 0001 61 01", WRONG),
    ("two subscription identifiers", 5, True, "82 0b 000a 04 0b 01 0b 02 0001 61 01", WRONG),
    ("a subscription identifier longer than needed", 5, True, "82 0a 000a 03 0b 8100 0001 61 01", MALFORMED),
    ("UNSUBSCRIBE without a filter", 4, True, "a2 02 000a", WRONG),
    ("UNSUBSCRIBE with a bad filter", 4, True, "a2 06 000a 0002 2323", MALFORMED),
    # DISCONNECT, par. 3.14
    ("a reason DISCONNECT does not have", 5, True, "e0 01 01", MALFORMED),
    # what a client reads
    ("reserved CONNACK flags", 4, False, "20 02 02 00", MALFORMED),
    ("a session with a refusal", 4, False, "20 02 01 05", WRONG),
    ("a CONNACK code beyond 5 in 3.1.1", 4, False, "20 02 00 86", MALFORMED),
    ("a CONNACK reason 5 does not have", 5, False, "20 03 00 01 00", MALFORMED),
    ("a SUBACK code 3.1.1 does not have", 4, False, "90 03 0001 87", MALFORMED),
    ("a SUBACK without a code", 4, False, "90 02 0001", MALFORMED),
    ("an UNSUBACK reason 5 does not have", 5, False, "b0 04 0001 00 01", MALFORMED),
]


@pytest.mark.parametrize(
    ("what", "version", "server_side", "text", "reason"), FORBIDDEN, ids=[row[0].replace(" ", "_") for row in FORBIDDEN]
)
def test_what_the_specification_forbids_is_refused(what: str, version: int, server_side: bool, text: str, reason: Reason) -> None:
    with pytest.raises(Refused) as refused:
        decode(bytes.fromhex(text), version, server_side)
    assert refused.value.reason is reason


def test_a_large_packet_is_refused_before_it_is_received() -> None:
    decoder = Decoder(max_packet=1000)
    assert decoder.feed(encode_publish("t", bytes(994))[:3]) == []
    with pytest.raises(Refused) as refused:
        Decoder(max_packet=1000).feed(encode_publish("t", bytes(995))[:3])
    assert refused.value.reason is Reason.PACKET_TOO_LARGE


def test_after_a_refusal_the_stream_is_lost() -> None:
    decoder = Decoder()
    (run,) = decoder.feed(encode_publish("t", b"x") + b"\0\0" + encode_publish("t", b"y"))
    assert isinstance(run, PublishRun)
    assert decoder.refused is not None
    for _ in range(2):
        with pytest.raises(Refused):
            decoder.feed(encode_publish("t", b"x"))


def test_a_connect_ends_the_list_and_the_next_call_goes_on() -> None:
    connect, ack = Connect("a", version=5), PubAck(1, 0x10)
    decoder = Decoder()
    assert decoder.feed(encode(connect) + encode(ack, 5)) == [connect]
    assert decoder.pending == 5
    assert decoder.feed(b"") == [ack]


def test_modems_that_pad_the_remaining_length_are_understood_before_mqtt_5() -> None:
    assert decode(bytes.fromhex("40 82 80 00 00 01")) == [PubAck(1)]


def test_a_duplicate_subscribe_is_understood_in_mqtt_3_1() -> None:
    assert decode(bytes.fromhex("8a 06 000a 0001 61 01"), 3) == [Subscribe(10, (("a", 1),))]


def test_a_large_packet_in_small_reads_takes_time_in_proportion() -> None:
    """Counted in bytes copied, not seconds: a packet in reads of 16 bytes is joined once."""
    packet = encode_publish("t", bytes(200_000), 1, 1)
    decoder = Decoder()
    for at in range(0, len(packet) - 16, 16):
        assert decoder.feed(packet[at : at + 16]) == []
        assert decoder.pending == at + 16
    (run,) = decoder.feed(packet[len(packet) - len(packet) % 16 - 16 * (len(packet) % 16 == 0) :])
    assert isinstance(run, PublishRun)
    assert run.size == 200_000


@pytest.mark.parametrize(
    "packet",
    [
        Subscribe(0, (("a", 1),)),
        Subscribe(1, (("a#", 1),)),
        Connect("a\0"),
        Connect("a", version=6),
        Connect("a", "u" * 65_536),
        PubAck(65_536),
    ],
)
def test_what_mqtt_cannot_say_is_not_encoded(packet: Connect | Subscribe | PubAck) -> None:
    with pytest.raises(Refused):
        encode(packet)
