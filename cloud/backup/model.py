"""A backup as a value: what lies in its folder, checked by digest, and what of the platform it holds."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec

from cloud.telemetry.model import Position
from protocols.errors import Reason, Refused

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
TELEMETRY: Final = "telemetry.duckdb"
SQLITE: Final = "meta.db"
POSTGRESQL: Final = "meta.pgdump"
AS_THEY_ARE: Final = ("secret.key", "tls", "artefacts")
"""What of a data directory is copied as it is: without the key nobody reads the device secrets, without the CA no gateway trusts us, and
without the artefacts no device finds the firmware that it was offered."""


class File(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """`made_ms`: what the platform had taken by then is in the backup. `held_ms`: how long appends waited for it."""

    format: int
    made_ms: int
    held_ms: int
    took_ms: int
    position: Position
    files: dict[str, File]

    @property
    def on_sqlite(self) -> bool:
        return SQLITE in self.files

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises Refused when this is no backup, or one that this version does not know."""
        try:
            found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise Refused(Reason.BAD_CONFIGURATION, f"{folder} holds no backup: {MANIFEST}: {error}") from error
        if found.format != FORMAT:
            raise Refused(
                Reason.BAD_CONFIGURATION, f"{folder} is a backup of format {found.format}; restore it with the version that made it"
            )
        return found

    def check(self, folder: Path) -> None:
        """Raises Refused naming the first file that is not what was written."""
        for name, file in self.files.items():
            try:
                sound = describe(folder / name) == file
            except OSError:
                sound = False
            if not sound:
                raise Refused(Reason.BAD_CONFIGURATION, f"{folder / name} is missing or damaged: take another backup")


def describe(file: Path) -> File:
    """Its size and digest. Raises OSError."""
    with file.open("rb") as opened:
        return File(file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest())


def files_in(folder: Path) -> Iterator[str]:
    """The files below a folder by their relative names, but for the manifest."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MANIFEST:
            yield str(file.relative_to(folder))
