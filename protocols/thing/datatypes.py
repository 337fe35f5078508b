"""Data types of a thing model: what a JSON value must be, and the one form in which it travels on (alink.md par. 12)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocols.errors import Reason, Refused

Names = Mapping[str, str]  # what people see, by language ("en", "zh")
Value = int | float | str | dict[str, "Value"] | list["Value"]  # what `coerce` gives back

EXACT_INTEGER = 2**53  # beyond it a float64 column would store a neighbour
LATEST_MS = 253_402_300_799_999  # the last millisecond of the year 9999, the latest time RFC 3339 can write


def _show(value: object) -> str:
    """`value` for a message: short, whatever was sent."""
    match value:
        case str():
            return ascii(value if len(value) <= 40 else value[:37] + "...")
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int() if value.bit_length() > 128:  # printing it is slow, beyond 4,300 digits refused
            return "an integer of many digits"
        case int() | float():
            return str(value)
        case dict():
            return "an object"
        case _:
            return "a list"


def _wrong(where: str, expected: str, value: object) -> Refused:
    return Refused(Reason.WRONG_TYPE, f"{where}: expected {expected}, got {_show(value)}")


def _whole(value: object, where: str, expected: str) -> int:
    """The exact integer `value` stands for; 3.0 is one (C devices print so), 3.5 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(where, expected, value)
    if not -EXACT_INTEGER <= value <= EXACT_INTEGER:
        raise Refused(Reason.INTEGER_TOO_LARGE, f"{where}: {_show(value)} is beyond 2^53 and would not be stored exactly")
    return value


@dataclass(frozen=True, slots=True)
class IntType:
    """A whole number within [minimum, maximum] and within +-2^53."""

    minimum: int | None = None
    maximum: int | None = None
    unit: str = ""
    kind: str = "int"

    def coerce(self, value: object, where: str = "value") -> int:
        """Raises `Refused` (WRONG_TYPE, INTEGER_TOO_LARGE, OUT_OF_RANGE) naming `where`."""
        whole = _whole(value, where, "an integer")
        if (self.minimum is not None and whole < self.minimum) or (self.maximum is not None and whole > self.maximum):
            raise _outside(where, whole, self.minimum, self.maximum)
        return whole


