"""How `edgectl` answers: tables for people, JSON for scripts, and one exit code for each kind of end."""

import enum
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from edge_agent.buffer.peek import peek
from edge_agent.compose import BUFFER
from edge_agent.documents.status import is_running, read_status
from edge_agent.ports import OutboxDamaged, OutboxUnavailable
from edge_agent.settings import Settings, load
from protocols.errors import Refused

START_TRIES, START_WAIT_S = 8, 0.25
NEXT_WORD_S = 5.0


class Exit(enum.IntEnum):
    """Exit codes; 2 is the shell's own for wrong usage."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BAD_CONFIGURATION = 3
    NOTHING_THERE = 4
    CANNOT_START = 5
    BROKEN = 6


class Format(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", envvar="HEARTHLINE_EDGE_OUTPUT", help="How to print.", show_default=True)]


@dataclass(frozen=True, slots=True)
class Context:
    """What the options before the command say."""

    config: Path

    def settings(self) -> Settings:
        """The configuration, or the end of the program with a message."""
        try:
            return load(self.config)
        except Refused as refused:
            fail(Exit.BAD_CONFIGURATION, str(refused))


def say(message: str) -> None:
    """A message for the person at the terminal."""
    typer.echo(message, err=True)


def fail(code: Exit, message: str) -> NoReturn:
    """End with a message and an exit code."""
    say(message)
    raise typer.Exit(int(code))


def show(data: object, output: Format, rows: Iterable[Sequence[object]], head: Sequence[str]) -> None:
    """Print `data` as JSON, or `rows` under `head` as columns."""
    if output is Format.JSON:
        typer.echo(json.dumps(data, ensure_ascii=False, indent=2))
        return
    lines = [tuple(head), *(tuple("-" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def when(time_ms: object) -> str:
    """An epoch time for people."""
    if not isinstance(time_ms, int) or not time_ms:
        return "-"
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def buffer_of(settings: Settings, *, as_of_now: bool = False) -> Mapping[str, object]:
    """The buffer's state: from the running agent (at most a second old, or with `as_of_now` its next word), else from the file itself."""
    for patience in range(START_TRIES, -1, -1):
        status = read_status(settings.data_dir)
        if status is not None and is_running(status):
            found = (_next_word(settings.data_dir, status) if as_of_now else status).get("buffer")
            if isinstance(found, dict):
                return found
        try:
            state = peek(settings.data_dir / BUFFER, settings.buffer.quotas.total_bytes)
            break
        except OutboxDamaged as problem:
            fail(Exit.FAILED, str(problem))
        except OutboxUnavailable as problem:  # an agent that is just starting holds the file and has not spoken yet
            if not patience:
                fail(Exit.FAILED, f"the buffer cannot be read now: {problem}")
            time.sleep(START_WAIT_S)
    if state is None:
        fail(Exit.NOTHING_THERE, f"there is no buffer in {settings.data_dir} yet: has the agent ever run?")
    return state.summary()


def _next_word(data_dir: Path, status: Mapping[str, object]) -> Mapping[str, object]:
    """What the running agent says next. It speaks every second; one that does not within five is stuck, and its last word has to do."""
    deadline = time.monotonic() + NEXT_WORD_S
    while time.monotonic() < deadline:
        time.sleep(0.05)
        later = read_status(data_dir)
        if later is not None and (later.get("pid"), later.get("written_ms")) != (status.get("pid"), status.get("written_ms")):
            return later
        if not is_running(status):
            return status
    say("the agent has not reported for five seconds, these numbers are its last: see `edgectl status`")
    return status
