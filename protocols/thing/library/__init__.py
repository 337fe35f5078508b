"""Standard product models, shipped as TSL JSON; English and Chinese names beside each other under `names`."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec

from protocols.errors import Reason, Refused
from protocols.thing.model import ThingModel, parse_thing_model

_SUFFIX = ".json"


class Kind(enum.StrEnum):
    """Where a product is at work."""

    APPLIANCE = "appliance"  # in a home
    EQUIPMENT = "equipment"  # on a production line
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class MatterType:
    """A device type of Matter's Device Library (1.4): `id` as it is written there ("0x007A"), `name` ("Extractor Hood")."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What the library says of one model, `load(key)`: names by language ("en", "zh") and the main Matter device type, if one exists."""

    key: str
    kind: Kind
    names: Mapping[str, str]
    matter: MatterType | None = None


class _Head(msgspec.Struct):
    """The part of a file that `entry` reads."""

    library: Entry


@cache
def names() -> tuple[str, ...]:
    """Every model of the library, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


@cache
def entries() -> tuple[Entry, ...]:
    """What the library says of every model, sorted by key."""
    return tuple(entry(name) for name in names())


@cache
def entry(name: str) -> Entry:
    """What the library says of one model; raises `Refused(UNKNOWN_PRODUCT)` listing what there is."""
    try:
        found = msgspec.json.decode(_read(name), type=_Head).library
    except msgspec.DecodeError as error:
        raise Refused(Reason.BAD_THING_MODEL, f"{name}{_SUFFIX}: {error}") from error
    if found.key != name:
        raise Refused(Reason.BAD_THING_MODEL, f"{name}{_SUFFIX}: $.library.key is {found.key!r}, expected the file's name")
    return found


@cache
def load(name: str) -> ThingModel:
    """One model; raises `Refused(UNKNOWN_PRODUCT)` listing what there is."""
    return parse_thing_model(_read(name))


def _read(name: str) -> bytes:
    if name not in names():  # also keeps path names out
        raise Refused(Reason.UNKNOWN_PRODUCT, f"no thing model {name!r} in the library, there is: {', '.join(names())}")
    return resources.files(__name__).joinpath(name + _SUFFIX).read_bytes()
