"""A copy of the metadata database at one moment: SQLite by its own backup, PostgreSQL by `pg_dump` and `pg_restore`."""

import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from cloud.foundation.db import Database
from protocols.errors import Reason, Refused


def copy_database(database: Database, file: Path) -> None:
    """Everything that is committed, into a new file. Raises Refused when the copy could not be made."""
    if not database.is_sqlite:
        _run("pg_dump", database.url, "--format=custom", f"--file={file}")
        return
    with database.engine.connect() as connection, closing(database.sqlite_library.connect(str(file))) as copy:
        raw: Any = connection.connection.driver_connection
        raw.backup(copy)


def restore_postgresql(url: str, file: Path) -> None:
    """Fill an empty database from such a copy, whole or not at all. Raises Refused."""
    database = Database(url)
    try:
        if inspect(database.engine).get_table_names():
            raise Refused(
                Reason.BAD_CONFIGURATION, "the database that HEARTHLINE_DATABASE_URL names holds tables already: make an empty one"
            )
    finally:
        database.close()
    _run("pg_restore", url, "--no-owner", "--single-transaction", "--exit-on-error", str(file))


def _run(program: str, url: str, *arguments: str) -> None:
    found = shutil.which(program)
    if found is None:
        raise Refused(Reason.BAD_CONFIGURATION, f"`{program}` is not on the PATH: install PostgreSQL's client programs")
    parsed = make_url(url).set(drivername="postgresql")
    with tempfile.NamedTemporaryFile("w") as passwords:  # for its owner only; on the command line everybody could read it
        if parsed.password is not None:
            escaped = str(parsed.password).replace("\\", "\\\\").replace(":", "\\:")
            passwords.write(f"*:*:*:*:{escaped}\n")
            passwords.flush()
            parsed = parsed.set(password=None).update_query_dict({"passfile": passwords.name})
        address = parsed.render_as_string(hide_password=False)
        done = subprocess.run([found, f"--dbname={address}", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Refused(Reason.BAD_CONFIGURATION, f"{program}: {done.stderr.strip()[-500:]}")
