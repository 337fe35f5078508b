"""Encryption at rest: what the buffer file holds of readings, events and commands is sealed with a key that lies elsewhere.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits for each frame and mark. Sequence numbers, times, counts and the names of
marks stay readable: the file can be checked, accounted for and salvaged without the key.
"""

import hashlib
import hmac
import os
from typing import Any, Final

from edge_agent.ports import OutboxUnavailable

KEY_BYTES: Final = 32
MAGIC: Final = b"\xff\xff\xff\xff\x01"  # no frame body begins so: it would say that it unpacks to 4 GiB
OVERHEAD_BYTES: Final = len(MAGIC) + 12 + 16  # nonce and tag
_PURPOSE: Final = b"hearthline buffer"


class Unsealable(Exception):
    """These bytes are sealed, and not with this key, or were changed."""


class Seal:
    """Seals with a key of 32 bytes; without one nothing is sealed, and only what never was can be read.

    >>> Seal(None).close(b"frame"), Seal(None).open(b"frame")
    (b'frame', b'frame')
    """

    def __init__(self, key: bytes | None) -> None:
        """Raises OutboxUnavailable when there is a key and no `cryptography` to use it with."""
        self._cipher: Any = None
        self.check = b""
        """Tells keys apart without saying what they are; empty without a key."""
        self.overhead_bytes = 0
        if key is None:
            return
        try:
            # Imported here: an agent that does not encrypt does not need it.
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as missing:
            hint = "pip install 'hearthline[encryption]', or take buffer.key_file out"
            raise OutboxUnavailable(f"the buffer has a key and this agent cannot encrypt ({missing}): {hint}") from missing
        self._cipher = AESGCM(key)
        self.check = hmac.digest(key, _PURPOSE, hashlib.sha256)[:16]
        self.overhead_bytes = OVERHEAD_BYTES

    def close(self, data: bytes) -> bytes:
        if self._cipher is None:
            return data
        nonce = os.urandom(12)
        sealed: bytes = self._cipher.encrypt(nonce, data, _PURPOSE)
        return MAGIC + nonce + sealed

    def open(self, data: bytes) -> bytes:
        """What was sealed, or what never was as it is. Raises Unsealable."""
        if not data.startswith(MAGIC):
            return data
        if self._cipher is None:
            raise Unsealable("sealed, and there is no key")
        head = len(MAGIC) + 12
        try:
            opened: bytes = self._cipher.decrypt(data[len(MAGIC) : head], data[head:], _PURPOSE)
        except Exception as problem:  # its InvalidTag is a bare Exception, and its module may be missing
            raise Unsealable("sealed with another key, or changed") from problem
        return opened


NO_SEAL: Final = Seal(None)
