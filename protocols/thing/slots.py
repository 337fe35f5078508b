"""Where a thing model holds data types, as paths: of properties, outputs and inputs, and of what lies in structs and arrays. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from protocols.thing.datatypes import ArrayType, DataType, FloatType, StructType
from protocols.thing.model import ThingModel


@dataclass(frozen=True, slots=True)
class TypeConflict:
    """At `path` the version `number` had the type `was`, and a new model says `wanted`."""

    path: str
    number: int
    was: str
    wanted: str


def type_name(data_type: DataType) -> str:
    """The word for a type; `float` and `double` are one: both are kept as float64."""
    return "float" if isinstance(data_type, FloatType) else data_type.kind


def data_types(model: ThingModel) -> dict[str, DataType]:
    """Every data type of the model by its path, such as `properties.Power.dataType` or `services.Start.inputData.minutes`."""
    found: dict[str, DataType] = {}
    for identifier, entry in model.properties.items():
        found |= _within(f"properties.{identifier}.dataType", entry.data_type)
    for identifier, event in model.events.items():
        found |= _arguments(f"events.{identifier}.outputData", event.output)
    for identifier, service in model.services.items():
        found |= _arguments(f"services.{identifier}.inputData", service.input)
        found |= _arguments(f"services.{identifier}.outputData", service.output)
    return found


def type_conflicts(published: Iterable[tuple[int, ThingModel]], model: ThingModel) -> list[TypeConflict]:
    """Where `model` gives an identifier another type than a published version did: stored values and readers rely on the first.

    An identifier that was removed and comes back has to come back with its type. The latest version that disagrees is named.
    """
    wanted = data_types(model)
    conflicts: dict[str, TypeConflict] = {}
    for number, version in sorted(published, key=lambda entry: entry[0]):
        for path, was in data_types(version).items():
            now = wanted.get(path)
            if now is not None and type_name(now) != type_name(was):
                conflicts[path] = TypeConflict(path, number, type_name(was), type_name(now))
    return [conflicts[path] for path in wanted if path in conflicts]


def _arguments(path: str, arguments: Mapping[str, DataType]) -> dict[str, DataType]:
    return {where: found for name, data_type in arguments.items() for where, found in _within(f"{path}.{name}", data_type)}


def _within(path: str, data_type: DataType) -> Iterator[tuple[str, DataType]]:
    yield path, data_type
    match data_type:
        case StructType():
            for name, part in data_type.fields.items():
                yield from _within(f"{path}.{name}", part)
        case ArrayType():
            yield from _within(f"{path}.item", data_type.item)
