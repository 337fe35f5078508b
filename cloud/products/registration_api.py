"""Routes of a product's registration: who is given a secret, and the product's own secret."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cloud.foundation.audit import record
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.problems import not_found
from cloud.foundation.vault import Vault
from cloud.products.registration import Registration, RegistrationMode, registration_of, rotate_product_secret, set_mode
from cloud.products.service import find_product
from cloud.tenancy.api import Caller

router = APIRouter(prefix="/v1/products/{product_key}/registration", tags=["products"])


class RegistrationView(BaseModel):
    mode: RegistrationMode
    has_secret: Annotated[bool, Field(description="Without a product secret nobody can register, whatever the mode.")]
    changed: Annotated[int | None, Field(description="Epoch ms; null: never.")]


class RegistrationChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Annotated[RegistrationMode, Field(description="closed, registered_only (devices that were entered), or open (any device).")]


class NewProductSecret(BaseModel):
    model_config = ConfigDict(extra="forbid")

    product_secret: Annotated[
        str | None,
        Field(min_length=8, max_length=64, pattern=r"^[!-~]+$", description="The one that firmware carries from another cloud."),
    ] = None


class ProductSecret(BaseModel):
    product_secret: Annotated[str, Field(description="Shown this once.")]


def _view(found: Registration) -> RegistrationView:
    return RegistrationView(mode=found.mode, has_secret=found.has_secret, changed=found.changed_ms)


def _known(work: UnitOfWork, product_key: str) -> None:
    if find_product(work, product_key) is None:
        raise not_found(f"Product {product_key}")


@router.get("", operation_id="get_registration")
def get(request: Request, caller: Caller, product_key: str) -> RegistrationView:
    """Whether devices of a product can register themselves."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        _known(work, product_key)
        return _view(registration_of(work, product_key))


@router.put("", operation_id="set_registration")
def change(request: Request, caller: Caller, product_key: str, body: RegistrationChange) -> RegistrationView:
    """Open or close registration. Devices that have a secret are not concerned."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        _known(work, product_key)
        changed = set_mode(work, product_key, body.mode)
        record(work.session, caller.tenant_id, caller.key_name, "set_registration", product_key, {"mode": body.mode})
        work.commit()
    return _view(changed)


@router.post("/secret", status_code=201, operation_id="rotate_product_secret")
def rotate(request: Request, caller: Caller, product_key: str, body: NewProductSecret | None = None) -> ProductSecret:
    """A new product secret, for firmware to carry, or the one that it carries already; the old one registers nobody any more."""
    database: Database = request.app.state.database
    vault: Vault = request.app.state.vault
    with database.unit_of_work(caller.tenant_id) as work:
        _known(work, product_key)
        secret = rotate_product_secret(work, vault, product_key, None if body is None else body.product_secret)
        record(work.session, caller.tenant_id, caller.key_name, "rotate_product_secret", product_key)
        work.commit()
    return ProductSecret(product_secret=secret)
