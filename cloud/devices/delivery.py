"""Commands are handed over until they end, whoever was away when they were made."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from cloud.devices import commands
from cloud.devices.model import Order
from cloud.devices.ports import Downlink
from cloud.foundation.bus import NobodyAnswers
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.logs import get_logger
from protocols.errors import TryAgain

HAND_OVER_S: Final = 2.0
PATIENCE_MS: Final = 5_000  # an answer is waited for so long before the command is handed over once more
AGAIN_S: Final = 10.0
HANDED_AT_ONCE: Final = 200


class Redelivery:
    """Hands commands over until they end. Through a gateway again and again: after a restart of ours, of the gateway, of the link between;
    that is safe, because a gateway remembers on its disk what it was told. A device remembers nothing: what waited for it is handed once.
    """

    def __init__(
        self, database: Database, downlink: Downlink, now_s: Callable[[], float] = time.monotonic, at_once: int = HANDED_AT_ONCE
    ) -> None:
        self._database, self._downlink, self._now_s, self._at_once = database, downlink, now_s, at_once
        self._handed: dict[str, float] = {}
        self._after = 0  # where the next turn goes on: those that get no answer must not keep the others from theirs
        self._waiting_after = 0

    async def run(self) -> None:
        """For ever, until cancelled."""
        while True:
            await asyncio.sleep(HAND_OVER_S)
            try:
                await self.turn()
                while await self.turn_of_waiting() == self._at_once:
                    pass
            except Exception as error:  # noqa: BLE001 - a database or a bus that is away comes back
                get_logger().warning("command.redelivery_failed", error=str(error))

    async def turn(self) -> int:
        """Hand over what is due through gateways, and return how many commands that were."""
        found = await asyncio.to_thread(self._find)
        self._after = int(found[-1].command_id) if len(found) == self._at_once else 0
        now, handed = self._now_s(), 0
        self._handed = {known: at_s for known, at_s in self._handed.items() if now - at_s < AGAIN_S}
        for order in found:
            if order.command_id in self._handed:
                continue
            self._handed[order.command_id] = now
            try:
                left = await self._downlink.deliver_command(order)
            except TryAgain:
                continue
            if left:
                handed += 1
                await asyncio.to_thread(self._change, order, commands.leaves)
        return handed

    async def turn_of_waiting(self) -> int:
        """Hand over what waited for devices that are back; how many commands were looked at."""
        found = await asyncio.to_thread(self._find_waiting)
        self._waiting_after = int(found[-1].command_id) if len(found) == self._at_once else 0
        for order in found:
            if not await asyncio.to_thread(self._change, order, commands.leaves):
                continue
            try:
                left = await self._downlink.deliver_command(order)
            except NobodyAnswers:
                left = False
            except TryAgain as error:  # it may have left, so it must not leave again: the answer or the expiry decides
                get_logger().warning("command.delivery_unknown", command_id=order.command_id, error=str(error))
                continue
            if not left:
                await asyncio.to_thread(self._change, order, commands.stayed)
        return len(found)

    def _find(self) -> list[Order]:
        with self._database.system_reading() as work:
            return commands.undelivered(work, now_ms() - PATIENCE_MS, self._after, self._at_once)

    def _find_waiting(self) -> list[Order]:
        with self._database.system_reading() as work:
            found = commands.waiting(work, self._waiting_after, self._at_once)
            adopted = commands.behind_gateways(work, self._at_once)
        if adopted:
            with self._database.system() as work:
                commands.go_through_gateways(work, adopted)
                work.commit()
        return found

    def _change(self, order: Order, change: Callable[[UnitOfWork, str], bool | None]) -> bool:
        with self._database.unit_of_work(order.tenant_id) as work:
            done = change(work, order.command_id)
            work.commit()
        return bool(done)
