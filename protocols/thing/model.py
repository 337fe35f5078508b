"""A thing model (TSL JSON, alink.md par. 12): what a product can report, be told and announce."""

import copy
import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from protocols.errors import Reason, Refused
from protocols.thing.datatypes import (
    EXACT_INTEGER,
    ArrayType,
    BoolType,
    DataType,
    DateType,
    EnumType,
    FloatType,
    IntType,
    Names,
    StructType,
    TextType,
    Value,
)
from protocols.thing.raw_table import RawTable, parse_raw_table

T = TypeVar("T")

_IDENTIFIER = re.compile(r"[A-Za-z0-9_]{1,64}")
_LABEL_KEY = re.compile(r"-?[0-9]{1,9}")
_GENERATED_EVENT = "post"  # the SDKs read them, we derive them: not events and services of the product
_GENERATED_SERVICES = ("set", "get")
_RESERVED_EVENTS = ("property",)  # its topic would be the property post's


@dataclass(frozen=True, slots=True)
class Property:
    """One property; `names` holds its name by language ("en", "zh"), `access_mode` is "r", "w" or "rw"."""

    identifier: str
    name: str
    data_type: DataType
    access_mode: str = "r"
    required: bool = False
    names: Names = field(default_factory=dict)

    @property
    def writable(self) -> bool:
        return "w" in self.access_mode


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `level` is "info", "alert" or "error". `output_names` holds the names of its arguments by language."""

    identifier: str
    name: str
    level: str
    output: Mapping[str, DataType]
    names: Names = field(default_factory=dict)
    output_names: Mapping[str, Names] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Service:
    """One service; `call_type` is "sync" or "async". `input_names` and `output_names` hold the names of its arguments by language.

    `required`: the inputs that say `"required": true`; the vendor's own documents leave the word out, and none of theirs is.
    """

    identifier: str
    name: str
    call_type: str
    input: Mapping[str, DataType]
    output: Mapping[str, DataType]
    names: Names = field(default_factory=dict)
    input_names: Mapping[str, Names] = field(default_factory=dict)
    output_names: Mapping[str, Names] = field(default_factory=dict)
    required: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class ThingModel:
    """A parsed thing model; equal when the documents are. Identifiers of a function block read `block:identifier`."""

    properties: Mapping[str, Property]
    events: Mapping[str, Event]
    services: Mapping[str, Service]
    product_key: str
    document: Mapping[str, object]
    raw_table: RawTable | None = None

    def to_dict(self) -> dict[str, object]:
        """The TSL document as parsed, extra keys included; the caller may change it."""
        return copy.deepcopy(dict(self.document))

    def coerce_set(self, params: Mapping[str, object]) -> dict[str, Value]:
        """Values to write, coerced; raises `Refused` (UNKNOWN_IDENTIFIER, NOT_WRITABLE, or the type's) naming the identifier."""
        values: dict[str, Value] = {}
        for identifier, value in params.items():
            found = self.properties.get(identifier)
            if found is None:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{identifier[:64]}: no such property in the thing model")
            if not found.writable:
                raise Refused(Reason.NOT_WRITABLE, f"{identifier}: the property is read only")
            values[identifier] = found.data_type.coerce(value, identifier)
        return values

    def coerce_input(self, service: str, params: Mapping[str, object]) -> dict[str, Value]:
        """The input of a service, coerced; what the model requires has to be there.

        Raises `Refused` (UNKNOWN_IDENTIFIER, MISSING_PARAMETER, or the type's) naming what is wrong.
        """
        found = self.services.get(service)
        if found is None:
            raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{service[:64]}: no such service in the thing model")
        for name in params:
            if name not in found.input:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{service}.{name[:64]}: no such input of the service")
        if missing := [name for name in found.input if name in found.required and name not in params]:
            raise Refused(Reason.MISSING_PARAMETER, f"{service}: give a value for {', '.join(missing)}")
        return {name: kind.coerce(params[name], f"{service}.{name}") for name, kind in found.input.items() if name in params}

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ThingModel) and self.document == other.document)

    def __hash__(self) -> int:
        return hash((self.product_key, *self.properties))


def parse_thing_model(data: bytes | str | Mapping[str, object]) -> ThingModel:
    """Raises `Refused(BAD_THING_MODEL)` naming the JSON path of what is wrong."""
    document: object = data
    if isinstance(data, bytes | str):
        try:
            document = msgspec.json.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _bad("$", f"not JSON: {error}") from error
    root = _object(document, "$")
    try:
        document = copy.deepcopy(root)  # ours from here on: the caller may go on editing
    except RecursionError as error:
        raise _bad("$", "nested too deeply") from error
    profile = _object(root.get("profile", {}), "$.profile")
    properties, events, services = _parts(root, "$", "")
    blocks: set[str] = set()
    for index, block in enumerate(_list(root.get("functionBlocks", []), "$.functionBlocks")):
        path = f"$.functionBlocks[{index}]"
        entry = _object(block, path)
        prefix = _identifier(entry, path, "functionBlockId") + ":"
        if prefix in blocks:
            raise _bad(f"{path}.functionBlockId", f"{prefix[:-1]} appears twice")
        blocks.add(prefix)
        more = _parts(entry, path, prefix)
        properties.update(more[0])
        events.update(more[1])
        services.update(more[2])
    table = None
    if "rawTable" in root:
        writable = (name for name, entry in properties.items() if entry.writable)
        outputs = {name: event.output for name, event in events.items()}
        table = parse_raw_table(root["rawTable"], "$.rawTable", properties, writable, outputs)
    return ThingModel(properties, events, services, _text(profile, "$.profile", "productKey"), document, table)


