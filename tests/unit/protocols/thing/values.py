"""Values that fit a data type, as a device sends them."""

from typing import Any

from hypothesis import strategies as st

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

_LETTERS = st.characters(exclude_categories=["Cs"])  # a lone surrogate is no JSON text


def fitting(data_type: DataType) -> st.SearchStrategy[Any]:
    """Values of the type in every form in which it may arrive: 3 and 3.0, true and 1, a date as digits."""
    match data_type:
        case IntType(minimum=low, maximum=high):
            whole = st.integers(-EXACT_INTEGER if low is None else low, EXACT_INTEGER if high is None else high)
            return whole | whole.map(float)
        case FloatType(minimum=low, maximum=high):
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case BoolType():
            return st.sampled_from([0, 1, True, False])
        case EnumType(labels=labels):
            return st.sampled_from(sorted(labels))
        case TextType(length=length):
            return st.text(_LETTERS, max_size=min(length, 20)) | st.just("集" * length)
        case DateType():
            instant = st.integers(0, LATEST_MS)
            return instant | instant.map(str)
        case StructType(fields=fields):
            return st.fixed_dictionaries({}, optional={name: fitting(field) for name, field in fields.items()})
        case ArrayType(item=item, size=size):
            return st.lists(fitting(item), max_size=min(size, 8))
