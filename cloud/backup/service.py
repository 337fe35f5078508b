"""Use cases: make a backup of a platform that runs, and make a platform of a backup. Everything here blocks, but for `Backup.make`.

The store may be ahead of the metadata by what was appended and not committed yet. Appends are held until both stand at the same message;
then the metadata is copied, the store's snapshot is settled, and appends go on while the store is written out.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import msgspec

from cloud.backup.model import AS_THEY_ARE, FORMAT, MANIFEST, POSTGRESQL, SQLITE, TELEMETRY, Manifest, describe, files_in
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database
from cloud.foundation.db_copy import copy_database, restore_postgresql
from cloud.ingest.service import load_memory
from cloud.telemetry.copying import Copying
from cloud.telemetry.duckdb_store import DuckDbStore
from cloud.telemetry.model import Position
from protocols.errors import Reason, Refused, TryAgain

CATCH_UP_S: Final = 10.0

Exclusively = Callable[[Callable[[Path], Copying], Path], Awaitable[Copying]]


@dataclass(frozen=True)
class Backup:
    """Backups of one platform. `exclusively` calls while nothing is appended."""

    store: DuckDbStore
    database: Database
    directory: Path
    exclusively: Exclusively

    async def make(self, folder: Path) -> Manifest:
        """Leave a backup in `folder`, whole or not at all.

        Raises Refused when there is something already or no room, TryAgain when ingest does not catch up.
        """
        began = time.monotonic()
        with _becoming(folder) as part:
            held_from = time.monotonic()
            try:
                copying = await self.exclusively(self._settle, part)
                made_ms, held_s = now_ms(), time.monotonic() - held_from
                await asyncio.to_thread(copying.finish)
            except duckdb.Error as error:
                raise Refused(Reason.BAD_CONFIGURATION, f"the store could not be written to {folder}: {error}") from error
            files = await asyncio.to_thread(lambda: {name: describe(part / name) for name in files_in(part)})
            took_ms = round((time.monotonic() - began) * 1000)
            manifest = Manifest(FORMAT, made_ms, round(held_s * 1000), took_ms, copying.position, files)
            (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        return manifest

    def _settle(self, part: Path) -> Copying:
        copying = self.store.begin_copy(part / TELEMETRY)
        try:
            deadline = time.monotonic() + CATCH_UP_S
            while (committed := load_memory(self.database, 0).position or Position()) != copying.position:
                if time.monotonic() > deadline:
                    hint = "start the platform, and ingest with it, so that it catches up"
                    raise TryAgain(f"the metadata is at {committed}, the store at {copying.position}: {hint}")
                time.sleep(0.005)
            copy_database(self.database, part / (SQLITE if self.database.is_sqlite else POSTGRESQL))
            for name in AS_THEY_ARE:
                source = self.directory / name
                if source.is_dir():
                    shutil.copytree(source, part / name, ignore=shutil.ignore_patterns("incoming"), copy_function=_link_or_copy)
                elif source.exists():
                    shutil.copy2(source, part / name)
        except BaseException:  # raised again: whatever it was, nothing half made may stay behind
            copying.abandon()
            raise
        return copying


def restore(folder: Path, directory: Path, database_url: str | None) -> Manifest:
    """Make a data directory of a backup; `database_url` names the empty PostgreSQL database, if the platform was on one.

    Raises Refused when the backup is damaged, or the directory or the database holds something.
    """
    manifest = Manifest.read(folder)
    manifest.check(folder)
    if manifest.on_sqlite and database_url is not None:
        raise Refused(Reason.BAD_CONFIGURATION, "this platform was on SQLite: unset HEARTHLINE_DATABASE_URL to restore it")
    if not manifest.on_sqlite and database_url is None:
        raise Refused(Reason.BAD_CONFIGURATION, "this platform was on PostgreSQL: let HEARTHLINE_DATABASE_URL name an empty database")
    with _becoming(directory) as part:
        for name in manifest.files:
            if name != POSTGRESQL:
                (part / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                shutil.copy2(folder / name, part / name)
        if database_url is not None:
            restore_postgresql(database_url, folder / POSTGRESQL)
    return manifest


@contextlib.contextmanager
def _becoming(folder: Path) -> Iterator[Path]:
    """A folder beside it that becomes `folder` at the end, durably; nothing is left of it after an error."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(Reason.BAD_CONFIGURATION, f"{folder} holds something already: choose a folder that does not exist")
    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a try that was killed
        part.mkdir(parents=True, mode=0o700)
        yield part
        for path in (*(part / name for name in files_in(part)), part / MANIFEST, *part.rglob("*/"), part):
            if path.exists():
                _sync(path)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise Refused(Reason.BAD_CONFIGURATION, f"cannot write {folder}: {error.strerror or error}") from error
    except BaseException:  # raised again: whatever it was, nothing half made may stay behind
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _link_or_copy(source: str, target: str) -> None:
    """Appends wait meanwhile, and an artefact never changes: a second name for its bytes will do, where the file system has one."""
    if "artefacts" in Path(source).parts:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


async def make_alone(store: DuckDbStore, database: Database, directory: Path, folder: Path) -> Manifest:
    """A backup of a platform that does not run."""

    async def exclusively(settle: Callable[[Path], Copying], part: Path) -> Copying:
        return settle(part)

    return await Backup(store, database, directory, exclusively).make(folder)
