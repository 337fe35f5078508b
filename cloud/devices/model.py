"""Devices as values: identity, presence, commands, and the rules about them."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from protocols.alink.shadow import Entry
from protocols.errors import Reason, Refused

# Alink device names: letters, digits and `-_@.:`, 4 to 32 characters; we take 1 to 64 of them.
_DEVICE_NAME = re.compile(r"[A-Za-z0-9_@.:-]{1,64}")

# A reply later than this finds its command expired.
COMMAND_TTL_MS = 60_000
# The same for a service that is called for an answer at once, as the vendor has it.
CALL_TTL_MS = 8_000
LONGEST_COMMAND_S = 7 * 86_400
# Access renews its lease every 2 s; sessions without a lease are not believed to be open.
LEASE_MS = 10_000

REGISTRY_CHANGED = "registry.changed"
ACCESS_LEASE = "access.lease"
AUTHORITIES_CHANGED = "registry.authorities"


class Accepts(enum.StrEnum):
    """What a device may prove itself with."""

    BOTH = "both"
    SECRET = "secret"  # noqa: S105 - a word
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Identity:
    """What else than its present secret proves a device. Secrets are plain here: keep them short-lived, never log them."""

    accepts: Accepts = Accepts.BOTH
    previous: bytes = field(default=b"", repr=False)
    """The secret before the present one; it counts until `previous_until_ms`."""
    previous_until_ms: int = 0
    token_client_id: str = ""
    token: bytes = field(default=b"", repr=False)
    unconfirmed: bool = False
    """It was given its secret by registration and has not connected with it since, as far as is known."""


ONLY_ITS_SECRET = Identity()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What `access` needs to let a device in. `secret` is the plain device secret: keep it short-lived, never log it.

    `proof` marks what a CONNECT has proved when that is not the present secret, and `proof_until_ms` when it ends by itself.
    """

    tenant_id: int
    device_id: int
    product_key: str
    device_name: str
    site_id: int | None
    is_gateway: bool
    enabled: bool
    secret: bytes = field(repr=False)
    identity: Identity = field(default=ONLY_ITS_SECRET, repr=False)
    proof: bytes = field(default=b"", repr=False)
    proof_until_ms: int | None = None

    def secrets_at(self, now_ms: int) -> tuple[bytes, ...]:
        """The secrets that prove the device now: the present one, and the one before it as long as that counts."""
        if self.identity.accepts is Accepts.CERTIFICATE:
            return ()
        previous = self.identity.previous
        return (self.secret, previous) if previous and now_ms < self.identity.previous_until_ms else (self.secret,)


class TrustedAuthority(msgspec.Struct, frozen=True):
    """A tenant's certificate authority that is not retired."""

    tenant_id: int
    fingerprint: str
    pem: str
    to_ms: int


@dataclass(frozen=True, slots=True)
class SubDevice:
    """A device that a gateway speaks for. `gateway_id` is the gateway in whose topology it is, 0 for none."""

    credentials: Credentials
    gateway_id: int


class DeviceFacts(msgspec.Struct, frozen=True, gc=False):
    """Who a device is, without its secret. `topology` is the gateway whose sub-device it is, 0 for none."""

    tenant_id: int
    device_id: int
    product_key: str
    device_name: str
    site_id: int | None
    is_gateway: bool
    enabled: bool
    topology: int = 0


class PresenceChange(msgspec.Struct, frozen=True, gc=False):
    """A session of a device opened or closed. `via` is 0 for the device's own session at the front door, else its gateway's device id.

    `epoch` orders the sessions of one device through one door: a close of an older session changes nothing.
    """

    device_id: int
    online: bool
    time_ms: int
    epoch: int
    via: int = 0


class CommandReply(msgspec.Struct, frozen=True, gc=False):
    """A device's answer to a command. `from_device` is the device that answered or the gateway that carried the answer."""

    command_id: str
    from_device: int
    code: int
    data: Any
    time_ms: int


@dataclass(frozen=True, slots=True)
class Route:
    """How a device is reached: `gateway` is None for its own session. Ids belong to the devices."""

    device_id: int
    key: tuple[str, str]
    gateway_id: int = 0
    gateway: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A device and, in short, what is known of it now. `via` names the gateway that carries its session."""

    device_id: int
    product_key: str
    device_name: str
    site: str | None
    enabled: bool
    created_ms: int
    online: bool
    since_ms: int | None
    via: tuple[str, str] | None
    state: str = "manufactured"
    activated_ms: int | None = None
    nickname: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    command_id: str
    product_key: str
    device_name: str
    method: str
    params: Any
    state: str
    created_ms: int
    expires_ms: int
    finished_ms: int | None
    code: int | None
    reply: Any
    is_call: bool = False
    requested_by: str = ""
    sent_ms: int | None = None
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class DesiredValue:
    """What one property should be; `version` counts its changes."""

    value: Any
    version: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """Both halves of a device's shadow. `spoken`: the device uses the shadow's own topics."""

    version: int = 0
    spoken: bool = False
    reported: Mapping[str, Entry] = field(default_factory=dict)
    desired: Mapping[str, DesiredValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag's value, and who set it last: `device` or `api`."""

    value: str
    source: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of devices, and how many it holds."""

    group_id: int
    name: str
    created_ms: int
    devices: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a device's own log; `time` as the device wrote it."""

    number: int
    received_ms: int
    time: str
    level: str
    module: str
    code: str
    trace: str
    content: str


class CommandState(enum.StrEnum):
    """`queued` waits for its device or gateway to come back; `sent` was handed to a session, or may have been."""

    QUEUED = "queued"
    SENT = "sent"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether nothing changes it any more."""
        return self not in (CommandState.QUEUED, CommandState.SENT)


@dataclass(frozen=True, slots=True)
class Order:
    """A command on its way: to the session of `target`, or of our `gateway` that carries it. `is_call`: asked for at once (RRPC)."""

    tenant_id: int
    command_id: str
    target: tuple[str, str]
    gateway: tuple[str, str] | None
    method: str
    params: Any
    expires_ms: int
    is_call: bool = False
    raw: bytes | None = None
    """For a device that speaks no JSON: what it is sent instead, on its raw topic."""


class RegistryChange(msgspec.Struct, frozen=True):
    """Event on `registry.changed`: forget what you know of this device, or of the whole product."""

    product_key: str
    device_name: str | None = None


def check_device_name(name: str) -> None:
    """Raises Refused naming what is allowed."""
    if not _DEVICE_NAME.fullmatch(name):
        raise Refused(Reason.OUT_OF_RANGE, "device_name must have 1 to 64 letters, digits or any of - _ @ . :")


def secret_context(product_key: str, device_name: str) -> str:
    """What a device's sealed secret is bound to."""
    return f"{product_key}/{device_name}"


def token_context(product_key: str, device_name: str) -> str:
    """What a device's sealed token is bound to."""
    return f"{product_key}/{device_name}/token"


def state_at(state: str, expires_ms: int, now_ms: int) -> CommandState:
    """A command that was not answered in time is expired.

    >>> state_at("sent", expires_ms=100, now_ms=101)
    <CommandState.EXPIRED: 'expired'>
    """
    if state in (CommandState.QUEUED, CommandState.SENT) and now_ms > expires_ms:
        return CommandState.EXPIRED
    return CommandState(state)
