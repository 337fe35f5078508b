"""Registration, rotation, authorities and import, on every database."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud.devices.authorities import MOST_VALID, add_authority, list_authorities, retire_authority, trusted_authorities
from cloud.devices.identity import confirm_devices, identity_of, reset_registration, rotate_secret, set_accepts
from cloud.devices.importing import Fault, NewRow, Outcome, Result, import_devices
from cloud.devices.lifecycle import Move
from cloud.devices.model import Accepts, Credentials, PresenceChange
from cloud.devices.moves import move_device
from cloud.devices.registration import AGAIN_MS, DeviceRegistrar, register, register_all
from cloud.devices.registry import list_devices
from cloud.devices.service import apply_presence, credentials_for
from cloud.foundation.db import Database
from cloud.foundation.problems import Problem
from cloud.products.model import GATEWAY
from cloud.products.registration import RegistrationMode, registration_of, rotate_product_secret, set_mode
from protocols.alink.registration import Claim, Grant, RegistrationRefused, ask, claim_of_connect
from protocols.errors import Reason, TryAgain
from tests.contract.test_database import ONE, TWO, VAULT, database, device_of, empty, postgresql, product_of
from tests.fakes.maker import Maker

__all__ = ["database", "empty", "postgresql"]  # the fixtures

NOW = 1_800_000_000_000


class Product:
    """A product of tenant one whose devices register."""

    def __init__(self, database: Database, mode: RegistrationMode) -> None:
        self.database, self.key = database, product_of(database)
        with database.unit_of_work(ONE) as work:
            self.secret = rotate_product_secret(work, VAULT, self.key)
            set_mode(work, self.key, mode)
            work.commit()

    def claim(
        self, name: str, *, token: bool = False, method: str = "hmacsha256", secret: str | None = None, key: str | None = None
    ) -> Claim:
        fields = ask(key or self.key, name, secret or self.secret, random="42", token=token, method=method)
        claim = claim_of_connect(fields.client_id, fields.username, fields.password)
        assert claim is not None
        return claim

    def register(self, name: str, *, token: bool = False, now: int = NOW) -> Grant:
        return register(self.database, VAULT, self.claim(name, token=token), now)

    def refused(self, claim: Claim, now: int = NOW) -> tuple[int, Reason]:
        with pytest.raises(RegistrationRefused) as refused:
            register(self.database, VAULT, claim, now)
        return int(refused.value.code), refused.value.reason

    def credentials(self, name: str) -> Credentials:
        return credentials_for(self.database, VAULT, [(self.key, name)])[self.key, name]

    def connects(self, name: str) -> None:
        """The device is let in with what it was given."""
        assert self.credentials(name).identity.unconfirmed
        DeviceRegistrar(self.database, VAULT).confirm([self.credentials(name).device_id])


def test_a_device_entered_before_is_given_its_secret_and_the_same_again_for_ten_minutes(database: Database) -> None:
    product = Product(database, RegistrationMode.REGISTERED_ONLY)
    device_of(database, product.key, "d1")
    grant = product.register("d1")
    assert grant.device_secret.encode() == product.credentials("d1").secret
    assert product.register("d1", now=NOW + AGAIN_MS) == grant
    assert product.refused(product.claim("d1"), NOW + AGAIN_MS + 1) == (6289, Reason.ALREADY_ACTIVE)
    assert product.refused(product.claim("d2")) == (6100, Reason.UNKNOWN_DEVICE)
    assert product.refused(product.claim("d1", token=True))[0] == 6288, "tokens are for products open to all"


@pytest.mark.refusal(Reason.ALREADY_ACTIVE)
def test_a_device_that_has_connected_is_given_nothing_until_its_owner_resets_it(database: Database) -> None:
    product = Product(database, RegistrationMode.REGISTERED_ONLY)
    device_of(database, product.key, "d1")
    seen = device_of(database, product.key, "seen")
    before = product.register("d1").device_secret
    product.connects("d1")
    assert product.refused(product.claim("d1")) == (6289, Reason.ALREADY_ACTIVE)
    with database.system() as work:
        apply_presence(work.session, [PresenceChange(seen, False, 1000, 1)])
        work.commit()
    assert product.refused(product.claim("seen"))[0] == 6289
    for name in ("d1", "seen"):
        with database.unit_of_work(TWO) as work:
            assert not reset_registration(work, VAULT, product.key, name)
        with database.unit_of_work(ONE) as work:
            assert reset_registration(work, VAULT, product.key, name)
            work.commit()
        assert product.register(name).device_secret.encode() == product.credentials(name).secret
    assert product.credentials("d1").secret != before.encode()


def test_an_open_product_enters_whoever_proves_its_secret(database: Database) -> None:
    product = Product(database, RegistrationMode.OPEN)
    secret, token = product.register("d1"), product.register("d2", token=True)
    assert secret.device_secret.encode() == product.credentials("d1").secret
    holder = product.credentials("d2")
    assert (holder.identity.token.decode(), holder.identity.token_client_id) == (token.device_token, token.client_id)
    assert holder.tenant_id == ONE
    assert product.register("d2", token=True, now=NOW + 1000) == token
    product.connects("d2")
    assert product.refused(product.claim("d2", token=True))[0] == 6289
    assert product.refused(product.claim("no/name"))[0] == 460
    with database.reading(ONE) as work:
        assert [device.device_name for device in list_devices(work, product.key, 0, 10, lease_held=True)] == ["d1", "d2"]


def test_many_claims_at_once_are_answered_each_by_itself(database: Database) -> None:
    product, closed = Product(database, RegistrationMode.OPEN), Product(database, RegistrationMode.CLOSED)
    product.register("there")
    product.connects("there")
    claims = [product.claim("d1"), closed.claim("d1"), product.claim("d1"), product.claim("there"), product.claim("d2", secret="guessed")]
    answers = register_all(database, VAULT, [*claims, product.claim("no/name"), product.claim("d3")], NOW)
    codes = [int(answer.code) if isinstance(answer, RegistrationRefused) else 200 for answer in answers]
    assert codes == [200, 6288, 200, 6289, 6600, 460, 200]
    assert answers[0] == answers[2] == product.register("d1")
    assert answers[-1] == product.register("d3")


def test_one_device_that_registers_over_many_connections_at_once_is_entered_once(database: Database) -> None:
    product = Product(database, RegistrationMode.OPEN)

    def ask_until_answered(token: bool) -> Grant:
        while True:
            try:
                return product.register("d1", token=token)
            except TryAgain:
                continue

    with ThreadPoolExecutor(8) as threads:
        grants = list(threads.map(ask_until_answered, [True, False] * 8))
    assert len(set(grants)) == 2
    assert {grant.device_secret for grant in grants} == {"", product.credentials("d1").secret.decode()}


@pytest.mark.refusal(Reason.REGISTRATION_CLOSED)
def test_a_claim_that_is_not_granted_has_its_code(database: Database) -> None:
    product, closed = Product(database, RegistrationMode.OPEN), Product(database, RegistrationMode.CLOSED)
    never, secretless = product_of(database), product_of(database, TWO)
    with database.unit_of_work(TWO) as work:
        set_mode(work, secretless, RegistrationMode.OPEN)
        work.commit()
    assert product.refused(product.claim("d1", key="nothing")) == (6250, Reason.UNKNOWN_PRODUCT)
    assert product.refused(product.claim("d1", key=GATEWAY)) == (6250, Reason.UNKNOWN_PRODUCT)
    for key in (closed.key, never, secretless):
        assert product.refused(product.claim("d1", key=key)) == (6288, Reason.REGISTRATION_CLOSED)
    assert product.refused(product.claim("d1", secret="guessed")) == (6600, Reason.BAD_CREDENTIALS)
    assert product.refused(Claim(product.key, "d1", "1", b"00", "sm3")) == (6292, Reason.BAD_CREDENTIALS)
    device_of(database, product.key, "off")
    device_of(database, product.key, "certified")
    with database.unit_of_work(ONE) as work:
        move_device(work, product.key, "off", Move.DISABLE, "test")
        set_accepts(work, product.key, "certified", Accepts.CERTIFICATE)
        work.commit()
    assert product.refused(product.claim("off")) == (6204, Reason.NOT_AUTHORISED)
    assert product.refused(product.claim("certified")) == (6288, Reason.REGISTRATION_CLOSED)


def test_a_new_product_secret_ends_the_old_one(database: Database) -> None:
    product = Product(database, RegistrationMode.OPEN)
    old = product.claim("d1")
    with database.unit_of_work(ONE) as work:
        fresh = rotate_product_secret(work, VAULT, product.key)
        assert registration_of(work, product.key).mode is RegistrationMode.OPEN
        work.commit()
    assert product.refused(old)[0] == 6600
    assert register(database, VAULT, product.claim("d1", secret=fresh)).device_secret
    with database.unit_of_work(ONE) as work, pytest.raises(Problem, match="cannot register itself"):
        set_mode(work, GATEWAY, RegistrationMode.OPEN)


def test_a_rotated_secret_leaves_the_old_one_its_grace_and_ends_a_token(database: Database) -> None:
    product = Product(database, RegistrationMode.OPEN)
    product.register("d1", token=True)
    before = product.credentials("d1").secret
    with database.unit_of_work(ONE) as work:
        fresh = rotate_secret(work, VAULT, product.key, "d1", 60)
        assert rotate_secret(work, VAULT, product.key, "absent", 60) is None
        work.commit()
    held = product.credentials("d1")
    assert fresh is not None
    assert (held.secret, held.identity.previous, held.identity.token) == (fresh.encode(), before, b"")
    with database.unit_of_work(ONE) as work:
        view = identity_of(work, product.key, "d1")
        assert view is not None
        assert view.previous_until_ms == held.identity.previous_until_ms
        rotate_secret(work, VAULT, product.key, "d1", 0)
        work.commit()
    assert product.credentials("d1").identity.previous == b""


def test_confirming_many_devices_at_once_changes_only_those_that_registered(database: Database) -> None:
    product = Product(database, RegistrationMode.OPEN)
    ids = [device_of(database, product.key, f"d{n}") for n in range(3)]
    product.register("d1")
    confirm_devices(database, [*ids, *range(10_000, 11_000)])
    with database.reading(ONE) as work:
        states = [identity_of(work, product.key, f"d{n}") for n in range(3)]
    assert [None if state is None else state.registration for state in states] == [None, "connected", None]


def test_authorities_are_bounded_unique_and_retired(database: Database) -> None:
    makers = [Maker.new(f"CA {n}") for n in range(MOST_VALID + 1)]
    with database.unit_of_work(ONE) as work:
        added = [add_authority(work, maker.pem) for maker in makers[:MOST_VALID]]
        assert add_authority(work, makers[0].pem) == added[0], "twice is harmless"
        with pytest.raises(Problem, match="retire one first"):
            add_authority(work, makers[-1].pem)
        work.commit()
    with database.unit_of_work(TWO) as work:
        assert list_authorities(work, 0, 10) == []
        assert not retire_authority(work, added[0].number)
    for theirs in (makers[0], Maker.new("CA 1"), Maker.new(" ca  1")):  # OpenSSL takes the last for the same name, too
        with database.unit_of_work(TWO) as work, pytest.raises(Problem, match="a subject of its own"):
            add_authority(work, theirs.pem)
    assert {one.fingerprint for one in trusted_authorities(database)} == {one.fingerprint for one in added}
    with database.unit_of_work(ONE) as work:
        assert retire_authority(work, added[0].number)
        work.commit()
    assert {one.fingerprint for one in trusted_authorities(database)} == {one.fingerprint for one in added[1:]}
    with database.unit_of_work(ONE) as work:
        assert add_authority(work, makers[-1].pem).retired_ms is None
        work.commit()
    assert len(trusted_authorities(database)) == MOST_VALID


def outcomes(results: Sequence[Result]) -> list[tuple[str, Outcome, Fault | None]]:
    return [(result.device_name, result.outcome, result.fault) for result in results]


def test_rows_are_entered_each_by_itself_and_a_file_may_come_again(database: Database) -> None:
    key = product_of(database)
    old = "0123456789ABCDEF0123456789abcdef"
    rows = [
        NewRow(1, "d1", old, "kitchen"),
        NewRow(2, "d/2", "", ""),
        NewRow(3, "d3", "short", ""),
        NewRow(4, "d4", "", "kitchen"),
        NewRow(5, "d1", old, ""),
        NewRow(6, "d6", "", "x" * 129),
    ]
    first = list(import_devices(database, VAULT, ONE, key, rows, "key"))
    assert outcomes(first) == [
        ("d1", Outcome.CREATED, None),
        ("d/2", Outcome.ERROR, Fault.BAD_NAME),
        ("d3", Outcome.ERROR, Fault.BAD_SECRET),
        ("d4", Outcome.CREATED, None),
        ("d1", Outcome.ERROR, Fault.TWICE),
        ("d6", Outcome.ERROR, Fault.BAD_SITE),
    ]
    assert credentials_for(database, VAULT, [(key, "d1")])[key, "d1"].secret == old.encode()
    assert credentials_for(database, VAULT, [(key, "d4")])[key, "d4"].secret == (first[3].device_secret or "").encode()
    again = list(import_devices(database, VAULT, ONE, key, [NewRow(1, "d4", "another-secret-0123", ""), rows[0]], "key"))
    assert outcomes(again) == [("d4", Outcome.ERROR, Fault.OTHER_SECRET), ("d1", Outcome.EXISTS, None)]
    assert all(result.device_secret is None for result in again)
    with database.reading(ONE) as work:
        assert [(one.device_name, one.site) for one in list_devices(work, key, 0, 10, lease_held=True)] == [
            ("d1", "kitchen"),
            ("d4", "kitchen"),
        ]


def test_a_name_that_another_tenant_has_taken_fails_alone(database: Database) -> None:
    device_of(database, GATEWAY, "gw-2", tenant=TWO)
    rows = [NewRow(n, f"gw-{n}", "", "") for n in range(1, 4)]
    results = list(import_devices(database, VAULT, ONE, GATEWAY, rows, "key"))
    assert outcomes(results) == [
        ("gw-1", Outcome.CREATED, None),
        ("gw-2", Outcome.ERROR, Fault.NAME_TAKEN),
        ("gw-3", Outcome.CREATED, None),
    ]
    assert credentials_for(database, VAULT, [(GATEWAY, "gw-2")])[GATEWAY, "gw-2"].tenant_id == TWO
    assert credentials_for(database, VAULT, [(GATEWAY, "gw-3")])[GATEWAY, "gw-3"].secret == (results[2].device_secret or "").encode()