def _parts(root: Mapping[str, object], path: str, prefix: str) -> tuple[dict[str, Property], dict[str, Event], dict[str, Service]]:
    properties = _entries(root, path, "properties", prefix, _property)
    events = _entries(root, path, "events", prefix, _event)
    services = _entries(root, path, "services", prefix, _service)
    return (
        properties,
        {key: event for key, event in events.items() if event.identifier != _GENERATED_EVENT},
        {key: service for key, service in services.items() if service.identifier not in _GENERATED_SERVICES},
    )


def _entries(
    root: Mapping[str, object], path: str, key: str, prefix: str, parse: Callable[[Mapping[str, object], str, str], T]
) -> dict[str, T]:
    found: dict[str, T] = {}
    for index, item in enumerate(_list(root.get(key, []), f"{path}.{key}")):
        where = f"{path}.{key}[{index}]"
        entry = _object(item, where)
        identifier = prefix + _identifier(entry, where)
        if identifier in found:
            raise _bad(f"{where}.identifier", f"{identifier} appears twice")
        found[identifier] = parse(entry, where, identifier)
    return found


def _property(entry: Mapping[str, object], path: str, identifier: str) -> Property:
    return Property(
        identifier=identifier,
        name=_text(entry, path, "name"),
        data_type=_data_type(entry, path),
        access_mode=_choice(entry, path, "accessMode", ("r", "w", "rw")),
        required=entry.get("required") is True,
        names=_names(entry, path),
    )


def _event(entry: Mapping[str, object], path: str, identifier: str) -> Event:
    if identifier in _RESERVED_EVENTS:
        raise _bad(f"{path}.identifier", f"{identifier} is reserved")
    if identifier == _GENERATED_EVENT:
        return Event(identifier, "", "info", {})
    return Event(
        identifier=identifier,
        name=_text(entry, path, "name"),
        level=_choice(entry, path, "type", ("info", "alert", "error")),
        output=_arguments(entry, path, "outputData"),
        names=_names(entry, path),
        output_names=_argument_names(entry, path, "outputData"),
    )


def _service(entry: Mapping[str, object], path: str, identifier: str) -> Service:
    if identifier in _GENERATED_SERVICES:  # `get` lists plain strings there
        return Service(identifier, "", "async", {}, {})
    return Service(
        identifier=identifier,
        name=_text(entry, path, "name"),
        call_type=_choice(entry, path, "callType", ("async", "sync")),
        input=_arguments(entry, path, "inputData"),
        output=_arguments(entry, path, "outputData"),
        names=_names(entry, path),
        input_names=_argument_names(entry, path, "inputData"),
        output_names=_argument_names(entry, path, "outputData"),
        required=frozenset(
            str(argument["identifier"])
            for argument in _list(entry.get("inputData", []), path)
            if isinstance(argument, dict) and argument.get("required") is True
        ),
    )


def _arguments(root: Mapping[str, object], path: str, key: str) -> dict[str, DataType]:
    return _entries(root, path, key, "", lambda entry, where, _: _data_type(entry, where))


def _argument_names(root: Mapping[str, object], path: str, key: str) -> dict[str, Names]:
    found = _entries(root, path, key, "", lambda entry, where, _: _names(entry, where))
    return {identifier: names for identifier, names in found.items() if names}


def _data_type(entry: Mapping[str, object], path: str, inside: str = "") -> DataType:
    """The `dataType` of an entry; `inside` names the composite around it, which limits what may nest."""
    return _typed(_object(entry.get("dataType"), f"{path}.dataType"), f"{path}.dataType", inside)


def _typed(entry: Mapping[str, object], path: str, inside: str) -> DataType:
    specs, at = entry.get("specs", {}), f"{path}.specs"
    match entry.get("type"):
        case "int" | "int32":
            return _int(_object(specs, at), at)
        case "float" | "double" as kind:
            return _float(_object(specs, at), at, str(kind))
        case "bool":
            labels = _object(specs, at)
            return BoolType((_text(labels, at, "0"), _text(labels, at, "1")), names=_label_names(entry, path, (0, 1)))
        case "enum":
            keys = _labels(_object(specs, at), at)
            return EnumType(keys, names=_label_names(entry, path, keys))
        case "text":
            return TextType(_count(_object(specs, at), at, "length", 10_240))
        case "date":
            return DateType()
        case "struct" if inside != "struct":
            fields = _list(specs, at)
            return StructType(_fields(fields, at), names=_field_names(fields, at))
        case "array" if not inside:
            specs = _object(specs, at)
            item = _typed(_object(specs.get("item"), f"{at}.item"), f"{at}.item", "array")
            return ArrayType(item, _count(specs, at, "size", 512))
        case "struct" | "array" as kind:
            raise _bad(f"{path}.type", f"{kind} does not nest in {inside}")
        case _:
            raise _bad(f"{path}.type", "expected int, float, double, bool, enum, text, date, struct or array")


