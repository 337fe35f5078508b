"""A walk through a TSL document: everything in it that has a name or a data type, with its place."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A property, event, service, argument or field: `place` reads like `services[2].inputData[0]`."""

    place: str
    role: str  # property, event, service, argument, field
    entry: dict[str, Any]


class Typed(NamedTuple):
    """A `dataType` at its place, items of an array included."""

    place: str
    data_type: dict[str, Any]


def parts(document: dict[str, Any]) -> Iterator[Part]:
    """Everything that has an identifier, from the top."""
    for key, role in (("properties", "property"), ("events", "event"), ("services", "service")):
        for place, entry in _each(document, key, ""):
            yield Part(place, role, entry)
            yield from _fields(place, entry)
            for arguments in ("inputData", "outputData"):
                for where, argument in _each(entry, arguments, place + "."):
                    yield Part(where, "argument", argument)
                    yield from _fields(where, argument)


def typed(document: dict[str, Any]) -> Iterator[Typed]:
    """Every data type of the document."""
    for part in parts(document):
        if "dataType" in part.entry:
            yield Typed(part.place, part.entry["dataType"])
            if part.entry["dataType"]["type"] == "array":
                yield Typed(part.place + ".item", part.entry["dataType"]["specs"]["item"])


def _each(holder: dict[str, Any], key: str, before: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, entry in enumerate(holder.get(key, [])):
        yield f"{before}{key}[{index}]", entry


def _fields(place: str, entry: dict[str, Any]) -> Iterator[Part]:
    data_type = entry.get("dataType", {})
    if data_type.get("type") == "array":
        data_type, place = data_type["specs"]["item"], place + ".item"
    if data_type.get("type") == "struct":
        for where, field in _each(data_type, "specs", place + "."):
            yield Part(where, "field", field)
