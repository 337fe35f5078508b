"""Sessions: nobody makes one up, none outlives its key or its time, and wrong keys wait."""

import base64
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cloud.console.session import Sessions
from cloud.console.sign_in import SLOWEST_S, Patience
from cloud.foundation.db import Database
from cloud.foundation.schema import upgrade
from cloud.foundation.vault import Vault
from cloud.tenancy.model import key_prefix
from cloud.tenancy.service import create_first_tenant, revoke_api_key

KEY = b"k" * 32


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path / 'meta.db'}")
    upgrade(found)
    yield found
    found.close()


@pytest.fixture
def key(database: Database) -> str:
    with database.system() as work:
        made = create_first_tenant(work)
        work.commit()
    assert made is not None
    return made


def test_a_key_opens_a_session_and_the_session_holds_no_key(database: Database, key: str) -> None:
    sessions = Sessions(database, Vault(KEY))
    cookie = sessions.open(key)
    assert cookie is not None
    holder = sessions.holder(cookie)
    assert holder is not None
    assert holder.key_name == "admin"
    assert key.rsplit("_", 1)[1].encode() not in base64.urlsafe_b64decode(cookie)


@pytest.mark.parametrize("wrong", ["", "hl_", "hl_0123abcd_" + "0" * 64, "x" * 300])
def test_a_key_that_is_none_opens_nothing(database: Database, key: str, wrong: str) -> None:
    assert Sessions(database, Vault(KEY)).open(wrong) is None


def test_a_session_ends_with_its_key(database: Database, key: str) -> None:
    sessions = Sessions(database, Vault(KEY))
    cookie = sessions.open(key)
    with database.system() as work:
        revoke_api_key(work, key_prefix(key) or "")
        work.commit()
    assert sessions.holder(cookie) is None


def test_a_session_ends_with_its_time(database: Database, key: str) -> None:
    old = msgspec.msgpack.encode((key_prefix(key), 1_000))
    cookie = base64.urlsafe_b64encode(Vault(KEY).seal(old, "console session")).decode()
    assert Sessions(database, Vault(KEY)).holder(cookie) is None


@pytest.mark.parametrize("cookie", [None, "", "x", "%%%", "A" * 4096, base64.urlsafe_b64encode(b"short").decode()])
def test_bytes_that_are_no_session_are_nobody_s(database: Database, key: str, cookie: str | None) -> None:
    assert Sessions(database, Vault(KEY)).holder(cookie) is None


def test_a_session_of_another_platform_or_for_another_purpose_is_nobody_s(database: Database, key: str) -> None:
    sessions = Sessions(database, Vault(KEY))
    assert sessions.holder(Sessions(database, Vault(b"o" * 32)).open(key)) is None
    value = msgspec.msgpack.encode((key_prefix(key), 10**15))
    assert sessions.holder(base64.urlsafe_b64encode(Vault(KEY).seal(value, "something else")).decode()) is None
    assert sessions.holder(base64.urlsafe_b64encode(Vault(KEY).seal(value, "console session")).decode()) is not None


def test_wrong_keys_slow_their_own_address_down_and_no_other() -> None:
    patience = Patience()
    waits = []
    for _ in range(12):
        waits.append(patience.wait_s("1.2.3.4", 100.0))
        patience.failed("1.2.3.4", 100.0)
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == SLOWEST_S
    assert patience.wait_s("5.6.7.8", 100.0) == 0
    assert patience.wait_s("1.2.3.4", 100.0 + 301) == 0
    patience.succeeded("1.2.3.4")
    assert patience.wait_s("1.2.3.4", 100.0) == 0
