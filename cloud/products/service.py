"""Use cases around products. Everything here blocks: asyncio code runs it in a thread. Versions of thing models are in versions.py."""

from collections.abc import Collection, Iterable
from functools import cache, lru_cache

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from cloud.foundation.clock import now_ms
from cloud.foundation.db import KEYS_A_STATEMENT, Database, UnitOfWork, is_duplicate
from cloud.foundation.problems import Problem, not_found
from cloud.products.model import GATEWAY, NodeType, Product, ProductEntry, VersionState, check_product_key, new_product_key
from cloud.products.ports import ProductUses
from cloud.products.standard import standard_model
from cloud.products.tables import ProductRegistrationRow, ProductRow, ThingModelVersionRow
from protocols.errors import Reason, Refused
from protocols.thing import library
from protocols.thing.model import ThingModel, parse_thing_model


@cache
def gateway_product() -> Product:
    """The built-in product `gateway`."""
    model = library.load(GATEWAY)
    return Product(GATEWAY, name="Gateway", thing_model=model, built_in=True, created_ms=0, node_type=NodeType.GATEWAY, category=GATEWAY)


@lru_cache(maxsize=512)
def parsed(tsl: str) -> ThingModel:
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
            models |= {row.product_key: parsed(row.tsl) for row in rows}
    return models


def owners(work: UnitOfWork, product_keys: Iterable[str]) -> dict[str, int]:
    """The tenants of products, in a unit of work of the whole system; what does not exist, or is built in, is left out."""
    keys, found = sorted(set(product_keys)), dict[str, int]()
    for start in range(0, len(keys), KEYS_A_STATEMENT):
        chunk = keys[start : start + KEYS_A_STATEMENT]
        rows = work.session.execute(select(ProductRow.product_key, ProductRow.tenant_id).where(ProductRow.product_key.in_(chunk)))
        found |= {row.product_key: row.tenant_id for row in rows}
    return found


def create_product(
    work: UnitOfWork,
    name: str,
    tsl: object = None,
    *,
    standard: str | None = None,
    node_type: NodeType = NodeType.DEVICE,
    description: str = "",
    by: str = "",
    product_key: str | None = None,
) -> Product:
    """Enter the product and publish version 1 of its thing model: `tsl`, or the model `standard` of the standard library.

    `product_key` is the one that its firmware carries from another cloud; a new one is made without it. Raises Refused naming what is
    wrong, that there is no such model, or that both or none were given; Problem 409 when somebody has the key.
    """
    if (tsl is None) == (standard is None):
        raise Refused(Reason.BAD_THING_MODEL, "$: give either `tsl`, a thing model, or `library`, a key of /v1/library")
    model = checked(tsl) if standard is None else standard_model(standard).thing_model
    now, text = now_ms(), as_text(model)
    if product_key is not None:
        check_product_key(product_key)
    row = ProductRow(
        product_key=product_key or new_product_key(),
        name=name,
        tsl=text,
        created_ms=now,
        node_type=str(node_type),
        description=description,
        category=standard,
        version=1,
        revision=1,
        updated_ms=now,
    )
    try:
        with work.session.begin_nested():
            work.session.add(row)
    except IntegrityError as error:
        if not is_duplicate(error):
            raise
        detail = f"There is a product {product_key} on this platform already; if it is not yours, ask whoever runs the platform."
        raise Problem(409, "product-exists", detail) from error
    first = ThingModelVersionRow(
        product_id=row.id,
        number=1,
        state=str(VersionState.PUBLISHED),
        tsl=text,
        note="",
        revision=1,
        created_ms=now,
        created_by=by,
        published_ms=now,
        published_by=by,
    )
    work.session.add(first)
    work.session.flush()
    return _product(row)


