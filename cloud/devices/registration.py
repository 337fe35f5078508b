"""A device without a secret is given one, for a proof of its product's (alink.md par. 2.2). Blocks: asyncio code runs it in a thread.

A device that was never seen may register; what it is given is the secret it has here, so asking twice gives the same. It may ask again
for ten minutes, unless it has connected meanwhile: then whoever asks is told that the device is active, until its owner resets it.
"""

import secrets
from collections.abc import Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cloud.devices.identity import RegistrationState, confirm_devices
from cloud.devices.model import Accepts, check_device_name, secret_context, token_context
from cloud.devices.tables import DeviceIdentityRow, DeviceRow, PresenceRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, DatabaseAway, UnitOfWork, is_duplicate
from cloud.foundation.vault import Vault
from cloud.products.registration import ProductProof, RegistrationMode, product_proofs
from cloud.products.service import owners
from protocols.alink.codes import Code
from protocols.alink.registration import Claim, Grant, RegistrationRefused, check_claim
from protocols.errors import Reason, Refused, TryAgain

AGAIN_MS: Final = 600_000
"""So long a device that lost the answer may ask again."""


def register(database: Database, vault: Vault, claim: Claim, now: int | None = None) -> Grant:
    """Check a claim and give the device what it asks for. `now` is epoch ms, the present unless given.

    Raises RegistrationRefused, whose code says why, and DatabaseAway.
    """
    (answer,) = register_all(database, vault, [claim], now)
    if isinstance(answer, Grant):
        return answer
    raise answer


def register_all(
    database: Database, vault: Vault, claims: Sequence[Claim], now: int | None = None
) -> list[Grant | RegistrationRefused | DatabaseAway]:
    """Many claims in one transaction, each answered by itself, in their order. Raises DatabaseAway when nobody was given anything."""
    now = now_ms() if now is None else now
    with database.system_reading() as work:  # nobody who has not proved the product's secret takes the lock of writers
        proofs = _proved_all(work, vault, claims)
    answers: list[Grant | RegistrationRefused | DatabaseAway] = []
    if all(isinstance(proof, RegistrationRefused) for proof in proofs):
        return [proof for proof in proofs if isinstance(proof, RegistrationRefused)]
    with database.system() as work:
        for claim, proof in zip(claims, proofs, strict=True):
            try:
                if isinstance(proof, RegistrationRefused):
                    raise proof
                with work.session.begin_nested():
                    answers.append(_give(work.session, vault, claim, proof, now))
            except (RegistrationRefused, DatabaseAway) as why:
                answers.append(why)
        try:
            work.commit()
        except IntegrityError as error:
            raise _again(error) from error
    return answers


def _proved_all(work: UnitOfWork, vault: Vault, claims: Sequence[Claim]) -> list[ProductProof | RegistrationRefused]:
    opened: dict[str, ProductProof | RegistrationRefused] = {}
    for product_key in {claim.product_key for claim in claims}:
        try:
            opened[product_key] = _open_product(work, vault, product_key)
        except RegistrationRefused as refused:
            opened[product_key] = refused
    proofs: list[ProductProof | RegistrationRefused] = []
    for claim in claims:
        proof = opened[claim.product_key]
        try:
            proofs.append(proof if isinstance(proof, RegistrationRefused) else _checked(claim, proof))
        except RegistrationRefused as refused:
            proofs.append(refused)
    return proofs


def register_behind(work: UnitOfWork, vault: Vault, tenant_id: int, key: tuple[str, str], now: int) -> Grant:
    """Give a sub-device its secret because its gateway, which has proved its own, asks for it (alink.md par. 9, `sub/register`).

    The product has to be open for registration, and to belong to the gateway's tenant. Raises RegistrationRefused; the caller commits.
    """
    claim = Claim(*key, random="", sign=b"", method="")
    proof = _open_product(work, vault, claim.product_key)
    if proof.tenant_id != tenant_id:
        raise _no_product(claim.product_key)
    return _give(work.session, vault, claim, proof, now)


def register_by_product(work: UnitOfWork, vault: Vault, claim: Claim, now: int) -> Grant:
    """Check a claim that a gateway hands on, and give its device what it asks for. Raises RegistrationRefused; the caller commits."""
    return _give(work.session, vault, claim, _checked(claim, _open_product(work, vault, claim.product_key)), now)


def _no_product(product_key: str) -> RegistrationRefused:
    message = f"there is no product {product_key[:32]}: correct the product key in the firmware"
    return RegistrationRefused(Code.PRODUCT_UNKNOWN, Reason.UNKNOWN_PRODUCT, message)


def _checked(claim: Claim, proof: ProductProof) -> ProductProof:
    check_claim(claim, proof.secret)
    if claim.token and proof.mode is not RegistrationMode.OPEN:
        message = f"product {claim.product_key} registers devices that were entered before: `regnwl` needs the mode `open`"
        raise RegistrationRefused(Code.REGISTRATION_CLOSED, Reason.REGISTRATION_CLOSED, message)
    return proof


