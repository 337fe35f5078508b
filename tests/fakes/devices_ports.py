"""The ports of `cloud.devices`, in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocols.errors import TryAgain


@dataclass(slots=True)
class FakeDownlink:
    """Takes every command, or answers as told."""

    takes: bool = True
    error: TryAgain | None = None
    sent: list[tuple[tuple[str, str], tuple[str, str] | None, str, Mapping[str, object]]] = field(default_factory=list)

    async def deliver_command(
        self,
        target: tuple[str, str],
        gateway: tuple[str, str] | None,
        command_id: str,
        method: str,
        params: Mapping[str, object],
        expires_ms: int,
    ) -> bool:
        if self.error is not None:
            raise self.error
        self.sent.append((target, gateway, command_id, params))
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
