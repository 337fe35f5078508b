"""Disk space put aside beside the buffer: given up when the disk is full, so that alarms, replies and the cloud's commits still fit."""

import os
from contextlib import suppress
from pathlib import Path

MARGIN = 2
"""The ballast is put back when the disk has so many times its size free."""


class Ballast:
    """A file of `size` bytes (0: none). Nothing here raises: a disk that refuses the ballast has none to give."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def put(self) -> bool:
        """Make the file unless it is there; whether it is there now."""
        if not self._size:
            return False
        try:
            if self._path.stat().st_size == self._size:
                return True
        except OSError:
            pass
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, self._size)
            finally:
                os.close(handle)
        except OSError:
            self.drop()
            return False
        return True

    def drop(self) -> bool:
        """Give the space up; whether there was any."""
        with suppress(OSError):
            self._path.unlink()
            return True
        return False

    def has_room(self) -> bool:
        """Whether the disk has room again for the ballast and for work beside it."""
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return False
        return found.f_bavail * found.f_frsize >= MARGIN * max(self._size, 1 << 20)
