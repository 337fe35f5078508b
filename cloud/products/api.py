"""Routes of products."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cloud.foundation.db import Database
from cloud.foundation.paging import Cursor, Limit, read_cursor, write_cursor
from cloud.foundation.problems import not_found
from cloud.products.model import Product
from cloud.products.service import create_product, find_product, list_products
from cloud.tenancy.api import Caller

router = APIRouter(prefix="/v1/products", tags=["products"])


class NewProduct(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=128)]
    tsl: Annotated[dict[str, Any], Field(description="The thing model, as Alink's TSL JSON.")]


class ProductView(BaseModel):
    product_key: str
    name: str
    built_in: bool
    created: Annotated[int, Field(description="Epoch ms.")]
    tsl: dict[str, Any]


class ProductSummary(BaseModel):
    product_key: str
    name: str
    created: int


class ProductPage(BaseModel):
    items: list[ProductSummary]
    next: str | None


def _view(product: Product) -> ProductView:
    return ProductView(
        product_key=product.product_key,
        name=product.name,
        built_in=product.built_in,
        created=product.created_ms,
        tsl=product.thing_model.to_dict(),
    )


@router.post("", status_code=201, operation_id="create_product")
def create(request: Request, caller: Caller, body: NewProduct) -> ProductView:
    """Enter a product with its thing model; the answer holds its new `product_key`."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        product = create_product(work, body.name, body.tsl)
        work.commit()
    return _view(product)


@router.get("", operation_id="list_products")
def list_all(request: Request, caller: Caller, limit: Limit = 100, cursor: Cursor = None) -> ProductPage:
    """The tenant's products, oldest first; the built-in product `gateway` is not listed."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        rows = list_products(work, read_cursor(cursor), limit + 1)
    items = [ProductSummary(product_key=p.product_key, name=p.name, created=p.created_ms) for _, p in rows[:limit]]
    return ProductPage(items=items, next=write_cursor(rows[limit - 1][0]) if len(rows) > limit else None)


@router.get("/{product_key}", operation_id="get_product")
def get(request: Request, caller: Caller, product_key: str) -> ProductView:
    """One product with its thing model."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        product = find_product(work, product_key)
    if product is None:
        raise not_found(f"Product {product_key}")
    return _view(product)
