"""Where TinyDB documents live: a new file is written, fsynced and renamed, and the last good one is kept beside it.

TinyDB's own storage truncates in place, which a power cut turns into an empty file.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from tinydb.storages import Storage

log = logging.getLogger("edge.documents")

Document = dict[str, dict[str, Any]]


def write_atomically(path: Path, data: bytes, *, keep: Path | None = None, mode: int = 0o600) -> None:
    """Replace `path` with `data` so that a power cut leaves the old or the new file, whole; the old one becomes `keep`."""
    fresh = path.with_name(path.name + ".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    if keep is not None and path.exists():
        keep.unlink(missing_ok=True)
        os.link(path, keep)  # the old file stays reachable at every moment
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


class AtomicStorage(Storage):
    """A TinyDB storage that survives power cuts; a damaged document falls back to the last good one, and says so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_good = path.with_name(path.name + ".last-good")

    def read(self) -> Document | None:
        """The newest whole document, or None for a new one."""
        damaged = False
        for candidate in (self._path, self._last_good):
            try:
                document = json.loads(candidate.read_bytes())
            except FileNotFoundError:
                continue
            except ValueError:
                damaged = True
                log.error("document.damaged", extra={"path": str(candidate)})
                continue
            if isinstance(document, dict):
                return document
            damaged = True
        if damaged:
            aside = self._path.with_name(self._path.name + ".damaged")
            if self._path.exists():
                self._path.replace(aside)  # kept for whoever wants to look; the agent goes on with an empty one
        return None

    def write(self, data: Document) -> None:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        write_atomically(self._path, text, keep=self._last_good)
