"""What the demo shows: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

PLAIN_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """One device now; counts are readings, `lag_ms` is from the newest produced to the newest reported row."""

    name: str
    path: str
    online: bool
    produced: int
    stored: int
    lag_ms: int
    gaps: int


class Board:
    """Use as a context manager; `say` adds a line of the story, `show` replaces the table."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._console.is_terminal else None
        self._began = time.monotonic()
        self._printed = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """No more table; twice is harmless."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """One line of the story, with its second."""
        line = f"{time.monotonic() - self._began:6.1f} s  {text}"
        if self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False)
        else:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def show(self, lines: Sequence[DeviceLine], buffered: int | None) -> None:
        """The state of every device; `buffered` is what the gateway holds, None if it does not say."""
        if self._live is not None:
            self._live.update(table_of(lines, buffered))
        elif not self._console.is_terminal and time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self.say(plain(lines, buffered))


def plain(lines: Sequence[DeviceLine], buffered: int | None) -> str:
    """The table in one line.

    >>> plain([DeviceLine("meter-1", "gateway", True, 160, 144, 200, 0)], 16)
    'produced 160  buffered 16  stored 144  gaps 0  lag: meter-1 0.2 s'
    """
    produced, stored, gaps = (sum(getattr(line, name) for line in lines) for name in ("produced", "stored", "gaps"))
    lags = ", ".join(f"{line.name} {line.lag_ms / 1_000:.1f} s" + ("" if line.online else " (offline)") for line in lines)
    return f"produced {produced}  buffered {'?' if buffered is None else buffered}  stored {stored}  gaps {gaps}  lag: {lags}"


def table_of(lines: Sequence[DeviceLine], buffered: int | None) -> Table:
    """The table of a terminal."""
    table = Table(title="Hearthline", caption=f"readings; in the gateway's buffer: {'?' if buffered is None else f'{buffered:,}'}")
    for name in ("device", "path", "online", "produced", "stored", "lag", "gaps"):
        table.add_column(name, justify="left" if name in ("device", "path", "online") else "right")
    for line in lines:
        online = "yes" if line.online else "[red]no[/red]"
        table.add_row(
            line.name, line.path, online, f"{line.produced:,}", f"{line.stored:,}", f"{line.lag_ms / 1_000:.1f} s", str(line.gaps)
        )
    return table
