"""The JSON messages between a gateway and the cloud that are not frames."""

from typing import TypeVar

import msgspec

from protocols.edgelink.lanes import Lane
from protocols.errors import Reason, Refused


class LaneSpan(msgspec.Struct, frozen=True, gc=False):
    """A lane holds the seqs [`floor`, `next`); an empty lane has both equal."""

    floor: int
    next: int


class Exchange(msgspec.Struct, frozen=True):
    """Up, on every connect: what the buffer is and holds. `buffer_id` is 32 hex digits, `number` comes back with the answer."""

    buffer_id: str
    boot: int
    lanes: dict[Lane, LaneSpan]
    number: int = 0


class ExchangeReply(msgspec.Struct, frozen=True):
    """Down, the answer: what the cloud has committed of this buffer (0 = nothing). The edge resends from there + 1.

    `time_ms` is the cloud's time when the exchange of this `number` reached it; 0 where the answer is not to one.
    """

    buffer_id: str
    committed: dict[Lane, int]
    time_ms: int = 0
    number: int = 0


class Committed(msgspec.Struct, frozen=True):
    """Down, after each commit: the watermarks that moved. Only now may the buffer forget."""

    buffer_id: str
    committed: dict[Lane, int]


class Command(msgspec.Struct, frozen=True):
    """Down: do something with a device behind the gateway. `method` and `params` are the Alink ones (alink.md)."""

    command_id: str
    product_key: str
    device_name: str
    method: str
    params: dict[str, object]
    expires_ms: int


Message = Exchange | ExchangeReply | Committed | Command
_M = TypeVar("_M", bound=Message)
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[type, msgspec.json.Decoder[Message]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Exchange, ExchangeReply, Committed, Command)
}
MAX_MESSAGE_BYTES = 256 * 1024


def encode_message(message: Message) -> bytes:
    return _ENCODER.encode(message)


def decode_message(kind: type[_M], payload: bytes) -> _M:
    """Read one message of a known kind (the topic says which); raises Refused(BAD_JSON | BAD_ENVELOPE | TOO_MANY)."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise Refused(Reason.TOO_MANY, f"{kind.__name__}: {len(payload)} bytes, at most {MAX_MESSAGE_BYTES}")
    try:
        message = _DECODERS[kind].decode(payload)
    except msgspec.ValidationError as error:
        raise Refused(Reason.BAD_ENVELOPE, f"{kind.__name__}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Reason.BAD_JSON, f"{kind.__name__}: {error}") from error
    assert isinstance(message, kind)
    _check(message)
    return message


def _check(message: Message) -> None:
    if isinstance(message, Command):
        return
    if len(message.buffer_id) != 32 or set(message.buffer_id) - set("0123456789abcdef"):
        raise Refused(Reason.BAD_ENVELOPE, "buffer_id: 32 lower-case hex digits")
    if isinstance(message, Exchange):
        if not 0 <= message.number < 1 << 53:
            raise Refused(Reason.BAD_ENVELOPE, "number: 0 to 2^53 - 1")
        if not 0 <= message.boot < 1 << 32:
            raise Refused(Reason.BAD_ENVELOPE, "boot: 0 to 2^32 - 1")
        for lane, span in message.lanes.items():
            if not 1 <= span.floor <= span.next < 1 << 56:
                raise Refused(Reason.BAD_ENVELOPE, f"lanes.{lane}: 1 <= floor <= next < 2^56")
        return
    if isinstance(message, ExchangeReply) and not 0 <= message.time_ms < 1 << 53:
        raise Refused(Reason.BAD_ENVELOPE, "time_ms: 0 to 2^53 - 1")
    for lane, seq in message.committed.items():
        if not 0 <= seq < 1 << 56:
            raise Refused(Reason.BAD_ENVELOPE, f"committed.{lane}: 0 to 2^56 - 1")
