"""Whether a data type still takes everything that another one took; if not, by a value that shows it. Pure."""

import itertools
import math
import sys
from collections.abc import Iterator

from protocols.errors import Refused
from protocols.thing.datatypes import (
    EXACT_INTEGER,
    LATEST_MS,
    ArrayType,
    BoolType,
    DataType,
    DateType,
    EnumType,
    FloatType,
    IntType,
    StructType,
    TextType,
)


def refused_example(old: DataType, new: DataType) -> tuple[object] | None:
    """One JSON value, in a tuple, that `old` takes and `new` refuses; None when `new` takes whatever `old` does.

    >>> refused_example(IntType(0, 9), IntType(0, 5))
    (9,)
    >>> refused_example(IntType(0, 5), FloatType()) is None
    True
    """
    if old == new:
        return None
    if isinstance(old, ArrayType) and isinstance(new, ArrayType):
        inner = refused_example(old.item, new.item)
        if inner is not None:
            return ([inner[0]],)
        return ([_any_of(old.item)] * (new.size + 1),) if new.size < old.size else None
    if isinstance(old, StructType) and isinstance(new, StructType):
        for name, field in old.fields.items():
            kept = new.fields.get(name)
            inner = (_any_of(field),) if kept is None else refused_example(field, kept)
            if inner is not None:
                return ({name: inner[0]},)
        return None
    return next(((value,) for value in _edges(old, new) if _takes(old, value) and not _takes(new, value)), None)


def _takes(data_type: DataType, value: object) -> bool:
    try:
        data_type.coerce(value)
    except Refused:
        return False
    return True


def _any_of(data_type: DataType) -> object:
    """Some value that the type takes; every type takes one."""
    match data_type:
        case StructType():
            return {}
        case ArrayType():
            return []
        case _:
            return next(value for value in _edges(data_type, data_type) if _takes(data_type, value))


def _edges(old: DataType, new: DataType) -> Iterator[object]:
    """Values among which there is one that only `old` takes, if there is any at all: where a range begins and ends, and beside it.

    Of an interval of numbers, what does not lie in another is found at its own ends, or just outside the other's.
    """
    match old:
        case TextType():
            yield from ("", "x" * ((new.length if isinstance(new, TextType) else 0) + 1))
        case StructType():
            yield {}
        case ArrayType():
            yield []
        case BoolType():
            yield from (0, 1, False, True)
        case DateType():
            yield from (0, LATEST_MS, "0", *_beside(new))
        case EnumType():
            yield from old.labels
        case IntType():
            yield from (-EXACT_INTEGER if old.minimum is None else old.minimum, EXACT_INTEGER if old.maximum is None else old.maximum)
            yield from (0, *_beside(new))
        case FloatType():
            low = -sys.float_info.max if old.minimum is None else old.minimum
            high = sys.float_info.max if old.maximum is None else old.maximum
            yield from (low, high, 0.0, 0.5, math.nextafter(low, math.inf), math.nextafter(high, -math.inf), *_beside(new))
            # a float of a whole number arrives as an integer too, and an integer need not have a float of its own
            yield from (math.ceil(low), math.floor(high))


def _beside(data_type: DataType) -> Iterator[int]:
    """The integers just outside what the type takes."""
    match data_type:
        case IntType() | FloatType():
            if data_type.minimum is not None:
                yield math.ceil(data_type.minimum) - 1
            if data_type.maximum is not None:
                yield math.floor(data_type.maximum) + 1
        case EnumType():
            yield from itertools.chain.from_iterable((key - 1, key + 1) for key in sorted(data_type.labels))
        case BoolType():
            yield from (-1, 2)
        case DateType():
            yield from (-1, LATEST_MS + 1)
