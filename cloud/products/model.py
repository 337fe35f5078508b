"""Products as values, and the one that is built in."""

import enum
import re
import secrets
import string
from dataclasses import dataclass

from protocols.errors import Reason, Refused
from protocols.thing.compatibility import Change
from protocols.thing.model import ThingModel
from protocols.thing.slots import TypeConflict

# The product of every gateway, of every tenant. It has no row in the database.
GATEWAY = "gateway"

_KEY_LETTERS = string.ascii_letters + string.digits
_KEY_LENGTH = 11


class NodeType(enum.StrEnum):
    """Alink's node type: whether devices of the product stand for themselves or carry sub-devices."""

    DEVICE = "device"
    GATEWAY = "gateway"


class VersionState(enum.StrEnum):
    DRAFT = "draft"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Product:
    """`thing_model` is the one published last, `version` its number; `category` is the model of the standard library it was made from."""

    product_key: str
    name: str
    thing_model: ThingModel
    built_in: bool
    created_ms: int
    node_type: NodeType = NodeType.DEVICE
    description: str = ""
    category: str | None = None
    version: int = 1
    revision: int = 1
    updated_ms: int = 0


@dataclass(frozen=True, slots=True)
class ProductEntry:
    """A product in a list, without its thing model."""

    product_key: str
    name: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class ThingModelVersion:
    """A version of a thing model with its model; `revision` counts the changes of a draft."""

    version_id: int
    product_key: str
    number: int
    state: VersionState
    thing_model: ThingModel
    note: str
    revision: int
    created_ms: int
    created_by: str
    published_ms: int | None
    published_by: str | None


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version in a list, without its model."""

    version_id: int
    number: int
    state: VersionState
    note: str
    created_ms: int
    created_by: str
    published_ms: int | None
    published_by: str | None


@dataclass(frozen=True, slots=True)
class DraftReport:
    """What publishing a draft would change for the devices of the product; `conflicts` cannot be accepted, what breaks can."""

    base: int
    number: int
    devices: int
    changes: tuple[Change, ...]
    conflicts: tuple[TypeConflict, ...]


@dataclass(frozen=True, slots=True)
class StandardModel:
    """An entry of the standard library: a product can be made from it by its `key`. `matter` is (id, name) of a device type there."""

    key: str
    name: str
    names: dict[str, str]
    thing_model: ThingModel
    kind: str
    matter: tuple[str, str] | None


_OWN_KEY = re.compile(r"[A-Za-z0-9]{4,32}")
_FIRST_LEVELS = frozenset({GATEWAY, "broadcast", "edge", "ext", "ota", "shadow", "sys"})


def check_product_key(key: str) -> None:
    """Whether a maker may bring this key, burnt into firmware at another cloud. Raises Refused naming what is allowed."""
    if not _OWN_KEY.fullmatch(key) or key in _FIRST_LEVELS:
        raise Refused(Reason.OUT_OF_RANGE, "product_key: 4 to 32 letters and digits, and none of the words that begin a topic")


def new_product_key() -> str:
    """As Alink makes them: 11 letters and digits, about 65 bits of chance."""
    return "".join(secrets.choice(_KEY_LETTERS) for _ in range(_KEY_LENGTH))
