"""The envelope around every Alink message (alink.md par. 3): opened without trust, its id kept byte for byte."""

import msgspec
from msgspec import Raw

from protocols.errors import Reason, Refused

NO_ID = b'"0"'  # what a reply echoes when the id could not be read: digits, which every SDK tolerates
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # all that msgspec raises on bytes

_LONGEST_ID = 256


class MessageRefused(Refused):
    """A message refused as a whole; `id` (raw JSON) and `wants_reply` say how to answer it."""

    def __init__(self, reason: Reason, message: str, raw_id: bytes = NO_ID, wants_reply: bool = True) -> None:
        super().__init__(reason, message)
        self.id, self.wants_reply = raw_id, wants_reply


class Sys(msgspec.Struct, gc=False):
    """Options of a request; `ack` 0 wants no reply."""

    ack: int = 1


class OpenedRequest(msgspec.Struct, frozen=True, gc=False):
    """An envelope taken apart: raw JSON of the id, of the method and of the params, whatever they are; b"{}" for the string "{}"."""

    id: bytes
    wants_reply: bool
    method: bytes
    params: bytes

    def refuse(self, reason: Reason, message: str) -> MessageRefused:
        return MessageRefused(reason, message, self.id, self.wants_reply)


class Opened(msgspec.Struct, frozen=True, gc=False):
    """An envelope taken apart: raw JSON of the id, of the method and of each of the params."""

    id: bytes
    wants_reply: bool
    method: bytes
    params: dict[str, Raw]

    def refuse(self, reason: Reason, message: str) -> MessageRefused:
        return MessageRefused(reason, message, self.id, self.wants_reply)


class _Envelope(msgspec.Struct, gc=False):
    params: Raw = Raw()
    id: Raw = Raw()
    sys: Raw = Raw()
    method: Raw = Raw()


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_sys = msgspec.json.Decoder(Sys | None).decode
_decode_params = msgspec.json.Decoder(dict[str, Raw]).decode


def open_request(payload: bytes) -> OpenedRequest:
    """Raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE). Absent params are b""; the string "{}" stands for an empty object."""
    check_utf8(payload)
    try:
        envelope = _decode_envelope(payload)
    except msgspec.ValidationError as error:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"not an envelope: {error}") from error
    except UNREADABLE as error:
        raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}") from error
    raw_id = read_id(bytes(envelope.id))
    wants_reply = raw_id is not None and _wants_reply(bytes(envelope.sys))
    params = bytes(envelope.params)
    if params == b"null":
        params = b""
    if params.startswith(b'"'):
        try:
            if msgspec.json.decode(params, type=str).strip() == "{}":
                params = b"{}"
        except UNREADABLE as error:
            raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}", raw_id or NO_ID, wants_reply) from error
    return OpenedRequest(raw_id or NO_ID, wants_reply, bytes(envelope.method), params)


def open_envelope(payload: bytes) -> Opened:
    """Raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE). `params` may be the string "{}"; a repeated key counts once, the last."""
    opened = open_request(payload)
    if not opened.params:
        raise opened.refuse(Reason.BAD_ENVELOPE, "params are missing")
    try:
        parts = _decode_params(opened.params)
    except msgspec.ValidationError as error:
        raise opened.refuse(Reason.BAD_ENVELOPE, f"params have to be an object: {error}") from error
    except UNREADABLE as error:
        raise opened.refuse(Reason.BAD_JSON, f"not JSON: {error}") from error
    return Opened(opened.id, opened.wants_reply, opened.method, parts)


def check_utf8(payload: bytes) -> None:
    """Raises `MessageRefused(BAD_JSON)`: msgspec does not look into strings that it skips, so the whole payload is looked at."""
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            raise MessageRefused(Reason.BAD_JSON, f"not UTF-8: {error.reason} at byte {error.start}") from error


def read_id(raw: bytes) -> bytes | None:
    """The raw id as it came, None without one; raises `MessageRefused` for an id that is no string or number."""
    if raw in (b"", b"null"):
        return None
    if raw[0] not in b'"-0123456789' or len(raw) > _LONGEST_ID:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"the id has to be a string or a number of at most {_LONGEST_ID} bytes")
    return raw


def read_part(opened: Opened, name: str) -> object:
    """One of the params, decoded; raises `Refused(OUT_OF_RANGE)` for a number like 1e999, `MessageRefused` for what is no JSON."""
    try:
        return msgspec.json.decode(opened.params[name])
    except msgspec.ValidationError as error:
        raise Refused(Reason.OUT_OF_RANGE, f"{name[:64]}: {error}") from error
    except UNREADABLE as error:
        raise opened.refuse(Reason.BAD_JSON, f"not JSON: {error}") from error


def _wants_reply(raw: bytes) -> bool:
    try:
        found = _decode_sys(raw or b"null")
    except UNREADABLE:
        return True  # only a plain 0 says no
    return found is None or found.ack != 0
