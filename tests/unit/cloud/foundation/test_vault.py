"""Secrets at rest open with their key, in their place, and nowhere else."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.foundation.vault import Vault, create_secret_file
from protocols.errors import Broken

VAULT = Vault(bytes(32))


@given(st.binary(max_size=64), st.text(max_size=20))
def test_what_was_sealed_opens_in_its_context(secret: bytes, context: str) -> None:
    assert VAULT.open(VAULT.seal(secret, context), context) == secret


def test_a_sealed_secret_opens_neither_elsewhere_nor_changed_nor_with_another_key() -> None:
    sealed = VAULT.seal(b"secret", "a/b")
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for vault, data, context in ((VAULT, sealed, "a/c"), (VAULT, changed, "a/b"), (Vault(bytes([1]) * 32), sealed, "a/b")):
        with pytest.raises(Broken, match="does not open"):
            vault.open(data, context)


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    assert VAULT.seal(b"secret", "a") != VAULT.seal(b"secret", "a")


def test_a_key_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    create_secret_file(file)
    key = file.read_text()
    create_secret_file(file)
    assert file.read_text() == key
    assert len(bytes.fromhex(key)) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    sealed = Vault.from_file(file).seal(b"x", "a")
    assert Vault.from_file(file).open(sealed, "a") == b"x"


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    create_secret_file(file)
    file.chmod(0o640)
    with pytest.raises(Broken, match="chmod 600"):
        Vault.from_file(file)
