"""Options that several verbs of `fwsim` share."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from protocols.errors import Reason, Refused

LogDir = Annotated[Path | None, typer.Option(help="Directory of the logs, one JSON line per row; a temporary one if not given.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same machine.")]
Host = Annotated[str, typer.Option(help="Address to bind or to connect to.")]


def log_dir_of(given: Path | None) -> Path:
    """The directory that was named, or a fresh one."""
    return given or Path(tempfile.mkdtemp(prefix="fwsim-"))


def positive(name: str, value: float | None) -> None:
    """Raises Refused for a value that is 0 or below."""
    if value is not None and not value > 0:
        raise Refused(Reason.BAD_CONFIGURATION, f"{name} has to be above 0, not {value:g}")
