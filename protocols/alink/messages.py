"""Alink messages, both ways (alink.md par. 5). JSON of devices is decoded here and nowhere else."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from protocols.alink.codes import Code
from protocols.alink.envelope import NO_ID, UNREADABLE, MessageRefused, check_utf8, open_envelope, read_id, read_part
from protocols.alink.topics import Kind
from protocols.alink.typed import Form
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import LATEST_MS, DataType, StructType, Value
from protocols.thing.model import ThingModel

__all__ = [
    "EventPost",
    "MessageRefused",
    "Post",
    "PostDecoder",
    "Reply",
    "Request",
    "check_times",
    "command_topic",
    "decode_event",
    "decode_reply",
    "decode_request",
    "encode_command",
    "event_post",
    "post_decoder",
    "property_post",
    "property_set",
    "reply",
]

MOST_PROPERTIES = 200
AHEAD_MS = 24 * 3600 * 1000  # a clock may be wrong by a day, not more

_MOST_SHAPES = 1024  # a device that invents subsets of its properties must not fill memory
_MOST_FORMS = 64
_NOTHING_REFUSED: Mapping[str, Refused] = MappingProxyType({})


class Post(msgspec.Struct, frozen=True, gc=False):
    """A property post, by column. `identifiers` is the same object for every post of the same shape.

    `id` is the raw JSON text. Numeric values are float or int within +-2^53. `times` (UTC ms) is None when no property carries one.
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
    """A request with `params` not yet checked against a model; `id` is raw JSON."""

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


class _ReplyEnvelope(msgspec.Struct, gc=False):
    id: Raw
    code: int | str
    data: object = None
    message: object = ""


_decode_reply = msgspec.json.Decoder(_ReplyEnvelope).decode
_encode = msgspec.json.encode
_columns = msgspec.structs.astuple


class PostDecoder:
    """Property posts of one thing model.

    Tried first is the form that succeeded last, and after two posts of one shape a form made for that shape; then any subset of
    bare values, any subset of `{"value", "time"}`; then the patient path, which finds a reason for each property that does not fit.
    """

    __slots__ = ("_bare", "_forms", "_last", "_seen", "_shapes", "_timed", "_types", "model")

    def __init__(self, model: ThingModel) -> None:
        self.model = model
        self._types = {name: entry.data_type for name, entry in model.properties.items()}
        self._bare = Form(self._types, timed=False, fixed=False)
        self._timed = Form(self._types, timed=True, fixed=False)
        self._forms: dict[tuple[tuple[str, ...], bool], Form] = {}
        self._last = self._bare
        self._seen: tuple[tuple[str, ...], bool] | None = None  # the shape of the post before, if a general form read it
        self._shapes: dict[tuple[str, ...], tuple[str, ...]] = {}

    def decode(self, payload: bytes | memoryview) -> Post:
        """Raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE, TOO_MANY); a property that does not fit is in `refused` instead."""
        if type(payload) is not bytes:
            payload = bytes(payload)
        if not payload.isascii():
            check_utf8(payload)
        form = self._last
        try:
            message = form.decode(payload)
        except UNREADABLE:
            form, message = self._decode_generally(payload, form)
            if message is None:
                return self.decode_patiently(payload)
        columns: Any = _columns(message.params)
        if form.coercions:
            try:
                columns = _coerced(columns, form)
            except Refused:
                return self.decode_patiently(payload)
        names = form.names
        if not form.fixed:
            columns = [part for part in columns if part is not UNSET]
            names = self._recognise(form, _columns(message.params), len(columns))
            if len(names) > MOST_PROPERTIES:
                return self.decode_patiently(payload)
        times = None
        if form.timed:
            times = tuple([part.time for part in columns])
            columns = [part.value for part in columns]
            if not form.fixed and times.count(None) == len(times):
                times = None
        raw_id = read_id(bytes(message.id))
        wants_reply = raw_id is not None and (message.sys is None or message.sys.ack != 0)
        return Post(raw_id or NO_ID, wants_reply, names, tuple(columns), times)

    def _decode_generally(self, payload: bytes, tried: Form) -> tuple[Form, Any]:
        first, second = (self._timed, self._bare) if tried.timed else (self._bare, self._timed)
        for form in (first, second):
            if form is not tried:
                try:
                    message = form.decode(payload)
                except UNREADABLE:
                    continue
                self._last = form
                return form, message
        return tried, None

    def _recognise(self, form: Form, columns: tuple[Any, ...], count: int) -> tuple[str, ...]:
        """The names of a post that a general form read; two of one shape in a row are worth a form of their own."""
        names = form.names if count == len(columns) else tuple([n for n, v in zip(form.names, columns, strict=True) if v is not UNSET])
        names = self._intern(names)
        shape = (names, form.timed and all(part is UNSET or part.time is not None for part in columns))
        if shape == self._seen and shape[1] is form.timed and 0 < count <= MOST_PROPERTIES:
            own = self._forms.get(shape)
            if own is None and len(self._forms) < _MOST_FORMS:
                own = self._forms[shape] = Form({name: self._types[name] for name in names}, timed=form.timed, fixed=True)
                own.names = names
            self._last = own or self._last
        self._seen = shape
        return names

    def _intern(self, names: tuple[str, ...]) -> tuple[str, ...]:
        known = self._shapes.get(names)
        if known is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes = {form.names: form.names for form in self._forms.values()}
            known = self._shapes[names] = names
        return known

    def decode_patiently(self, payload: bytes) -> Post:
        """The same post with a reason for each property that does not fit."""
        opened = open_envelope(payload)
        if len(opened.params) > MOST_PROPERTIES:
            raise opened.refuse(Reason.TOO_MANY, f"{len(opened.params)} properties, at most {MOST_PROPERTIES} allowed")
        refused: dict[str, Refused] = {
            name[:64]: Refused(Reason.UNKNOWN_IDENTIFIER, f"{name[:64]}: no such property in the thing model")
            for name in opened.params
            if name not in self._types
        }
        names: list[str] = []
        values: list[Value] = []
        times: list[int | None] = []
        for name, data_type in self._types.items():  # in the model's order, as the typed forms have it
            if name not in opened.params:
                continue
            try:
                value, time = _unwrap(read_part(opened, name), data_type, name)
                values.append(data_type.coerce(value, name))
            except MessageRefused:
                raise
            except Refused as error:
                refused[name] = error.settled()
                continue
            names.append(name)
            times.append(time)
        stamps = tuple(times) if times.count(None) < len(times) else None
        return Post(opened.id, opened.wants_reply, self._intern(tuple(names)), tuple(values), stamps, refused or _NOTHING_REFUSED)


