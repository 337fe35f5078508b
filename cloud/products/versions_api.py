"""Routes of thing models: the active one, its versions, the draft on its way to be the next, and the vendor's TSL of it."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.foundation.audit import record
from cloud.foundation.db import Database
from cloud.foundation.etags import IfMatch, IfNoneMatch, body_tag, revision_tag
from cloud.foundation.idempotency import Once
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import Problem, not_found
from cloud.products.model import GATEWAY, ThingModelVersion, VersionState
from cloud.products.ports import Changes, ProductUses
from cloud.products.service import hold_product
from cloud.products.versions import (
    check_draft,
    delete_draft,
    find_active,
    find_draft,
    find_version,
    list_versions,
    publish_draft,
    put_draft,
    report_members,
)
from cloud.tenancy.api import Caller
from protocols.thing.compatibility import Breaks, Kind
from protocols.thing.export import full_tsl

router = APIRouter(prefix="/v1/products/{product_key}", tags=["thing models"])

Number = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The number of a version; without it, the active one.")]


class VersionSummary(BaseModel):
    version: int
    state: VersionState
    note: str
    created: Annotated[int, Field(description="When it was written, for a draft: the last time; epoch ms.")]
    created_by: Annotated[str, Field(description="The name of the API key.")]
    published: Annotated[int | None, Field(description="Epoch ms; null for a draft.")]
    published_by: str | None


class VersionView(VersionSummary):
    product_key: str
    tsl: dict[str, Any]


class VersionPage(BaseModel):
    items: list[VersionSummary]
    next: str | None


class ChangeView(BaseModel):
    kind: Kind
    path: Annotated[str, Field(description="Such as `properties.Power.dataType` or `services.Start.inputData.minutes`.")]
    en: str
    zh: str
    breaks: Annotated[list[Breaks], Field(description="Whom it breaks; empty when it is harmless.")]


class ConflictView(BaseModel):
    path: str
    version: Annotated[int, Field(description="The latest published version in which the identifier had the type `was`.")]
    was: str
    wanted: str


class ReportView(BaseModel):
    base: Annotated[int, Field(description="The active version.")]
    version: Annotated[int, Field(description="The number that the draft will have.")]
    devices: Annotated[int, Field(description="How many devices of the product it concerns.")]
    publishable: Annotated[
        Literal["yes", "with_accept_breaking", "no"],
        Field(description="`no`: an identifier has another type than it was published with."),
    ]
    breaks: list[Breaks]
    changes: list[ChangeView]
    conflicts: list[ConflictView]


class Publishing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    accept_breaking: Annotated[bool, Field(description="Publish although the report names somebody who breaks.")] = False
    note: Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$", description="What this version is for.")] = ""


def _view(version: ThingModelVersion) -> VersionView:
    return VersionView(
        version=version.number,
        state=version.state,
        note=version.note,
        created=version.created_ms,
        created_by=version.created_by,
        published=version.published_ms,
        published_by=version.published_by,
        product_key=version.product_key,
        tsl=version.thing_model.to_dict(),
    )


def _tag(version: ThingModelVersion) -> str:
    if version.product_key == GATEWAY:  # it changes with the platform
        return body_tag(_view(version).model_dump_json().encode())
    # not the number alone: a draft that was thrown away leaves it to the next
    return revision_tag(version.version_id, version.state, version.revision)


def _answer(response: Response, held: IfNoneMatch, version: ThingModelVersion | None, what: str) -> VersionView | Response:
    if version is None:
        raise not_found(what)
    response.headers["ETag"] = _tag(version)
    return held.unchanged(_tag(version)) or _view(version)


def _no_draft(product_key: str) -> Problem:
    """The same answer for a product without a draft and for one that does not exist, or belongs to another tenant."""
    path = f"/v1/products/{product_key}/thing-model/draft"
    return Problem(404, "not-found", f"Product {product_key} has no draft; PUT {path} makes one, if the product is one of yours.")


@router.get("/thing-model", operation_id="get_thing_model", response_model=VersionView)
def get_active(
    request: Request, response: Response, caller: Caller, product_key: str, held: IfNoneMatch, version: Number = None
) -> VersionView | Response:
    """The active thing model, or the `version` asked for."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_active(work, product_key) if version is None else find_version(work, product_key, version)
    what = f"Product {product_key}" if version is None else f"Version {version} of product {product_key}"
    return _answer(response, held, found, what)


