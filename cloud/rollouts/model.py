"""Firmware and its offers as values, and how an offer goes on. Pure."""

import enum
from dataclasses import dataclass
from typing import Final

from protocols.alink.ota import Failure


class OfferState(enum.StrEnum):
    """Where an offer stands. The last three are its end."""

    OFFERED = "offered"  # the device has not been told, or has said nothing yet
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"  # it runs the version, in its own words
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (OfferState.OFFERED, OfferState.IN_PROGRESS)


OPEN: Final = (OfferState.OFFERED, OfferState.IN_PROGRESS)

_FAILURES: Final = {
    Failure.UPGRADE: "the upgrade failed",
    Failure.DOWNLOAD: "the download failed",
    Failure.DIGEST: "the image does not have the digest it was offered with",
    Failure.FLASH: "writing the image failed",
}


@dataclass(frozen=True, slots=True)
class Firmware:
    """An image for a module of a product's devices; digests in lower-case hex, `size` in bytes."""

    firmware_id: int
    product_key: str
    module: str
    version: str
    size: int
    sha256: str
    md5: str
    sign_method: str
    is_diff: bool
    note: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A firmware offered to a device; `step` in percent, negative for a failure."""

    offer_id: int
    firmware_id: int
    product_key: str
    device_name: str
    state: str
    step: int
    detail: str
    created_ms: int
    updated_ms: int
    tries: int


def after_progress(state: OfferState, step: int, percent: int, told: str) -> tuple[OfferState, int, str]:
    """(state, step, detail) of an offer after the device spoke of it. An ended one stays as it is; 100 percent are no success yet.

    >>> after_progress(OfferState.OFFERED, 0, -3, "")
    (<OfferState.FAILED: 'failed'>, -3, 'the image does not have the digest it was offered with')
    """
    if state.ended:
        return state, step, told
    if percent < 0:
        failure = _FAILURES.get(Failure(percent)) if percent in set(Failure) else f"the device gave up with {percent}"
        return OfferState.FAILED, percent, f"{failure}: {told}" if told and failure else failure or told
    return OfferState.IN_PROGRESS, min(percent, 100), told


def after_inform(state: OfferState, offered: str, runs: str) -> OfferState:
    """An offer after the device said what it runs: the version that was offered is success, whatever was said before.

    >>> after_inform(OfferState.FAILED, "2.0.0", "2.0.0")
    <OfferState.SUCCEEDED: 'succeeded'>
    """
    if runs == offered and state is not OfferState.CANCELLED:
        return OfferState.SUCCEEDED
    return state


@dataclass(frozen=True, slots=True)
class Configuration:
    """The file that all devices of a product are given; `size` in bytes, `configuration_id` differs with every file."""

    configuration_id: str
    product_key: str
    size: int
    sha256: str
    token: str
    enabled: bool
    updated_ms: int

    def offer(self, base_url: str) -> dict[str, object]:
        """As a device is told of it (alink.md par. 6): C SDKs know the digest as `Sha256`, spelled so."""
        return {
            "configId": self.configuration_id,
            "configSize": self.size,
            "sign": self.sha256,
            "signMethod": "Sha256",
            "url": f"{base_url}/configuration/{self.token}",
            "getType": "file",
        }