def _coerced(columns: tuple[Any, ...], form: Form) -> list[Any]:
    """`columns` with what the typed decoder leaves open coerced; raises `Refused`."""
    coerced = list(columns)
    for position, coerce in form.coercions:
        part = coerced[position]
        if part is not UNSET:
            if form.timed:
                part.value = coerce(part.value)
            else:
                coerced[position] = coerce(part)
    return coerced


@lru_cache(maxsize=1024)
def post_decoder(model: ThingModel) -> PostDecoder:
    """The one decoder of `model`: compiling it costs milliseconds, so devices of a product share it."""
    return PostDecoder(model)


def check_times(post: Post, now_ms: int) -> Post:
    """`post` without the properties stamped more than 24 h ahead of `now_ms`; those are in `refused` as BAD_TIME."""
    latest = now_ms + AHEAD_MS
    if post.times is None or _latest(post.times) <= latest:
        return post
    refused = dict(post.refused)
    kept: list[tuple[str, Value, int | None]] = []
    for name, value, time in zip(post.identifiers, post.values, post.times, strict=True):
        if time is not None and time > latest:
            refused[name] = Refused(Reason.BAD_TIME, f"{name}: the time {time} is more than 24 h ahead")
        else:
            kept.append((name, value, time))
    names, values, times = zip(*kept, strict=True) if kept else ((), (), ())
    stamps = times if times.count(None) < len(times) else None
    return Post(post.id, post.wants_reply, names, values, stamps, refused)


def _latest(times: tuple[int | None, ...]) -> int:
    """The latest of `times`, of which at least one is set."""
    try:
        return max(times)  # type: ignore[type-var, return-value]  # quick where every value has a time
    except TypeError:
        return max(time for time in times if time is not None)


def decode_event(model: ThingModel, identifier: str, payload: bytes, now_ms: int | None = None) -> EventPost:
    """Raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE, UNKNOWN_EVENT, BAD_TIME); an output that does not fit is in `refused` instead.

    With `now_ms` a time more than 24 h ahead of it is refused.
    """
    opened = open_envelope(bytes(payload))
    event = model.events.get(identifier)
    if event is None:
        raise opened.refuse(Reason.UNKNOWN_EVENT, f"{identifier[:64]}: no such event in the thing model")
    found: dict[str, object] = {}
    refused: dict[str, Refused] = {}
    for name in opened.params:
        try:
            found[name] = read_part(opened, name)
        except MessageRefused:
            raise
        except Refused as error:
            refused[name[:64]] = error.settled()
    time: int | None = None
    inner = found.get("value")
    # An event with an output named `value` that is an object itself: only the thing model can tell the forms apart.
    bare = "value" in event.output and _fits(event.output["value"], inner)
    if isinstance(inner, dict) and found.keys() <= {"value", "time"} and not bare:
        try:
            time = read_time(found.get("time"), "time")
        except Refused as error:
            raise opened.refuse(error.reason, str(error)) from error
        if time is not None and now_ms is not None and time > now_ms + AHEAD_MS:
            raise opened.refuse(Reason.BAD_TIME, f"the time {time} is more than 24 h ahead")
        found = inner
    output: dict[str, Value] = {}
    for name, value in found.items():
        data_type = event.output.get(name)
        try:
            if data_type is None:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{name[:64]}: no such output of the event")
            output[name] = data_type.coerce(value, name)
        except Refused as error:
            refused[name[:64]] = error.settled()
    return EventPost(opened.id, opened.wants_reply, identifier, output, time, refused or _NOTHING_REFUSED)


