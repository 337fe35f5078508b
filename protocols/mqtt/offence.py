"""How a refused packet began, for the people who have to find its sender: bounded, and never with a secret in it."""

import re
from typing import Final

SAMPLE: Final = 1024
STRANGERS_SAMPLE: Final = 16
"""Of a CONNECT, and of whoever was not let in yet: shows what is spoken, and ends before the first field that could be a password."""

# The protocol name of a CONNECT, wherever it stands: what follows may be its payload, and that ends in the password.
_CONNECT = re.compile(rb"\0\x04MQTT|\0\x06MQIsdp")
_OTHERS = (
    (re.compile(rb"\x16\x03[\0-\x04]"), "a TLS handshake"),
    (re.compile(rb"(GET|POST|PUT|HEAD|OPTIONS|DELETE|PATCH|CONNECT|TRACE) |PRI \* HTTP"), "HTTP"),
    (re.compile(rb"SSH-"), "SSH"),
)


def how_it_began(data: bytes, packets: int) -> bytes:
    """The first bytes of the packet behind `packets` whole ones in `data`.

    >>> how_it_began(bytes.fromhex("c000 d100"), 1).hex()
    'd100'
    """
    at = 0
    for _ in range(packets):
        at = _end(data, at)
    sample = data[at : min(_end(data, at), at + SAMPLE)]
    if sample[:1] and sample[0] >> 4 == 1:
        return sample[:STRANGERS_SAMPLE]
    if found := _CONNECT.search(data, at, at + len(sample) + STRANGERS_SAMPLE):
        return sample[: found.end() - at]
    return sample


def _end(data: bytes, at: int) -> int:
    """Where the packet at `at` says that it ends (par. 2.1.4); of a length that is none, the end of its header."""
    length = shift = 0
    for body in range(at + 1, min(at + 5, len(data))):
        length |= (data[body] & 127) << shift
        shift += 7
        if data[body] < 128:
            return body + 1 + length
    return min(at + 5, len(data))


def other_protocol(data: bytes) -> str:
    """What `data` is the beginning of, if it is none of MQTT; empty when nobody knows.

    >>> other_protocol(b"GET /index.html HTTP/1.1")
    'HTTP'
    """
    return next((name for pattern, name in _OTHERS if pattern.match(data)), "")


def speaks_mqtt_5(data: bytes) -> bool:
    """Whether a packet that was refused is a CONNECT of an MQTT 5 client."""
    return data[:1] == b"\x10" and b"\0\x04MQTT\x05" in data[:STRANGERS_SAMPLE]
