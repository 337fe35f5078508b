"""Rules about devices that need no database."""

import pytest

from cloud.devices.model import CommandState, Credentials, check_device_name, state_at
from cloud.devices.worker import AccessLease
from protocols.errors import Refused


@pytest.mark.parametrize("name", ["d", "stove-1", "A_b.c:d@e", "x" * 64])
def test_device_names_of_the_vendor_are_taken(name: str) -> None:
    check_device_name(name)


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "a b", "x" * 65, "ü", "a\n", "a&b"])
def test_device_names_that_would_break_topics_or_credentials_are_refused(name: str) -> None:
    with pytest.raises(Refused):
        check_device_name(name)


def test_only_an_unanswered_command_expires() -> None:
    assert state_at("sent", expires_ms=100, now_ms=100) is CommandState.SENT
    assert state_at("sent", expires_ms=100, now_ms=101) is CommandState.EXPIRED
    assert state_at("completed", expires_ms=100, now_ms=101) is CommandState.COMPLETED
    assert state_at("failed", expires_ms=100, now_ms=101) is CommandState.FAILED


def test_credentials_do_not_show_their_secret() -> None:
    credentials = Credentials(1, 2, "pk", "dn", None, False, True, b"canary")
    assert "canary" not in repr(credentials)


async def test_the_lease_ends_ten_seconds_after_its_last_renewal() -> None:
    now = 0.0
    lease = AccessLease(lambda: now)
    now = 9.9
    assert lease.lease_held()
    now = 10.0
    assert not lease.lease_held()
    await lease.renew(b"")
    now = 19.9
    assert lease.lease_held()
