"""Compiled decoders of property posts: one msgspec struct per thing model and form, so that checking costs no Python."""

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from protocols.alink.envelope import Sys
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
)

Coerce = Callable[[object], Any]


class Form:
    """How one kind of post is read: `decode` gives an object with `params` (fields in the order of `names`), `id` and `sys`.

    `fixed` says that every name is present, and with its time in the timed form; otherwise absent ones are UNSET.
    `coercions` are the positions whose values still have to be coerced.
    """

    __slots__ = ("coercions", "decode", "fixed", "names", "timed")

    def __init__(self, data_types: Mapping[str, DataType], *, timed: bool, fixed: bool) -> None:
        self.names = tuple(data_types)
        self.timed, self.fixed = timed, fixed
        self.coercions: list[tuple[int, Coerce]] = [
            (position, data_type.coerce) for position, data_type in enumerate(data_types.values()) if _is_open(data_type)
        ]
        kinds = [_kind(data_type) for data_type in data_types.values()]
        if timed:
            kinds = [_stamped(kind, fixed) for kind in kinds]
        self.decode = _compile(self.names, kinds, fixed)


def _compile(names: tuple[str, ...], kinds: list[Any], fixed: bool) -> Callable[[bytes], Any]:
    """A decoder of an envelope whose params hold `names`, and nothing else."""
    fields: Any = [
        (f"p{position}", kind) if fixed else (f"p{position}", Union[kind, UnsetType], UNSET)  # noqa: UP007  # built at run time
        for position, kind in enumerate(kinds)
    ]
    rename = {f"p{position}": name for position, name in enumerate(names)}
    params = msgspec.defstruct("Params", fields, rename=rename, gc=False, forbid_unknown_fields=True)
    envelope: Any = [("params", params), ("id", Raw, Raw()), ("sys", Sys | None, None)]
    return msgspec.json.Decoder(msgspec.defstruct("Message", envelope, gc=False)).decode


def _stamped(kind: Any, fixed: bool) -> Any:
    time = Annotated[int, Meta(ge=0, le=LATEST_MS)]
    fields: Any = [("value", kind), ("time", time) if fixed else ("time", time, None)]
    return msgspec.defstruct("Stamped", fields, gc=False, forbid_unknown_fields=True)


def _kind(data_type: DataType) -> Any:
    """What msgspec may accept at once: nothing that `coerce` refuses, unless the type is open."""
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


def _is_open(data_type: DataType) -> bool:
    return not isinstance(data_type, IntType | FloatType | EnumType | TextType)