@dataclass(frozen=True, slots=True)
class FloatType:
    """`float` and `double`: a finite number within [minimum, maximum]; integers arrive too and become float."""

    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    kind: str = "double"

    def coerce(self, value: object, where: str = "value") -> float:
        """Raises `Refused` (WRONG_TYPE, OUT_OF_RANGE) naming `where`."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _wrong(where, "a number", value)
        try:
            number = float(value)
        except OverflowError:
            raise Refused(Reason.OUT_OF_RANGE, f"{where}: {_show(value)} is beyond a float64") from None
        if not math.isfinite(number):
            raise Refused(Reason.OUT_OF_RANGE, f"{where}: {number} is not a finite number")
        if (self.minimum is not None and number < self.minimum) or (self.maximum is not None and number > self.maximum):
            raise _outside(where, number, self.minimum, self.maximum)
        return number


def _outside(where: str, value: float, minimum: float | None, maximum: float | None) -> Refused:
    low, high = ("" if bound is None else _show(bound) for bound in (minimum, maximum))
    return Refused(Reason.OUT_OF_RANGE, f"{where}: {_show(value)} is outside [{low}, {high}]")


@dataclass(frozen=True, slots=True)
class BoolType:
    """0 or 1; true and false are taken as 1 and 0. `names` holds the words for both by language."""

    labels: tuple[str, str] = ("", "")
    kind: str = "bool"
    names: Mapping[int, Names] = field(default_factory=dict)

    def coerce(self, value: object, where: str = "value") -> int:
        """Raises `Refused` (WRONG_TYPE) naming `where`."""
        if isinstance(value, int | float) and value in (0, 1):
            return int(value)
        raise _wrong(where, "0, 1, true or false", value)


@dataclass(frozen=True, slots=True)
class EnumType:
    """One of the integer keys of `labels`; `names` holds the words for a key by language."""

    labels: Mapping[int, str]
    kind: str = "enum"
    names: Mapping[int, Names] = field(default_factory=dict)

    def coerce(self, value: object, where: str = "value") -> int:
        """Raises `Refused` (WRONG_TYPE, INTEGER_TOO_LARGE, OUT_OF_RANGE) naming `where`."""
        key = _whole(value, where, "an integer key of the enum")
        if key not in self.labels:
            raise Refused(Reason.OUT_OF_RANGE, f"{where}: {key} is not a key of the enum")
        return key


@dataclass(frozen=True, slots=True)
class TextType:
    """A string of at most `length` characters."""

    length: int
    kind: str = "text"

    def coerce(self, value: object, where: str = "value") -> str:
        """Raises `Refused` (WRONG_TYPE, OUT_OF_RANGE) naming `where`."""
        if not isinstance(value, str):
            raise _wrong(where, "a string", value)
        if len(value) > self.length:
            raise Refused(Reason.OUT_OF_RANGE, f"{where}: {len(value)} characters, at most {self.length} allowed")
        return value


@dataclass(frozen=True, slots=True)
class DateType:
    """UTC milliseconds, as a string of digits or a number; kept as an int."""

    kind: str = "date"

    def coerce(self, value: object, where: str = "value") -> int:
        """Raises `Refused` (WRONG_TYPE, INTEGER_TOO_LARGE, OUT_OF_RANGE) naming `where`."""
        if isinstance(value, str):
            if not (value.isascii() and value.isdigit() and len(value) <= 18):
                raise _wrong(where, "UTC milliseconds as digits", value)
            value = int(value)
        instant = _whole(value, where, "UTC milliseconds")
        if not 0 <= instant <= LATEST_MS:
            raise Refused(Reason.OUT_OF_RANGE, f"{where}: {instant} ms is outside the years 1970 to 9999")
        return instant


@dataclass(frozen=True, slots=True)
class StructType:
    """An object of declared fields; a field may be left out, an undeclared one is refused. Structs do not nest.

    `names` holds the name of a field by language.
    """

    fields: Mapping[str, "DataType"]
    kind: str = "struct"
    names: Mapping[str, Names] = field(default_factory=dict)

    def coerce(self, value: object, where: str = "value") -> dict[str, Value]:
        """Raises `Refused` naming the field."""
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        fields: dict[str, Value] = {}
        for name, part in value.items():
            data_type = self.fields.get(name)
            if data_type is None:
                raise Refused(Reason.WRONG_TYPE, f"{where}: no field {_show(name)} in the struct")
            fields[name] = data_type.coerce(part, f"{where}.{name}")
        return fields


@dataclass(frozen=True, slots=True)
class ArrayType:
    """A list of at most `size` items of one type."""

    item: "DataType"
    size: int
    kind: str = "array"

    def coerce(self, value: object, where: str = "value") -> list[Value]:
        """Raises `Refused` naming the item."""
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        if len(value) > self.size:
            raise Refused(Reason.OUT_OF_RANGE, f"{where}: {len(value)} items, at most {self.size} allowed")
        return [self.item.coerce(part, f"{where}[{index}]") for index, part in enumerate(value)]


DataType = IntType | FloatType | BoolType | EnumType | TextType | DateType | StructType | ArrayType


def words(data_type: DataType | None, language: str) -> Mapping[int, str]:
    """What people read instead of the number of an enum or a bool, in `language` ("en", "zh") if the model has it; {} for other types."""
    if not isinstance(data_type, EnumType | BoolType):
        return {}
    labels = data_type.labels if isinstance(data_type, EnumType) else dict(enumerate(data_type.labels))
    named = {key: data_type.names.get(key, {}).get(language) or label for key, label in labels.items()}
    return {key: word for key, word in named.items() if word}


def is_numeric(data_type: DataType) -> bool:
    """Whether values go to the float64 column; text, struct and array are stored as JSON text."""
    return not isinstance(data_type, TextType | StructType | ArrayType)
