"""The oracle: what the simulators produced against what the query API returns. It imports nothing of ours.

Every produced reading must end stored exactly once or inside a named gap, never both. Gaps come only from the API, which has them from
the agent's records; nothing here computes one.
"""

import json
import struct
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAR_FUTURE_MS = 4_102_444_800_000
PAGE = 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a simulator's log: everything that device showed or sent at once."""

    n: int
    time_ms: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch in which readings are known to be missing; both bounds exclusive, ms."""

    from_ms: int
    to_ms: int
    count: int | None
    reason: str

    def holds(self, time_ms: int) -> bool:
        return self.from_ms < time_ms < self.to_ms

    @property
    def certain(self) -> bool:
        """Whether nothing of that time is there: some stretches say only that readings of somebody on the site are missing in them."""
        return self.reason not in ("stream_lost", "buffer_reset", "buffer_damaged", "refused_frame")


@dataclass(slots=True)
class Account:
    """Readings (one value of one row), except `rows_in_gaps`, which counts rows."""

    produced: int = 0
    stored: int = 0
    in_gaps: int = 0
    duplicates: int = 0
    lost: list[tuple[str, str, int]] = field(default_factory=list)
    both: list[tuple[str, str, int]] = field(default_factory=list)
    wrong: list[tuple[str, str, int, float, object]] = field(default_factory=list)
    invented: list[tuple[str, str, int]] = field(default_factory=list)
    rows_in_gaps: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        """Produced = stored + in gaps, nothing twice, nothing invented, every value as it was."""
        faults = self.duplicates or self.lost or self.both or self.wrong or self.invented
        return self.produced > 0 and not faults and self.produced == self.stored + self.in_gaps

    def __str__(self) -> str:
        return (
            f"produced {self.produced}, stored {self.stored}, in gaps {self.in_gaps} ({dict(self.reasons)}), duplicates {self.duplicates}, "
            f"lost {len(self.lost)} {self.lost[:3]}, both {len(self.both)} {self.both[:3]}, wrong {len(self.wrong)} {self.wrong[:3]}, "
            f"invented {len(self.invented)} {self.invented[:3]}"
        )


class Api:
    """The public query API, as any customer's script would use it."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url.rstrip("/"), key

    def get(self, path: str, **query: object) -> Any:
        """The JSON answer of one GET; raises urllib's HTTPError for a refusal."""
        url = f"{self._url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._key}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def points(self, product_key: str, device: str, identifier: str, *, raw: bool) -> Iterator[Sequence[Any]]:
        """Every stored point, page by page: [ts_ms, value] or, raw, [ts_ms, value, position]."""
        cursor: dict[str, object] = {}
        while True:
            page = self._page(product_key, device, identifier, limit=PAGE, raw=str(raw).lower(), **cursor)
            yield from page["points"]
            if not page.get("next"):
                return
            cursor = {"cursor": page["next"]}

    def gaps(self, product_key: str, device: str, identifier: str) -> list[Gap]:
        """Every gap of one property."""
        page = self._page(product_key, device, identifier, limit=1)
        return [Gap(gap["from"], gap["to"], gap["count"], gap["reason"]) for gap in page["gaps"]]

    def _page(self, product_key: str, device: str, identifier: str, **query: object) -> Any:
        path = f"/v1/telemetry/{product_key}/{device}/{identifier}"
        return self.get(path, **({"from": 0, "to": FAR_FUTURE_MS} | query))


def read_log(path: Path) -> list[Row]:
    """The rows of one simulator log; a line cut off at the end (a killed simulator) is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows.append(Row(entry["n"], entry["time_ms"], entry["values"]))
    return rows


def as_float32(value: float) -> bytes:
    """What a float32 register can carry of `value`."""
    return struct.pack(">f", value)


def balance(device: str, rows: Iterable[Row], points: Mapping[str, Sequence[Sequence[Any]]], gaps: Mapping[str, Sequence[Gap]]) -> Account:
    """Hold a device's log against its stored points and gaps, property by property."""
    account = Account()
    rows = list(rows)
    gap_rows: set[int] = set()
    for identifier in sorted({name for row in rows for name in row.values}):
        stored: dict[int, list[Any]] = {}
        for time_ms, value, *_ in points[identifier]:
            stored.setdefault(time_ms, []).append(value)
        account.duplicates += sum(len(values) - 1 for values in stored.values())
        known = set()
        for row in rows:
            if identifier not in row.values:
                continue
            account.produced += 1
            known.add(row.time_ms)
            spot = (device, identifier, row.time_ms)
            inside = next((gap for gap in gaps[identifier] if gap.holds(row.time_ms)), None)
            found = stored.get(row.time_ms)
            if found is not None:
                account.stored += 1
                if inside is not None and inside.certain:
                    account.both.append(spot)
                if any(as_float32(value) != as_float32(row.values[identifier]) for value in found):
                    account.wrong.append((*spot, row.values[identifier], found))
            elif inside is not None:
                account.in_gaps += 1
                account.reasons[inside.reason] += 1
                gap_rows.add(row.time_ms)
            else:
                account.lost.append(spot)
        account.invented += [(device, identifier, time_ms) for time_ms in stored if time_ms not in known]
    account.rows_in_gaps = len(gap_rows)
    return account


def account_of(api: Api, product_key: str, device: str, log: Path, *, raw: bool) -> Account:
    """The account of one device, from its simulator's log and the API alone."""
    rows = read_log(log)
    identifiers = sorted({name for row in rows for name in row.values})
    points = {name: list(api.points(product_key, device, name, raw=raw)) for name in identifiers}
    gaps = {name: api.gaps(product_key, device, name) for name in identifiers}
    return balance(device, rows, points, gaps)
