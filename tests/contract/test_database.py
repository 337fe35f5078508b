"""What the slices may rely on, whichever database is behind it."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, func, insert, select, text, update

from cloud.devices.commands import create_command, find_command
from cloud.devices.lifecycle import Move
from cloud.devices.model import CommandReply, PresenceChange
from cloud.devices.moves import move_device
from cloud.devices.registry import (
    count_online,
    create_device,
    find_device,
    find_route,
    list_devices,
    reported,
    search_devices,
)
from cloud.devices.service import (
    apply_presence,
    apply_reported,
    complete_commands,
    credentials_for,
    device_facts,
    reset_presence,
    tenants_concerned,
)
from cloud.devices.tables import DeviceRow, SiteRow
from cloud.foundation.db import Database, DatabaseAway, Model
from cloud.foundation.db_copy import copy_database, restore_postgresql
from cloud.foundation.problems import Problem
from cloud.foundation.schema import upgrade
from cloud.foundation.vault import Vault
from cloud.ingest.model import Booking, Effects
from cloud.ingest.quarantine import Wanted, count_held, list_entries, newest_entries
from cloud.ingest.service import commit
from cloud.ingest.tables import AccountStretch
from cloud.products.model import GATEWAY
from cloud.products.service import create_product, find_product, list_products, product_names, thing_models
from cloud.telemetry.model import Append, Position
from cloud.tenancy.model import Principal, new_api_key
from cloud.tenancy.service import (
    KnownKeys,
    authenticate,
    create_api_key,
    create_first_tenant,
    create_tenant,
    list_api_keys,
    revoke_api_key,
)
from cloud.tenancy.tables import TenantRow
from protocols.edgelink.lanes import Lane
from protocols.edgelink.stretches import STRETCH_MS, STRETCHES
from protocols.errors import Broken, Reason, Refused
from tests.contract.databases import postgresql_database, postgresql_programs, postgresql_server, sqlite_database

TSL = {"properties": [{"identifier": "Power", "name": "Power", "accessMode": "rw", "dataType": {"type": "int", "specs": {}}}]}
VAULT = Vault(bytes(32))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    if postgresql_programs() is None:
        pytest.skip("no PostgreSQL server under /usr/lib/postgresql")
    with postgresql_server() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "sqlite-of-python", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        database = sqlite_database(tmp_path)
    elif request.param == "sqlite-of-python":
        database = Database(f"sqlite:///{tmp_path / 'meta.db'}", sqlite_library=sqlite3)
    else:
        with postgresql_database(request.getfixturevalue("postgresql"), f"t{abs(hash(request.node.name))}") as database:
            yield database
        return
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


ONE, TWO = 1, 2


def test_a_copy_of_the_database_holds_what_was_committed_and_becomes_a_database_again(
    database: Database, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    product_key = product_of(database)
    with database.unit_of_work(ONE) as work:
        create_product(work, "never committed", TSL)
        copy_database(database, tmp_path / "copy")
    if database.is_sqlite:
        again = Database(f"sqlite:///{tmp_path / 'copy'}")
    else:
        with pytest.raises(Refused, match="make an empty one"):
            restore_postgresql(database.url, tmp_path / "copy")
        server = request.getfixturevalue("postgresql")
        admin = Database(server + "postgres")
        with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE DATABASE restored"))
        admin.close()
        restore_postgresql(server + "restored", tmp_path / "copy")
        again = Database(server + "restored")
    with again.reading(ONE) as work:
        assert [product.product_key for _, product in list_products(work, 0, 10)] == [product_key]
    again.close()


def product_of(database: Database, tenant: int = ONE) -> str:
    with database.unit_of_work(tenant) as work:
        product_key = create_product(work, "Stove", TSL).product_key
        work.commit()
    return product_key


def device_of(database: Database, product_key: str, name: str, site: str | None = None, tenant: int = ONE) -> int:
    with database.unit_of_work(tenant) as work:
        create_device(work, VAULT, product_key, name, site)
        work.commit()
    return device_facts(database, [(product_key, name)])[product_key, name].device_id


def test_migrations_lead_to_the_schema_of_the_tables(empty: Database) -> None:
    upgrade(empty)
    upgrade(empty)  # the second time there is nothing to do
    with empty.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Model.metadata) == []


def test_a_database_of_a_newer_version_is_refused(empty: Database) -> None:
    upgrade(empty)
    with empty.system() as work:
        work.session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        work.commit()
    with pytest.raises(Refused, match="9999"):
        upgrade(empty)


def test_leaving_without_commit_changes_nothing(database: Database) -> None:
    with database.unit_of_work(ONE) as work:
        create_product(work, "Stove", TSL)
    with database.reading(ONE) as work:
        assert list_products(work, 0, 10) == []


def test_a_tenant_sees_and_changes_only_its_own_rows(database: Database) -> None:
    product_key = product_of(database)
    device_id = device_of(database, product_key, "d1", "kitchen")
    with database.unit_of_work(TWO) as work:
        assert find_product(work, product_key) is None
        assert list_products(work, 0, 10) == []
        assert find_device(work, product_key, "d1", lease_held=True) is None
        assert list_devices(work, product_key, 0, 10, lease_held=True) == []
        assert search_devices(work, "", 0, 10, lease_held=True) == ([], 0)
        assert count_online(work) == (0, 0)
        assert product_names(work, {product_key}) == {}
        assert (newest_entries(work, 10), list_entries(work, Wanted(), 0, 10), count_held(work)) == ([], [], {})
        assert work.session.get(DeviceRow, device_id) is None
        assert not move_device(work, product_key, "d1", Move.DISABLE, "two")
        assert work.session.scalar(select(func.count()).select_from(SiteRow)) == 0
        work.session.execute(delete(DeviceRow))
        work.session.execute(update(DeviceRow).values(enabled=False))
        work.commit()
    with database.reading(ONE) as work:
        found = find_device(work, product_key, "d1", lease_held=True)
        assert search_devices(work, "KITCH", 0, 10, lease_held=True) == ([found], 1)
        assert search_devices(work, "%", 0, 10, lease_held=True) == ([], 0)
        assert count_online(work) == (1, 0)
        assert list(product_names(work, {product_key, "gateway"})) == [product_key, "gateway"]
    assert found is not None
    assert found.enabled
    assert found.site == "kitchen"


def test_a_tenants_unit_of_work_refuses_what_the_filter_cannot_reach(database: Database) -> None:
    with database.unit_of_work(ONE) as work:
        for statement in (text("SELECT 1"), select(DeviceRow.__table__), insert(SiteRow).values(name="x", created_ms=0)):
            with pytest.raises(Broken, match="only ORM"):
                work.session.execute(statement)


def test_a_row_of_another_tenant_cannot_be_written(database: Database) -> None:
    with database.unit_of_work(ONE) as work:
        work.session.add(SiteRow(name="x", created_ms=0, tenant_id=TWO))
        with pytest.raises(Broken, match="another"):
            work.commit()
    with database.unit_of_work(ONE) as work:
        site = SiteRow(name="x", created_ms=0)
        work.session.add(site)
        work.session.flush()
        site.tenant_id = TWO
        with pytest.raises(Broken, match="may not change its tenant"):
            work.commit()
    with database.system() as work:
        work.session.add(SiteRow(name="x", created_ms=0))
        with pytest.raises(Broken, match="no tenant"):
            work.commit()


def test_an_unreachable_database_asks_to_try_again(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/meta.db", "postgresql+psycopg://nobody@127.0.0.1:9/x"):
        database = Database(url)
        with pytest.raises(DatabaseAway):
            database.ping()


def test_a_key_seen_a_moment_ago_is_known_for_a_second_and_no_longer() -> None:
    now = 100.0
    keys = KnownKeys(lambda: now)
    key, owner = new_api_key(), Principal(3, "admin")
    assert keys.get(key) is None
    keys.remember(key, owner, now)
    now += KnownKeys.FRESH_S - 0.01
    assert keys.get(key) == owner
    assert keys.get(new_api_key()) is None
    now += 0.02
    assert keys.get(key) is None


def test_a_key_is_known_until_it_is_revoked(database: Database) -> None:
    with database.system() as work:
        key = create_api_key(work, TWO, "app")
        work.commit()
    principal = authenticate(database, key)
    assert principal is not None
    assert (principal.tenant_id, principal.key_name) == (TWO, "app")
    assert authenticate(database, key[:-1] + ("0" if key[-1] != "0" else "1")) is None
    assert authenticate(database, "hl_nothing") is None
    with database.system() as work:
        prefix = list_api_keys(work, TWO)[0].prefix
        assert key.startswith(prefix)
        revoke_api_key(work, prefix)
        work.commit()
    assert authenticate(database, key) is None


def test_a_key_is_not_stored_in_the_clear(database: Database) -> None:
    with database.system() as work:
        key = create_api_key(work, ONE, "app")
        work.commit()
        stored = work.session.execute(text("SELECT prefix, digest FROM api_key")).one()
    assert key.split("_")[2] not in f"{stored.prefix} {stored.digest!r}"


def test_the_first_tenant_is_made_once(empty: Database) -> None:
    upgrade(empty)
    with empty.system() as work:
        key = create_first_tenant(work)
        work.commit()
    assert key is not None
    assert authenticate(empty, key) is not None
    with empty.system() as work:
        assert create_first_tenant(work) is None


def test_thing_models_come_for_the_products_that_exist(database: Database) -> None:
    product_key = product_of(database)
    models = thing_models(database, [product_key, GATEWAY, "nothing"])
    assert set(models) == {product_key, GATEWAY}
    assert set(models[product_key].properties) == {"Power"}


def test_a_device_secret_opens_for_its_device_only(database: Database) -> None:
    product_key = product_of(database)
    with database.unit_of_work(ONE) as work:
        secret = create_device(work, VAULT, product_key, "d1", "kitchen")
        create_device(work, VAULT, GATEWAY, "gw1", "kitchen")
        work.commit()
    known = credentials_for(database, VAULT, [(product_key, "d1"), (GATEWAY, "gw1"), (product_key, "nobody")])
    assert set(known) == {(product_key, "d1"), (GATEWAY, "gw1")}
    device, gateway = known[product_key, "d1"], known[GATEWAY, "gw1"]
    assert device.secret.decode() == secret
    assert (device.is_gateway, gateway.is_gateway) == (False, True)
    assert device.site_id == gateway.site_id
    assert secret not in repr(device)
    with database.system() as work:
        stolen = work.session.scalars(select(DeviceRow.sealed_secret).where(DeviceRow.device_name == "gw1")).one()
        work.session.execute(update(DeviceRow).where(DeviceRow.device_name == "d1").values(sealed_secret=stolen))
        work.commit()
    with pytest.raises(Broken):
        credentials_for(database, VAULT, [(product_key, "d1")])


def test_a_device_name_is_taken_once(database: Database) -> None:
    product_key = product_of(database)
    device_of(database, product_key, "d1")
    with pytest.raises(Problem) as caught:
        device_of(database, product_key, "d1")
    assert caught.value.status == 409
    with pytest.raises(Refused) as refused:
        device_of(database, product_key, "a/b")
    assert refused.value.reason is Reason.OUT_OF_RANGE


def test_one_site_is_made_however_many_devices_name_it_at_once(database: Database) -> None:
    product_key = product_of(database)
    threads = [threading.Thread(target=device_of, args=(database, product_key, f"d{n}", "kitchen")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading(ONE) as work:
        assert work.session.scalars(select(SiteRow.name)).all() == ["kitchen"]
        assert {d.site for d in list_devices(work, product_key, 0, 10, lease_held=True)} == {"kitchen"}


def test_a_stale_value_never_overwrites_a_newer_one(database: Database) -> None:
    device_id = device_of(database, product_of(database), "d1")
    for value, time_ms in ((1.5, 1000), (2.5, 2000), (9.0, 1500), ("last", 2000)):
        with database.system() as work:
            apply_reported(work.session, {device_id: {"Power": (value, time_ms), "State": ({"a": [1]}, 1)}})
            work.commit()
    with database.reading(ONE) as work:
        assert reported(work, device_id) == {"Power": ("last", 2000), "State": ({"a": [1]}, 1)}


def test_an_empty_shadow_update_is_nothing(database: Database) -> None:
    with database.system() as work:
        apply_reported(work.session, {})
        apply_presence(work.session, [])


def changes(device: int, *moves: tuple[bool, int, int, int]) -> list[PresenceChange]:
    return [PresenceChange(device, online, time_ms, epoch, via) for online, time_ms, epoch, via in moves]


@pytest.mark.parametrize("together", [True, False])
def test_the_newest_session_decides_whether_a_device_is_online(database: Database, together: bool) -> None:
    product_key = product_of(database)
    device = device_of(database, product_key, "d1", "kitchen")
    gateway = device_of(database, GATEWAY, "gw1", "kitchen")

    def apply(*moves: tuple[bool, int, int, int]) -> tuple[bool, int | None, tuple[str, str] | None]:
        for part in [changes(device, *moves)] if together else [[change] for change in changes(device, *moves)]:
            with database.system() as work:
                apply_presence(work.session, part)
                work.commit()
        with database.reading(ONE) as work:
            found = find_device(work, product_key, "d1", lease_held=True)
        assert found is not None
        return found.online, found.since_ms, found.via

    assert apply((True, 10, 1, 0)) == (True, 10, None)
    assert apply((True, 20, 2, 0), (False, 21, 1, 0)) == (True, 20, None)  # the older session's end says nothing
    assert apply((False, 30, 2, 0)) == (False, 30, None)
    with database.system() as work:
        apply_presence(work.session, [PresenceChange(gateway, True, 5, 1)])
        work.commit()
    assert apply((True, 40, 1, gateway)) == (True, 40, (GATEWAY, "gw1"))
    assert apply((False, 50, 3, 0)) == (True, 40, (GATEWAY, "gw1"))  # another door's end says nothing
    assert apply((True, 60, 4, 0)) == (True, 60, None)
    assert apply((False, 70, 2, gateway)) == (True, 60, None)


def test_nobody_is_online_without_the_lease_or_behind_a_gateway_that_is_away(database: Database) -> None:
    product_key = product_of(database)
    device = device_of(database, product_key, "d1", "kitchen")
    gateway = device_of(database, GATEWAY, "gw1", "kitchen")
    with database.system() as work:
        apply_presence(work.session, [PresenceChange(gateway, True, 5, 1), PresenceChange(device, True, 6, 1, gateway)])
        work.commit()

    def online(lease_held: bool) -> bool:
        with database.reading(ONE) as work:
            found = find_device(work, product_key, "d1", lease_held=lease_held)
        assert found is not None
        return found.online

    assert online(True)
    assert not online(False)
    with database.system() as work:
        reset_presence(work.session, 100, 2)  # the front door started again: the gateway's session is gone
        work.commit()
    assert not online(True)


def test_a_start_of_the_front_door_closes_only_older_sessions(database: Database) -> None:
    product_key = product_of(database)
    old, new = device_of(database, product_key, "d1"), device_of(database, product_key, "d2")
    with database.system() as work:
        apply_presence(work.session, [PresenceChange(old, True, 1, 1), PresenceChange(new, True, 3, 3)])
        reset_presence(work.session, 2, 2)
        work.commit()
    with database.reading(ONE) as work:
        assert [d.online for d in list_devices(work, product_key, 0, 10, lease_held=True)] == [False, True]


def test_a_device_is_reached_by_its_own_session_else_through_the_gateway_of_its_site(database: Database) -> None:
    product_key = product_of(database)
    device = device_of(database, product_key, "d1", "kitchen")
    gateway = device_of(database, GATEWAY, "gw1", "kitchen")
    device_of(database, GATEWAY, "elsewhere", "cellar")

    def route(*moves: PresenceChange, lease_held: bool = True) -> tuple[str, str] | str | None:
        with database.system() as work:
            apply_presence(work.session, moves)
            work.commit()
        with database.reading(ONE) as work:
            found = find_device(work, product_key, "d1", lease_held=lease_held)
            assert found is not None
            way = find_route(work, found, lease_held=lease_held)
        if way is None:
            return None
        assert way.gateway_id in (0, gateway)
        return way.gateway or "direct"

    assert route() is None
    assert route(PresenceChange(gateway, True, 1, 1)) == (GATEWAY, "gw1")
    assert route(lease_held=False) is None
    assert route(PresenceChange(device, True, 2, 1)) == "direct"
    assert route(PresenceChange(device, False, 3, 1), PresenceChange(device, True, 4, 1, gateway)) == (GATEWAY, "gw1")
    assert route(PresenceChange(device, False, 5, 1, gateway)) is None  # its gateway says that it is not there
    assert route(PresenceChange(gateway, False, 6, 1)) is None


def test_a_command_is_answered_once_and_only_by_whom_it_was_sent_to(database: Database) -> None:
    product_key = product_of(database)
    device, other = device_of(database, product_key, "d1", "kitchen"), device_of(database, product_key, "d2")
    gateway = device_of(database, GATEWAY, "gw1", "kitchen")
    with database.system() as work:
        apply_presence(work.session, [PresenceChange(gateway, True, 1, 1)])
        work.commit()
    with database.unit_of_work(ONE) as work:
        found = find_device(work, product_key, "d1", lease_held=True)
        assert found is not None
        way = find_route(work, found, lease_held=True)
        assert way is not None
        ids = [create_command(work, way, "thing.service.property.set", {"Power": n}).command_id for n in range(3)]
        work.commit()
    with database.system() as work:
        complete_commands(
            work.session,
            [
                CommandReply(ids[0], other, 200, {}, 1),
                CommandReply(ids[1], gateway, 200, {"a": 1}, 2),
                CommandReply(ids[1], device, 500, {}, 3),
                CommandReply(ids[2], device, 460, {}, 4),
                CommandReply("nonsense", device, 200, {}, 5),
                CommandReply("99999", device, 200, {}, 5),
            ],
        )
        work.commit()
    with database.reading(ONE) as work:
        states = [find_command(work, command_id) for command_id in ids]
    assert [state and (state.state, state.code, state.reply) for state in states] == [
        ("sent", None, None),
        ("completed", 200, {"a": 1}),
        ("failed", 460, {}),
    ]
    with database.reading(TWO) as work:
        assert find_command(work, ids[0]) is None


def booked(database: Database) -> dict[tuple[str, int], tuple[int, int]]:
    with database.system_reading() as work:
        return {(row.lane, row.from_ms): (row.delivered, row.in_gaps) for row in work.session.scalars(select(AccountStretch))}


def effects_of(sequence: int, booking: Booking) -> Effects:
    append = Append(Position("s", sequence - 1), Position("s", sequence))
    return Effects(append, 1, {}, {}, (), (), (), (), (), 1, booking)


LIVE = (7, "0" * 32, Lane.LIVE)


def test_a_batch_is_booked_once_however_often_it_is_committed(database: Database) -> None:
    first, second = Booking({(*LIVE, 0): (5, 0), (*LIVE, STRETCH_MS): (2, 1)}), Booking({(*LIVE, STRETCH_MS): (1, 3)})
    for sequence, booking in ((1, first), (1, first), (2, second), (2, second)):
        commit(database, 0, effects_of(sequence, booking))
    assert booked(database) == {("live", 0): (5, 0), ("live", STRETCH_MS): (3, 4)}


def test_the_oldest_stretches_of_a_lane_go_when_there_are_more_than_are_kept(database: Database) -> None:
    other = (7, "1" * 32, Lane.LIVE)
    many = Booking({(*LIVE, place * STRETCH_MS): (1, 0) for place in range(STRETCHES + 2)} | {(*other, 0): (1, 0)})
    commit(database, 0, effects_of(1, many))
    assert len(booked(database)) == STRETCHES + 2, "one of the other buffer is the same"
    commit(database, 0, effects_of(2, Booking({}, {LIVE, other})))
    assert min(from_ms for _, from_ms in booked(database)) == 0, "the other buffer's"
    with database.system_reading() as work:
        kept = work.session.scalars(select(AccountStretch.from_ms).where(AccountStretch.buffer_id == LIVE[1])).all()
    assert sorted(kept) == [place * STRETCH_MS for place in range(2, STRETCHES + 2)]


def test_a_refusal_concerns_the_devices_tenant_else_the_products_else_the_operator(database: Database) -> None:
    with database.system() as work:
        create_first_tenant(work)
        operator = work.session.scalars(select(TenantRow.id).order_by(TenantRow.id)).first()
        maker, factory = (create_tenant(work, name).tenant_id for name in ("maker of refused", "factory of refused"))
        work.commit()
    assert operator is not None
    with database.unit_of_work(maker) as work:
        product_key = create_product(work, "Stove", TSL).product_key
        create_device(work, VAULT, product_key, "d1", "kitchen")
        work.commit()
    with database.unit_of_work(factory) as work:
        create_device(work, VAULT, GATEWAY, "gw-of-refused", "hall")
        work.commit()
    claims = [("nothing", "d1"), (product_key, "d1"), (GATEWAY, "gw-of-refused"), (product_key, "unknown"), (GATEWAY, "unknown"), ("", "")]
    assert tenants_concerned(database, claims) == [operator, maker, factory, maker, operator, operator]
    assert tenants_concerned(database, []) == []
