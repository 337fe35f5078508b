"""Products as values, and the one that is built in."""

import secrets
import string
from dataclasses import dataclass

from protocols.thing.model import ThingModel

# The product of every gateway, of every tenant. It has no row in the database.
GATEWAY = "gateway"

_KEY_LETTERS = string.ascii_letters + string.digits
_KEY_LENGTH = 11


@dataclass(frozen=True, slots=True)
class Product:
    product_key: str
    name: str
    thing_model: ThingModel
    built_in: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class ProductEntry:
    """A product in a list, without its thing model."""

    product_key: str
    name: str
    created_ms: int


def new_product_key() -> str:
    """As Alink makes them: 11 letters and digits, about 65 bits of chance."""
    return "".join(secrets.choice(_KEY_LETTERS) for _ in range(_KEY_LENGTH))
