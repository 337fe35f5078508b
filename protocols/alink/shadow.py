"""The device shadow as a device sees it (alink.md par. 8): its messages, what they change, and how they are answered. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

MOST_ATTRIBUTES = 128
LONGEST_NAME = 64
_NULL = "null"  # the string, by the SDKs' habit; a real null is taken too

_encode = msgspec.json.encode


class ShadowCode(IntEnum):
    """`errorcode` of a shadow reply."""

    NOT_JSON = 400
    NO_METHOD = 401
    NO_STATE = 402
    BAD_VERSION = 403
    NO_REPORTED = 404
    EMPTY_REPORTED = 405
    UNKNOWN_METHOD = 406
    EMPTY = 407
    TOO_MANY = 408
    CONFLICT = 409
    FAILED = 500


class ShadowRefused(Exception):
    """A shadow message that changes nothing; `code` is for the device."""

    def __init__(self, code: ShadowCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of the shadow and when it came, UTC ms."""

    value: object
    time_ms: int


@dataclass(frozen=True, slots=True)
class ShadowDocument:
    """What the server keeps of a device: both halves, and the version that the device and applications count up."""

    version: int = 0
    reported: Mapping[str, Entry] = field(default_factory=dict)
    desired: Mapping[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShadowMessage:
    """A message of a device, read: what it reports, what of that it takes back, whether it clears what is desired, or whether it asks."""

    asks: bool = False
    version: int = 0
    reported: Mapping[str, object] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    removes_all: bool = False
    clears_desired: bool = False


def read_shadow_message(payload: bytes) -> ShadowMessage:
    """Raises `ShadowRefused` with the code of alink.md par. 8."""
    if not payload.strip():
        raise ShadowRefused(ShadowCode.EMPTY, "the message is empty")
    try:
        payload.decode()
        message = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ShadowRefused(ShadowCode.NOT_JSON, f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ShadowRefused(ShadowCode.NOT_JSON, "the message has to be an object")
    method = message.get("method")
    if method is None:
        raise ShadowRefused(ShadowCode.NO_METHOD, "method is missing: update, get or delete")
    if method == "get":
        return ShadowMessage(asks=True)
    if method not in ("update", "delete"):
        raise ShadowRefused(ShadowCode.UNKNOWN_METHOD, "the method has to be update, get or delete")
    state = message.get("state")
    if not isinstance(state, dict):
        raise ShadowRefused(ShadowCode.NO_STATE, "state is missing")
    version = message.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or not -1 <= version < 2**53:
        raise ShadowRefused(ShadowCode.BAD_VERSION, "version has to be a whole number above the shadow's, or -1")
    if method == "delete":
        return _read_delete(state, version)
    return _read_update(state, version)


def _read_update(state: Mapping[str, object], version: int) -> ShadowMessage:
    clears = "desired" in state and _is_null(state["desired"])
    reported = state.get("reported")
    if reported is None and clears:
        return ShadowMessage(version=version, clears_desired=True)
    if not isinstance(reported, dict):
        raise ShadowRefused(ShadowCode.NO_REPORTED, "state.reported is missing")
    if not reported:
        raise ShadowRefused(ShadowCode.EMPTY_REPORTED, "state.reported is empty")
    _check_names(reported)
    return ShadowMessage(version=version, reported=reported, clears_desired=clears)


def _read_delete(state: Mapping[str, object], version: int) -> ShadowMessage:
    if "reported" not in state:
        raise ShadowRefused(ShadowCode.NO_REPORTED, "state.reported is missing")
    reported = state["reported"]
    if _is_null(reported):
        return ShadowMessage(version=version, removes_all=True)
    if not isinstance(reported, dict) or not reported:
        raise ShadowRefused(ShadowCode.EMPTY_REPORTED, 'state.reported has to name what goes, each "null"')
    _check_names(reported)
    return ShadowMessage(version=version, removed=tuple(name for name, value in reported.items() if _is_null(value)))


def _is_null(value: object) -> bool:
    return value is None or value == _NULL


def _check_names(reported: Mapping[str, object]) -> None:
    if len(reported) > MOST_ATTRIBUTES:
        raise ShadowRefused(ShadowCode.TOO_MANY, f"{len(reported)} attributes, at most {MOST_ATTRIBUTES} allowed")
    for name in reported:
        if not 0 < len(name) <= LONGEST_NAME or "\0" in name:
            raise ShadowRefused(ShadowCode.TOO_MANY, f"an attribute's name has 1 to {LONGEST_NAME} characters")


def apply_shadow_message(document: ShadowDocument, message: ShadowMessage, now_ms: int) -> ShadowDocument:
    """The document after `message`; raises `ShadowRefused` (CONFLICT, TOO_MANY).

    A version has to exceed the stored one and takes its place; -1 or 0 is not compared and lets the device count from the beginning.
    """
    if message.asks:
        return document
    if 0 < message.version <= document.version:
        raise ShadowRefused(ShadowCode.CONFLICT, f"the shadow has version {document.version}: get it, and send a higher one")
    reported = {} if message.removes_all else {k: e for k, e in document.reported.items() if k not in message.removed}
    reported.update({name: Entry(value, now_ms) for name, value in message.reported.items()})
    if message.reported and len(reported) > max(MOST_ATTRIBUTES, len(document.reported)):
        raise ShadowRefused(ShadowCode.TOO_MANY, f"the shadow would hold {len(reported)} attributes, at most {MOST_ATTRIBUTES} allowed")
    return ShadowDocument(max(message.version, 0), reported, {} if message.clears_desired else document.desired)


def shadow_done(version: int, now_ms: int) -> bytes:
    """The answer to an update or delete that was carried out."""
    return _encode({"method": "reply", "payload": {"status": "success", "version": version}, "timestamp": now_ms // 1000})


def shadow_failed(refused: ShadowRefused, now_ms: int) -> bytes:
    """The answer to a message that was not."""
    content = {"errorcode": str(int(refused.code)), "errormessage": str(refused)}
    return _encode({"method": "reply", "payload": {"status": "error", "content": content}, "timestamp": now_ms // 1000})


def shadow_content(document: ShadowDocument, now_ms: int, *, method: str = "reply") -> bytes:
    """The whole shadow: the answer to a get, or with the method "control" what an application changed. Times in seconds."""
    halves = (("reported", document.reported), ("desired", document.desired))
    payload = {
        "status": "success",
        "state": {half: {name: entry.value for name, entry in entries.items()} for half, entries in halves},
        "metadata": {half: {name: {"timestamp": entry.time_ms // 1000} for name, entry in entries.items()} for half, entries in halves},
    }
    return _encode({"method": method, "payload": payload, "version": document.version, "timestamp": now_ms // 1000})


def shadow_delta(desired: Mapping[str, object], reported: Mapping[str, object]) -> dict[str, object]:
    """What the device still has to change.

    >>> shadow_delta({"fan": "on", "level": 3}, {"fan": "off", "level": 3})
    {'fan': 'on'}
    """
    return {name: want for name, want in desired.items() if name not in reported or reported[name] != want}


def shadow_report(version: int, values: Mapping[str, object]) -> bytes:
    """What a device sends to report values."""
    return _encode({"method": "update", "state": {"reported": dict(values)}, "version": version})


def shadow_question() -> bytes:
    """What a device sends to read its shadow."""
    return b'{"method":"get"}'


def shadow_clear_desired(version: int) -> bytes:
    """What a device sends once it has carried out what was desired."""
    return _encode({"method": "update", "state": {"desired": _NULL}, "version": version})


def shadow_removal(version: int, names: Iterable[str] | None = None) -> bytes:
    """What a device sends to take back what it reported; everything without names."""
    reported: object = _NULL if names is None else dict.fromkeys(names, _NULL)
    return _encode({"method": "delete", "state": {"reported": reported}, "version": version})
