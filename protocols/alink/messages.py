"""The Alink envelope, both ways (alink.md par. 3 and 5). JSON of devices is decoded here and nowhere else."""

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from protocols.alink.codes import Code
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import (
    EXACT_INTEGER,
    LATEST_MS,
    BoolType,
    DataType,
    DateType,
    EnumType,
    FloatType,
    IntType,
    StructType,
    TextType,
    Value,
)
from protocols.thing.model import ThingModel

MOST_PROPERTIES = 200
AHEAD_MS = 24 * 3600 * 1000  # a clock may be wrong by a day, not more
NO_ID = b'"0"'  # what a reply echoes when the id could not be read

_LONGEST_ID = 256
_MOST_SHAPES = 1024  # a device that invents subsets of its properties must not fill memory
_NOTHING_REFUSED: Mapping[str, Refused] = MappingProxyType({})
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # what msgspec raises on bytes, all of it
_PROPERTY_POST = "thing.event.property.post"
_PROPERTY_SET = "thing.service.property.set"


class MessageRefused(Refused):
    """A message refused as a whole; `id` (raw JSON) and `wants_reply` say how to answer it."""

    def __init__(self, reason: Reason, message: str, id: bytes = NO_ID, wants_reply: bool = True) -> None:  # noqa: A002  # the envelope's word
        super().__init__(reason, message)
        self.id, self.wants_reply = id, wants_reply


class Post(msgspec.Struct, frozen=True, gc=False):
    """A property post, by column. `identifiers` is the same object for every post of the same shape.

    `id` is the raw JSON text. Numeric values are float or int within +-2^53. `times` is None when no property carries one.
    `refused` holds what was left out, by identifier.
    """

    id: bytes
    wants_reply: bool
    identifiers: tuple[str, ...]
    values: tuple[Value, ...]
    times: tuple[int | None, ...] | None = None
    refused: Mapping[str, Refused] = _NOTHING_REFUSED


class EventPost(msgspec.Struct, frozen=True, gc=False):
    """An event post; `output` holds the accepted fields, `refused` the others, `time` is UTC ms."""

    id: bytes
    wants_reply: bool
    identifier: str
    output: dict[str, Value]
    time: int | None = None
    refused: Mapping[str, Refused] = _NOTHING_REFUSED


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request of either side with `params` as an object, not yet checked against a model."""

    id: bytes
    wants_reply: bool
    method: str
    params: dict[str, object]


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A reply; `id` as text whatever its JSON type was."""

    id: str
    code: int
    data: object = None
    message: str = ""


class _Sys(msgspec.Struct, gc=False):
    ack: int = 1


class _Envelope(msgspec.Struct, gc=False):
    params: Raw = Raw()
    id: Raw = Raw()
    sys: Raw = Raw()
    method: Raw = Raw()


class _ReplyEnvelope(msgspec.Struct, gc=False):
    id: Raw
    code: int | str
    data: object = None
    message: object = ""


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_reply = msgspec.json.Decoder(_ReplyEnvelope).decode
_decode_sys = msgspec.json.Decoder(_Sys | None).decode
_decode_parts = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode


