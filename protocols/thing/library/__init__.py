"""Standard product models, shipped as TSL JSON; English and Chinese names beside each other under `names`."""

from functools import cache
from importlib import resources

from protocols.errors import Reason, Refused
from protocols.thing.model import ThingModel, parse_thing_model

_SUFFIX = ".json"


@cache
def names() -> tuple[str, ...]:
    """Every model of the library, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


@cache
def load(name: str) -> ThingModel:
    """One model; raises `Refused(UNKNOWN_PRODUCT)` listing what there is."""
    if name not in names():  # also keeps path names out
        raise Refused(Reason.UNKNOWN_PRODUCT, f"no thing model {name!r} in the library, there is: {', '.join(names())}")
    return parse_thing_model(resources.files(__name__).joinpath(name + _SUFFIX).read_bytes())
