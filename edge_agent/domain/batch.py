"""Columns of readings: what connectors add row by row and what leaves as one frame."""

from collections.abc import Sequence
from itertools import repeat

import msgspec
import numpy as np

from protocols.edgelink.columns import NO_COLUMNS, Columns, SeriesKey, Text
from protocols.edgelink.records import Record
from protocols.thing.datatypes import Value, is_numeric
from protocols.thing.model import ThingModel

NUMBER_BYTES = 3  # of one reading in a frame, about
RECORD_BYTES = 64

_json = msgspec.json.Encoder()


class Shape:
    """The series of one kind of row: a device and its identifiers in order. Made once, compared by identity."""

    __slots__ = ("keys", "numbers", "texts", "width")

    def __init__(self, product_key: str, device_name: str, model: ThingModel, identifiers: Sequence[str]) -> None:
        self.keys: tuple[SeriesKey, ...] = tuple((product_key, device_name, name) for name in identifiers)
        self.width = len(self.keys)
        numeric = [is_numeric(model.properties[name].data_type) for name in identifiers]
        self.numbers = tuple(index for index, number in enumerate(numeric) if number)
        self.texts = tuple(index for index, number in enumerate(numeric) if not number)


class Batch:
    """Rows of one open frame. `readings` counts values, `weight` guesses its bytes."""

    __slots__ = ("_dictionary", "_rows", "_shapes", "_tables", "_times", "_values", "records", "texts", "weight")

    def __init__(self) -> None:
        self._dictionary: dict[SeriesKey, int] = {}
        self._shapes: dict[Shape, int] = {}  # position in _tables
        self._tables: list[list[int]] = []
        self._rows: list[int] = []
        self._values: list[Value] = []
        self._times: list[int] = []
        self.texts: list[Text] = []
        self.records: list[Record] = []
        self.weight = 0

    @property
    def readings(self) -> int:
        return len(self._values) + len(self.texts)

    def __bool__(self) -> bool:
        return bool(self._rows or self.texts or self.records)

    def row(self, shape: Shape, values: Sequence[Value], times: Sequence[int] | int) -> None:
        """Add one row; `times` is one time for all values or one each (epoch ms)."""
        if shape.texts:
            return self._mixed(shape, values, times)
        place = self._shapes.get(shape)
        if place is None:
            place = self._enter(shape, shape.numbers)
        self._rows.append(place)
        self._values += values
        if isinstance(times, int):
            self._times.extend(repeat(times, shape.width))
        else:
            self._times += times
        self.weight += NUMBER_BYTES * shape.width
        return None

    def rows(self, shape: Shape, count: int, values: Sequence[Value], times: Sequence[int]) -> None:
        """Add `count` rows of one shape whose values are all numbers, row after row; `times` one for each value."""
        place = self._shapes.get(shape)
        if place is None:
            place = self._enter(shape, shape.numbers)
        self._rows += repeat(place, count)
        self._values += values
        self._times += times
        self.weight += NUMBER_BYTES * len(values)

    def record(self, record: Record, weight: int = RECORD_BYTES) -> None:
        self.records.append(record)
        self.weight += weight

    def columns(self) -> Columns:
        """The rows as columns, in the order they came."""
        if not self._rows and not self.texts:
            return NO_COLUMNS
        widths_of = np.array([len(table) for table in self._tables], np.int64)
        starts_of = np.cumsum(widths_of) - widths_of
        flat = np.array([index for table in self._tables for index in table], np.uint32)
        rows = np.array(self._rows, np.int64)
        widths = widths_of[rows]
        total = len(self._values)
        # value j of row i sits at flat[start of the row's shape + j]
        ahead = starts_of[rows] - (np.cumsum(widths) - widths)
        series = flat[np.arange(total) + np.repeat(ahead, widths)] if total else np.zeros(0, np.uint32)
        return Columns(
            tuple(self._dictionary),
            series,
            np.array(self._times, np.int64),
            np.array(self._values, np.float64),
            texts=tuple(self.texts),
        )

    def _enter(self, shape: Shape, positions: Sequence[int]) -> int:
        dictionary = self._dictionary
        self._tables.append([dictionary.setdefault(shape.keys[position], len(dictionary)) for position in positions])
        self._shapes[shape] = len(self._tables) - 1
        return len(self._tables) - 1

    def _mixed(self, shape: Shape, values: Sequence[Value], times: Sequence[int] | int) -> None:
        """A row in which some values are no numbers: those travel as JSON text."""
        at = [times] * shape.width if isinstance(times, int) else times
        for position in shape.texts:
            text = _json.encode(values[position]).decode()
            self.texts.append((self._dictionary.setdefault(shape.keys[position], len(self._dictionary)), at[position], text))
            self.weight += len(text) + RECORD_BYTES
        if shape.numbers:
            place = self._shapes.get(shape)
            if place is None:
                place = self._enter(shape, shape.numbers)
            self._rows.append(place)
            self._values += [values[position] for position in shape.numbers]
            self._times += [at[position] for position in shape.numbers]
            self.weight += NUMBER_BYTES * len(shape.numbers)
