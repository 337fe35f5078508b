"""Gateways and their sub-devices (alink.md par. 9): who is meant, and how a gateway proves that it may speak for one."""

import enum
import hmac
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from protocols.alink.credentials import signature, signed_string

MOST_A_BATCH = 5
MOST_ONLINE = 1_500
_DEFAULT_METHOD = "hmacmd5"


class TopologyChange(enum.IntEnum):
    """`status` of topo/change (one vendor table swaps the last two)."""

    CREATED = 0
    DELETED = 1
    ENABLED = 2
    DISABLED = 8


NamedInJson = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]+$")]
"""A product key or device name; NUL, which MQTT's own strings cannot hold, is no text for PostgreSQL."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Which device is meant."""

    productKey: NamedInJson  # noqa: N815  # the wire's own spelling
    deviceName: NamedInJson  # noqa: N815

    @property
    def key(self) -> tuple[str, str]:
        return self.productKey, self.deviceName


class SignedIdentity(msgspec.Struct, frozen=True, gc=False):
    """A sub-device with the proof that its secret is known to the gateway."""

    product_key: str
    device_name: str
    client_id: str
    timestamp: str | None
    sign_method: str
    sign: str
    clean_session: bool = True

    @property
    def key(self) -> tuple[str, str]:
        return self.product_key, self.device_name

    def proves(self, secret: str | bytes) -> bool:
        """Whether the sign was made with `secret`; constant time. The client id is signed as it stands, bars and all."""
        text = signed_string(self.client_id, self.product_key, self.device_name, self.timestamp)
        expected = signature(text, secret, self.sign_method)
        return bool(secret) and expected is not None and hmac.compare_digest(expected.encode(), self.sign.lower().encode())


def read_signed(item: Mapping[str, object], method: str = "") -> SignedIdentity:
    """One item of topo/add or of a login, keys read without regard to case; `method` is the batch's.

    Raises `ValueError` naming what is missing.
    """
    folded = {key.lower(): value for key, value in item.items()}
    texts: dict[str, str] = {}
    for name in ("productKey", "deviceName", "clientId", "sign"):
        value = folded.get(name.lower())
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} is missing")
        if "\x00" in value:
            raise ValueError(f"{name} holds NUL: correct it")
        texts[name] = value
    stamp = folded.get("timestamp")
    if stamp is not None and (isinstance(stamp, bool) or not isinstance(stamp, str | int)):
        raise ValueError("timestamp has to be digits")
    named = folded.get("signmethod", method or _DEFAULT_METHOD)
    if not isinstance(named, str):
        raise ValueError("signMethod has to be hmacSha256, hmacSha1 or hmacMd5")
    clean = folded.get("cleansession", True)
    return SignedIdentity(
        texts["productKey"],
        texts["deviceName"],
        texts["clientId"],
        None if stamp is None else str(stamp),
        named,
        texts["sign"],
        clean not in (False, "false", "False"),
    )


def sign_identity(
    product_key: str, device_name: str, secret: str, client_id: str, timestamp: str, method: str = "hmacSha256"
) -> dict[str, str]:
    """An item of topo/add or a login, as a gateway makes it; raises `ValueError` for an unknown method."""
    sign = signature(signed_string(client_id, product_key, device_name, timestamp), secret, method)
    if sign is None:
        raise ValueError(f"no such sign method: {method}")
    return {
        "productKey": product_key,
        "deviceName": device_name,
        "clientId": client_id,
        "timestamp": timestamp,
        "signMethod": method,
        "sign": sign,
    }


def names(keys: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """A reply's list of devices."""
    return [{"productKey": product_key, "deviceName": device_name} for product_key, device_name in keys]
