"""Tenants and API keys as values."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from."""

    tenant_id: int
    key_name: str


@dataclass(frozen=True, slots=True)
class Tenant:
    tenant_id: int
    name: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown: by its prefix only."""

    prefix: str
    name: str
    created_ms: int
    revoked_ms: int | None


def new_api_key() -> str:
    """`hl_<8 hex>_<64 hex>`: the first two parts name the key, the last is 256 random bits."""
    return f"hl_{secrets.token_hex(4)}_{secrets.token_hex(32)}"


def key_prefix(key: str) -> str | None:
    """The part that finds a key, None when the text is no key.

    >>> key_prefix("hl_0123abcd_" + "f" * 64)
    'hl_0123abcd'
    """
    prefix, _, secret = key.rpartition("_")
    return prefix if prefix.startswith("hl_") and len(prefix) == 11 and len(secret) == 64 else None


def digest(key: str) -> bytes:
    """What is stored. A fast hash is enough for 256 random bits, and every request pays for it."""
    return hashlib.sha256(key.encode()).digest()


def matches(key: str, stored: bytes) -> bool:
    return hmac.compare_digest(digest(key), stored)