class PostDecoder:
    """Property posts of one thing model: a typed decoder for bare values, one for `{"value", "time"}`, and a patient path for the rest."""

    __slots__ = ("_bare", "_fixes", "_names", "_shapes", "_timed", "_timed_last", "model")

    def __init__(self, model: ThingModel) -> None:
        self.model = model
        self._names = tuple(model.properties)
        self._shapes: dict[tuple[str, ...], tuple[str, ...]] = {self._names: self._names}
        types = [_fast_type(entry.data_type) for entry in model.properties.values()]
        self._fixes = [
            (position, entry.data_type.coerce)
            for position, entry in enumerate(model.properties.values())
            if not isinstance(entry.data_type, IntType | FloatType | EnumType | TextType)
        ]
        self._bare: Callable[[bytes], Any] = _compile(self._names, types)
        self._timed: Callable[[bytes], Any] = _compile(self._names, [_stamped(kind) for kind in types])
        self._timed_last = False

    def decode(self, payload: bytes | memoryview) -> Post:
        """Raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE, TOO_MANY); a property that does not fit is in `refused` instead."""
        if type(payload) is not bytes:
            payload = bytes(payload)
        _check_utf8(payload)
        timed = self._timed_last
        try:
            message = (self._timed if timed else self._bare)(payload)
        except _UNREADABLE:
            timed = not timed
            try:
                message = (self._timed if timed else self._bare)(payload)
            except _UNREADABLE:
                return self._decode_patiently(payload)
            self._timed_last = timed
        row: Any = msgspec.structs.astuple(message.params)
        if self._fixes:
            try:
                row = self._fixed(row, timed)
            except Refused:
                return self._decode_patiently(payload)
        present = [part for part in row if part is not UNSET]
        if len(present) == len(row):
            names = self._names
        else:
            names = self._shape([name for name, part in zip(self._names, row, strict=True) if part is not UNSET])
        if len(names) > MOST_PROPERTIES:
            return self._decode_patiently(payload)
        times = None
        if timed:
            times = tuple([part.time for part in present])
            present = [part.value for part in present]
            if None in times and not any(time is not None for time in times):
                times = None
        id = _read_id(bytes(message.id))  # noqa: A001  # the envelope's word
        return Post(
            id or NO_ID,
            id is not None and (message.sys is None or message.sys.ack != 0),
            names,
            tuple(present),
            times,
        )

    def _fixed(self, row: tuple[Any, ...], timed: bool) -> list[Any]:
        """`row` with what the typed decoder leaves open coerced; raises `Refused`."""
        fixed = list(row)
        for position, coerce in self._fixes:
            part = fixed[position]
            if part is not UNSET:
                if timed:
                    part.value = coerce(part.value)
                else:
                    fixed[position] = coerce(part)
        return fixed

    def _shape(self, names: list[str]) -> tuple[str, ...]:
        key = tuple(names)
        known = self._shapes.get(key)
        if known is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
                self._shapes[self._names] = self._names
            known = self._shapes[key] = key
        return known

    def _decode_patiently(self, payload: bytes) -> Post:
        """The same post with a reason for each property that does not fit."""
        id, wants_reply, parts = _open(payload)  # noqa: A001  # the envelope's word
        if len(parts) > MOST_PROPERTIES:
            raise MessageRefused(Reason.TOO_MANY, f"{len(parts)} properties, at most {MOST_PROPERTIES} allowed", id, wants_reply)
        refused: dict[str, Refused] = {
            name[:64]: Refused(Reason.UNKNOWN_IDENTIFIER, f"{name[:64]}: no such property in the thing model")
            for name in parts
            if name not in self.model.properties
        }
        names: list[str] = []
        values: list[Value] = []
        times: list[int | None] = []
        for name, entry in self.model.properties.items():  # in the model's order, as the fast path has it
            if name not in parts:
                continue
            try:
                value, time = _unwrap(_decode_part(parts[name], name, id, wants_reply), entry.data_type, name)
                values.append(entry.data_type.coerce(value, name))
            except MessageRefused:
                raise
            except Refused as error:
                refused[name] = _settled(error)
                continue
            names.append(name)
            times.append(time)
        stamped = any(time is not None for time in times)
        return Post(id, wants_reply, self._shape(names), tuple(values), tuple(times) if stamped else None, refused or _NOTHING_REFUSED)


def check_times(post: Post, now_ms: int) -> Post:
    """`post` without the properties stamped more than 24 h ahead of `now_ms`; those are in `refused` as BAD_TIME."""
    latest = now_ms + AHEAD_MS
    if post.times is None or not any(time is not None and time > latest for time in post.times):
        return post
    refused = dict(post.refused)
    kept: list[tuple[str, Value, int | None]] = []
    for name, value, time in zip(post.identifiers, post.values, post.times, strict=True):
        if time is not None and time > latest:
            refused[name] = Refused(Reason.BAD_TIME, f"{name}: the time {time} is more than 24 h ahead")
        else:
            kept.append((name, value, time))
    times = tuple(time for _, _, time in kept)
    return Post(
        post.id,
        post.wants_reply,
        tuple(name for name, _, _ in kept),
        tuple(value for _, value, _ in kept),
        times if any(time is not None for time in times) else None,
        refused,
    )


@lru_cache(maxsize=1024)
def post_decoder(model: ThingModel) -> PostDecoder:
    """The one decoder of `model`: compiling it costs a millisecond, so devices of a product share it."""
    return PostDecoder(model)


def decode_event(model: ThingModel, identifier: str, payload: bytes, now_ms: int | None = None) -> EventPost:
    """Raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE, UNKNOWN_EVENT, BAD_TIME); an output that does not fit is in `refused` instead.

    With `now_ms` a time more than 24 h ahead of it is refused.
    """
    id, wants_reply, parts = _open(payload)  # noqa: A001  # the envelope's word
    event = model.events.get(identifier)
    if event is None:
        raise MessageRefused(Reason.UNKNOWN_EVENT, f"{identifier[:64]}: no such event in the thing model", id, wants_reply)
    found: dict[str, object] = {}
    refused: dict[str, Refused] = {}
    for name, part in parts.items():
        try:
            found[name] = _decode_part(part, name, id, wants_reply)
        except MessageRefused:
            raise
        except Refused as error:
            refused[name[:64]] = _settled(error)
    time: int | None = None
    inner = found.get("value")
    # An event with an output named `value` that is itself an object: only the thing model can tell the forms apart.
    bare = "value" in event.output and _fits(event.output["value"], inner)
    if isinstance(inner, dict) and found.keys() <= {"value", "time"} and not bare:
        try:
            time = _time(found.get("time"), "time")
        except Refused as error:
            raise MessageRefused(error.reason, str(error), id, wants_reply) from error
        if time is not None and now_ms is not None and time > now_ms + AHEAD_MS:
            raise MessageRefused(Reason.BAD_TIME, f"the time {time} is more than 24 h ahead", id, wants_reply)
        found = inner
    output: dict[str, Value] = {}
    for name, value in found.items():
        data_type = event.output.get(name)
        try:
            if data_type is None:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{name[:64]}: no such output of the event")
            output[name] = data_type.coerce(value, name)
        except Refused as error:
            refused[name[:64]] = _settled(error)
    return EventPost(id, wants_reply, identifier, output, time, refused or _NOTHING_REFUSED)