def checked(tsl: object) -> ThingModel:
    """A thing model that came from outside. Raises Refused naming what is wrong in it."""
    if not isinstance(tsl, dict):
        raise Refused(Reason.BAD_THING_MODEL, "$: the thing model must be a JSON object with properties, events and services")
    model = parse_thing_model(tsl)
    try:
        as_text(model)
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair, which is no text
        raise Refused(Reason.BAD_THING_MODEL, f"$: it holds a text that is no Unicode, with {error.object[error.start]!a}") from error
    return model


def change_product(work: UnitOfWork, product_key: str, name: str | None, description: str | None) -> Product | None:
    """Give a product of the tenant another name or description; None when there is none. Raises Problem 409 for the built-in one."""
    row = product_row(work, product_key)
    if row is None:
        return None
    row.name = row.name if name is None else name
    row.description = row.description if description is None else description
    touch(row)
    work.session.flush()
    return _product(row)


def touch(row: ProductRow) -> None:
    """The product was changed: its ETag with it."""
    row.revision, row.updated_ms = row.revision + 1, now_ms()


def delete_product(work: UnitOfWork, product_key: str, uses: ProductUses) -> bool:
    """Delete a product with all versions of its thing model; False when there is none.

    Raises Problem 409 that counts what still hangs on it, or for the built-in one.
    """
    row = product_row(work, product_key)
    if row is None:
        return False
    held = {word: count for word, use in uses.items() if (count := use(work, product_key))}
    if held:
        listed = ", ".join(f"{count} {word}" for word, count in held.items())
        raise Problem(409, "product-in-use", f"Product {product_key} still has {listed}; delete these first.", more={"in_use": held})
    work.session.execute(delete(ThingModelVersionRow).where(ThingModelVersionRow.product_id == row.id))
    work.session.execute(delete(ProductRegistrationRow).where(ProductRegistrationRow.product_key == product_key))
    work.session.execute(delete(ProductRow).where(ProductRow.id == row.id))
    return True


def find_product(work: UnitOfWork, product_key: str, *, keep: bool = False) -> Product | None:
    """A product that the unit of work's tenant may use. With `keep` nobody deletes it before the unit of work ends."""
    if product_key == GATEWAY:
        return gateway_product()
    query = select(ProductRow).where(ProductRow.product_key == product_key)
    row = work.session.scalars(query.with_for_update(read=True) if keep else query).one_or_none()
    return None if row is None else _product(row)


def hold_product(work: UnitOfWork, product_key: str) -> bool:
    """Let everybody else who changes this product or its draft wait until the unit of work ends; False when there is none.

    What is read after it is what the change is made to. Raises Problem 409 for the built-in product.
    """
    return product_row(work, product_key) is not None


def product_row(work: UnitOfWork, product_key: str) -> ProductRow | None:
    """The row of a product that is about to be changed, locked; for this slice only. Raises Problem 409 for the built-in product."""
    if product_key == GATEWAY:
        raise Problem(409, "built-in", "The product gateway is part of the platform and the same for all; make a product of your own.")
    return work.session.scalars(select(ProductRow).where(ProductRow.product_key == product_key).with_for_update()).one_or_none()


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
    return Product(
        product_key=row.product_key,
        name=row.name,
        thing_model=parsed(row.tsl),
        built_in=False,
        created_ms=row.created_ms,
        node_type=NodeType(row.node_type),
        description=row.description,
        category=row.category,
        version=row.version,
        revision=row.revision,
        updated_ms=row.updated_ms,
    )


def as_text(model: ThingModel) -> str:
    """The model as it is stored."""
    return msgspec.json.encode(model.to_dict()).decode()


def own_product(work: UnitOfWork, product_key: str) -> Product:
    """The caller's product; the built-in one has devices of every tenant. Raises Problem 404, 409."""
    product = find_product(work, product_key)
    if product is None:
        raise not_found(f"Product {product_key}")
    if product.built_in:
        raise Problem(409, "built-in-product", f"Product {product_key} belongs to the platform: name a product of your own.")
    return product
