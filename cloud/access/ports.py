"""What `access` needs from outside: who may connect, and a stream that says when a message is on disk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cloud.devices.model import Credentials, SubDevice, TrustedAuthority
from protocols.alink.registration import Claim, Grant
from protocols.errors import Broken, Refused, TryAgain

CredentialLookup = Callable[[Sequence[tuple[str, str]]], Mapping[tuple[str, str], Credentials]]
"""Credentials by (product key, device name), pairs that do not exist left out; called in a thread. Raises TryAgain."""

SubDeviceLookup = Callable[[Sequence[tuple[str, str]]], Mapping[tuple[str, str], SubDevice]]
"""Sub-devices by (product key, device name), with the gateway in whose topology they are; called in a thread. Raises TryAgain."""

TenantLookup = Callable[[Sequence[tuple[str, str]]], Sequence[int]]
"""Which tenant has to know that somebody who claims to be (product key, device name) was refused: the device's, else the product's, else
the operator's. One answer for each question; called in a thread. Raises TryAgain."""

AuthorityLookup = Callable[[], Sequence[TrustedAuthority]]
"""The certificate authorities of all tenants that are in force; called in a thread. Raises TryAgain."""


class Registrar(Protocol):
    """Who gives devices their secrets. Both calls are made in a thread, and raise TryAgain."""

    def register(self, claims: Sequence[Claim]) -> Sequence[Grant | Refused | TryAgain]:
        """What each device is given, the same while it has not used it, or why it is given nothing (Refused) or not now (TryAgain)."""
        ...

    def confirm(self, device_ids: Sequence[int]) -> None:
        """These devices have connected with what they were given."""
        ...


class OutcomeUnknown(TryAgain):
    """The connection broke or the answer did not come in time: the message may have landed."""


class StreamFull(TryAgain):
    """The stream refuses new messages because of its byte limit."""


class StreamAway(TryAgain):
    """Nobody answers for the stream just now."""


class WrongSequence(TryAgain):
    """The stream's last sequence is not the expected one: this message landed before, or another writer exists."""


class AnotherWriter(Broken):
    """Someone else wrote to our partition. Going on would break the order, so the process has to end."""


class Stream(Protocol):
    """One partition of the UPLINK stream, seen by its only writer."""

    async def publish(self, payload: bytes, message_id: str, expected_last: int) -> int:
        """The sequence once the message is on disk; raises OutcomeUnknown, StreamFull, StreamAway or WrongSequence."""
        ...

    async def message_id_at(self, sequence: int) -> str | None:
        """The `Nats-Msg-Id` of a stored message, None when there is none; raises OutcomeUnknown or StreamAway."""
        ...

    async def usable(self) -> None:
        """Return when it makes sense to try again: at once when connected, else on reconnect."""
        ...
