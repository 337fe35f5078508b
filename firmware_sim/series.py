"""Any CSV as the rows of a machine or an appliance: the time column, identifiers, values, pace."""

import csv
import gzip
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

from firmware_sim.row_log import Row, Value
from protocols.errors import Reason, Refused

TextPolicy = Literal["enum", "drop", "refuse"]

MOST_LABELS = 256  # a text column with more values is a name or a remark, not a state
_OTHER = re.compile(r"[^A-Za-z0-9_]")
_INTEGER = re.compile(r"[+-]?\d{1,16}")
_TIME_NAMES = ("time", "timestamp", "datetime", "date", "ts", "time_ms")
_MISSING = ("", "na", "n/a", "nan", "null", "none")


@dataclass(frozen=True, slots=True)
class Column:
    """One column as a property; `labels` name the values of a text column, sent as their index."""

    header: str
    identifier: str
    labels: tuple[str, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """The rows of a file; `times` are UTC ms, `cells` one tuple per row with None for an empty cell."""

    columns: tuple[Column, ...]
    times: tuple[int, ...]
    cells: tuple[tuple[Value | None, ...], ...]
    remarks: tuple[str, ...] = ()

    def rows(self) -> Iterator[Row]:
        """Rows as a simulator logs them, numbered from 1."""
        names = [column.identifier for column in self.columns]
        for n, (time_ms, cells) in enumerate(zip(self.times, self.cells, strict=True), 1):
            yield Row(n, time_ms, {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None})

    def periods_s(self, *, speed: float, rate: float | None) -> Iterator[float]:
        """Wall seconds from each row to the next: the file's own steps `speed` times faster, or 1 / `rate`."""
        for this, following in zip(self.times, (*self.times[1:], self.times[-1]), strict=True):
            yield 1 / rate if rate else max(0.0, (following - this) / 1000 / speed)


def identifier_of(header: str) -> str:
    """The identifier of a column header: letters, digits and `_` stay, every other character becomes `_`; raises Refused.

    >>> identifier_of("Lagging_Current_Reactive.Power_kVarh"), identifier_of("CO2(tCO2)")
    ('Lagging_Current_Reactive_Power_kVarh', 'CO2_tCO2_')
    """
    identifier = _OTHER.sub("_", header.strip())
    if not 1 <= len(identifier) <= 64:
        raise Refused(Reason.BAD_CONFIGURATION, f"header {header[:80]!r} gives no identifier of 1 to 64 characters; name it with --column")
    return identifier


def identifiers_of(headers: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Header -> identifier, `named` first; raises Refused when two headers would share one."""
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for header in headers:
        identifier = identifier_of(named.get(header, header))
        if identifier in owners:
            raise Refused(
                Reason.BAD_CONFIGURATION,
                f"columns {owners[identifier]!r} and {header!r} both become {identifier}; name one with --column '{header}=...'",
            )
        found[header] = owners[identifier] = identifier
        owners[identifier] = header
    return found


def parse_time(text: str, time_format: str | None = None) -> int:
    """UTC ms of an ISO 8601 time (no zone = UTC), of `time_format` (strptime), or of epoch s or ms; raises ValueError.

    >>> parse_time("2018-01-01 00:15:00"), parse_time("1514765700"), parse_time("1514765700000")
    (1514765700000, 1514765700000, 1514765700000)
    """
    text = text.strip()
    if time_format is None:
        try:
            number = float(text)
        except ValueError:
            moment = datetime.fromisoformat(text)
        else:
            if not 1e8 <= number < 1e14:
                raise ValueError(f"{text} is not an epoch time")
            return round(number * 1000) if number < 1e11 else round(number)
    else:
        moment = datetime.strptime(text, time_format)  # noqa: DTZ007  the zone is settled on the next line
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return round(moment.timestamp() * 1000)


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and records of a CSV or .csv.gz file (`,` `;` tab or `|`, UTF-8); raises Refused."""
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        first = text.partition("\n")[0]
        records = list(csv.reader(io.StringIO(text), delimiter=max(",;\t|", key=first.count)))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"{path}: not a CSV file: {error}") from error
    records = [record for record in records if record]
    if len(records) < 2:
        raise Refused(Reason.BAD_CONFIGURATION, f"{path}: a header and at least one row are needed")
    header = [name.strip() for name in records[0]]
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        raise Refused(Reason.BAD_CONFIGURATION, f"{path}: two columns are named {repeated[0]!r}")
    for line, record in enumerate(records[1:], 2):
        if len(record) != len(header):
            raise Refused(Reason.BAD_CONFIGURATION, f"{path}: row {line} has {len(record)} cells, the header {len(header)}")
    return header, records[1:]


def find_time_column(header: Sequence[str], sample: Sequence[str], time_format: str | None = None) -> str:
    """The column that holds the time: by its name, else the first that reads as a date; raises Refused."""

    def reads(name: str) -> bool:
        try:
            parse_time(sample[header.index(name)], time_format)
        except ValueError:
            return False
        return True

    exact = [name for name in header if name.lower() in _TIME_NAMES]
    similar = [name for name in header if "time" in name.lower() or "date" in name.lower()]
    dates = [name for name in header if not _number(sample[header.index(name)])]
    for name in (*exact, *similar, *dates):
        if reads(name):
            return name
    raise Refused(Reason.BAD_CONFIGURATION, "no column reads as a time: name it with --time-column, or give --start and --step-s")


def read_series(
    path: Path,
    *,
    time_column: str | None = None,
    time_format: str | None = None,
    start: str | None = None,
    step_s: float = 1.0,
    columns: Sequence[str] = (),
    named: Mapping[str, str] | None = None,
    text: TextPolicy = "enum",
    rows: int | None = None,
) -> Series:
    """The file as rows. `start` (ISO) with `step_s` replaces the time column; `columns` choose and order, `named` gives identifiers.

    Raises Refused for an unknown column, a header collision, a cell that is no time, or text under "refuse".
    """
    header, records = read_table(path)
    if start is None:
        time_column = time_column or find_time_column(header, records[0], time_format)
    wanted = list(columns) or [name for name in header if name != time_column]
    for name in (*wanted, *(named or {}), *([time_column] if time_column else [])):
        if name not in header:
            raise Refused(Reason.BAD_CONFIGURATION, f"{path}: no column {name!r}; it has {', '.join(header)}")
    if start is not None:
        times = [parse_time(start) + round(n * step_s * 1000) for n in range(len(records))]
    else:
        times = _times(path, header.index(time_column or ""), records, time_format)
    remarks = _remarks_on(times)
    found: list[Column] = []
    cells: list[list[Value | None]] = []
    identifiers = identifiers_of(wanted, named or {})
    for name in wanted:
        raw = [record[header.index(name)].strip() for record in records]
        column, values, remark = _column(name, identifiers[name], raw, text)
        remarks += [remark] if remark else []
        if column is not None:
            found.append(column)
            cells.append(values)
    if not found:
        raise Refused(Reason.BAD_CONFIGURATION, f"{path}: no column is left to replay")
    return Series(tuple(found), tuple(times[:rows]), tuple(zip(*cells, strict=True))[:rows], tuple(remarks))


def _times(path: Path, index: int, records: Sequence[Sequence[str]], time_format: str | None) -> list[int]:
    times = []
    for line, record in enumerate(records, 2):
        try:
            times.append(parse_time(record[index], time_format))
        except ValueError as error:
            raise Refused(Reason.BAD_TIME, f"{path}: row {line}: {record[index]!r} is no time ({error}); see --time-format") from None
    return times


def _remarks_on(times: Sequence[int]) -> list[str]:
    remarks = []
    if repeated := len(times) - len(set(times)):
        remarks.append(f"{repeated} rows repeat a time: the query API shows one value for each ms")
    if back := sum(later < earlier for earlier, later in pairwise(times)):
        remarks.append(f"the time goes back {back} times")
    return remarks


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python would take 1_000


def _column(header: str, identifier: str, raw: Sequence[str], policy: TextPolicy) -> tuple[Column | None, list[Value | None], str | None]:
    """A column's values: numbers as they are, text as an enum of its sorted values; an empty or non-finite cell has no value."""
    filled = {cell for cell in raw if cell.lower() not in _MISSING}
    if all(map(_number, filled)):
        if all(map(_INTEGER.fullmatch, filled)):
            return Column(header, identifier, whole=True), [int(cell) if cell in filled else None for cell in raw], None
        numbers = [float(cell) if cell in filled else math.nan for cell in raw]
        return Column(header, identifier), [number if math.isfinite(number) else None for number in numbers], None
    if policy == "drop":
        return None, [], f"column {header!r} holds text and is dropped (--text drop)"
    if policy == "refuse" or len(filled) > MOST_LABELS:
        raise Refused(
            Reason.BAD_CONFIGURATION,
            f"column {header!r} holds text ({len(filled)} different values): choose --columns without it, or --text enum|drop",
        )
    labels = tuple(sorted(filled))
    index = {label: key for key, label in enumerate(labels)}
    remark = f"column {header!r} holds text and is sent as an enum of {len(labels)}"
    return Column(header, identifier, labels), [index.get(cell) for cell in raw], remark


def thing_model(columns: Sequence[Column], number: Literal["float", "double"], access: Literal["r", "rw"] = "r") -> dict[str, object]:
    """The TSL document of these columns; `number` is the type of every numeric one (a register carries a float)."""
    properties: list[dict[str, object]] = [
        {
            "identifier": column.identifier,
            "name": column.header,
            "accessMode": access,
            "required": False,
            "dataType": {"type": "enum", "specs": {str(key): label for key, label in enumerate(column.labels)}}
            if column.labels
            else {"type": number, "specs": {}},
        }
        for column in columns
    ]
    return {"profile": {"productKey": ""}, "properties": properties, "events": [], "services": []}
