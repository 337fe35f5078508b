"""Use cases of artefacts: bytes come in as a stream, are fsynced under their digest, and go out from there. Everything here blocks.

A file is written under a name of its own, fsynced, and renamed; the row comes after. A file without a row harms nobody, and the next
upload of the same bytes takes it.
"""

import hashlib
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from sqlalchemy import select

from cloud.artefacts.model import Artefact, Kind
from cloud.artefacts.tables import ArtefactRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork
from protocols.errors import Reason, Refused


class Depot:
    """The folder of all artefacts: `<first two hex digits>/<sha256>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def receive(self, most_bytes: int) -> "Upload":
        """An upload of at most so many bytes."""
        incoming = self._folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Upload(self, incoming / secrets.token_hex(8), most_bytes)


class Upload:
    """Bytes on their way in; leaving without `finish` forgets them."""

    def __init__(self, depot: Depot, path: Path, most_bytes: int) -> None:
        self._depot, self._path, self._most = depot, path, most_bytes
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._file: IO[bytes] = path.open("xb")
        self.size = 0

    def write(self, data: bytes) -> None:
        """Raises Refused(TOO_MANY) beyond the bound."""
        self.size += len(data)
        if self.size > self._most:
            raise Refused(
                Reason.TOO_MANY, f"at most {self._most} bytes are taken: make it smaller; HEARTHLINE_FIRMWARE_MIB bounds firmware"
            )
        self._sha256.update(data)
        self._md5.update(data)
        self._file.write(data)

    def finish(self) -> tuple[str, str]:
        """(sha256, md5) in hex, once the bytes are on disk. Raises Refused for none at all."""
        if not self.size:
            raise Refused(Reason.MISSING_PARAMETER, "send its bytes as the body of the request")
        self._file.flush()
        os.fsync(self._file.fileno())
        sha256 = self._sha256.hexdigest()
        target = self._depot.path_of(sha256)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.rename(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return sha256, self._md5.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def keep(work: UnitOfWork, kind: Kind, sha256: str, md5: str, size: int) -> Artefact:
    """Enter bytes that are on disk; the same bytes of the same tenant are one artefact."""
    row = work.session.scalars(select(ArtefactRow).where(ArtefactRow.sha256 == sha256)).one_or_none()
    if row is None:
        row = ArtefactRow(kind=str(kind), sha256=sha256, md5=md5, size=size, created_ms=now_ms())
        work.session.add(row)
        work.session.flush()
    return Artefact(row.id, row.kind, row.sha256, row.md5, row.size, row.created_ms)
