"""A copy of the DuckDB store as it stood at one moment, made while appends and queries go on."""

import contextlib
import itertools
import os
from pathlib import Path
from typing import Any

import duckdb

from cloud.telemetry.model import Position

_numbers = itertools.count(1)


class Copying:
    """What is copied is settled when this is made; `finish` then takes its time, in any thread."""

    def __init__(self, cursor: Any, file: Path) -> None:
        """`file` must not exist yet. Raises duckdb.Error."""
        self._cursor, self._file = cursor, file
        self._name = f"copy_{next(_numbers)}"  # databases are attached for all cursors
        (self._from,) = cursor.execute("SELECT current_database()").fetchone()
        quoted = str(file).replace("'", "''")
        cursor.execute(f"ATTACH '{quoted}' AS {self._name}")
        try:
            cursor.begin()
            self.position = Position(*cursor.execute("SELECT stream_id, sequence FROM position").fetchone())  # the snapshot begins here
        except BaseException:  # raised again: whatever it was, nothing half made may stay behind
            self.abandon()
            raise

    def finish(self) -> None:
        """Write the copy out, durably. Raises duckdb.Error."""
        try:
            self._cursor.execute(f'COPY FROM DATABASE "{self._from}" TO {self._name}')
            self._cursor.commit()
            self._cursor.execute(f"CHECKPOINT {self._name}")
        finally:
            self.abandon()
        with self._file.open("rb") as written:
            os.fsync(written.fileno())

    def abandon(self) -> None:
        """Let go of the snapshot; what was written of the copy stays behind."""
        with contextlib.suppress(duckdb.Error):  # nothing is open after a commit
            self._cursor.rollback()
        self._cursor.execute(f"DETACH {self._name}")
        self._cursor.close()