def decode_request(payload: bytes) -> Request:
    """A request without a model, as a device reads a property set; raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE)."""
    id, wants_reply, parts = _open(payload)  # noqa: A001  # the envelope's word
    try:
        method = msgspec.json.decode(bytes(_decode_envelope(payload).method) or b'""')
        params = {name: msgspec.json.decode(part) for name, part in parts.items()}
    except _UNREADABLE as error:
        raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}", id, wants_reply) from error
    return Request(id, wants_reply, method if isinstance(method, str) else "", params)


def decode_reply(payload: bytes) -> Reply:
    """A device's answer, which may lack message, method and version; raises `Refused` (BAD_JSON, BAD_ENVELOPE)."""
    _check_utf8(payload)
    try:
        found = _decode_reply(payload)
        code, id = int(found.code), msgspec.json.decode(found.id)  # noqa: A001  # the envelope's word
    except (msgspec.ValidationError, OverflowError) as error:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"not a reply: {error}") from error
    except _UNREADABLE as error:
        raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}") from error
    if isinstance(id, bool) or not isinstance(id, str | int) or len(found.id) > _LONGEST_ID:
        raise MessageRefused(Reason.BAD_ENVELOPE, "a reply needs an id, a string or a whole number")
    return Reply(str(id), code, found.data, found.message if isinstance(found.message, str) else "")


def reply(id: bytes, method: str, code: int = Code.DONE, data: bytes = b"{}", message: str = "success") -> bytes:  # noqa: A002  # the envelope's word
    """All six fields, always: an SDK drops a reply that lacks one. `id` and `data` are raw JSON."""
    return b'{"id":%b,"code":%d,"data":%b,"message":%b,"method":"%b","version":"1.0"}' % (
        id,
        code,
        data,
        b'"success"' if message == "success" else _encode(message),
        method.encode(),
    )


def property_set(id: str | int, params: Mapping[str, object]) -> bytes:  # noqa: A002  # the envelope's word
    """What the server asks of a device. `id` is decimal digits up to 4294967295, sent as a string: the one form every SDK takes."""
    return _request(id, _PROPERTY_SET, params, "1.0.0")


def property_post(id: str | int, values: Mapping[str, object], time_ms: int | None = None) -> bytes:  # noqa: A002  # the envelope's word
    """What a device reports; with `time_ms` every value carries it."""
    stamped = values if time_ms is None else {name: {"value": value, "time": time_ms} for name, value in values.items()}
    return _request(id, _PROPERTY_POST, stamped, "1.0")


def event_post(id: str | int, identifier: str, output: Mapping[str, object], time_ms: int | None = None) -> bytes:  # noqa: A002  # the envelope's word
    """What a device announces: wrapped when there is a time, bare otherwise."""
    params = output if time_ms is None else {"value": output, "time": time_ms}
    return _request(id, f"thing.event.{identifier}.post", params, "1.0")


def _request(id: str | int, method: str, params: Mapping[str, object], version: str) -> bytes:  # noqa: A002  # the envelope's word
    text = str(id)
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFFFFFF):
        raise Refused(Reason.BAD_ENVELOPE, f"an id is decimal digits up to 4294967295, not {text[:40]!r}")
    return _encode({"id": text, "version": version, "params": params, "method": method})


def _open(payload: bytes) -> tuple[bytes, bool, dict[str, Raw]]:
    """(id, wants_reply, params by name, not yet decoded); raises `MessageRefused`."""
    _check_utf8(payload)
    try:
        envelope = _decode_envelope(payload)
    except msgspec.ValidationError as error:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"not an envelope: {error}") from error
    except _UNREADABLE as error:
        raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}") from error
    id = _read_id(bytes(envelope.id))  # noqa: A001  # the envelope's word
    wants_reply = id is not None and _wants_reply(bytes(envelope.sys))
    id = id or NO_ID  # noqa: A001
    try:
        params = bytes(envelope.params)
        if params in (b"", b"null"):
            raise MessageRefused(Reason.BAD_ENVELOPE, "params are missing", id, wants_reply)
        if params.startswith(b'"') and msgspec.json.decode(params, type=str).strip() == "{}":
            return id, wants_reply, {}
        return id, wants_reply, _decode_parts(params)
    except msgspec.ValidationError as error:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"params have to be an object: {error}", id, wants_reply) from error
    except _UNREADABLE as error:
        raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}", id, wants_reply) from error


