"""Real metadata databases for tests: SQLite in a file, and a PostgreSQL server of our own when its programs are installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cloud.devices.tables
import cloud.ingest.tables
import cloud.products.tables
import cloud.tenancy.tables  # noqa: F401 - the schema is that of every slice
from cloud.foundation.db import Database


def postgresql_programs() -> Path | None:
    """The newest installed server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def postgresql_server() -> Iterator[str]:
    """A throw-away server on a free loopback port; yields the URL of its first database up to the database's name."""
    programs = postgresql_programs()
    assert programs is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="hearthline-pg-"))
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        shutil.chown(directory, "postgres", "postgres")

    def call(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, capture_output=True, cwd=directory)

    data = str(directory / "data")
    control = [str(programs / "pg_ctl"), "-D", data, "-w", "-t", "60"]
    call(str(programs / "initdb"), "-D", data, "-U", "hearthline", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{directory}' -c fsync=off"
    call(*control, "-l", str(directory / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://hearthline@127.0.0.1:{port}/"
    finally:
        call(*control, "-m", "immediate", "stop")
        shutil.rmtree(directory, ignore_errors=True)


def sqlite_database(directory: Path) -> Database:
    return Database(f"sqlite:///{directory / 'meta.db'}")
