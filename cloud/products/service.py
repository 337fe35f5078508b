"""Use cases around products. Everything here blocks: asyncio code runs it in a thread."""

from collections.abc import Collection, Iterable
from functools import cache, lru_cache

import msgspec
from sqlalchemy import select

from cloud.foundation.clock import now_ms
from cloud.foundation.db import KEYS_A_STATEMENT, Database, UnitOfWork
from cloud.products.model import GATEWAY, Product, ProductEntry, new_product_key
from cloud.products.tables import ProductRow
from protocols.errors import Reason, Refused
from protocols.thing import library
from protocols.thing.model import ThingModel, parse_thing_model


@cache
def gateway_product() -> Product:
    """The built-in product `gateway`."""
    return Product(product_key=GATEWAY, name="Gateway", thing_model=library.load(GATEWAY), built_in=True, created_ms=0)


@lru_cache(maxsize=512)
def _parsed(tsl: str) -> ThingModel:
    """A model that was stored: most requests are for one of few."""
    return parse_thing_model(tsl)


def thing_models(database: Database, product_keys: Iterable[str]) -> dict[str, ThingModel]:
    """The thing models of these products; a key that does not exist is left out. Raises DatabaseAway."""
    wanted = set(product_keys)
    models = {GATEWAY: gateway_product().thing_model} if GATEWAY in wanted else {}
    keys = sorted(wanted - {GATEWAY})
    with database.system_reading() as work:
        for start in range(0, len(keys), KEYS_A_STATEMENT):
            chunk = keys[start : start + KEYS_A_STATEMENT]
            rows = work.session.execute(select(ProductRow.product_key, ProductRow.tsl).where(ProductRow.product_key.in_(chunk)))
            models |= {row.product_key: _parsed(row.tsl) for row in rows}
    return models


def owners(work: UnitOfWork, product_keys: Iterable[str]) -> dict[str, int]:
    """The tenants of products, in a unit of work of the whole system; what does not exist, or is built in, is left out."""
    keys, found = sorted(set(product_keys)), dict[str, int]()
    for start in range(0, len(keys), KEYS_A_STATEMENT):
        chunk = keys[start : start + KEYS_A_STATEMENT]
        rows = work.session.execute(select(ProductRow.product_key, ProductRow.tenant_id).where(ProductRow.product_key.in_(chunk)))
        found |= {row.product_key: row.tenant_id for row in rows}
    return found


def create_product(work: UnitOfWork, name: str, tsl: object) -> Product:
    """Check the thing model and enter the product. Raises Refused naming what is wrong in it."""
    if not isinstance(tsl, dict):
        raise Refused(Reason.BAD_THING_MODEL, "$: the thing model must be a JSON object with properties, events and services")
    model = parse_thing_model(tsl)
    row = ProductRow(product_key=new_product_key(), name=name, tsl=_as_text(model), created_ms=now_ms())
    work.session.add(row)
    work.session.flush()
    return Product(row.product_key, name, model, built_in=False, created_ms=row.created_ms)


def find_product(work: UnitOfWork, product_key: str) -> Product | None:
    """A product that the unit of work's tenant may use."""
    if product_key == GATEWAY:
        return gateway_product()
    row = work.session.scalars(select(ProductRow).where(ProductRow.product_key == product_key)).one_or_none()
    return None if row is None else _product(row)


def list_products(work: UnitOfWork, after: int, limit: int) -> list[tuple[int, ProductEntry]]:
    """The tenant's own products with their place in the list, by time of creation."""
    columns = select(ProductRow.id, ProductRow.product_key, ProductRow.name, ProductRow.created_ms)
    rows = work.session.execute(columns.where(ProductRow.id > after).order_by(ProductRow.id).limit(limit))
    return [(row.id, ProductEntry(row.product_key, row.name, row.created_ms)) for row in rows]


def product_names(work: UnitOfWork, product_keys: Collection[str]) -> dict[str, str]:
    """The names of these products of the tenant, the built-in one among them."""
    rows = work.session.execute(select(ProductRow.product_key, ProductRow.name).where(ProductRow.product_key.in_(product_keys)))
    return {row.product_key: row.name for row in rows} | ({GATEWAY: gateway_product().name} if GATEWAY in product_keys else {})


def _product(row: ProductRow) -> Product:
    return Product(row.product_key, row.name, _parsed(row.tsl), built_in=False, created_ms=row.created_ms)


def _as_text(model: ThingModel) -> str:
    return msgspec.json.encode(model.to_dict()).decode()
