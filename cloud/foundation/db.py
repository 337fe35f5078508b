"""Metadata database: the unit of work with its tenant filter, on SQLite or PostgreSQL.

A unit of work that belongs to a tenant sees and changes only that tenant's rows: every ORM statement is filtered, every new row is
stamped, and statements the filter cannot reach (Core tables, text, bulk inserts) are refused. The roles use `system()` units without it.
"""

import importlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from sqlalchemy import BigInteger, Executable, ForeignKey, Integer, MetaData, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, ORMExecuteState, Session, mapped_column, with_loader_criteria

from protocols.errors import Broken, TryAgain

# Autoincrement in SQLite works on INTEGER only; elsewhere ids are 64 bits.
Id = BigInteger().with_variant(Integer(), "sqlite")

# One statement carries at most this many keys, far below SQLite's and PostgreSQL's limits on parameters.
KEYS_A_STATEMENT = 500


def _sqlite_library() -> Any:
    """The SQLite of the `pysqlite3` wheel where there is one, else Python's own."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return sqlite3


SQLITE = _sqlite_library()


class Model(DeclarativeBase):
    """Root of every table."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class TenantOwned:
    """A row that one tenant owns; the unit of work fills and filters `tenant_id`."""

    tenant_id: Mapped[int] = mapped_column(Id, ForeignKey("tenant.id"), index=True)


class DatabaseAway(TryAgain):
    """The metadata database is locked, unreachable or out of connections; nothing was committed."""


class UnitOfWork(AbstractContextManager["UnitOfWork"]):
    """One transaction. Leaving without `commit()` rolls back. Raises DatabaseAway for what a retry may cure."""

    def __init__(self, engine: Engine, tenant_id: int | None) -> None:
        self.tenant_id = tenant_id
        self.session = Session(engine, expire_on_commit=False, info={"tenant_id": tenant_id})

    def commit(self) -> None:
        self.session.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.session.close()
        except DBAPIError:
            if error is None:
                raise
        if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
            raise DatabaseAway(f"the metadata database did not answer: {error}") from error


class Database:
    """One engine. `url` is `sqlite:///FILE` or `postgresql+psycopg://...`. All its calls block: asyncio code runs them in a thread."""

    def __init__(self, url: str, *, pool_size: int = 5, pool_timeout_s: float = 1.0, sqlite_library: Any = SQLITE) -> None:
        self.url, self.sqlite_library = url, sqlite_library
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        arguments: dict[str, Any] = {"timeout": 10, "check_same_thread": False} if self.is_sqlite else {"connect_timeout": 10}
        self._engine = create_engine(
            url,
            module=sqlite_library if self.is_sqlite else None,
            connect_args=arguments,
            pool_pre_ping=not self.is_sqlite,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=pool_timeout_s,
        )
        if self.is_sqlite:
            mode = journal_mode(sqlite_library)
            event.listen(self._engine, "connect", lambda connection, _record: _prepare_sqlite(connection, mode))
            event.listen(self._engine, "begin", _begin_sqlite)
        # A reader must not take SQLite's write lock, a writer must take it first or two would deadlock.
        self._reader = self._engine.execution_options(reads_only=True)

    @property
    def engine(self) -> Engine:
        return self._engine

    def unit_of_work(self, tenant_id: int) -> UnitOfWork:
        """A transaction that may write, inside one tenant."""
        return UnitOfWork(self._engine, tenant_id)

    def reading(self, tenant_id: int) -> UnitOfWork:
        """A transaction that only reads, inside one tenant."""
        return UnitOfWork(self._reader, tenant_id)

    def system(self) -> UnitOfWork:
        """A transaction that may write, over all tenants: for roles, never for a request of a user."""
        return UnitOfWork(self._engine, None)

    def system_reading(self) -> UnitOfWork:
        """A transaction that only reads, over all tenants."""
        return UnitOfWork(self._reader, None)

    def ping(self) -> None:
        """Raises DatabaseAway when the database does not answer."""
        with self.system_reading() as work:
            work.session.execute(text("SELECT 1"))

    def close(self) -> None:
        self._engine.dispose()


def upsert(
    session: Session,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    keys: Iterable[str],
    newer_if: Callable[[Any, Any], Any] | None = None,
    added: Iterable[str] = (),
) -> None:
    """Insert rows or, where `keys` exist, replace the other columns given; `newer_if(new, old)` makes the condition on columns.

    Columns in `added` are numbers that are added to what is there.

    One executemany on both engines. Rows must be unique by `keys`, as PostgreSQL refuses to touch a row twice in a statement.
    The statement is built once for each `newer_if`: give a function of the module, not a lambda made in the call.
    """
    if rows:
        session.execute(
            _upsert_statement(session.get_bind().dialect.name, table, tuple(rows[0]), tuple(keys), newer_if, tuple(added)), list(rows)
        )


@lru_cache(maxsize=256)
def _upsert_statement(
    dialect: str,
    table: Table,
    columns: tuple[str, ...],
    keys: tuple[str, ...],
    newer_if: Callable[[Any, Any], Any] | None,
    added: tuple[str, ...],
) -> Executable:
    statement = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    fresh = statement.excluded
    changed = {name: table.c[name] + fresh[name] if name in added else fresh[name] for name in columns if name not in keys}
    condition = newer_if(fresh, table.c) if newer_if else None
    return statement.on_conflict_do_update(index_elements=keys, set_=changed, where=condition)


def is_duplicate(error: IntegrityError) -> bool:
    """Whether a unique key, not another constraint, refused the row."""
    message = str(error.orig).lower()
    return "unique" in message or "duplicate key" in message


def journal_mode(library: Any) -> str:
    """Before 3.51.3 SQLite can corrupt a WAL file of several processes (Python 3.11 brings 3.40): there a rollback journal it is."""
    return "WAL" if library.sqlite_version_info >= (3, 51, 3) else "TRUNCATE"


def _prepare_sqlite(connection: Any, mode: str) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late and too weak: see _begin_sqlite
    # FULL survives a power cut in both modes; WAL costs one fsync a commit instead of five, and readers never wait for the writer.
    for pragma in ("busy_timeout=10000", f"journal_mode={mode}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads_only") else "BEGIN IMMEDIATE")


@event.listens_for(Session, "do_orm_execute")
def _filter_by_tenant(state: ORMExecuteState) -> None:
    tenant_id = state.session.info.get("tenant_id")
    if tenant_id is None:
        return
    if not state.is_orm_statement or state.is_insert or state.is_from_statement:
        raise Broken("a tenant's unit of work runs only ORM queries, updates and deletes: the tenant filter reaches nothing else")
    if not state.is_column_load and not state.is_relationship_load:
        state.statement = state.statement.options(
            with_loader_criteria(TenantOwned, lambda table: table.tenant_id == tenant_id, include_aliases=True)
        )


@event.listens_for(Session, "before_flush")
def _stamp_tenant(session: Session, _context: Any, _instances: Any) -> None:
    tenant_id = session.info.get("tenant_id")
    for row in session.new:
        if not isinstance(row, TenantOwned):
            continue
        owner: int | None = row.tenant_id  # unset on a new row, whatever the column says
        if owner is None and tenant_id is not None:
            row.tenant_id = owner = tenant_id
        if owner is None or (tenant_id is not None and owner != tenant_id):
            raise Broken(f"a row of {type(row).__name__} belongs to no tenant or to another one")
    if tenant_id is not None:
        for row in session.dirty:
            if isinstance(row, TenantOwned) and row.tenant_id != tenant_id:
                raise Broken(f"a row of {type(row).__name__} may not change its tenant")
