"""Secrets at rest: sealed with AES-GCM under one key that lives in a 0600 file of the data directory."""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.errors import Broken

_NONCE_BYTES = 12


class Vault:
    """Seals and opens small secrets. `context` (what the secret belongs to) is authenticated: a copied row does not open elsewhere."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def from_file(cls, path: Path) -> "Vault":
        """Read the key; `create_secret_file` makes it. Raises Broken when the file is open to others."""
        if path.stat().st_mode & 0o077:
            raise Broken(f"{path} can be read by other users; run `chmod 600 {path}` and consider its secrets known")
        return cls(bytes.fromhex(path.read_text().strip()))

    def seal(self, secret: bytes, context: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises Broken when the key is not the one that sealed it, or the row was moved."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
        except InvalidTag as error:
            raise Broken(f"the secret of {context} does not open: secret.key is not the key it was sealed with") from error


def create_secret_file(path: Path) -> None:
    """Put 256 random bits (hex) into a new 0600 file; an existing one stays."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
