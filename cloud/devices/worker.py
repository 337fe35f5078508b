"""Devices on the bus: who may be believed to be online, and who hears that the registry changed."""

import time
from collections.abc import Callable

import msgspec

from cloud.devices.model import ACCESS_LEASE, AUTHORITIES_CHANGED, LEASE_MS, REGISTRY_CHANGED, RegistryChange
from cloud.foundation.bus import Bus, BusAway
from cloud.foundation.logs import get_logger


class AccessLease:
    """The front door's lease: renewed by every event on `access.lease`, believed for 10 s, and for as long after our own start."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._renewed_s = now_s()

    async def renew(self, _event: bytes) -> None:
        self._renewed_s = self._now_s()

    def lease_held(self) -> bool:
        return (self._now_s() - self._renewed_s) * 1000 < LEASE_MS

    async def follow(self, bus: Bus) -> None:
        await bus.subscribe(ACCESS_LEASE, self.renew)


class RegistryEvents:
    """Says `registry.changed`. An event that is lost with the bus is made good there: every cache is dropped on a reconnect."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def registry_changed(self, product_key: str, device_name: str | None) -> None:
        try:
            await self._bus.publish(REGISTRY_CHANGED, msgspec.json.encode(RegistryChange(product_key, device_name)))
        except BusAway as error:
            get_logger().warning("registry.event_lost", product_key=product_key, device_name=device_name, error=str(error))

    async def authorities_changed(self) -> None:
        try:
            await self._bus.publish(AUTHORITIES_CHANGED, b"")
        except BusAway as error:
            get_logger().warning("registry.event_lost", what="authorities", error=str(error))
