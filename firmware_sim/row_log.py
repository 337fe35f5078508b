"""What a simulator produced, in its own words: one JSON line per row, handed to the kernel before anyone can see the row."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocols.errors import Reason, Refused

Value = int | float

_FILE_NAME = re.compile(r"[A-Za-z0-9_.:@&-]{1,128}")


@dataclass(frozen=True, slots=True)
class Row:
    """Everything one device showed or sent at once; `n` counts from 1, a missing value is left out."""

    n: int
    time_ms: int
    values: Mapping[str, Value]


def line_of(device: str, row: Row) -> bytes:
    """The log line of a row.

    >>> line_of("meter-1", Row(1, 1000, {"power": 2.5}))
    b'{"device":"meter-1","n":1,"time_ms":1000,"values":{"power":2.5}}\\n'
    """
    return msgspec.json.encode({"device": device, "n": row.n, "time_ms": row.time_ms, "values": row.values}) + b"\n"


class RowLog:
    """DIRECTORY/{device}.jsonl; raises Refused when it exists, since a second run must not add to the account of the first."""

    def __init__(self, directory: Path, device: str) -> None:
        if not _FILE_NAME.fullmatch(device):
            raise Refused(Reason.BAD_CONFIGURATION, f"device name {device!r} cannot name a log file")
        directory.mkdir(parents=True, exist_ok=True)
        self.device, self.path, self.rows, self.readings = device, directory / f"{device}.jsonl", 0, 0
        try:
            self._file = self.path.open("xb", buffering=0)
        except FileExistsError:
            raise Refused(Reason.BAD_CONFIGURATION, f"{self.path} exists: choose another --log-dir") from None

    def write(self, row: Row) -> None:
        """Write a row; it is with the kernel when this returns."""
        self._file.write(line_of(self.device, row))
        self.rows += 1
        self.readings += len(row.values)

    def close(self) -> None:
        """Closing twice is harmless."""
        self._file.close()
