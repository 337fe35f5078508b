"""CONNECT credentials with a secret per device (alink.md par. 2.1): sign on the device, verify on the server."""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from protocols.errors import Reason, Refused

_DIGESTS = {"hmacmd5": hashlib.md5, "hmacsha1": hashlib.sha1, "hmacsha256": hashlib.sha256}
_DEFAULT_METHOD = "hmacmd5"  # when the option is absent


@dataclass(frozen=True, slots=True)
class ClientId:
    """`base|k=v,k=v|` taken apart; `options` is empty for a client id without bars."""

    base: str
    options: Mapping[str, str]

    @property
    def sign_method(self) -> str:
        return self.options.get("signmethod", _DEFAULT_METHOD).lower()


@dataclass(frozen=True, slots=True)
class Connection:
    """The three CONNECT fields that `sign` makes."""

    client_id: str
    username: str
    password: bytes


def _cut(text: str) -> tuple[str, list[str]]:
    """(base, options) of a client id, cut at the first and the last `|` only: the option `sii` may hold one."""
    base, _, rest = text.partition("|")
    options = rest.rpartition("|")[0] if "|" in rest else rest
    return base, options.split(",")


def parse_client_id(text: str) -> ClientId:
    """Of an option that comes twice the last counts."""
    base, options = _cut(text)
    pairs = (option.partition("=") for option in options if option)
    return ClientId(base, {key: value for key, _, value in pairs})


def answers_on_the_topic(client_id: str) -> bool:
    """Whether the client takes calls on its own topics (`ext`, bit 1), so that its answer comes back on the topic of the call.

    >>> answers_on_the_topic("d|ext=3|"), answers_on_the_topic("d|ext=2|"), answers_on_the_topic("d")
    (True, False, False)
    """
    option = next((option[4:] for option in reversed(_cut(client_id)[1]) if option == "ext" or option.startswith("ext=")), "0")
    return option.isascii() and option.isdigit() and len(option) < 10 and int(option) & 1 == 1


def parse_username(username: str | None) -> tuple[str, str]:
    """(product_key, device_name) of `dn&pk`, cut at the last `&`; raises `Refused(BAD_CREDENTIALS)`."""
    device_name, _, product_key = (username or "").rpartition("&")
    if not device_name or not product_key:
        raise Refused(Reason.BAD_CREDENTIALS, "the user name has to be deviceName&productKey")
    return product_key, device_name


def signed_string(base: str, product_key: str, device_name: str, timestamp: str | None = None) -> str:
    """What the device signs: names in alphabetical order, no separators; no timestamp when the option is absent."""
    tail = "" if timestamp is None else f"timestamp{timestamp}"
    return f"clientId{base}deviceName{device_name}productKey{product_key}{tail}"


def signature(text: str, secret: str | bytes, method: str) -> str | None:
    """Lower-case hex HMAC, or None for a sign method we do not know."""
    digest = _DIGESTS.get(method.lower())
    if digest is None:
        return None
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), digest).hexdigest()


def verify(client_id: str, username: str | None, password: bytes | None, secret: str | bytes) -> bool:
    """Whether a CONNECT proves the device's secret; constant time, hex of either case, no look at the timestamp's age."""
    if not secret or password is None:
        return False
    try:
        product_key, device_name = parse_username(username)
    except Refused:
        return False
    parsed = parse_client_id(client_id)
    text = signed_string(parsed.base, product_key, device_name, parsed.options.get("timestamp"))
    expected = signature(text, secret, parsed.sign_method)
    return expected is not None and hmac.compare_digest(expected.encode(), password.lower())


def sign(
    product_key: str,
    device_name: str,
    secret: str | bytes,
    *,
    method: str = "hmacsha256",
    base: str | None = None,
    timestamp: int | None = None,
    ext: int = 1,
) -> Connection:
    """The CONNECT fields of a device; `base` is `pk&dn` unless given, `timestamp` milliseconds, now unless given.

    `ext` is the client's bitmap: with bit 1 it takes calls on their own topics (see `answers_on_the_topic`).
    """
    base = f"{product_key}&{device_name}" if base is None else base
    stamp = str(time.time_ns() // 1_000_000 if timestamp is None else timestamp)
    password = signature(signed_string(base, product_key, device_name, stamp), secret, method)
    if password is None:
        raise Refused(Reason.BAD_CREDENTIALS, f"no such sign method: {method}")
    client_id = f"{base}|securemode=3,signmethod={method},timestamp={stamp},_ss=1,ext={ext}|"
    return Connection(client_id, f"{device_name}&{product_key}", password.encode())
