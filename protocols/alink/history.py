"""Posts that carry many values at once (alink.md par. 5): batch, history and pack. Each names whose values they are, and when they were.

The values are raw here: another device's thing model may be needed to check them, and only the server has it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from protocols.alink.envelope import UNREADABLE, OpenedRequest, open_request
from protocols.alink.messages import read_time
from protocols.alink.topics import Kind
from protocols.alink.topology import Identity
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import StructType, Value
from protocols.thing.model import ThingModel

MOST_PROPERTIES: Final = 200
MOST_EVENTS: Final = 20
MOST_SUB_DEVICES: Final = 20
MOST_SAMPLES: Final = 10_000  # of a batch or history; the vendor gives no number


@dataclass(frozen=True, slots=True)
class Item:
    """One value of a property, or one event with its output; `time` is raw, None when there is none. `whole` is the entry as it came."""

    identifier: str
    value: object
    time: object
    whole: object


@dataclass(frozen=True, slots=True)
class Part:
    """What one device's share of a post holds; `identity` is None for whoever posts."""

    identity: tuple[str, str] | None = None
    properties: tuple[Item, ...] = ()
    events: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryPost:
    """A batch, history or pack post, opened; `id` is raw JSON."""

    id: bytes
    wants_reply: bool
    parts: tuple[Part, ...]

    @property
    def identities(self) -> frozenset[tuple[str, str]]:
        """The devices it names."""
        return frozenset(part.identity for part in self.parts if part.identity is not None)


@dataclass(frozen=True, slots=True)
class Sample:
    """A value that fits: of a property, or an event's output. `time` is UTC ms."""

    identifier: str
    value: Value
    time: int


@dataclass(slots=True)
class Checked:
    """A part held against its thing model; `refused` by identifier."""

    properties: list[Sample] = field(default_factory=list)
    events: list[Sample] = field(default_factory=list)
    refused: dict[str, Refused] = field(default_factory=dict)


class _HistoryEntry(msgspec.Struct, gc=False):
    identity: Identity | None = None
    properties: Any = None
    events: Any = None


class _Lists(msgspec.Struct, gc=False):
    properties: Any = None
    events: Any = None


class _Pack(_Lists, gc=False):
    subDevices: list[_HistoryEntry] = []  # noqa: N815  # the wire's own spelling


def history_kind(topic: str) -> Kind | None:
    """Which of the three a topic is, None for any other; cheap, as every topic of a batch is asked.

    >>> history_kind("/sys/a1/d/thing/event/property/pack/post")
    <Kind.PACK_POST: 'pack_post'>
    """
    return _KINDS.get(topic.partition("?")[0].partition("/thing/event/property/")[2])


def read_history(kind: Kind, payload: bytes) -> HistoryPost:
    """A post on the topic of BATCH_POST, HISTORY_POST or PACK_POST.

    Raises `MessageRefused` (BAD_JSON, BAD_ENVELOPE, MISSING_PARAMETER, TOO_MANY, TOO_MANY_EVENTS, TOO_MANY_DEVICES).
    """
    opened = open_request(bytes(payload))
    if not opened.params:
        raise opened.refuse(Reason.MISSING_PARAMETER, "params are missing")
    parts = tuple(_READERS[kind](opened))
    samples = sum(len(part.properties) + len(part.events) for part in parts)
    if samples > MOST_SAMPLES:
        raise opened.refuse(Reason.TOO_MANY, f"{samples} values, at most {MOST_SAMPLES} allowed: send several posts")
    return HistoryPost(opened.id, opened.wants_reply, parts)


def _decode(opened: OpenedRequest, expected: Any) -> Any:
    try:
        return msgspec.json.decode(opened.params, type=expected)
    except msgspec.ValidationError as error:
        reason = Reason.MISSING_PARAMETER if "missing required field" in str(error) else Reason.BAD_ENVELOPE
        raise opened.refuse(reason, f"params: {error}") from error
    except UNREADABLE as error:
        raise opened.refuse(Reason.BAD_JSON, f"not JSON: {error}") from error


def _batch(opened: OpenedRequest) -> Iterator[Part]:
    found = _decode(opened, _Lists)
    yield Part(None, _items(opened, found.properties), _items(opened, found.events))


def _history(opened: OpenedRequest) -> Iterator[Part]:
    found = [_decode(opened, _HistoryEntry)] if opened.params.startswith(b"{") else _decode(opened, list[_HistoryEntry])
    for entry in found:
        identity = None if entry.identity is None else entry.identity.key
        yield Part(identity, _items(opened, entry.properties), _items(opened, entry.events))


