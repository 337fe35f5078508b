"""Routes of what proves a device: its secret, what it may show, its registration, and the authorities of its certificates."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.authorities import MOST_PEM, Authority, add_authority, list_authorities, retire_authority
from cloud.devices.identity import LONGEST_GRACE_S, RegistrationState, identity_of, reset_registration, rotate_secret, set_accepts
from cloud.devices.model import Accepts
from cloud.devices.ports import Changes
from cloud.foundation.audit import record
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import not_found
from cloud.foundation.vault import Vault
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal

router = APIRouter(tags=["identity"])
T = TypeVar("T")


class IdentityOfDevice(BaseModel):
    accepts: Accepts
    previous_secret_until: Annotated[int | None, Field(description="Until then the secret before the present one counts too, epoch ms.")]
    has_token: Annotated[bool, Field(description="It was given a token by registration (`regnwl`).")]
    registration: Annotated[
        RegistrationState | None,
        Field(description="reset, given or connected; null: it never registered, and may while it was never seen."),
    ]
    registered: Annotated[int | None, Field(description="When it was given its secret, epoch ms.")]


class IdentityChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    accepts: Annotated[Accepts, Field(description="What the device may prove itself with: secret, certificate, or both.")]


class Rotation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    grace_s: Annotated[int, Field(ge=0, le=LONGEST_GRACE_S, description="So long the old secret counts too.")] = 0


class NewSecret(BaseModel):
    device_secret: Annotated[str, Field(description="Shown this once.")]


class NewAuthority(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pem: Annotated[str, Field(max_length=MOST_PEM, description="The authority's certificate, PEM; never its key.")]


class AuthorityView(BaseModel):
    number: int
    subject: str
    fingerprint: Annotated[str, Field(description="SHA-256 of the certificate.")]
    valid_from: int
    valid_to: int
    added: int
    retired: int | None


class AuthorityPage(BaseModel):
    items: list[AuthorityView]
    next: str | None


async def _change(
    request: Request,
    caller: Principal,
    action: str,
    subject: str,
    change: Callable[[UnitOfWork, Vault], T],
    detail: Callable[[T], Mapping[str, object]] = lambda _: {},
) -> T:
    """Run a change in a unit of work of the caller's tenant, in a thread, and commit it with its line of the audit trail, if it was one.

    `detail` says of its result what the line is to hold; never a secret.
    """
    database: Database = request.app.state.database
    vault: Vault = request.app.state.vault

    def apply() -> T:
        with database.unit_of_work(caller.tenant_id) as work:
            result = change(work, vault)
            if result:
                record(work.session, caller.tenant_id, caller.key_name, action, subject, detail(result))
            work.commit()
        return result

    return await asyncio.to_thread(apply)


def _view(found: Authority) -> AuthorityView:
    return AuthorityView(
        number=found.number,
        subject=found.subject,
        fingerprint=found.fingerprint,
        valid_from=found.from_ms,
        valid_to=found.to_ms,
        added=found.added_ms,
        retired=found.retired_ms,
    )


@router.get("/v1/devices/{product_key}/{device_name}/identity", operation_id="get_identity")
def get(request: Request, caller: Caller, product_key: str, device_name: str) -> IdentityOfDevice:
    """What proves a device, and how far its registration is; never a secret."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = identity_of(work, product_key, device_name)
    if found is None:
        raise not_found(f"Device {product_key}/{device_name}")
    return IdentityOfDevice(
        accepts=found.accepts,
        previous_secret_until=found.previous_until_ms,
        has_token=found.has_token,
        registration=found.registration,
        registered=found.registered_ms,
    )


@router.put("/v1/devices/{product_key}/{device_name}/identity", operation_id="set_identity")
async def change(request: Request, caller: Caller, product_key: str, device_name: str, body: IdentityChange) -> IdentityOfDevice:
    """Say what a device may prove itself with; a session that rests on anything else ends."""
    changes: Changes = request.app.state.changes
    subject = f"{product_key}/{device_name}"
    if not await _change(
        request,
        caller,
        "set_identity",
        subject,
        lambda work, _: set_accepts(work, product_key, device_name, body.accepts),
        lambda _: {"accepts": body.accepts},
    ):
        raise not_found(f"Device {product_key}/{device_name}")
    await changes.registry_changed(product_key, device_name)
    return await asyncio.to_thread(get, request, caller, product_key, device_name)


@router.post("/v1/devices/{product_key}/{device_name}/secret", status_code=201, operation_id="rotate_secret")
async def rotate(request: Request, caller: Caller, product_key: str, device_name: str, body: Rotation) -> NewSecret:
    """A new device secret. The old one ends now, or after `grace_s`, and every session that rests on it with it."""
    changes: Changes = request.app.state.changes
    secret = await _change(
        request,
        caller,
        "rotate_secret",
        f"{product_key}/{device_name}",
        lambda work, vault: rotate_secret(work, vault, product_key, device_name, body.grace_s),
        lambda _: {"grace_s": body.grace_s},
    )
    if secret is None:
        raise not_found(f"Device {product_key}/{device_name}")
    await changes.registry_changed(product_key, device_name)
    return NewSecret(device_secret=secret)


@router.delete("/v1/devices/{product_key}/{device_name}/registration", operation_id="reset_registration")
async def reset(request: Request, caller: Caller, product_key: str, device_name: str) -> IdentityOfDevice:
    """Let a device register once more (it was replaced, or lost its secret): secret, token and session it has end now."""
    changes: Changes = request.app.state.changes
    subject = f"{product_key}/{device_name}"
    if not await _change(
        request, caller, "reset_registration", subject, lambda work, vault: reset_registration(work, vault, product_key, device_name)
    ):
        raise not_found(f"Device {product_key}/{device_name}")
    await changes.registry_changed(product_key, device_name)
    return await asyncio.to_thread(get, request, caller, product_key, device_name)


@router.post("/v1/certificate-authorities", status_code=201, operation_id="add_authority")
async def add(request: Request, caller: Caller, body: NewAuthority) -> AuthorityView:
    """Take certificates of this authority from devices; up to four at once, so that one can take over from another."""
    changes: Changes = request.app.state.changes
    added = await _change(
        request,
        caller,
        "add_authority",
        "certificate-authorities",
        lambda work, _: add_authority(work, body.pem),
        lambda one: {"number": one.number, "subject": one.subject, "fingerprint": one.fingerprint},
    )
    await changes.authorities_changed()
    return _view(added)


@router.get("/v1/certificate-authorities", operation_id="list_authorities")
def list_all(request: Request, caller: Caller, limit: Limit = 100, cursor: Cursor = None) -> AuthorityPage:
    """The tenant's authorities, those that are retired among them, oldest first."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = list_authorities(work, read_cursor(cursor), limit + 1)
    return AuthorityPage(items=[_view(one) for one in found[:limit]], next=next_page(found, limit, lambda one: one.number))


@router.delete("/v1/certificate-authorities/{number}", status_code=204, operation_id="retire_authority")
async def retire(request: Request, caller: Caller, number: int) -> None:
    """Take certificates of this authority no more; sessions that rest on one end."""
    changes: Changes = request.app.state.changes
    if not await _change(
        request,
        caller,
        "retire_authority",
        "certificate-authorities",
        lambda work, _: retire_authority(work, number),
        lambda _: {"number": number},
    ):
        raise not_found(f"Certificate authority {number}")
    await changes.authorities_changed()
