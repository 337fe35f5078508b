"""How devices of a product come by their secrets: a mode, and the one secret that all of its firmware carries.

Everything here blocks: asyncio code runs it in a thread.
"""

import enum
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import select

from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork
from cloud.foundation.problems import Problem
from cloud.foundation.vault import Vault
from cloud.products.model import GATEWAY
from cloud.products.tables import ProductRegistrationRow


class RegistrationMode(enum.StrEnum):
    """Who is given a secret for a proof of the product's."""

    CLOSED = "closed"
    """Nobody."""
    REGISTERED_ONLY = "registered_only"
    """A device that was entered before, once."""
    OPEN = "open"
    """Any: one that nobody knows is entered then."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What may be shown of it."""

    mode: RegistrationMode = RegistrationMode.CLOSED
    has_secret: bool = False
    changed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ProductProof:
    """What a claim is held against. `secret` is plain: keep it short-lived, never log it."""

    tenant_id: int
    mode: RegistrationMode
    secret: bytes = field(repr=False)


def registration_of(work: UnitOfWork, product_key: str) -> Registration:
    """Of a product that the caller has found."""
    row = work.session.get(ProductRegistrationRow, product_key)
    return Registration() if row is None else Registration(RegistrationMode(row.mode), row.sealed_secret is not None, row.changed_ms)


def set_mode(work: UnitOfWork, product_key: str, mode: RegistrationMode) -> Registration:
    """Open or close registration. Raises Problem 409 for the built-in product."""
    row = _row(work, product_key)
    row.mode, row.changed_ms = str(mode), now_ms()
    work.session.flush()
    return registration_of(work, product_key)


def rotate_product_secret(work: UnitOfWork, vault: Vault, product_key: str, own: str | None = None) -> str:
    """A new product secret in the place of the old one, which ends at once; this is the only time it can be seen.

    `own` is the one that firmware in the field carries. Devices that have a secret of their own are not concerned. Raises Problem 409 for
    the built-in product.
    """
    row = _row(work, product_key)
    secret = own or secrets.token_hex(16)
    row.sealed_secret, row.changed_ms = vault.seal(secret.encode(), _context(product_key)), now_ms()
    work.session.flush()
    return secret


def product_proofs(work: UnitOfWork, vault: Vault, product_keys: Collection[str]) -> dict[str, ProductProof]:
    """In a unit of work of the whole system; a product that was never opened is left out."""
    query = select(ProductRegistrationRow).where(ProductRegistrationRow.product_key.in_(product_keys))
    return {
        row.product_key: ProductProof(
            row.tenant_id,
            RegistrationMode(row.mode),
            b"" if row.sealed_secret is None else vault.open(row.sealed_secret, _context(row.product_key)),
        )
        for row in work.session.scalars(query)
    }


def _row(work: UnitOfWork, product_key: str) -> ProductRegistrationRow:
    if product_key == GATEWAY:
        raise Problem(409, "built-in-product", "Gateways of all tenants share this product: enter each gateway, it cannot register itself.")
    row = work.session.get(ProductRegistrationRow, product_key)
    if row is None:
        row = ProductRegistrationRow(product_key=product_key, mode=str(RegistrationMode.CLOSED), sealed_secret=None, changed_ms=now_ms())
        work.session.add(row)
    return row


def _context(product_key: str) -> str:
    return f"product:{product_key}"
