"""Raw field values to the thing model's own: what fits goes on as one row, what does not is named."""

from collections.abc import Mapping, Sequence

from protocols.errors import Reason, Refused
from protocols.thing.datatypes import BoolType, DateType, EnumType, IntType, Value
from protocols.thing.model import ThingModel

Row = tuple[tuple[str, ...], tuple[Value, ...]]
_WHOLE = (IntType, EnumType, BoolType, DateType)


class Normaliser:
    """Coerces rows of one connector; `properties` are the identifiers in the order of the raw values."""

    __slots__ = ("_identifiers", "_types")

    def __init__(self, model: ThingModel, properties: Sequence[str]) -> None:
        """Raises Refused(UNKNOWN_IDENTIFIER) for a property the model does not have."""
        for identifier in properties:
            if identifier not in model.properties:
                raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{identifier}: no such property in the thing model")
        self._identifiers = tuple(properties)
        self._types = tuple(model.properties[identifier].data_type for identifier in properties)

    def row(self, raw: Sequence[int | float]) -> tuple[Row, Mapping[str, Refused]]:
        """The coerced row, and why each refused value was.

        The identifiers are the same tuple object for every complete row: callers cache by it.
        """
        values: list[Value] = []
        refused: dict[str, Refused] = {}
        for identifier, data_type, value in zip(self._identifiers, self._types, raw, strict=True):
            try:
                near = round(value) if isinstance(data_type, _WHOLE) else value
                # 23.000000001 is the integer 23 seen through a scale
                values.append(data_type.coerce(near if abs(near - value) < 1e-6 else value, identifier))
            except Refused as problem:
                refused[identifier] = problem
            except (OverflowError, ValueError):  # round() of an infinity or NaN
                refused[identifier] = Refused(Reason.OUT_OF_RANGE, f"{identifier}: {value} is not a finite number")
        if not refused:
            return (self._identifiers, tuple(values)), _NOTHING
        return (tuple(name for name in self._identifiers if name not in refused), tuple(values)), refused


_NOTHING: Mapping[str, Refused] = {}
