"""`Idempotency-Key`: a request that is sent again takes effect once, and is answered as it was the first time.

The answer is stored in the transaction of the effect, so that there is either both or neither, whatever becomes of the process in between.
A request that failed had no effect and stores nothing: sent again, it is tried again. A key belongs to a tenant and is kept for 24 h; of a
tenant the newest 100,000 are kept, and what is beyond is forgotten first, as if it were older. Answers are sealed: they may hold a secret.

Two at once: on SQLite the second waits for the write lock, on PostgreSQL for the row with the key; then it finds the answer. Where the
effect goes on after the commit (a command on its way to a device), the key is `running` until its route settles it, for 30 s at most.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, UniqueConstraint, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from cloud.foundation.clock import now_ms
from cloud.foundation.crashpoint import crash_point
from cloud.foundation.db import Database, Id, Model, TenantOwned, UnitOfWork, is_duplicate
from cloud.foundation.logs import get_logger
from cloud.foundation.problems import Problem
from cloud.foundation.vault import Vault
from protocols.errors import TryAgain

KEPT_MS: Final = 24 * 3_600_000
MOST: Final = 100_000
RUNNING_MS: Final = 30_000
_TIDIED_ONCE_IN: Final = 64  # new keys, by chance: their numbers are shared by all tenants
_FORGOTTEN_EVERY_S: Final = 3_600.0
_RUNNING, _DONE = "running", "done"


class IdempotencyRow(TenantOwned, Model):
    """The first request with a key and its answer: `answer` opens with the vault to JSON `[headers, body]`."""

    __tablename__ = "idempotency"
    __table_args__ = (UniqueConstraint("tenant_id", "key"), Index("ix_idempotency_created_ms", "created_ms"))

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    key: Mapped[str] = mapped_column(String(255))
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    state: Mapped[str] = mapped_column(String(16))
    status: Mapped[int | None] = mapped_column(Integer)
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class Idempotent:
    """One request with its key, or without one: then everything here only commits and answers.

    In a route: `known` first, in the unit of work of the effect; then the effect; then `commit`.
    """

    def __init__(self, vault: Vault, key: str | None, digest: bytes) -> None:
        self._vault, self._key, self._digest = vault, key, digest
        self._row: IdempotencyRow | None = None

    def known(self, work: UnitOfWork) -> Response | None:
        """The stored answer when the request was carried out before. Otherwise None, and its key is taken until the unit of work ends.

        Raises Problem 422 (the key belongs to another request), 409 (the first one is still running).
        """
        if self._key is None:
            return None
        row = self._find(work)
        if row is not None and row.created_ms < now_ms() - KEPT_MS:
            work.session.delete(row)
            work.session.flush()
            row = None
        if row is None:
            row = self._take(work)
        return None if row is None else self._stored(work, row)

    def commit(
        self, work: UnitOfWork, answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None, *, running: bool = False
    ) -> Response:
        """Commit the effect together with its answer. With `running` the route calls `settle` or `release` when it knows the outcome."""
        body = answer.model_dump_json().encode()
        if self._row is not None:
            packed = msgspec.json.encode((dict(headers or {}), body.decode()))
            self._row.status, self._row.state = status, _RUNNING if running else _DONE
            self._row.answer = self._vault.seal(packed, self._context(work))
        work.commit()
        crash_point("core.after_effect_commit")
        return Response(body, status, headers, "application/json")

    def settle(self, work: UnitOfWork) -> None:
        """What went on after the commit went well: the stored answer is the answer. The caller commits."""
        if self._key is not None:
            work.session.execute(update(IdempotencyRow).where(IdempotencyRow.key == self._key).values(state=_DONE))

    def release(self, work: UnitOfWork) -> None:
        """What went on after the commit failed, and was undone in this unit of work: the request may be tried again. The caller commits."""
        if self._key is not None:
            work.session.execute(delete(IdempotencyRow).where(IdempotencyRow.key == self._key, IdempotencyRow.state == _RUNNING))

    @property
    def given(self) -> bool:
        """Whether the request came with a key."""
        return self._key is not None

    def _find(self, work: UnitOfWork) -> IdempotencyRow | None:
        return work.session.scalars(select(IdempotencyRow).where(IdempotencyRow.key == self._key)).one_or_none()

    def _take(self, work: UnitOfWork) -> IdempotencyRow | None:
        """Enter the key; the row of another request that was faster, else None."""
        row = IdempotencyRow(key=self._key, digest=self._digest, state=_RUNNING, status=None, answer=None, created_ms=now_ms())
        try:
            with work.session.begin_nested():
                work.session.add(row)
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            found = self._find(work)  # on PostgreSQL, where we waited for its commit
            if found is None:
                raise TryAgain("the first request with this key has just been undone") from error
            return found
        self._row = row
        if secrets.randbelow(_TIDIED_ONCE_IN) == 0:
            keep_newest(work)
        return None

    def _stored(self, work: UnitOfWork, row: IdempotencyRow) -> Response:
        if row.digest != self._digest:
            detail = "This Idempotency-Key came with another request before; send this one with a new key."
            raise Problem(422, "idempotency-key-reused", detail)
        if row.answer is None or row.status is None or (row.state == _RUNNING and now_ms() < row.created_ms + RUNNING_MS):
            detail = "The first request with this Idempotency-Key is still running; send the same request again in a second."
            raise Problem(409, "idempotency-in-progress", detail, headers={"Retry-After": "1"})
        headers, body = msgspec.json.decode(self._vault.open(row.answer, self._context(work)), type=tuple[dict[str, str], str])
        return Response(body.encode(), row.status, {**headers, "Idempotency-Replayed": "true"}, "application/json")

    def _context(self, work: UnitOfWork) -> str:
        return f"idempotency/{work.tenant_id}/{self._key}"


def keep_newest(work: UnitOfWork, most: int = MOST) -> None:
    """Hold a tenant to its bound: the oldest keys go."""
    beyond = work.session.scalar(select(IdempotencyRow.id).order_by(IdempotencyRow.id.desc()).offset(most).limit(1))
    if beyond is not None:
        work.session.execute(delete(IdempotencyRow).where(IdempotencyRow.id <= beyond))


def forget_expired(database: Database) -> int:
    """Delete the keys of all tenants that are older than 24 h; how many there were. Raises DatabaseAway."""
    with database.system() as work:
        done = work.session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_ms < now_ms() - KEPT_MS))
        work.commit()
    return int(done.rowcount)  # type: ignore[attr-defined]  # a DELETE's result has it


async def forget_regularly(database: Database) -> None:
    """`forget_expired` every hour, until cancelled."""
    while True:
        try:
            await asyncio.to_thread(forget_expired, database)
        except TryAgain as error:
            get_logger().warning("idempotency.not_forgotten", error=str(error))
        await asyncio.sleep(_FORGOTTEN_EVERY_S)


async def _idempotent(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="Your own name for this request: sent again within 24 h it has no second effect, and the same answer.",
        ),
    ] = None,
) -> Idempotent:
    digest = hashlib.sha256()
    if key is not None:
        for part in (request.method.encode(), request.url.path.encode(), request.url.query.encode(), await request.body()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return Idempotent(request.app.state.vault, key, digest.digest())


Once = Annotated[Idempotent, Depends(_idempotent)]