def _open_product(work: UnitOfWork, vault: Vault, product_key: str) -> ProductProof:
    if not owners(work, [product_key]):
        raise _no_product(product_key)
    proof = product_proofs(work, vault, [product_key]).get(product_key)
    if proof is None or proof.mode is RegistrationMode.CLOSED or not proof.secret:
        missing = "it has no product secret yet" if proof is not None and proof.mode is not RegistrationMode.CLOSED else "it is closed"
        message = f"registration of product {product_key}: {missing}; PUT /v1/products/KEY/registration opens it"
        raise RegistrationRefused(Code.REGISTRATION_CLOSED, Reason.REGISTRATION_CLOSED, message)
    return proof


def _give(session: Session, vault: Vault, claim: Claim, proof: ProductProof, now: int) -> Grant:
    query = select(DeviceRow).where(DeviceRow.product_key == claim.product_key, DeviceRow.device_name == claim.device_name)
    device = session.scalars(query.with_for_update()).one_or_none()
    if device is None:
        device = _enter(session, vault, claim, proof, now)
    if not device.enabled:
        message = "the device is disabled: enable it, or take it off the network"
        raise RegistrationRefused(Code.DEVICE_DISABLED, Reason.NOT_AUTHORISED, message)
    row = session.get(DeviceIdentityRow, device.id)
    if row is None:
        row = DeviceIdentityRow(tenant_id=device.tenant_id, device_id=device.id, accepts=str(Accepts.BOTH))
        session.add(row)
    if row.accepts == Accepts.CERTIFICATE:
        message = "the device accepts only certificates: let it accept secrets too, or give it a certificate"
        raise RegistrationRefused(Code.REGISTRATION_CLOSED, Reason.REGISTRATION_CLOSED, message)
    _check_open(session.get(PresenceRow, device.id) is not None, row, now)
    if row.registration != RegistrationState.GIVEN:
        row.registration, row.registered_ms = str(RegistrationState.GIVEN), now
    key = (claim.product_key, claim.device_name)
    if not claim.token:
        return Grant(*key, device_secret=vault.open(device.sealed_secret, secret_context(*key)).decode())
    if row.sealed_token is None:
        row.token_client_id = secrets.token_hex(12)
        row.sealed_token = vault.seal(secrets.token_hex(16).encode(), token_context(*key))
    return Grant(*key, client_id=row.token_client_id or "", device_token=vault.open(row.sealed_token, token_context(*key)).decode())


def _check_open(seen: bool, row: DeviceIdentityRow, now: int) -> None:
    """Raises RegistrationRefused unless the device may be given its secret now."""
    if row.registration == RegistrationState.RESET:
        return
    if row.registration == RegistrationState.GIVEN:
        if now - (row.registered_ms or 0) <= AGAIN_MS:
            return
        why = "was given its secret more than ten minutes ago"
    elif row.registration == RegistrationState.CONNECTED or seen:
        why = "has connected before"
    else:
        return
    message = f"the device {why}: if it was replaced or has lost its secret, reset its registration; else somebody copies its name"
    raise RegistrationRefused(Code.ALREADY_ACTIVE, Reason.ALREADY_ACTIVE, message)


def _enter(session: Session, vault: Vault, claim: Claim, proof: ProductProof, now: int) -> DeviceRow:
    if proof.mode is not RegistrationMode.OPEN:
        message = f"product {claim.product_key} has no device {claim.device_name[:64]}: enter it first, or open registration to all"
        raise RegistrationRefused(Code.DEVICE_UNKNOWN, Reason.UNKNOWN_DEVICE, message)
    try:
        check_device_name(claim.device_name)
    except Refused as refused:
        raise RegistrationRefused(Code.BAD_PARAMS, refused.reason, str(refused)) from refused
    sealed = vault.seal(secrets.token_hex(16).encode(), secret_context(claim.product_key, claim.device_name))
    device = DeviceRow(
        tenant_id=proof.tenant_id,
        product_key=claim.product_key,
        device_name=claim.device_name,
        site_id=None,
        sealed_secret=sealed,
        enabled=True,
        created_ms=now,
    )
    session.add(device)
    try:
        session.flush()
    except IntegrityError as error:
        raise _again(error) from error
    return device


def _again(error: IntegrityError) -> Exception:
    """Two requests of one device at once (PostgreSQL): the one that lost finds the other's device when it asks again."""
    return DatabaseAway("the device registered at the same moment over another connection") if is_duplicate(error) else error


class DeviceRegistrar:
    """`cloud.access.ports.Registrar` on the database."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    def register(self, claims: Sequence[Claim]) -> Sequence[Grant | Refused | TryAgain]:
        """Each claim's answer. Raises DatabaseAway."""
        return register_all(self._database, self._vault, claims)

    def confirm(self, device_ids: Sequence[int]) -> None:
        """Raises DatabaseAway."""
        confirm_devices(self._database, device_ids)
