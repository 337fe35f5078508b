"""Devices on the bus: who may be believed to be online, and who hears that the registry changed."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from cloud.devices import registry
from cloud.devices.model import ACCESS_LEASE, AUTHORITIES_CHANGED, LEASE_MS, REGISTRY_CHANGED, RegistryChange, Undelivered
from cloud.devices.ports import Downlink
from cloud.foundation.bus import Bus, BusAway
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database
from cloud.foundation.logs import get_logger
from protocols.errors import TryAgain


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


HAND_OVER_S: Final = 2.0
PATIENCE_MS: Final = 5_000  # an answer is waited for so long before the command is handed over once more
AGAIN_S: Final = 10.0
HANDED_AT_ONCE: Final = 200


class Redelivery:
    """Hands commands through gateways over again until they end: after a restart of ours, of the gateway, of the link between.

    That is safe, because a gateway remembers on its disk what it was told. A direct device remembers nothing: it is asked once.
    """

    def __init__(
        self, database: Database, downlink: Downlink, now_s: Callable[[], float] = time.monotonic, at_once: int = HANDED_AT_ONCE
    ) -> None:
        self._database, self._downlink, self._now_s, self._at_once = database, downlink, now_s, at_once
        self._handed: dict[str, float] = {}
        self._after = 0  # where the next turn goes on: those that get no answer must not keep the others from theirs

    async def run(self) -> None:
        """For ever, until cancelled."""
        while True:
            await asyncio.sleep(HAND_OVER_S)
            try:
                await self.turn()
            except Exception as error:  # noqa: BLE001 - a database or a bus that is away comes back
                get_logger().warning("command.redelivery_failed", error=str(error))

    async def turn(self) -> int:
        """Hand over what is due, and return how many commands that were."""
        found = await asyncio.to_thread(self._find)
        self._after = int(found[-1].command_id) if len(found) == self._at_once else 0
        now, handed = self._now_s(), 0
        self._handed = {known: at_s for known, at_s in self._handed.items() if now - at_s < AGAIN_S}
        for command in found:
            if command.command_id in self._handed:
                continue
            self._handed[command.command_id] = now
            try:
                left = await self._downlink.deliver_command(
                    command.target, command.gateway, command.command_id, command.method, command.params, command.expires_ms
                )
            except TryAgain:
                continue
            if left:
                handed += 1
                await asyncio.to_thread(self._left, command)
        return handed

    def _find(self) -> list[Undelivered]:
        with self._database.system() as work:
            return registry.undelivered(work, now_ms() - PATIENCE_MS, self._after, self._at_once)

    def _left(self, command: Undelivered) -> None:
        with self._database.unit_of_work(command.tenant_id) as work:
            registry.command_left(work, command.command_id)
            work.commit()
