"""The ports of `cloud.devices`, in memory."""

from dataclasses import dataclass, field

from cloud.devices.model import Order
from protocols.errors import TryAgain


@dataclass(slots=True)
class FakeDownlink:
    """Takes every command, or answers as told."""

    takes: bool = True
    error: TryAgain | None = None
    sent: list[Order] = field(default_factory=list)
    messages: list[tuple[tuple[str, str], str, bytes]] = field(default_factory=list)

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