def _fields(specs: list[object], path: str) -> dict[str, DataType]:
    fields: dict[str, DataType] = {}
    for index, item in enumerate(specs):
        where = f"{path}[{index}]"
        entry = _object(item, where)
        name = _identifier(entry, where)
        if name in fields:
            raise _bad(f"{where}.identifier", f"{name} appears twice")
        fields[name] = _data_type(entry, where, "struct")
    return fields


def _field_names(specs: list[object], path: str) -> dict[str, Names]:
    found: dict[str, Names] = {}
    for index, item in enumerate(specs):
        where = f"{path}[{index}]"
        entry = _object(item, where)
        if names := _names(entry, where):
            found[_identifier(entry, where)] = names
    return found


def _int(specs: Mapping[str, object], path: str) -> IntType:
    low, high = (_bound(specs, path, key) for key in ("min", "max"))
    for key, bound in (("min", low), ("max", high)):
        if bound is not None and not (bound.is_integer() and abs(bound) <= EXACT_INTEGER):
            raise _bad(f"{path}.{key}", "expected a whole number within +-2^53")
    _ordered(low, high, path)
    return IntType(None if low is None else int(low), None if high is None else int(high), _text(specs, path, "unit"))


def _float(specs: Mapping[str, object], path: str, kind: str) -> FloatType:
    low, high = (_bound(specs, path, key) for key in ("min", "max"))
    _ordered(low, high, path)
    return FloatType(low, high, _text(specs, path, "unit"), kind)


def _bound(specs: Mapping[str, object], path: str, key: str) -> float | None:
    """A limit: a number as a string, by the vendor's habit, or a number; absent or "" is none."""
    found = specs.get(key, "")
    if found == "":
        return None
    try:
        number = float(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _bad(f"{path}.{key}", "expected a finite number")
    return number


def _ordered(low: float | None, high: float | None, path: str) -> None:
    if low is not None and high is not None and low > high:
        raise _bad(f"{path}.min", "min is above max")


def _count(specs: Mapping[str, object], path: str, key: str, default: int) -> int:
    number = _bound(specs, path, key)
    if number is None:
        return default
    if not (number.is_integer() and 1 <= number <= 1_000_000):
        raise _bad(f"{path}.{key}", "expected a whole number from 1 to 1,000,000")
    return int(number)


def _labels(specs: Mapping[str, object], path: str) -> dict[int, str]:
    labels: dict[int, str] = {}
    for key in specs:
        if not _LABEL_KEY.fullmatch(key):
            raise _bad(f"{path}.{key[:20]}", "expected an integer key")
        labels[int(key)] = _text(specs, path, key)
    if not labels:
        raise _bad(path, "an enum needs at least one key")
    return labels


def _label_names(entry: Mapping[str, object], path: str, keys: Container[int]) -> dict[int, Names]:
    """The words of a bool or an enum by key and language: `dataType.names`, beside the `specs` that the SDKs read."""
    labels = _object(entry.get("names", {}), f"{path}.names")
    found: dict[int, Names] = {}
    for key in labels:
        if not _LABEL_KEY.fullmatch(key) or int(key) not in keys:
            raise _bad(f"{path}.names.{key[:20]}", "expected a key of specs")
        found[int(key)] = _named(labels, key, f"{path}.names")
    return found


def _names(entry: Mapping[str, object], path: str) -> dict[str, str]:
    return _named(entry, "names", path)


def _named(entry: Mapping[str, object], key: str, path: str) -> dict[str, str]:
    names = _object(entry.get(key, {}), f"{path}.{key}")
    return {language: _text(names, f"{path}.{key}", language) for language in names}


def _identifier(entry: Mapping[str, object], path: str, key: str = "identifier") -> str:
    found = entry.get(key)
    if not isinstance(found, str) or not _IDENTIFIER.fullmatch(found):
        raise _bad(f"{path}.{key}", "expected 1 to 64 letters, digits or _")
    return found


def _choice(entry: Mapping[str, object], path: str, key: str, choices: tuple[str, ...]) -> str:
    found = entry.get(key, choices[0])
    if found not in choices:
        raise _bad(f"{path}.{key}", f"expected {', '.join(choices)}")
    return str(found)


def _text(entry: Mapping[str, object], path: str, key: str) -> str:
    found = entry.get(key, "")
    if not isinstance(found, str):
        raise _bad(f"{path}.{key}", "expected a string")
    return found


def _object(found: object, path: str) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise _bad(path, "expected an object")
    if not all(isinstance(key, str) for key in found):
        raise _bad(path, "expected string keys")
    return found


def _list(found: object, path: str) -> list[object]:
    if not isinstance(found, list):
        raise _bad(path, "expected a list")
    return found


def _bad(path: str, message: str) -> Refused:
    return Refused(Reason.BAD_THING_MODEL, f"{path}: {message}")
