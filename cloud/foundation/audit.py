"""The audit trail: who did what to what, and when. It is written in the transaction of the deed, and never changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Index, String, Text, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from cloud.foundation.clock import now_ms
from cloud.foundation.db import Id, Model, TenantOwned, UnitOfWork


class AuditRow(TenantOwned, Model):
    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_tenant_id_subject_id", "tenant_id", "subject", "id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    time_ms: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128))
    detail: Mapped[str] = mapped_column(Text)


@dataclass(frozen=True, slots=True)
class Deed:
    """One line of the trail; `actor` is an API key's name, `device`, or `platform`."""

    number: int
    time_ms: int
    actor: str
    action: str
    subject: str
    detail: Any


def record(session: Session, tenant_id: int, actor: str, action: str, subject: str, detail: Mapping[str, object] | None = None) -> None:
    """Add a line; it counts once the transaction does."""
    text = msgspec.json.encode(detail or {}).decode()
    session.add(AuditRow(tenant_id=tenant_id, time_ms=now_ms(), actor=actor[:128], action=action, subject=subject[:128], detail=text))


def deeds(work: UnitOfWork, subject: str | None, before: int, limit: int) -> list[Deed]:
    """The tenant's trail, newest first, of one subject or of all; `before` is a line's number, 0 for the newest."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(AuditRow.subject == subject)
    if before:
        query = query.where(AuditRow.id < before)
    return [
        Deed(row.id, row.time_ms, row.actor, row.action, row.subject, msgspec.json.decode(row.detail))
        for row in work.session.scalars(query)
    ]
