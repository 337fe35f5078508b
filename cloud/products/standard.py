"""The standard library of product models, as products are made from it."""

from functools import cache

from cloud.products.model import StandardModel
from protocols.thing import library


@cache
def standard_models() -> tuple[StandardModel, ...]:
    """Every model of the library, by key."""
    return tuple(standard_model(key) for key in library.names())


@cache
def standard_model(key: str) -> StandardModel:
    """One model of the library. Raises Refused listing what there is."""
    model, entry = library.load(key), library.entry(key)
    matter = None if entry.matter is None else (entry.matter.id, entry.matter.name)
    return StandardModel(key, entry.names["en"], dict(entry.names), model, str(entry.kind), matter)
