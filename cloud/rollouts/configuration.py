"""Use cases of configurations: one file for all devices of a product. Everything here blocks: asyncio code runs it in a thread.

A device asks for it, or is told that it changed; either way it downloads from an address that ends with the next file.
"""

import secrets
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from cloud.artefacts.model import Artefact
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork
from cloud.rollouts.model import Configuration
from cloud.rollouts.tables import ConfigurationRow

MOST_BYTES: Final = 1 << 20


def put_configuration(work: UnitOfWork, product_key: str, artefact: Artefact) -> Configuration:
    """Give a product this file in place of the one before; whether it is switched on stays as it is."""
    row = _row(work.session, product_key)
    if row is None:
        row = ConfigurationRow(product_key=product_key, enabled=True, revision=0)
        work.session.add(row)
    row.artefact_id, row.sha256, row.size = artefact.artefact_id, artefact.sha256, artefact.size
    row.token, row.revision, row.updated_ms = secrets.token_hex(24), row.revision + 1, now_ms()
    work.session.flush()
    return _configuration(row)


def find_configuration(work: UnitOfWork, product_key: str) -> Configuration | None:
    row = _row(work.session, product_key)
    return None if row is None else _configuration(row)


def delete_configuration(work: UnitOfWork, product_key: str) -> bool:
    """False when there is none."""
    done = work.session.execute(delete(ConfigurationRow).where(ConfigurationRow.product_key == product_key))
    return bool(done.rowcount)  # type: ignore[attr-defined]  # a DELETE's result has it


def switch_configuration(work: UnitOfWork, product_key: str, enabled: bool) -> None:
    """While it is switched off devices are told so, and cannot download it."""
    change = update(ConfigurationRow).where(ConfigurationRow.product_key == product_key)
    work.session.execute(change.values(enabled=enabled, updated_ms=now_ms()))


def count_configurations(work: UnitOfWork, product_key: str) -> int:
    """1 or 0: a product that has one is not deleted."""
    return int(_row(work.session, product_key) is not None)


def configuration_for(session: Session, tenant_id: int, product_key: str) -> Configuration | None:
    """What a device of the product is given; `session` is of the whole system."""
    row = _row(session, product_key)
    return None if row is None or row.tenant_id != tenant_id else _configuration(row)


def download_of(database: Database, token: str) -> str | None:
    """The sha256 of what may be downloaded with this token."""
    query = select(ConfigurationRow.sha256).where(ConfigurationRow.token == token, ConfigurationRow.enabled)
    with database.system_reading() as work:
        return work.session.scalar(query)


def _row(session: Session, product_key: str) -> ConfigurationRow | None:
    return session.scalars(select(ConfigurationRow).where(ConfigurationRow.product_key == product_key)).one_or_none()


def _configuration(row: ConfigurationRow) -> Configuration:
    return Configuration(f"{row.id}-{row.revision}", row.product_key, row.size, row.sha256, row.token, row.enabled, row.updated_ms)