def _check_utf8(payload: bytes) -> None:
    """msgspec does not look into strings that it skips, so the whole payload is looked at."""
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            raise MessageRefused(Reason.BAD_JSON, f"not UTF-8: {error.reason} at byte {error.start}") from error


def _read_id(id: bytes) -> bytes | None:  # noqa: A002  # the envelope's word
    """The id exactly as it came, None without one; raises `MessageRefused` for an id that is no string or number."""
    if id in (b"", b"null"):
        return None
    if id[0] not in b'"-0123456789' or len(id) > _LONGEST_ID:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"the id has to be a string or a number of at most {_LONGEST_ID} bytes")
    if b"\\" in id:
        try:
            msgspec.json.decode(id)
        except _UNREADABLE as error:
            raise MessageRefused(Reason.BAD_JSON, f"the id is not JSON: {error}") from error
    return id


def _wants_reply(sys: bytes) -> bool:
    try:
        found = _decode_sys(sys or b"null")
    except _UNREADABLE:
        return True  # only a plain 0 says no
    return found is None or found.ack != 0


def _decode_part(raw: Raw, name: str, id: bytes, wants_reply: bool) -> object:  # noqa: A002  # the envelope's word
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError as error:  # 1e999 is JSON, but no number
        raise Refused(Reason.OUT_OF_RANGE, f"{name[:64]}: {error}") from error
    except _UNREADABLE as error:
        raise MessageRefused(Reason.BAD_JSON, f"not JSON: {error}", id, wants_reply) from error


def _unwrap(found: object, data_type: DataType, name: str) -> tuple[object, int | None]:
    """(value, time) of either form. Structs do not nest, so a struct is wrapped only if its `value` is an object."""
    if isinstance(found, dict) and "value" in found:
        inner = found["value"]
        if not isinstance(data_type, StructType) or (isinstance(inner, dict) and found.keys() <= {"value", "time"}):
            return inner, _time(found.get("time"), name)
    return found, None


def _time(found: object, name: str) -> int | None:
    if found is None:
        return None
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= LATEST_MS:
        raise Refused(Reason.BAD_TIME, f"{name}: the time has to be UTC milliseconds, years 1970 to 9999")
    return found


def _fits(data_type: DataType, value: object) -> bool:
    try:
        data_type.coerce(value)
    except Refused:
        return False
    return True


def _settled(error: Refused) -> Refused:
    """`error` as a value: without the frames that raised it, which would keep the payload alive in a cycle."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _compile(names: tuple[str, ...], types: list[Any]) -> Callable[[bytes], Any]:
    """A decoder of an envelope whose params may hold any of `names`, and nothing else."""
    fields: Any = [(f"p{position}", Union[kind, UnsetType], UNSET) for position, kind in enumerate(types)]  # noqa: UP007  # built at run time
    rename = {f"p{position}": name for position, name in enumerate(names)}
    params = msgspec.defstruct("Params", fields, rename=rename, gc=False, forbid_unknown_fields=True)
    envelope = msgspec.defstruct("Message", [("params", params), ("id", Raw, Raw()), ("sys", _Sys | None, None)], gc=False)
    return msgspec.json.Decoder(envelope).decode


def _stamped(kind: Any) -> Any:
    fields: Any = [("value", kind), ("time", Annotated[int, Meta(ge=0, le=LATEST_MS)], None)]
    return msgspec.defstruct("Stamped", fields, gc=False, forbid_unknown_fields=True)


def _fast_type(data_type: DataType) -> Any:
    """What msgspec may accept at once: nothing that `coerce` refuses, apart from the types listed in `_fixes`."""
    match data_type:
        case IntType(minimum=low, maximum=high):
            return Annotated[int, Meta(ge=-EXACT_INTEGER if low is None else low, le=EXACT_INTEGER if high is None else high)]
        case FloatType(minimum=low, maximum=high):
            largest = sys.float_info.max
            return Annotated[float, Meta(ge=-largest if low is None else low, le=largest if high is None else high)]
        case EnumType(labels=labels):
            return Literal[tuple(labels)]
        case TextType(length=length):
            return Annotated[str, Meta(max_length=length)]
        case BoolType():
            return bool | Annotated[int, Meta(ge=0, le=1)]
        case DateType():
            return str | int
        case StructType():
            return dict[str, Any]
        case _:
            return list[Any]
