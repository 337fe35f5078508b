"""docs/reference/products.md, made from the library: every product, and of each what it reports, announces and does."""

from collections.abc import Iterable
from itertools import chain

from protocols.thing import library
from protocols.thing.datatypes import ArrayType, BoolType, DataType, EnumType, FloatType, IntType, Names, StructType, TextType, words
from protocols.thing.library import Entry, Kind

HEADINGS = {Kind.APPLIANCE: "Appliances", Kind.EQUIPMENT: "Equipment", Kind.GATEWAY: "Gateway"}


def page() -> str:
    """The page."""
    parts = [
        "# Products of the library\n\n",
        "Thing models that come with Hearthline, as TSL JSON in `protocols/thing/library/`: take one as it is, or begin with it.\n",
        "A gateway's `thing_model` may be a key; in Python `library.load(key)` is the model, `library.entries()` the first table below.\n",
        "In the JSON `names` stands beside every `name`, by language, and beside the `specs` of an enum or a bool, by key.\n",
        "An identifier means the same in every product: one family of types and one unit. Matter: the main device type of the\n",
        "Device Library 1.4, where one exists. `r` is read, `rw` also written. Made by `python -m tests.docs.reference`.\n",
    ]
    for kind, heading in HEADINGS.items():
        parts.append(
            f"\n## {heading}\n\n| key | English | 中文 | Matter | properties | events | services |\n|---|---|---|---|---|---|---|\n"
        )
        parts += [_row(entry) for entry in library.entries() if entry.kind is kind]
    parts += chain.from_iterable(_product(entry) for entry in library.entries())
    return "".join(parts)


def _row(entry: Entry) -> str:
    model = library.load(entry.key)
    matter = "" if entry.matter is None else f"{entry.matter.name} `{entry.matter.id}`"
    counts = f"{len(model.properties)} | {len(model.events)} | {len(model.services)}"
    return f"| [`{entry.key}`](#{entry.key}) | {entry.names['en']} | {entry.names['zh']} | {matter} | {counts} |\n"


def _product(entry: Entry) -> list[str]:
    model = library.load(entry.key)
    parts = [f"\n## {entry.key}\n\n{entry.names['en']}, {entry.names['zh']}.\n"]
    parts.append("\n| property | English | 中文 | access | type |\n|---|---|---|---|---|\n")
    for identifier, found in model.properties.items():
        parts.append(f"| `{identifier}` | {_names(found.names)} | {found.access_mode} | {_type(found.data_type)} |\n")
    parts.append("\n| event | English | 中文 | level | says |\n|---|---|---|---|---|\n")
    for identifier, event in model.events.items():
        parts.append(f"| `{identifier}` | {_names(event.names)} | {event.level} | {_list(event.output)} |\n")
    if model.services:
        parts.append("\n| service | English | 中文 | call | takes | answers |\n|---|---|---|---|---|---|\n")
    for identifier, service in model.services.items():
        takes, answers = _list(service.input), _list(service.output)
        parts.append(f"| `{identifier}` | {_names(service.names)} | {service.call_type} | {takes} | {answers} |\n")
    return parts


def _names(names: Names) -> str:
    return f"{names['en']} | {names['zh']}"


def _list(identifiers: Iterable[str]) -> str:
    return ", ".join(f"`{identifier}`" for identifier in identifiers)


def _type(data_type: DataType) -> str:
    match data_type:
        case IntType(minimum=low, maximum=high, unit=unit) | FloatType(minimum=low, maximum=high, unit=unit):
            return f"{data_type.kind}, {_number(low)} to {_number(high)} {unit}".rstrip()
        case EnumType() | BoolType():
            return "<br>".join(f"{key} {word} {words(data_type, 'zh')[key]}" for key, word in words(data_type, "en").items())
        case TextType(length=length):
            return f"text, up to {length} characters"
        case StructType(fields=fields):
            return "<br>".join(f"`{name}`: {_type(field)}" for name, field in fields.items())
        case ArrayType(item=item, size=size):
            return f"up to {size}: {_type(item)}"
        case _:
            return "UTC milliseconds"


def _number(bound: float | None) -> str:
    return "any" if bound is None else f"{bound:,.17g}"