def _unwrap(found: object, data_type: DataType, name: str) -> tuple[object, int | None]:
    """(value, time) of either form. Structs do not nest, so a struct is wrapped only if its `value` is an object."""
    if isinstance(found, dict) and "value" in found:
        inner = found["value"]
        if not isinstance(data_type, StructType) or (isinstance(inner, dict) and found.keys() <= {"value", "time"}):
            return inner, read_time(found.get("time"), name)
    return found, None


def read_time(found: object, name: str) -> int | None:
    """A time of the wire in UTC ms, None for none. Raises `Refused(BAD_TIME)`."""
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


def decode_request(payload: bytes) -> Request:
    """A request without a model, as a device reads a property set; raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE)."""
    opened = open_envelope(bytes(payload))
    try:
        method = msgspec.json.decode(opened.method or b'""')
        params = {name: msgspec.json.decode(part) for name, part in opened.params.items()}
    except UNREADABLE as error:
        raise opened.refuse(Reason.BAD_JSON, f"not JSON: {error}") from error
    return Request(opened.id, opened.wants_reply, method if isinstance(method, str) else "", params)


def decode_reply(payload: bytes) -> Reply:
    """A device's answer, which may lack message, method and version; raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE)."""
    payload = bytes(payload)
    check_utf8(payload)
    try:
        found = _decode_reply(payload)
        raw_id = read_id(bytes(found.id)) or b"null"
        message_id, code = msgspec.json.decode(raw_id), int(found.code)
    except msgspec.DecodeError as error:
        reason = Reason.BAD_ENVELOPE if isinstance(error, msgspec.ValidationError) else Reason.BAD_JSON
        raise MessageRefused(reason, f"not a reply: {error}") from error
    except UNREADABLE as error:
        raise MessageRefused(Reason.BAD_ENVELOPE, f"not a reply: {error}") from error
    if not isinstance(message_id, str | int):
        raise MessageRefused(Reason.BAD_ENVELOPE, "a reply needs an id, a string or a whole number")
    return Reply(str(message_id), code, found.data, found.message if isinstance(found.message, str) else "")


def reply(raw_id: bytes, method: str, code: int = Code.DONE, data: bytes = b"{}", message: str = "success") -> bytes:
    """All six fields, always: an SDK drops a reply that lacks one. `raw_id` and `data` are raw JSON."""
    parts = (raw_id, code, data, _encode(message), _encode(method))
    return b'{"id":%b,"code":%d,"data":%b,"message":%b,"method":%b,"version":"1.0"}' % parts


SERVICE_PREFIX = "thing.service."
_FIXED = {"thing.service.property.set": Kind.PROPERTY_SET, "thing.service.property.get": Kind.PROPERTY_GET}


def command_topic(method: str) -> tuple[Kind, str]:
    """The kind of topic on which a method of the server's goes down, and the service it names; raises `Refused` for any other method.

    >>> command_topic("thing.service.Blink")
    (<Kind.SERVICE: 'service'>, 'Blink')
    """
    if (kind := _FIXED.get(method)) is not None:
        return kind, ""
    name = method.removeprefix(SERVICE_PREFIX)
    if name == method or not name:
        raise Refused(Reason.UNKNOWN_TOPIC, f"no such method: {method[:80]}")
    return Kind.SERVICE, name


def encode_command(message_id: str | int, method: str, params: object) -> bytes:
    """What the server asks of a device. The id is decimal digits up to 4294967295, sent as a string: the one form every SDK takes."""
    return _request(message_id, method, params, "1.0.0")


def property_set(message_id: str | int, params: Mapping[str, object]) -> bytes:
    """What the server asks of a device. The id is decimal digits up to 4294967295, sent as a string: the one form every SDK takes."""
    return _request(message_id, "thing.service.property.set", params, "1.0.0")


def property_post(message_id: str | int, values: Mapping[str, object], time_ms: int | None = None) -> bytes:
    """What a device reports; with `time_ms` every value carries it."""
    stamped = values if time_ms is None else {name: {"value": value, "time": time_ms} for name, value in values.items()}
    return _request(message_id, "thing.event.property.post", stamped, "1.0")


def event_post(message_id: str | int, identifier: str, output: Mapping[str, object], time_ms: int | None = None) -> bytes:
    """What a device announces: wrapped when there is a time, bare otherwise."""
    params = output if time_ms is None else {"value": output, "time": time_ms}
    return _request(message_id, f"thing.event.{identifier}.post", params, "1.0")


def _request(message_id: str | int, method: str, params: object, version: str) -> bytes:
    text = str(message_id)
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFFFFFF):
        raise Refused(Reason.BAD_ENVELOPE, f"an id is decimal digits up to 4294967295, not {text[:40]!r}")
    return _encode({"id": text, "version": version, "params": params, "method": method})
