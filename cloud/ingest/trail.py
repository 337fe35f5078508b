"""What ingest was at when it died: messages that kill it are found, and after a few deaths put aside (ADR 15).

Exceptions are refusals and need none of this. It is for what ends a process: a fault in a compiled library, memory, an endless loop.
"""

import faulthandler
import mmap
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

DEATHS: Final = 3  # at one message, until it is put aside; a process that is killed by chance is not killed there three times
HUNG_S: Final = 15.0  # one message of the stream takes milliseconds
MOST_SPOTS: Final = 64
WHOLE: Final = -1  # of a row, or of a message: not known more exactly

_HEAD = struct.Struct("<8s16sII")  # magic, stream, spots that follow, unused
_SPOT = struct.Struct("<QiiI")  # sequence, row, piece, deaths
_NOW = struct.Struct("<Qii")
_MAGIC: Final = b"HLTRAIL1"
_NOW_AT: Final = _HEAD.size
_SPOTS_AT: Final = _HEAD.size + _NOW.size
_SIZE: Final = _SPOTS_AT + MOST_SPOTS * _SPOT.size


class Spot(NamedTuple):
    """A payload in the stream: message, row in it, place in that row's run of payloads."""

    sequence: int
    row: int
    piece: int


@dataclass(frozen=True, slots=True)
class Accused:
    """How often ingest died at which spot."""

    deaths: Mapping[Spot, int] = field(default_factory=dict)

    def rows(self, sequence: int) -> frozenset[int]:
        """Rows of this message to be taken payload by payload.

        >>> accused = Accused({Spot(7, 2, WHOLE): 1, Spot(7, 3, 0): 3})
        >>> sorted(accused.rows(7)), sorted(accused.rows(8)), accused.condemned(Spot(7, 3, 0)), accused.condemned(Spot(7, 2, WHOLE))
        ([2, 3], [], True, False)
        """
        return frozenset(spot.row for spot in self.deaths if spot.sequence == sequence) if self.deaths else frozenset()

    def condemned(self, spot: Spot) -> bool:
        """Whether it has to be put aside unseen."""
        return self.deaths.get(spot, 0) >= DEATHS


NOBODY: Final = Accused()


class Trail:
    """Where evaluation stands, in a file that a dead process leaves behind. Survives the process, and need not survive the machine."""

    def __init__(self, file: Path, hung_s: float = HUNG_S) -> None:
        """Raises OSError."""
        self._hung_s = hung_s
        file.parent.mkdir(parents=True, exist_ok=True)  # a role that is started by hand has no `up` to make it
        with file.open("a+b") as opened:
            opened.truncate(_SIZE)
            self._map = mmap.mmap(opened.fileno(), _SIZE)

    def close(self) -> None:
        self._map.close()

    def begin(self, stream_id: str) -> Accused:
        """Whom the lives before this one accuse: of this stream, for another one has other messages."""
        stream = blake2b(stream_id.encode(), digest_size=16).digest()
        magic, of, number, _ = _HEAD.unpack_from(self._map)
        deaths: dict[Spot, int] = {}
        if (magic, of) == (_MAGIC, stream) and number <= MOST_SPOTS:
            for at in range(number):
                sequence, row, piece, count = _SPOT.unpack_from(self._map, _SPOTS_AT + at * _SPOT.size)
                deaths[Spot(sequence, row, piece)] = count
            last = Spot(*_NOW.unpack_from(self._map, _NOW_AT))
            if last.sequence:
                deaths[last] = deaths.pop(last, 0) + 1  # the newest are the last of the list
        kept = list(deaths.items())[-MOST_SPOTS:]
        for at, (spot, count) in enumerate(kept):
            _SPOT.pack_into(self._map, _SPOTS_AT + at * _SPOT.size, *spot, count)
        self.rest()
        _HEAD.pack_into(self._map, 0, _MAGIC, stream, len(kept), 0)
        return Accused(dict(kept))

    def at(self, sequence: int, row: int, piece: int = WHOLE) -> None:
        """This comes now."""
        _NOW.pack_into(self._map, _NOW_AT, sequence, row, piece)

    def rest(self) -> None:
        """Whatever happens from here on is no payload's fault."""
        _NOW.pack_into(self._map, _NOW_AT, 0, 0, 0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside, the process ends when it takes longer than `hung_s`, whatever holds it up; what happens after is nobody's fault."""
        faulthandler.dump_traceback_later(self._hung_s, exit=True, file=sys.__stderr__ or sys.stderr)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.rest()