@router.get("/thing-model/versions", operation_id="list_thing_model_versions")
def list_all(request: Request, caller: Caller, product_key: str, limit: Limit = 100, cursor: Cursor = None) -> VersionPage:
    """The versions of the thing model, oldest first, a draft last."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = list_versions(work, product_key, read_cursor(cursor), limit + 1)
    if found is None:
        raise not_found(f"Product {product_key}")
    items = [
        VersionSummary(
            version=entry.number,
            state=entry.state,
            note=entry.note,
            created=entry.created_ms,
            created_by=entry.created_by,
            published=entry.published_ms,
            published_by=entry.published_by,
        )
        for entry in found[:limit]
    ]
    return VersionPage(items=items, next=next_page(found, limit, lambda one: one.number))


@router.get("/thing-model/versions/{version}", operation_id="get_thing_model_version", response_model=VersionView)
def get_version(
    request: Request, response: Response, caller: Caller, product_key: str, version: int, held: IfNoneMatch
) -> VersionView | Response:
    """One version of the thing model."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_version(work, product_key, version) if 0 < version < 2**31 else None
    return _answer(response, held, found, f"Version {version} of product {product_key}")


@router.put("/thing-model/draft", operation_id="put_draft", response_model=VersionView)
def put(
    request: Request,
    caller: Caller,
    product_key: str,
    tsl: Annotated[dict[str, Any], Body(description="TSL JSON, the vendor's own too: generated entries are left out.")],
    based: IfMatch,
    once: Once,
) -> Response:
    """Make this TSL the draft, in the place of the one there is. Devices and applications notice nothing before it is published."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        known = once.known(work)
        if known is not None:
            return known
        if not hold_product(work, product_key):
            raise not_found(f"Product {product_key}")
        before = find_draft(work, product_key)
        based.check(None if before is None else _tag(before))
        draft = put_draft(work, product_key, tsl, caller.key_name)
        if draft is None:
            raise not_found(f"Product {product_key}")
        return once.commit(work, _view(draft), headers={"ETag": _tag(draft)})


@router.get("/thing-model/draft", operation_id="get_draft", response_model=VersionView)
def get_draft(request: Request, response: Response, caller: Caller, product_key: str, held: IfNoneMatch) -> VersionView | Response:
    """The draft."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_draft(work, product_key)
    if found is None:
        raise _no_draft(product_key)
    return _answer(response, held, found, "")


@router.delete("/thing-model/draft", status_code=204, operation_id="delete_draft")
def remove_draft(request: Request, caller: Caller, product_key: str, based: IfMatch) -> None:
    """Throw the draft away."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        before = find_draft(work, product_key) if hold_product(work, product_key) else None
        if before is None:
            raise _no_draft(product_key)
        based.check(_tag(before))
        delete_draft(work, product_key)
        work.commit()


@router.get("/thing-model/draft/report", operation_id="check_draft")
def check(request: Request, caller: Caller, product_key: str) -> ReportView:
    """What publishing the draft would change, whom that breaks, and how many devices it concerns."""
    database: Database = request.app.state.database
    uses: ProductUses = request.app.state.product_uses
    with database.reading(caller.tenant_id) as work:
        report = check_draft(work, product_key, uses["devices"])
    if report is None:
        raise _no_draft(product_key)
    return ReportView.model_validate(report_members(report))


@router.post("/thing-model/draft/publish", operation_id="publish_draft", response_model=VersionView)
async def publish(request: Request, caller: Caller, product_key: str, body: Publishing, based: IfMatch, once: Once) -> Response:
    """Make the draft the active thing model. Refused, 409, with the report when somebody breaks and `accept_breaking` was not said."""
    database: Database = request.app.state.database
    uses: ProductUses = request.app.state.product_uses
    changes: Changes = request.app.state.changes

    def carry_out() -> Response:
        with database.unit_of_work(caller.tenant_id) as work:
            known = once.known(work)
            if known is not None:
                return known
            before = find_draft(work, product_key) if hold_product(work, product_key) else None
            if before is not None:
                based.check(_tag(before))
            version = publish_draft(
                work, product_key, caller.key_name, uses["devices"], accept_breaking=body.accept_breaking, note=body.note
            )
            if version is None:
                raise _no_draft(product_key)
            detail = {"version": version.number, "accept_breaking": body.accept_breaking}
            record(work.session, caller.tenant_id, caller.key_name, "publish_version", product_key, detail)
            return once.commit(work, _view(version), headers={"ETag": _tag(version)})

    answer = await asyncio.to_thread(carry_out)
    await changes.registry_changed(product_key, None)  # said again for a repeated request: the first may have been cut short here
    return answer


@router.get("/tsl", operation_id="export_tsl")
def export(request: Request, caller: Caller, product_key: str, version: Number = None) -> dict[str, Any]:
    """The thing model as the vendor's TSL, with what device SDKs read: event `post`, services `set` and `get`, `schema`, `link`."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_active(work, product_key) if version is None else find_version(work, product_key, version)
    if found is None:
        raise not_found(f"Product {product_key}" if version is None else f"Version {version} of product {product_key}")
    return full_tsl(found.thing_model, product_key)
