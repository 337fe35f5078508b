"""Routes of products. `app.state` holds what the composition root filled: database, changes, product_uses."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.foundation.audit import record
from cloud.foundation.db import Database
from cloud.foundation.etags import IfMatch, IfNoneMatch, body_tag, revision_tag
from cloud.foundation.idempotency import Once
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import not_found
from cloud.products.model import NodeType, Product
from cloud.products.ports import Changes, ProductUses
from cloud.products.service import change_product, create_product, delete_product, find_product, hold_product, list_products
from cloud.tenancy.api import Caller

router = APIRouter(prefix="/v1/products", tags=["products"])

Description = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$")]  # PostgreSQL stores no NUL
Name = Annotated[str, Field(min_length=1, max_length=128)]


class NewProduct(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    tsl: Annotated[dict[str, Any] | None, Field(description="The thing model, as Alink's TSL JSON; or give `library`.")] = None
    library: Annotated[str | None, Field(max_length=64, description="Take this model of /v1/library as the thing model.")] = None
    node_type: Annotated[NodeType, Field(description="`gateway` when its devices carry sub-devices (Alink's node type).")] = NodeType.DEVICE
    description: Description = ""
    product_key: Annotated[
        str | None, Field(max_length=32, description="The key that its firmware carries from another cloud; made when it is not given.")
    ] = None


class ProductChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    description: Description | None = None


class ProductView(BaseModel):
    product_key: str
    name: str
    built_in: bool
    created: Annotated[int, Field(description="Epoch ms.")]
    tsl: Annotated[dict[str, Any], Field(description="The active thing model: the version published last.")]
    node_type: NodeType
    description: str
    category: Annotated[str | None, Field(description="The model of /v1/library it was made from.")]
    version: Annotated[int, Field(description="The number of the active thing model.")]
    updated: Annotated[int, Field(description="Epoch ms.")]


class ProductSummary(BaseModel):
    product_key: str
    name: str
    created: int


class ProductPage(BaseModel):
    items: list[ProductSummary]
    next: str | None


def product_view(product: Product) -> ProductView:
    return ProductView(
        product_key=product.product_key,
        name=product.name,
        built_in=product.built_in,
        created=product.created_ms,
        tsl=product.thing_model.to_dict(),
        node_type=product.node_type,
        description=product.description,
        category=product.category,
        version=product.version,
        updated=product.updated_ms,
    )


def _tag(product: Product) -> str:
    if product.built_in:  # it changes with the platform, which counts no revisions
        return body_tag(product_view(product).model_dump_json().encode())
    return revision_tag(product.product_key, product.revision)


@router.post("", status_code=201, operation_id="create_product", response_model=ProductView)
def create(request: Request, caller: Caller, body: NewProduct, once: Once) -> Response:
    """Enter a product with its thing model, which is published as version 1; the answer holds its `product_key`."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        known = once.known(work)
        if known is not None:
            return known
        product = create_product(
            work,
            body.name,
            body.tsl,
            standard=body.library,
            node_type=body.node_type,
            description=body.description,
            by=caller.key_name,
            product_key=body.product_key,
        )
        record(work.session, caller.tenant_id, caller.key_name, "create_product", product.product_key, {"name": body.name})
        return once.commit(work, product_view(product), 201, {"ETag": _tag(product)})


@router.get("", operation_id="list_products")
def list_all(request: Request, caller: Caller, limit: Limit = 100, cursor: Cursor = None) -> ProductPage:
    """The tenant's products, oldest first; the built-in product `gateway` is not listed."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        rows = list_products(work, read_cursor(cursor), limit + 1)
    items = [ProductSummary(product_key=p.product_key, name=p.name, created=p.created_ms) for _, p in rows[:limit]]
    return ProductPage(items=items, next=next_page(rows, limit, lambda one: one[0]))


@router.get("/{product_key}", operation_id="get_product", response_model=ProductView)
def get(request: Request, response: Response, caller: Caller, product_key: str, held: IfNoneMatch) -> ProductView | Response:
    """One product with its active thing model."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        product = find_product(work, product_key)
    if product is None:
        raise not_found(f"Product {product_key}")
    response.headers["ETag"] = _tag(product)
    return held.unchanged(_tag(product)) or product_view(product)


@router.patch("/{product_key}", operation_id="change_product", response_model=ProductView)
def change(request: Request, caller: Caller, product_key: str, body: ProductChange, based: IfMatch, once: Once) -> Response:
    """Give a product another name or description; its thing model is changed by a draft that is published."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        known = once.known(work)
        if known is not None:
            return known
        product = change_product(work, product_key, body.name, body.description)
        if product is None:
            raise not_found(f"Product {product_key}")
        based.check(revision_tag(product_key, product.revision - 1))  # as it was: this change counted one on
        record(work.session, caller.tenant_id, caller.key_name, "change_product", product_key, body.model_dump(exclude_none=True))
        return once.commit(work, product_view(product), headers={"ETag": _tag(product)})


@router.delete("/{product_key}", status_code=204, operation_id="delete_product")
async def delete(request: Request, caller: Caller, product_key: str, based: IfMatch) -> None:
    """Delete a product with all versions of its thing model; refused, 409, while devices are entered under it."""
    database: Database = request.app.state.database
    uses: ProductUses = request.app.state.product_uses
    changes: Changes = request.app.state.changes

    def remove() -> bool:
        with database.unit_of_work(caller.tenant_id) as work:
            product = find_product(work, product_key) if hold_product(work, product_key) else None
            if product is None:
                return False
            based.check(_tag(product))
            delete_product(work, product_key, uses)
            record(work.session, caller.tenant_id, caller.key_name, "delete_product", product_key, {"name": product.name})
            work.commit()
        return True

    if not await asyncio.to_thread(remove):
        raise not_found(f"Product {product_key}")
    await changes.registry_changed(product_key, None)
