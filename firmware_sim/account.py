"""The account: what the simulators logged against what the query API returns. Values in, an account out."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from firmware_sim.row_log import Row, Value


@dataclass(frozen=True, slots=True)
class Gap:
    """Readings of one property are missing between two times (epoch ms, both bounds exclusive)."""

    from_ms: int
    to_ms: int
    reason: str

    def holds(self, time_ms: int) -> bool:
        return self.from_ms < time_ms < self.to_ms


@dataclass(slots=True)
class Account:
    """In readings: one value of one row. `faults` holds the first of what must not be, in words."""

    produced: int = 0
    stored: int = 0
    in_gaps: int = 0
    duplicates: int = 0
    lost: int = 0
    both: int = 0
    wrong: int = 0
    invented: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Everything produced is stored exactly once or in a gap, never both, with its value, and nothing else is stored."""
        faults = self.duplicates or self.lost or self.both or self.wrong or self.invented
        return self.produced > 0 and not faults and self.produced == self.stored + self.in_gaps

    def add(self, other: "Account") -> None:
        """Sum up devices."""
        for name in ("produced", "stored", "in_gaps", "duplicates", "lost", "both", "wrong", "invented"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def sentence(self) -> str:
        """The account in one line."""
        parts = [f"produced {self.produced:,} = stored {self.stored:,} + in gaps {self.in_gaps:,}", f"duplicates {self.duplicates:,}"]
        parts += [f"{name} {count:,}" for name in ("lost", "both", "wrong", "invented") if (count := getattr(self, name))]
        parts += [f"{reason} {count:,}" for reason, count in sorted(self.reasons.items())]
        return ", ".join(parts)


def _same(stored: object, logged: Value, *, registers: bool) -> bool:
    """Whether a value came back as it was; a register carries a float32."""
    if not isinstance(stored, int | float):
        return False
    return struct.pack(">f", stored) == struct.pack(">f", logged) if registers else float(stored) == float(logged)


def balance(
    rows: Sequence[Row], points: Mapping[str, Iterable[tuple[int, object]]], gaps: Mapping[str, Sequence[Gap]], *, registers: bool
) -> Account:
    """Hold one device's rows against its stored points (time, value) and gaps, property by property."""
    account = Account()
    for identifier in sorted({name for row in rows for name in row.values}):
        stored: dict[int, list[object]] = {}
        for time_ms, value in points.get(identifier, ()):
            stored.setdefault(time_ms, []).append(value)
        account.duplicates += sum(len(values) - 1 for values in stored.values())
        produced = [(row.time_ms, row.values[identifier]) for row in rows if identifier in row.values]
        account.produced += len(produced)
        account.invented += len(stored.keys() - {time_ms for time_ms, _ in produced})
        for time_ms, logged in produced:
            gap = next((gap for gap in gaps.get(identifier, ()) if gap.holds(time_ms)), None)
            found = stored.get(time_ms)
            if found is None and gap is None:
                account.lost += 1
            elif found is None and gap is not None:
                account.in_gaps += 1
                account.reasons[gap.reason] = account.reasons.get(gap.reason, 0) + 1
            elif found is not None:
                account.stored += 1
                account.both += gap is not None
                account.wrong += not all(_same(value, logged, registers=registers) for value in found)
    return account
