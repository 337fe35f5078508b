"""What the agent and its inference worker say to each other besides rows and scores: length-prefixed messages over two pipes."""

import struct
from typing import Final

import msgspec

from edge_agent.domain.scoring import BadMessage

LENGTH: Final = struct.Struct("<I")
MOST_BYTES: Final = 16 * 1024 * 1024


class Load(msgspec.Struct, frozen=True):
    """The first message to a worker: the models it serves, and how many machines each of them watches."""

    files: tuple[str, ...]
    machines: tuple[int, ...]
    memory_mib: int


class Loaded(msgspec.Struct, frozen=True):
    """Its answer: why a model cannot be served, or "" where it can; and the memory it took."""

    faults: tuple[str, ...]
    rss_bytes: int


def framed(body: bytes) -> bytes:
    """A message as it goes through the pipe."""
    return LENGTH.pack(len(body)) + body


def size_of(head: bytes) -> int:
    """The length of the message behind its four bytes; raises BadMessage."""
    (size,) = LENGTH.unpack(head)
    if size > MOST_BYTES:
        raise BadMessage(f"a message of {size} bytes")
    return int(size)
