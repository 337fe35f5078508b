"""Use cases of binding by a token (alink.md par. 10): who shows the same token as a device holds it in hand. Everything here blocks."""

import hashlib
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cloud.devices.lifecycle import Move
from cloud.devices.moves import move_device
from cloud.devices.tables import DeviceRow, ShownTokenRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork
from cloud.foundation.problems import Problem
from protocols.errors import Reason, Refused

SHOWN_MS: Final = 10 * 60_000
"""So long a token counts after the device showed it."""
SHORTEST, LONGEST = 8, 128
MOST: Final = 10_000
"""Tokens of one tenant that are kept at once; the oldest go first."""


def show_token(session: Session, tenant_id: int, device_id: int, token: str, now_ms: int) -> None:
    """A device shows a token: its newest one counts. The caller commits. Raises Refused(OUT_OF_RANGE)."""
    if not SHORTEST <= len(token) <= LONGEST:
        raise Refused(Reason.OUT_OF_RANGE, f"a token has {SHORTEST} to {LONGEST} characters")
    of_tenant = ShownTokenRow.tenant_id == tenant_id
    session.execute(delete(ShownTokenRow).where(of_tenant, ShownTokenRow.time_ms < now_ms - SHOWN_MS))
    session.execute(delete(ShownTokenRow).where(ShownTokenRow.device_id == device_id))
    session.add(ShownTokenRow(tenant_id=tenant_id, device_id=device_id, digest=_digest(token), time_ms=now_ms))
    session.flush()
    beyond = select(ShownTokenRow.time_ms).where(of_tenant).order_by(ShownTokenRow.time_ms.desc()).offset(MOST).limit(1)
    if (oldest := session.scalar(beyond)) is not None:
        session.execute(delete(ShownTokenRow).where(of_tenant, ShownTokenRow.time_ms <= oldest))


def bind(work: UnitOfWork, token: str, site: str, actor: str) -> tuple[str, str]:
    """Claim the device that shows this token for a site, once: (product key, device name).

    Raises Problem 404 (no device shows it now), 409 (more than one does), Refused(NOT_ALLOWED) when it cannot be claimed.
    """
    query = (
        select(ShownTokenRow, DeviceRow)
        .join(DeviceRow, DeviceRow.id == ShownTokenRow.device_id)
        .where(ShownTokenRow.digest == _digest(token), ShownTokenRow.time_ms >= now_ms() - SHOWN_MS)
        .limit(2)
    )
    found = work.session.execute(query).all()
    if not found:
        detail = "No device has shown this token in the last ten minutes: put the device into pairing again, and send its new token."
        raise Problem(404, "no-such-token", detail)
    if len(found) > 1:
        detail = "More than one device shows this token, so it proves nothing: put the device into pairing again."
        raise Problem(409, "token-ambiguous", detail)
    shown, device = found[0]
    move_device(work, device.product_key, device.device_name, Move.CLAIM, actor, site=site)
    work.session.delete(shown)
    return device.product_key, device.device_name


def _digest(token: str) -> str:
    return hashlib.sha256(token.lower().encode(errors="surrogatepass")).hexdigest()
