"""Who is given a secret, whatever happened before: every history of one device against a few lines of rules."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.devices.identity import reset_registration, rotate_secret
from cloud.devices.model import PresenceChange
from cloud.devices.registration import AGAIN_MS
from cloud.devices.service import apply_presence
from cloud.foundation.schema import upgrade
from cloud.products.registration import RegistrationMode
from cloud.tenancy.service import create_tenant
from tests.contract.databases import sqlite_database
from tests.contract.test_database import ONE, VAULT, device_of
from tests.contract.test_identity import NOW, Product

numbers = itertools.count()
happenings = st.sampled_from(["registers", "connects", "was seen", "is reset", "is rotated", "waits a minute", "waits ten minutes"])


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite_database(Path(folder))
        upgrade(database)
        with database.system() as work:
            create_tenant(work, "one")
            work.commit()
        yield Product(database, RegistrationMode.REGISTERED_ONLY)
        database.close()


@given(st.lists(happenings, max_size=12))
def test_a_secret_is_given_to_a_device_that_was_never_there_or_was_reset_and_again_for_ten_minutes(
    product: Product, history: list[str]
) -> None:
    name, now = f"d{next(numbers)}", NOW
    device_id = device_of(product.database, product.key, name)
    seen = connected = reset = False
    given_ms: int | None = None
    for happening in [*history, "registers"]:
        match happening:
            case "registers":
                may = reset or (given_ms is not None and not connected and now - given_ms <= AGAIN_MS)
                may = may or (given_ms is None and not connected and not seen)
                if not may:
                    assert product.refused(product.claim(name), now)[0] == 6289, history
                    continue
                assert product.register(name, now=now).device_secret.encode() == product.credentials(name).secret
                given_ms = now if reset or given_ms is None else given_ms
                reset = False
            case "connects" if product.credentials(name).identity.unconfirmed:
                product.connects(name)
                connected, reset = True, False
            case "was seen":
                with product.database.system() as work:
                    apply_presence(work.session, [PresenceChange(device_id, False, 1000, 1)])
                    work.commit()
                seen = True
            case "is reset":
                with product.database.unit_of_work(ONE) as work:
                    assert reset_registration(work, VAULT, product.key, name)
                    work.commit()
                reset, connected, given_ms = True, False, None
            case "is rotated":
                with product.database.unit_of_work(ONE) as work:
                    assert rotate_secret(work, VAULT, product.key, name, 60)
                    work.commit()
            case "waits a minute" | "waits ten minutes":
                now += 60_000 if happening == "waits a minute" else AGAIN_MS
            case _:
                pass
