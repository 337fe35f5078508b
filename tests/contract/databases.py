"""Real metadata databases for tests: SQLite in a file, and a PostgreSQL server of our own when its programs are installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

import cloud.artefacts.tables
import cloud.devices.tables
import cloud.foundation.audit
import cloud.foundation.idempotency
import cloud.ingest.tables
import cloud.products.tables
import cloud.rollouts.tables
import cloud.tenancy.tables  # noqa: F401 - the schema is that of every slice
from cloud.foundation.db import Database


def postgresql_programs() -> Path | None:
    """The newest installed server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


class PostgresqlServer:
    """A throw-away server on a free loopback port. `url` goes up to the database's name."""

    def __init__(self) -> None:
        programs = postgresql_programs()
        assert programs is not None
        self._programs = programs
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self._directory = Path(tempfile.mkdtemp(prefix="hearthline-pg-"))
        # The server refuses to run as root.
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._as_user:
            shutil.chown(self._directory, "postgres", "postgres")
        self._options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{self._directory}' -c fsync=off"
        self._call("initdb", "-D", str(self._directory / "data"), "-U", "hearthline", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.url = f"postgresql+psycopg://hearthline@127.0.0.1:{port}/"

    def start(self) -> None:
        self._control("-l", str(self._directory / "log"), "-o", self._options, "start")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def _control(self, *words: str) -> None:
        self._call("pg_ctl", "-D", str(self._directory / "data"), "-w", "-t", "60", *words)

    def _call(self, program: str, *words: str) -> None:
        command = [*self._as_user, str(self._programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, cwd=self._directory)


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """It runs inside the block, and nothing is left of it."""
    server = PostgresqlServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.remove()


@contextmanager
def postgresql_database(server: str, name: str) -> Iterator[Database]:
    """A new, empty database on a server of ours; `server` is its `url`."""
    admin = Database(server + "postgres")
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.close()
    database = Database(server + name)
    try:
        yield database
    finally:
        database.close()


def sqlite_database(directory: Path) -> Database:
    return Database(f"sqlite:///{directory / 'meta.db'}")
