"""What requests with an Idempotency-Key, and versions of a thing model, may rely on, whichever database is behind them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from fastapi import Response
from pydantic import BaseModel
from sqlalchemy import func, select, text, update

from cloud.foundation.db import Database, DatabaseAway
from cloud.foundation.idempotency import IdempotencyRow, Idempotent, keep_newest
from cloud.foundation.problems import Problem
from cloud.foundation.schema import configuration_for, upgrade
from cloud.foundation.vault import Vault
from cloud.products.service import create_product, delete_product, find_product, hold_product, list_products
from cloud.products.tables import ProductRow, ThingModelVersionRow
from cloud.products.versions import find_draft, find_version, publish_draft, put_draft
from cloud.tenancy.service import create_tenant
from protocols.errors import TryAgain
from tests.contract.databases import postgresql_database, postgresql_programs, postgresql_server, sqlite_database

TSL: dict[str, Any] = {"properties": [{"identifier": "Power", "accessMode": "rw", "dataType": {"type": "int", "specs": {}}}]}
ONE, TWO = 1, 2


class Made(BaseModel):
    product_key: str


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    if postgresql_programs() is None:
        pytest.skip("no PostgreSQL server under /usr/lib/postgresql")
    with postgresql_server() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "postgresql":
        with postgresql_database(request.getfixturevalue("postgresql"), f"t{abs(hash(request.node.name))}") as database:
            yield database
    else:
        database = sqlite_database(tmp_path)
        yield database
        database.close()


@pytest.fixture
def database(empty: Database) -> Database:
    upgrade(empty)
    with empty.system() as work:
        create_tenant(work, "one")
        create_tenant(work, "two")
        work.commit()
    return empty


def request(key: str | None, body: bytes = b"") -> Idempotent:
    return Idempotent(Vault(bytes(32)), key, body.ljust(32))


def make(database: Database, key: str | None, body: bytes = b"", *, tenant: int = ONE, running: bool = False) -> Response:
    """What a route does that makes a product."""
    once = request(key, body)
    with database.unit_of_work(tenant) as work:
        known = once.known(work)
        if known is not None:
            return known
        return once.commit(work, Made(product_key=create_product(work, "Stove", TSL).product_key), 201, {"ETag": '"1"'}, running=running)


def count(database: Database, table: Any) -> int:
    with database.system_reading() as work:
        return work.session.scalar(select(func.count()).select_from(table)) or 0


def test_the_same_request_again_is_answered_the_same_and_has_no_second_effect(database: Database) -> None:
    first, again = make(database, "k"), make(database, "k")
    assert (again.body, again.status_code, again.headers["etag"]) == (first.body, 201, '"1"')
    assert count(database, ProductRow) == 1
    assert make(database, "k", tenant=TWO).body != first.body
    assert make(database, None).body != make(database, None).body
    with pytest.raises(Problem) as refused:
        make(database, "k", b"another")
    assert (refused.value.status, refused.value.kind) == (422, "idempotency-key-reused")


def test_what_is_rolled_back_leaves_no_answer(database: Database) -> None:
    once = request("k")
    with database.unit_of_work(ONE) as work:
        assert once.known(work) is None
        create_product(work, "Stove", TSL)
    assert (count(database, IdempotencyRow), count(database, ProductRow)) == (0, 0)
    assert make(database, "k").status_code == 201


def test_the_answer_is_there_when_the_effect_is_though_nobody_heard_it(database: Database) -> None:
    heard: list[Response] = []
    once = request("k")
    with database.unit_of_work(ONE) as work:
        assert once.known(work) is None
        heard.append(once.commit(work, Made(product_key=create_product(work, "Stove", TSL).product_key), 201))
        work.session.connection().invalidate()  # the connection is gone right behind the commit
    assert make(database, "k").body == heard[0].body
    assert count(database, ProductRow) == 1


def test_of_requests_at_once_one_has_an_effect_and_all_have_its_answer(database: Database) -> None:
    answers: list[bytes] = []
    barrier = threading.Barrier(4)

    def send() -> None:
        barrier.wait()
        try:
            answers.append(bytes(make(database, "k").body))
        except TryAgain:
            answers.append(bytes(make(database, "k").body))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), len(set(answers)), count(database, ProductRow)) == (4, 1, 1)


def test_a_key_that_runs_on_after_the_commit_is_settled_or_released(database: Database) -> None:
    first = make(database, "k", running=True)
    with pytest.raises(Problem) as running:
        make(database, "k")
    assert (running.value.kind, running.value.headers) == ("idempotency-in-progress", {"Retry-After": "1"})
    with database.unit_of_work(TWO) as work:
        request("k").settle(work)
        request("k").release(work)
        work.commit()
    with pytest.raises(Problem):
        make(database, "k")
    with database.unit_of_work(ONE) as work:
        request("k").settle(work)
        work.commit()
    assert make(database, "k").body == first.body
    make(database, "other", running=True)
    with database.unit_of_work(ONE) as work:
        request("other").release(work)
        request("k").release(work)  # it is settled: nothing to undo
        work.commit()
    assert make(database, "k").body == first.body
    assert count(database, IdempotencyRow) == 1


def test_a_tenant_holds_its_newest_keys_and_no_more(database: Database) -> None:
    for n in range(6):
        make(database, f"k{n}")
    make(database, "theirs", tenant=TWO)
    with database.unit_of_work(ONE) as work:
        keep_newest(work, most=4)
        work.commit()
    with database.system_reading() as work:
        kept = list(work.session.scalars(select(IdempotencyRow.key).order_by(IdempotencyRow.id)))
    assert kept == ["k2", "k3", "k4", "k5", "theirs"]


def test_the_version_published_last_is_the_products_thing_model(database: Database) -> None:
    with database.unit_of_work(ONE) as work:
        key = create_product(work, "Stove", TSL, by="ada").product_key
        assert put_draft(work, key, {"properties": [*TSL["properties"], {**TSL["properties"][0], "identifier": "Heat"}]}, "bob") is not None
        published = publish_draft(work, key, "eve", lambda *_: 0, note="heat")
        work.commit()
    assert published is not None
    assert (published.number, published.created_by, published.published_by, published.note) == (2, "bob", "eve", "heat")
    with database.reading(ONE) as work:
        product, first = find_product(work, key), find_version(work, key, 1)
    assert product is not None
    assert first is not None
    assert (product.version, product.revision, product.thing_model) == (2, 2, published.thing_model)
    assert (list(first.thing_model.properties), first.published_by) == (["Power"], "ada")
    with database.reading(TWO) as work:
        assert find_version(work, key, 1) is None


def test_a_product_that_is_being_used_is_not_deleted_meanwhile(database: Database) -> None:
    with database.unit_of_work(ONE) as work:
        key = create_product(work, "Stove", TSL).product_key
        work.commit()
    gone = threading.Event()

    def remove() -> None:
        while not gone.is_set():
            try:
                with database.unit_of_work(ONE) as work:
                    delete_product(work, key, {})
                    work.commit()
                gone.set()
            except DatabaseAway:
                continue

    with database.unit_of_work(ONE) as work:
        assert find_product(work, key, keep=True) is not None
        removing = threading.Thread(target=remove)
        removing.start()
        removing.join(0.3)
        assert not gone.is_set()
        work.commit()
    removing.join()
    with database.reading(ONE) as work:
        assert list_products(work, 0, 10) == []
    assert count(database, ThingModelVersionRow) == 0


def test_who_changes_a_draft_sees_what_the_one_before_made_of_it(database: Database) -> None:
    with database.unit_of_work(ONE) as work:
        key = create_product(work, "Stove", TSL).product_key
        work.commit()
    seen: list[int] = []

    def second() -> None:
        with database.unit_of_work(ONE) as work:
            assert hold_product(work, key)
            draft = find_draft(work, key)
            seen.append(0 if draft is None else draft.revision)
            changed = put_draft(work, key, TSL, "second")
            seen.append(0 if changed is None else changed.revision)
            work.commit()

    with database.unit_of_work(ONE) as work:
        assert hold_product(work, key)
        changing = threading.Thread(target=second)
        changing.start()
        assert put_draft(work, key, TSL, "first") is not None
        work.commit()
    changing.join()
    assert seen == [1, 2]


def test_a_product_has_so_many_versions_and_no_more(database: Database) -> None:
    with database.unit_of_work(ONE) as work:
        key = create_product(work, "Stove", TSL).product_key
        assert put_draft(work, key, TSL, "", most=2) is not None
        assert put_draft(work, key, TSL, "", most=2) is not None, "the same draft"
        assert publish_draft(work, key, "", lambda *_: 0) is not None
        with pytest.raises(Problem, match="make a new product"):
            put_draft(work, key, TSL, "", most=2)


def test_products_from_before_versions_have_their_model_as_version_one(empty: Database) -> None:
    configuration = configuration_for(empty)
    command.upgrade(configuration, "0005")
    with empty.engine.begin() as connection:
        connection.execute(text("INSERT INTO tenant (id, name, created_ms) VALUES (1, 'one', 5)"))
        row = {"tsl": '{"properties": []}'}
        columns = "id, product_key, name, tsl, created_ms, tenant_id"
        connection.execute(text(f"INSERT INTO product ({columns}) VALUES (7, 'a1b2c3', 'Stove', :tsl, 6, 1)"), row)
    upgrade(empty)
    with empty.reading(ONE) as work:
        version, product = find_version(work, "a1b2c3", 1), find_product(work, "a1b2c3")
    assert version is not None
    assert product is not None
    assert (version.state, version.published_ms, version.thing_model) == ("published", 6, product.thing_model)
    assert (product.version, product.updated_ms, product.node_type) == (1, 6, "device")
    command.downgrade(configuration, "0005")
    upgrade(empty)
    with empty.system() as work:
        work.session.execute(update(ProductRow).values(description="d"))
        work.commit()
    assert count(empty, ThingModelVersionRow) == 1
