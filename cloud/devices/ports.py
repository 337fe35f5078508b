"""What `devices` needs of the slices above it; filled in `app.py`."""

from typing import Protocol

from cloud.devices.model import Order
from protocols.alink.topics import Kind


class Downlink(Protocol):
    """The way to devices that are connected now."""

    async def deliver_command(self, order: Order) -> bool:
        """Hand a command to a session. False: there is no such session, or it takes nothing.

        Raises NobodyAnswers when it certainly did not leave, TryAgain when nobody can tell.
        """
        ...

    async def deliver_message(self, target: tuple[str, str], topic: str, payload: bytes, qos: int = 0) -> bool:
        """Hand any other message to the session of `target`. False: there is no such session. Raises TryAgain."""
        ...

    async def tell_all(self, product_key: str, kind: Kind, payload: bytes, qos: int = 0, *, call: str = "") -> int:
        """Tell each connected device of a product on its own topic of this kind, whatever it subscribed; how many took it.

        Raises TryAgain.
        """
        ...

    async def tell_subscribers(self, product_key: str, topic: str, payload: bytes, qos: int = 0) -> int:
        """Tell those devices of a product that subscribed `topic`; how many took it. Raises TryAgain."""
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
