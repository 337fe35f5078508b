"""One secret per product (alink.md par. 2.2): a device without a secret of its own proves its product's, and is given one.

A device asks by CONNECT (`authType` in the client id) or by HTTP form; both become one `Claim`, and what it is given one `Grant`.
"""

import enum
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from protocols.alink.codes import Code
from protocols.alink.credentials import Connection, parse_client_id, parse_username, signature
from protocols.errors import Reason, Refused

MOST_FIELD: Final = 256
"""Characters of any one field: longer ones are refused unread."""


class AuthType(enum.StrEnum):
    """The option `authType` of a client id; without it a CONNECT proves the device's own secret."""

    REGISTER = "register"
    """Give me my secret: I am known in advance."""
    REGNWL = "regnwl"
    """Give me a client id and a token: I may be unknown."""
    CONNWL = "connwl"
    """I have a client id and a token: let me in."""


class RegistrationRefused(Refused):
    """A registration that is not granted; `code` is what the device is told over HTTP."""

    def __init__(self, code: Code, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks to be registered, and the proof of its product's secret. `token`: it asks for a token instead of a secret."""

    product_key: str
    device_name: str
    random: str
    sign: bytes
    method: str
    token: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What a device is given: its secret, or a client id and a token."""

    product_key: str
    device_name: str
    device_secret: str = ""
    client_id: str = ""
    device_token: str = ""

    @property
    def topic(self) -> str:
        """Where it is pushed to, subscribed or not."""
        return "/ext/regnwl" if self.device_token else "/ext/register"

    def to_bytes(self) -> bytes:
        """The payload of the push.

        >>> Grant("pk", "dn", "s").to_bytes()
        b'{"productKey":"pk","deviceName":"dn","deviceSecret":"s"}'
        """
        return msgspec.json.encode(self._fields())

    def answer(self) -> bytes:
        """The answer to the HTTP form, short: small devices read it into a small buffer."""
        return msgspec.json.encode({"code": Code.DONE, "data": self._fields(), "message": "success"})

    def _fields(self) -> dict[str, str]:
        who = {"productKey": self.product_key, "deviceName": self.device_name}
        if self.device_token:
            return who | {"clientId": self.client_id, "deviceToken": self.device_token}
        return who | {"deviceSecret": self.device_secret}


_SHORT: Final = {
    Code.BAD_PARAMS: "a parameter is missing or malformed",
    Code.PRODUCT_UNKNOWN: "no such product",
    Code.DEVICE_UNKNOWN: "no such device",
    Code.DEVICE_DISABLED: "the device is disabled",
    Code.REGISTRATION_CLOSED: "registration is closed",
    Code.ALREADY_ACTIVE: "the device is active already",
    Code.SIGN_METHOD_UNKNOWN: "unknown sign method",
    Code.SIGNATURE_WRONG: "wrong signature",
    Code.TOO_MANY_REQUESTS: "too many requests",
    Code.SERVER_ERROR: "try again later",
}


def refusal(code: Code) -> bytes:
    """The answer to an HTTP form that is not granted.

    >>> refusal(Code.REGISTRATION_CLOSED)
    b'{"code":6288,"message":"registration is closed"}'
    """
    return msgspec.json.encode({"code": code, "message": _SHORT[code]})


def bootstrap_answer(host: str, port: int) -> bytes:
    """The answer to `POST /auth/bootstrap`: where devices connect to."""
    return msgspec.json.encode({"code": Code.DONE, "data": {"resources": {"mqtt": {"host": host, "port": port}}}, "message": "success"})


def auth_type(client_id: str) -> AuthType | None:
    """What a CONNECT asks for; None: to be let in by the device's own secret, which is also what an unknown `authType` comes to."""
    if "authType=" not in client_id:  # as nearly all of them
        return None
    try:
        return AuthType(parse_client_id(client_id).options.get("authType", "").lower())
    except ValueError:
        return None


def claim_of_connect(client_id: str, username: str | None, password: bytes | None) -> Claim | None:
    """The claim that a CONNECT makes, None for one that asks for no registration. Raises RegistrationRefused, code 460."""
    asked = auth_type(client_id)
    if asked is None or asked is AuthType.CONNWL:
        return None
    parsed = parse_client_id(client_id)
    try:
        product_key, device_name = parse_username(username)
    except Refused as refused:
        raise _malformed(str(refused)) from refused
    claim = Claim(product_key, device_name, parsed.options.get("random", ""), password or b"", parsed.sign_method, asked is AuthType.REGNWL)
    return _checked(claim)


def claim_of_form(fields: Mapping[str, str]) -> Claim:
    """The claim of `POST /auth/register/device`; other fields are let pass. Raises RegistrationRefused, code 460."""
    for name in ("productKey", "deviceName", "random", "sign", "signMethod"):
        if not fields.get(name):
            raise _malformed(f"the form has no {name}")
    sign = fields["sign"].encode("utf-8", "surrogatepass")
    return _checked(Claim(fields["productKey"], fields["deviceName"], fields["random"], sign, fields["signMethod"].lower()))


def _checked(claim: Claim) -> Claim:
    if not claim.random or not claim.sign:
        raise _malformed("`random` or the signature is empty")
    if not (claim.product_key + claim.device_name).isprintable():
        raise _malformed("the product key or the device name holds control characters")
    if max(map(len, (claim.product_key, claim.device_name, claim.random, claim.sign, claim.method))) > MOST_FIELD:
        raise _malformed(f"a field is longer than {MOST_FIELD} characters")
    return claim


def _malformed(message: str) -> RegistrationRefused:
    return RegistrationRefused(Code.BAD_PARAMS, Reason.BAD_CREDENTIALS, f"{message}: compare the registration request with the protocol")


def signed_text(product_key: str, device_name: str, random: str) -> str:
    """What is signed with the product's secret, in every variant."""
    return f"deviceName{device_name}productKey{product_key}random{random}"


def check_claim(claim: Claim, product_secret: bytes) -> None:
    """Raises RegistrationRefused unless the claim proves the product's secret: 6292 (method) or 6600 (signature). Constant time."""
    expected = signature(signed_text(claim.product_key, claim.device_name, claim.random), product_secret, claim.method)
    if expected is None:
        message = f"the sign method {claim.method[:32]!r} is unknown: the device has to use hmacsha256, hmacsha1 or hmacmd5"
        raise RegistrationRefused(Code.SIGN_METHOD_UNKNOWN, Reason.BAD_CREDENTIALS, message)
    if not product_secret or not hmac.compare_digest(expected.encode(), claim.sign.lower()):
        message = "the signature is not made with the product's secret: give the firmware the secret that was shown last"
        raise RegistrationRefused(Code.SIGNATURE_WRONG, Reason.BAD_CREDENTIALS, message)


def verify_token(client_id: str, password: bytes | None, expected_client_id: str, device_token: bytes) -> bool:
    """Whether a `connwl` CONNECT shows the token it was given, verbatim, under the client id it was given. Constant time."""
    if not device_token or password is None:
        return False
    base = parse_client_id(client_id).base.encode("utf-8", "surrogatepass")
    same_id = hmac.compare_digest(base, expected_client_id.encode())
    return hmac.compare_digest(password, device_token) and same_id


def ask(
    product_key: str, device_name: str, product_secret: str | bytes, *, random: str, token: bool = False, method: str = "hmacsha256"
) -> Connection:
    """The CONNECT fields of a device that asks to be registered. Raises Refused for a method that is unknown."""
    sign = signature(signed_text(product_key, device_name, random), product_secret, method)
    if sign is None:
        raise Refused(Reason.BAD_CREDENTIALS, f"no such sign method: {method}")
    asked = AuthType.REGNWL if token else AuthType.REGISTER
    client_id = f"{device_name}.{product_key}|random={random},authType={asked},securemode=2,signmethod={method}|"
    return Connection(client_id, f"{device_name}&{product_key}", sign.encode())


def show_token(grant: Grant) -> Connection:
    """The CONNECT fields of a device that was given a token."""
    client_id = f"{grant.client_id}|authType={AuthType.CONNWL},securemode=-2,_ss=1,ext=3|"
    return Connection(client_id, f"{grant.device_name}&{grant.product_key}", grant.device_token.encode())
