"""What changes between two versions of a thing model, whom it breaks, and why, in English and Simplified Chinese. Pure.

A change breaks `devices` when something they may send under the old model is refused under the new one; `applications` when what they
set or call is refused, or what they read is no longer there or no longer means the same; `rules` when an expression or an action on the
edge or in the cloud loses what it names.

A published identifier keeps its type, wider ones included: int to float takes every value, but whoever reads exact integers (a counter, a
key of a table) would get floats from then on, and rules are checked against the type. Give the new type a new identifier.
"""

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from protocols.thing.datatypes import ArrayType, BoolType, DataType, EnumType, FloatType, IntType, StructType, TextType
from protocols.thing.model import Event, Property, Service, ThingModel
from protocols.thing.narrowing import refused_example
from protocols.thing.slots import type_name

_LONGEST_EXAMPLE = 60


class Breaks(enum.StrEnum):
    DEVICES = "devices"
    APPLICATIONS = "applications"
    RULES = "rules"


class Kind(enum.StrEnum):
    """What happened to an entry. Values are part of the API: stable."""

    ADDED = "added"
    REMOVED = "removed"
    TYPE_CHANGED = "type_changed"
    NARROWED = "narrowed"
    WIDENED = "widened"
    UNIT_CHANGED = "unit_changed"
    ACCESS_REDUCED = "access_reduced"
    ACCESS_EXTENDED = "access_extended"
    NOW_REQUIRED = "now_required"
    NO_LONGER_REQUIRED = "no_longer_required"
    CALL_TYPE_CHANGED = "call_type_changed"
    LEVEL_CHANGED = "level_changed"
    RENAMED = "renamed"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `path` is such as `services.Start.inputData.minutes`; a change whose `breaks` is empty is harmless."""

    kind: Kind
    path: str
    en: str
    zh: str
    breaks: tuple[Breaks, ...] = ()


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def names(self) -> Mapping[str, str]: ...


Entry = TypeVar("Entry", bound=_Named)
_ALL = (Breaks.DEVICES, Breaks.APPLICATIONS, Breaks.RULES)
_READERS = (Breaks.APPLICATIONS, Breaks.RULES)


@dataclass(frozen=True, slots=True)
class _Lane:
    """Who sends values of a type: they are broken when it takes less. Devices send what is reported, applications what is set or called."""

    senders: tuple[Breaks, ...]
    on_removal: tuple[Breaks, ...]


_REPORTED = _Lane((Breaks.DEVICES,), _ALL)
_REPORTED_AND_SET = _Lane(_ALL, _ALL)
_OUTPUT = _Lane((Breaks.DEVICES,), _ALL)
_INPUT = _Lane(_READERS, _READERS)


def compare(old: ThingModel, new: ThingModel) -> tuple[Change, ...]:
    """Every difference, properties first, then events and services, each in the order of the old model, additions last."""
    return (
        *_entries("properties", ("property", "属性"), old.properties, new.properties, _ALL, _property),
        *_entries("events", ("event", "事件"), old.events, new.events, _ALL, _event),
        *_entries("services", ("service", "服务"), old.services, new.services, _READERS, _service),
    )


def breaking(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """Those that break somebody."""
    return tuple(change for change in changes if change.breaks)


def _entries(
    group: str,
    noun: tuple[str, str],
    old: Mapping[str, Entry],
    new: Mapping[str, Entry],
    on_removal: tuple[Breaks, ...],
    compared: Callable[[str, Entry, Entry], Iterator[Change]],
) -> Iterator[Change]:
    for identifier, entry in old.items():
        path = f"{group}.{identifier}"
        if identifier not in new:
            yield Change(Kind.REMOVED, path, f"The {noun[0]} {identifier} is gone.", f"{noun[1]} {identifier} 已删除。", on_removal)
            continue
        after = new[identifier]
        if (entry.name, dict(entry.names)) != (after.name, dict(after.names)):
            yield Change(Kind.RENAMED, f"{path}.name", f"{identifier} has other names.", f"{identifier} 的名称已更改。")
        yield from compared(path, entry, after)
    for identifier in new:
        if identifier not in old:
            yield Change(Kind.ADDED, f"{group}.{identifier}", f"New {noun[0]} {identifier}.", f"新增{noun[1]} {identifier}。")


def _property(path: str, old: Property, new: Property) -> Iterator[Change]:
    if old.access_mode != new.access_mode:
        lost = [letter for letter in old.access_mode if letter not in new.access_mode]
        en = f"The access mode goes from {old.access_mode} to {new.access_mode}"
        zh = f"访问方式由 {old.access_mode} 变为 {new.access_mode}"
        if lost:
            en += ": it can no longer be " + " or ".join("set" if letter == "w" else "read" for letter in lost)
            zh += "：不再可" + "、".join("写" if letter == "w" else "读" for letter in lost)
        kind = Kind.ACCESS_REDUCED if lost else Kind.ACCESS_EXTENDED
        yield Change(kind, f"{path}.accessMode", en + ".", zh + "。", _READERS if lost else ())
    if old.required != new.required:
        # nothing refuses a device that lacks the property: the word tells whoever builds one
        yield _required(f"{path}.required", new.required, ())
    yield from _typed(f"{path}.dataType", old.data_type, new.data_type, _REPORTED_AND_SET if old.writable else _REPORTED)


def _event(path: str, old: Event, new: Event) -> Iterator[Change]:
    if old.level != new.level:
        en, zh = f"Its level goes from {old.level} to {new.level}.", f"级别由 {old.level} 变为 {new.level}。"
        yield Change(Kind.LEVEL_CHANGED, f"{path}.type", en, zh)
    yield from _arguments(f"{path}.outputData", old.output, new.output, _OUTPUT, ("output", "输出参数"))


def _service(path: str, old: Service, new: Service) -> Iterator[Change]:
    if old.call_type != new.call_type:
        en = f"Its call type goes from {old.call_type} to {new.call_type}: callers wait otherwise, and devices answer otherwise."
        zh = f"调用方式由 {old.call_type} 变为 {new.call_type}：调用方的等待方式与设备的应答方式随之改变。"
        yield Change(Kind.CALL_TYPE_CHANGED, f"{path}.callType", en, zh, _ALL)
    yield from _arguments(f"{path}.inputData", old.input, new.input, _INPUT, ("input", "输入参数"))
    for name in new.input:
        before, after = name in old.required, name in new.required
        if before != after and (name in old.input or after):
            yield _required(f"{path}.inputData.{name}.required", after, _READERS)
    yield from _arguments(f"{path}.outputData", old.output, new.output, _OUTPUT, ("output", "输出参数"))


def _required(path: str, required: bool, breaks: tuple[Breaks, ...]) -> Change:
    if required:
        return Change(Kind.NOW_REQUIRED, path, "It is required from now on.", "今后为必填。", breaks)
    return Change(Kind.NO_LONGER_REQUIRED, path, "It is no longer required.", "不再必填。")


def _arguments(path: str, old: Mapping[str, DataType], new: Mapping[str, DataType], lane: _Lane, noun: tuple[str, str]) -> Iterator[Change]:
    for name, data_type in old.items():
        if name in new:
            yield from _typed(f"{path}.{name}", data_type, new[name], lane)
        else:
            yield Change(Kind.REMOVED, f"{path}.{name}", f"The {noun[0]} {name} is gone.", f"{noun[1]} {name} 已删除。", lane.on_removal)
    for name in new:
        if name not in old:
            yield Change(Kind.ADDED, f"{path}.{name}", f"New {noun[0]} {name}.", f"新增{noun[1]} {name}。")


def _typed(path: str, old: DataType, new: DataType, lane: _Lane) -> Iterator[Change]:
    """Differences of one type, down to the fields of a struct and the item of an array."""
    if type_name(old) != type_name(new):
        refused = refused_example(old, new)
        breaks = tuple(who for who in Breaks if who in _READERS or (who in lane.senders and refused is not None))
        en = f"The type goes from {type_name(old)} to {type_name(new)}; a published identifier keeps its type, use a new identifier."
        zh = f"类型由 {type_name(old)} 变为 {type_name(new)}；已发布的标识符须保持类型，请使用新的标识符。"
        yield Change(Kind.TYPE_CHANGED, path, en, zh, breaks)
    elif isinstance(old, StructType) and isinstance(new, StructType):
        yield from _arguments(path, old.fields, new.fields, lane, ("field", "字段"))
    elif isinstance(old, ArrayType) and isinstance(new, ArrayType):
        if new.size != old.size:
            en, zh = f"It takes {new.size} items, it took {old.size}", f"元素个数上限由 {old.size} 变为 {new.size}"
            yield _bounds(f"{path}.size", (en, zh), lane.senders if new.size < old.size else ())
        yield from _typed(f"{path}.item", old.item, new.item, lane)
    else:
        yield from _scalar(path, old, new, lane)


def _scalar(path: str, old: DataType, new: DataType, lane: _Lane) -> Iterator[Change]:
    refused, added = refused_example(old, new), refused_example(new, old)
    if refused is not None:
        yield _bounds(path, _range_words(old, new, refused[0]), lane.senders)
    elif added is not None:
        yield _bounds(path, _range_words(old, new, None), ())
    if isinstance(old, IntType | FloatType) and isinstance(new, IntType | FloatType) and old.unit != new.unit:
        en = f"The unit goes from {old.unit or 'none'} to {new.unit or 'none'}" + (
            ": the same number means something else." if old.unit else "."
        )
        zh = f"单位由 {old.unit or '无'} 变为 {new.unit or '无'}" + ("：同一数值含义不同。" if old.unit else "。")
        yield Change(Kind.UNIT_CHANGED, f"{path}.unit", en, zh, _READERS if old.unit else ())
    if isinstance(old, EnumType | BoolType) and isinstance(new, EnumType | BoolType) and _relabelled(old, new):
        yield Change(Kind.RENAMED, f"{path}.specs", "Values have other names.", "取值的名称已更改。")


def _bounds(path: str, words: tuple[str, str], breaks: tuple[Breaks, ...]) -> Change:
    return Change(Kind.NARROWED if breaks else Kind.WIDENED, path, f"{words[0]}.", f"{words[1]}。", breaks)


def _range_words(old: DataType, new: DataType, example: object) -> tuple[str, str]:
    if isinstance(old, EnumType) and isinstance(new, EnumType):
        gone = ", ".join(str(key) for key in old.labels if key not in new.labels)
        more = ", ".join(str(key) for key in new.labels if key not in old.labels)
        return (f"The keys {gone} are gone", f"枚举值 {gone} 已删除") if gone else (f"New keys {more}", f"新增枚举值 {more}")
    before, after = _range(old), _range(new)
    en, zh = f"It takes {after[0]}, it took {before[0]}", f"取值范围由 {before[1]} 变为 {after[1]}"
    shown = msgspec.json.encode(example).decode()
    if example is not None and len(shown) <= _LONGEST_EXAMPLE:
        en, zh = f"{en}: {shown} is refused from now on", f"{zh}：例如 {shown} 今后被拒绝"
    return en, zh


def _range(data_type: DataType) -> tuple[str, str]:
    match data_type:
        case IntType() | FloatType():
            low, high = ("" if bound is None else str(bound).removesuffix(".0") for bound in (data_type.minimum, data_type.maximum))
            return f"[{low}, {high}]", f"[{low}, {high}]"
        case TextType():
            return f"{data_type.length} characters", f"{data_type.length} 个字符"
        case _:
            return data_type.kind, data_type.kind


def _relabelled(old: EnumType | BoolType, new: EnumType | BoolType) -> bool:
    before = dict(enumerate(old.labels)) if isinstance(old, BoolType) else old.labels
    after = dict(enumerate(new.labels)) if isinstance(new, BoolType) else new.labels
    return any(label != after[key] for key, label in before.items() if key in after)
