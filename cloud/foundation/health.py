"""What makes the platform ready, and how every role answers for its part over the bus. The routes are in api.py."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from cloud.foundation.bus import Bus
from cloud.foundation.metrics import Metrics
from protocols.errors import TryAgain

# Says what is wrong with a part, None when it is ready. May raise TryAgain.
Check = Callable[[], Awaitable[str | None]]

ASK_S = 1.0


async def serve_health(bus: Bus, role: str, own: Metrics, check: Check) -> None:
    """Answer `health.{role}` and `metrics.{role}` for as long as the bus lives."""

    async def health(_: bytes) -> bytes:
        return msgspec.json.encode(await check())

    async def exposition(_: bytes) -> bytes:
        return own.render()

    await bus.serve(f"health.{role}", health)
    await bus.serve(f"metrics.{role}", exposition)


def ask_role(bus: Bus, role: str) -> Check:
    """A check that asks another role."""

    async def check() -> str | None:
        return msgspec.json.decode(await bus.request(f"health.{role}", b"", timeout_s=ASK_S), type=str | None)

    return check


async def run_checks(checks: Mapping[str, Check]) -> dict[str, str]:
    """What is wrong, by part; empty when everything is ready."""

    async def one(check: Check) -> str | None:
        try:
            async with asyncio.timeout(2 * ASK_S):
                return await check()
        except (TryAgain, TimeoutError) as error:
            return str(error) or "no answer in time"

    answers = await asyncio.gather(*(one(check) for check in checks.values()))
    return {part: fault for part, fault in zip(checks, answers, strict=True) if fault is not None}
