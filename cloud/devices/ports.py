"""What `devices` needs of the slices above it; filled in `app.py`."""

from collections.abc import Mapping
from typing import Protocol


class Downlink(Protocol):
    """The way to devices that are connected now."""

    async def deliver_command(
        self,
        target: tuple[str, str],
        gateway: tuple[str, str] | None,
        command_id: str,
        method: str,
        params: Mapping[str, object],
        expires_ms: int,
    ) -> bool:
        """Hand a command to the session of `target`, or of the `gateway` that carries it. False: there is no such session.

        Raises TryAgain when nobody can tell.
        """
        ...


class Sessions(Protocol):
    """Whether the front door's sessions can be believed."""

    def lease_held(self) -> bool:
        """False when `access` has not renewed its lease: then no device is online, whatever was written."""
        ...


class Changes(Protocol):
    """Tells the other roles to forget what they cached."""

    async def registry_changed(self, product_key: str, device_name: str | None) -> None: ...

    async def authorities_changed(self) -> None:
        """A tenant's certificate authority was added or retired."""
        ...
