"""What proves a device, and how its owner changes it: rotate the secret, choose what is accepted, let it register once more.

Everything here blocks: asyncio code runs it in a thread.
"""

import enum
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select, update

from cloud.devices.model import ONLY_ITS_SECRET, Accepts, Identity, secret_context, token_context
from cloud.devices.tables import DeviceIdentityRow, DeviceRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import KEYS_A_STATEMENT, Database, UnitOfWork
from cloud.foundation.vault import Vault

LONGEST_GRACE_S = 7 * 86_400


class RegistrationState(enum.StrEnum):
    """How far a device's registration is. A device without a state may register until it is seen for the first time."""

    RESET = "reset"
    """Its owner lets it register, whenever it was seen."""
    GIVEN = "given"
    """It was given its secret, and may lose the answer and ask again for ten minutes."""
    CONNECTED = "connected"
    """It has connected with what it was given: no more."""


@dataclass(frozen=True, slots=True)
class IdentityView:
    """What may be shown of a device's identity."""

    accepts: Accepts
    previous_until_ms: int | None
    has_token: bool
    registration: RegistrationState | None
    registered_ms: int | None


IDENTITY_COLUMNS: Final = (
    DeviceIdentityRow.accepts,
    DeviceIdentityRow.sealed_previous,
    DeviceIdentityRow.previous_until_ms,
    DeviceIdentityRow.token_client_id,
    DeviceIdentityRow.sealed_token,
    DeviceIdentityRow.registration,
)
"""What `read_identity` reads, beside a device's columns; all of it is null for a device that has nothing but its secret, as most."""


def read_identity(row: Row[Any], vault: Vault, now: int) -> Identity:
    """What else than its secret proves the device of this row. Raises Broken (a secret that does not open)."""
    if row.accepts is None:
        return ONLY_ITS_SECRET
    key, until = (row.product_key, row.device_name), row.previous_until_ms or 0
    lives = row.sealed_previous is not None and until > now
    return Identity(
        accepts=Accepts(row.accepts),
        previous=vault.open(row.sealed_previous or b"", secret_context(*key)) if lives else b"",
        previous_until_ms=until if lives else 0,
        token_client_id=row.token_client_id or "",
        token=b"" if row.sealed_token is None else vault.open(row.sealed_token, token_context(*key)),
        unconfirmed=row.registration in (RegistrationState.RESET, RegistrationState.GIVEN),
    )


def confirm_devices(database: Database, device_ids: Sequence[int]) -> None:
    """These devices have connected with what proves them: they cannot register any more. Raises DatabaseAway."""
    with database.system() as work:
        for start in range(0, len(device_ids), KEYS_A_STATEMENT):
            chunk = device_ids[start : start + KEYS_A_STATEMENT]
            open_still = DeviceIdentityRow.registration.in_((RegistrationState.RESET, RegistrationState.GIVEN))
            change = update(DeviceIdentityRow).where(DeviceIdentityRow.device_id.in_(chunk), open_still)
            change = change.values(registration=str(RegistrationState.CONNECTED)).execution_options(synchronize_session=False)
            work.session.execute(change)
        work.commit()


def identity_of(work: UnitOfWork, product_key: str, device_name: str) -> IdentityView | None:
    """None: there is no such device."""
    found = _find(work, product_key, device_name)
    if found is None:
        return None
    row = work.session.get(DeviceIdentityRow, found.id)
    if row is None:
        return IdentityView(Accepts.BOTH, None, False, None, None)
    grace = row.previous_until_ms if row.sealed_previous is not None and (row.previous_until_ms or 0) > now_ms() else None
    state = None if row.registration is None else RegistrationState(row.registration)
    return IdentityView(Accepts(row.accepts), grace, row.sealed_token is not None, state, row.registered_ms)


def set_accepts(work: UnitOfWork, product_key: str, device_name: str, accepts: Accepts) -> bool:
    """What a device may prove itself with from now on; False when there is none."""
    device = _find(work, product_key, device_name)
    if device is None:
        return False
    _row(work, device).accepts = str(accepts)
    work.session.flush()
    return True


def rotate_secret(work: UnitOfWork, vault: Vault, product_key: str, device_name: str, grace_s: int) -> str | None:
    """A new secret, which cannot be seen again; None when there is no such device. The old one counts for `grace_s` more.

    A token ends at once.
    """
    device = _find(work, product_key, device_name)
    if device is None:
        return None
    row, fresh = _row(work, device), secrets.token_hex(16)
    row.sealed_previous = device.sealed_secret if grace_s else None
    row.previous_until_ms = now_ms() + 1000 * grace_s if grace_s else None
    row.token_client_id = row.sealed_token = None
    device.sealed_secret = vault.seal(fresh.encode(), secret_context(product_key, device_name))
    work.session.flush()
    return fresh


def reset_registration(work: UnitOfWork, vault: Vault, product_key: str, device_name: str) -> bool:
    """Let a device register once more, and end whatever it had; False when there is none."""
    if rotate_secret(work, vault, product_key, device_name, 0) is None:
        return False
    device = _find(work, product_key, device_name)
    assert device is not None
    row = _row(work, device)
    row.registration, row.registered_ms = str(RegistrationState.RESET), None
    work.session.flush()
    return True


def _find(work: UnitOfWork, product_key: str, device_name: str) -> DeviceRow | None:
    query = select(DeviceRow).where(DeviceRow.product_key == product_key, DeviceRow.device_name == device_name)
    return work.session.scalars(query).one_or_none()


def _row(work: UnitOfWork, device: DeviceRow) -> DeviceIdentityRow:
    row = work.session.get(DeviceIdentityRow, device.id)
    if row is None:
        row = DeviceIdentityRow(device_id=device.id, accepts=str(Accepts.BOTH))
        work.session.add(row)
    return row
