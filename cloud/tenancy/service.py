"""Use cases around tenants and keys. Everything here blocks: asyncio code runs it in a thread."""

import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import func, select

from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork
from cloud.tenancy.model import ApiKey, Principal, Tenant, digest, key_prefix, matches, new_api_key
from cloud.tenancy.tables import ApiKeyRow, TenantRow
from protocols.errors import Reason, Refused


def authenticate(database: Database, key: str) -> Principal | None:
    """Whose key this is, None when it is nobody's or revoked. Raises DatabaseAway."""
    prefix = key_prefix(key)
    if prefix is None:
        return None
    with database.system_reading() as work:
        row = work.session.scalars(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix)).one_or_none()
    if row is None or row.revoked_ms is not None or not matches(key, row.digest):
        return None
    return Principal(row.tenant_id, row.name)


class KnownKeys:
    """Whose keys were shown within the last second: most requests are not the first with their key, and need no look into the database.

    A revoked key is known so much longer. Up to 4,096 keys, by digest. One thread at a time.
    """

    FRESH_S: Final = 1.0
    MOST: Final = 4_096

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[bytes, tuple[float, Principal]] = {}

    def get(self, key: str) -> Principal | None:
        until, principal = self._held.get(digest(key), (0.0, None))
        return principal if self._clock() < until else None

    def remember(self, key: str, principal: Principal, seen: float) -> None:
        """The database knew the key when it was asked at `seen`, on our clock."""
        if len(self._held) >= self.MOST:
            self._held.clear()
        self._held[digest(key)] = (seen + self.FRESH_S, principal)


def key_holder(database: Database, prefix: str) -> Principal | None:
    """Whose key has this prefix, None when there is none or it is revoked. It proves nothing: the caller knows that the key was shown."""
    with database.system_reading() as work:
        row = work.session.scalars(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix)).one_or_none()
    return None if row is None or row.revoked_ms is not None else Principal(row.tenant_id, row.name)


def create_tenant(work: UnitOfWork, name: str) -> Tenant:
    """In a unit of work of the whole system. Raises Refused when the name is taken or not 1 to 64 characters."""
    if not 1 <= len(name) <= 64:
        raise Refused(Reason.OUT_OF_RANGE, "a tenant's name has 1 to 64 characters")
    if work.session.scalar(select(TenantRow.id).where(TenantRow.name == name)) is not None:
        raise Refused(Reason.OUT_OF_RANGE, f"there is a tenant {name} already; choose another name")
    row = TenantRow(name=name, created_ms=now_ms())
    work.session.add(row)
    work.session.flush()
    return Tenant(row.id, row.name, row.created_ms)


def create_api_key(work: UnitOfWork, tenant_id: int, name: str) -> str:
    """The new key in full: this is the only time it can be seen."""
    key = new_api_key()
    prefix = key_prefix(key)
    assert prefix is not None
    work.session.add(ApiKeyRow(tenant_id=tenant_id, name=name, prefix=prefix, digest=digest(key), created_ms=now_ms(), revoked_ms=None))
    work.session.flush()
    return key


def revoke_api_key(work: UnitOfWork, prefix: str) -> None:
    """Works within a second (`KnownKeys`). Raises Refused when there is no such key."""
    row = work.session.scalars(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix)).one_or_none()
    if row is None:
        raise Refused(Reason.BAD_CREDENTIALS, f"there is no key {prefix}; `hearthline tenant keys` lists them")
    row.revoked_ms = row.revoked_ms or now_ms()
    work.session.flush()


def list_api_keys(work: UnitOfWork, tenant_id: int) -> list[ApiKey]:
    rows = work.session.scalars(select(ApiKeyRow).where(ApiKeyRow.tenant_id == tenant_id).order_by(ApiKeyRow.id))
    return [ApiKey(row.prefix, row.name, row.created_ms, row.revoked_ms) for row in rows]


def list_tenants(work: UnitOfWork) -> list[Tenant]:
    return [Tenant(row.id, row.name, row.created_ms) for row in work.session.scalars(select(TenantRow).order_by(TenantRow.id))]


def create_first_tenant(work: UnitOfWork) -> str | None:
    """On an empty database: the tenant `default` and its admin key; None when there are tenants."""
    if work.session.scalar(select(func.count()).select_from(TenantRow)):
        return None
    return create_api_key(work, create_tenant(work, "default").tenant_id, "admin")


def operators_tenant(work: UnitOfWork) -> int:
    """The tenant made first: whoever runs the platform. 0 when there is none yet."""
    return work.session.scalar(select(func.min(TenantRow.id))) or 0


def tenant_id(work: UnitOfWork, name: str) -> int:
    """Raises Refused when there is no such tenant."""
    found = work.session.scalar(select(TenantRow.id).where(TenantRow.name == name))
    if found is None:
        raise Refused(Reason.BAD_CONFIGURATION, f"there is no tenant {name}; `hearthline tenant list` shows them")
    return found
