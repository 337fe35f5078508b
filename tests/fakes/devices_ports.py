"""The ports of `cloud.devices`, in memory."""

from dataclasses import dataclass, field

from cloud.devices.model import Order
from protocols.alink.topics import Kind, Topic
from protocols.errors import TryAgain


@dataclass(slots=True)
class FakeDownlink:
    """Takes every command, or answers as told."""

    takes: bool = True
    error: TryAgain | None = None
    sent: list[Order] = field(default_factory=list)
    messages: list[tuple[tuple[str, str], str, bytes]] = field(default_factory=list)
    broadcasts: list[tuple[str, str, bytes]] = field(default_factory=list)
    reaches: int = 2

    async def deliver_command(self, order: Order) -> bool:
        if self.error is not None:
            raise self.error
        self.sent.append(order)
        return self.takes

    async def deliver_message(self, target: tuple[str, str], topic: str, payload: bytes, qos: int = 0) -> bool:
        if self.error is not None:
            raise self.error
        self.messages.append((target, topic, payload))
        return self.takes

    async def tell_all(self, product_key: str, kind: Kind, payload: bytes, qos: int = 0, *, call: str = "") -> int:
        return self._told(product_key, str(Topic(kind, product_key, "*", call=call)), payload)

    async def tell_subscribers(self, product_key: str, topic: str, payload: bytes, qos: int = 0) -> int:
        return self._told(product_key, topic, payload)

    def _told(self, product_key: str, topic: str, payload: bytes) -> int:
        if self.error is not None:
            raise self.error
        self.broadcasts.append((product_key, topic, payload))
        return self.reaches


@dataclass(slots=True)
class FakeSessions:
    held: bool = True

    def lease_held(self) -> bool:
        return self.held


@dataclass(slots=True)
class FakeChanges:
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    authorities: int = 0

    async def registry_changed(self, product_key: str, device_name: str | None) -> None:
        self.seen.append((product_key, device_name))

    async def authorities_changed(self) -> None:
        self.authorities += 1
