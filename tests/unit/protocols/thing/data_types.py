"""Strategies: data types, values that they take, and whole thing models."""

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

whole = st.integers(-4, 4) | st.integers(-EXACT_INTEGER, EXACT_INTEGER) | st.sampled_from([-EXACT_INTEGER, EXACT_INTEGER, LATEST_MS])
real = st.integers(-4, 4).map(float) | st.sampled_from([0.5, 2.0**52, 2.0**60]) | st.floats(allow_nan=False, allow_infinity=False)


def _ranges(number: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    both = st.tuples(number, number).map(lambda pair: (min(pair), max(pair)))
    return both | st.tuples(st.none(), number) | st.tuples(number, st.none()) | st.just((None, None))


names = st.sampled_from(["a", "b", "c"])
scalars: st.SearchStrategy[DataType] = st.one_of(
    _ranges(whole).map(lambda r: IntType(*r)),
    st.builds(lambda r, kind: FloatType(r[0], r[1], kind=kind), _ranges(real), st.sampled_from(["float", "double"])),
    st.just(BoolType()),
    st.dictionaries(st.integers(-3, 4), st.sampled_from(["x", "y"]), min_size=1, max_size=5).map(EnumType),
    st.integers(1, 5).map(TextType),
    st.just(DateType()),
)
structs: st.SearchStrategy[DataType] = st.dictionaries(names, scalars, max_size=3).map(StructType)
data_types: st.SearchStrategy[DataType] = st.one_of(scalars, structs, st.builds(ArrayType, scalars | structs, st.integers(1, 4)))


def values_of(data_type: DataType) -> st.SearchStrategy[Any]:
    """JSON values that the type takes, at its bounds as well as inside."""
    match data_type:
        case IntType(low, high):
            bounds = (-EXACT_INTEGER if low is None else low, EXACT_INTEGER if high is None else high)
            inside = st.integers(*bounds) | st.sampled_from(bounds)
            return inside | inside.map(float)
        case FloatType(low, high):
            near = st.floats(low, high, allow_nan=False, allow_infinity=False)
            return near | st.sampled_from([bound for bound in (low, high) if bound is not None] or [0.0])
        case BoolType():
            return st.sampled_from([0, 1, False, True, 0.0, 1.0])
        case EnumType(labels):
            keys = st.sampled_from(sorted(labels))
            return keys | keys.map(float)
        case TextType(length):
            return st.text(max_size=length) | st.integers(0, 99).map(lambda n: str(n)[:length])
        case DateType():
            instants = st.integers(0, LATEST_MS) | st.sampled_from([0, 1, LATEST_MS])
            return instants | instants.map(str)
        case StructType(fields):
            return st.fixed_dictionaries({}, optional={name: values_of(part) for name, part in fields.items()})
        case ArrayType(item, size):
            return st.lists(values_of(item), max_size=size)


def written(data_type: DataType) -> dict[str, Any]:
    """The type as TSL writes it."""
    match data_type:
        case IntType(low, high, unit):
            return {"type": "int", "specs": _specs(low, high, unit)}
        case FloatType(low, high, unit, kind):
            return {"type": kind, "specs": _specs(low, high, unit)}
        case BoolType((off, on)):
            return {"type": "bool", "specs": {"0": off, "1": on}}
        case EnumType(labels):
            return {"type": "enum", "specs": {str(key): label for key, label in labels.items()}}
        case TextType(length):
            return {"type": "text", "specs": {"length": str(length)}}
        case DateType():
            return {"type": "date", "specs": {}}
        case StructType(fields):
            return {"type": "struct", "specs": [{"identifier": name, "dataType": written(part)} for name, part in fields.items()]}
        case ArrayType(item, size):
            return {"type": "array", "specs": {"size": str(size), "item": written(item)}}


def _specs(low: float | None, high: float | None, unit: str) -> dict[str, str]:
    return {"min": "" if low is None else repr(low), "max": "" if high is None else repr(high), "unit": unit}


def _arguments(with_required: bool = False) -> st.SearchStrategy[list[dict[str, Any]]]:
    entry = st.builds(
        lambda data_type, required: {"dataType": written(data_type)} | ({"required": True} if required else {}),
        scalars,
        st.booleans() if with_required else st.just(False),
    )
    return st.dictionaries(names, entry, max_size=2).map(lambda found: [{"identifier": name, **rest} for name, rest in found.items()])


def _listed(entry: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    identifiers = st.sampled_from(["A", "B", "C"])
    return st.dictionaries(identifiers, entry, max_size=3).map(lambda found: [{"identifier": name, **rest} for name, rest in found.items()])


_properties = _listed(
    st.builds(
        lambda data_type, mode, required, name: {"dataType": written(data_type), "accessMode": mode, "required": required, "name": name},
        data_types,
        st.sampled_from(["r", "w", "rw"]),
        st.booleans(),
        st.sampled_from(["", "x", "y"]),
    )
)
_events = _listed(
    st.builds(lambda output, level: {"outputData": output, "type": level}, _arguments(), st.sampled_from(["info", "alert", "error"]))
)
_services = _listed(
    st.builds(
        lambda taken, given, call: {"inputData": taken, "outputData": given, "callType": call},
        _arguments(with_required=True),
        _arguments(),
        st.sampled_from(["sync", "async"]),
    )
)
_parts = {"properties": _properties, "events": _events, "services": _services}
_blocks = st.dictionaries(st.sampled_from(["left", "right"]), st.fixed_dictionaries(_parts), max_size=1).map(
    lambda found: [{"functionBlockId": name, **rest} for name, rest in found.items()]
)
documents: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(_parts, optional={"functionBlocks": _blocks})