def _pack(opened: OpenedRequest) -> Iterator[Part]:
    found = _decode(opened, _Pack)
    if len(found.subDevices) > MOST_SUB_DEVICES:
        raise opened.refuse(Reason.TOO_MANY_DEVICES, f"{len(found.subDevices)} sub-devices, at most {MOST_SUB_DEVICES} allowed")
    own = Part(None, _items(opened, found.properties), _items(opened, found.events))
    parts = [own]
    for entry in found.subDevices:
        if entry.identity is None:
            raise opened.refuse(Reason.MISSING_PARAMETER, "params.subDevices: identity is missing")
        parts.append(Part(entry.identity.key, _items(opened, entry.properties), _items(opened, entry.events)))
    properties, events = sum(len(part.properties) for part in parts), sum(len(part.events) for part in parts)
    if properties > MOST_PROPERTIES:
        raise opened.refuse(Reason.TOO_MANY, f"{properties} properties, at most {MOST_PROPERTIES} allowed")
    if events > MOST_EVENTS:
        raise opened.refuse(Reason.TOO_MANY_EVENTS, f"{events} events, at most {MOST_EVENTS} allowed")
    yield from parts


_KINDS = {"batch/post": Kind.BATCH_POST, "history/post": Kind.HISTORY_POST, "pack/post": Kind.PACK_POST}
_READERS = {Kind.BATCH_POST: _batch, Kind.HISTORY_POST: _history, Kind.PACK_POST: _pack}


def _items(opened: OpenedRequest, found: object) -> tuple[Item, ...]:
    """`{"Power": {...}}`, `{"Power": [{...}, ...]}` or a list of either."""
    if found is None:
        return ()
    items: list[Item] = []
    for group in found if isinstance(found, list) else [found]:
        if not isinstance(group, dict):
            raise opened.refuse(Reason.BAD_ENVELOPE, "params: properties and events have to be objects, or lists of them")
        for identifier, values in group.items():
            for entry in values if isinstance(values, list) and _all_wrapped(values) else [values]:
                wrapped = isinstance(entry, dict) and "value" in entry and entry.keys() <= {"value", "time"}
                value, time = (entry["value"], entry.get("time")) if wrapped else (entry, None)
                items.append(Item(identifier, value, time, entry))
    return tuple(items)


def _all_wrapped(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(entry, dict) and "value" in entry for entry in values)


def check_part(model: ThingModel, part: Part, now_ms: int, latest_ms: int) -> Checked:
    """Hold a part against its device's thing model. A value without a time is of `now_ms`; none may lie beyond `latest_ms`."""
    checked = Checked()
    for item in part.properties:
        entry = model.properties.get(item.identifier)
        try:
            if entry is None:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{item.identifier[:64]}: no such property in the thing model")
            if isinstance(entry.data_type, StructType) and not isinstance(item.value, dict):
                item = Item(item.identifier, item.whole, None, item.whole)  # its own fields are `value` and `time`
            value = entry.data_type.coerce(item.value, item.identifier)
            checked.properties.append(Sample(item.identifier, value, _time(item, now_ms, latest_ms)))
        except Refused as error:
            checked.refused[item.identifier[:64]] = error.settled()
    for item in part.events:
        try:
            checked.events.append(Sample(item.identifier, _output(model, item, checked.refused), _time(item, now_ms, latest_ms)))
        except Refused as error:
            checked.refused[item.identifier[:64]] = error.settled()
    return checked


def _output(model: ThingModel, item: Item, refused: dict[str, Refused]) -> dict[str, Value]:
    """An output that does not fit goes to `refused`, as that of an event posted alone; the event itself is no less true."""
    event = model.events.get(item.identifier)
    if event is None:
        raise Refused(Reason.UNKNOWN_EVENT, f"{item.identifier[:64]}: no such event in the thing model")
    if not isinstance(item.value, dict):
        raise Refused(Reason.WRONG_TYPE, f"{item.identifier}: an event's value has to be an object")
    output: dict[str, Value] = {}
    for name, value in item.value.items():
        where = f"{item.identifier}.{name[:64]}"
        try:
            if name not in event.output:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{where}: no such output of the event")
            output[name] = event.output[name].coerce(value, where)
        except Refused as error:
            refused[where] = error.settled()
    return output


def _time(item: Item, now_ms: int, latest_ms: int) -> int:
    found = item.time
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) <= 15:
        found = int(found)
    time = read_time(found, item.identifier[:64])
    if time is None:
        return now_ms
    if time > latest_ms:
        raise Refused(Reason.BAD_TIME, f"{item.identifier[:64]}: the time {time} is more than 24 h ahead")
    return time


def refused_names(checked: Mapping[tuple[str, str] | None, Checked]) -> dict[str, Refused]:
    """What was left out, by identifier; that of another device by its name and the identifier."""
    named: dict[str, Refused] = {}
    for key, part in checked.items():
        for identifier, refused in part.refused.items():
            named[identifier if key is None else f"{key[1]}.{identifier}"] = refused
    return named
