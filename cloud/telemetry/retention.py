"""How long telemetry is kept: by when it came, and only while the host's clock can be believed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from cloud.foundation.clock import now_ms
from cloud.foundation.logs import get_logger
from cloud.foundation.metrics import Metrics
from cloud.telemetry.model import DAY_MS, Expired

MOST_APART_S: Final = 3600.0
CHECKS_A_LIFE: Final = 24  # of a row, at least hourly
LEAP_MS: Final = 3_600_000  # wall and monotonic clock may part by this without a question
LATE_MS: Final = 7 * DAY_MS  # a platform that was off no longer than this is believed at once
PROOF_S: Final = 86_400.0


class EvenClock:
    """The host's wall clock, believed unless it leapt; a leap is believed after it has run on evenly for a day.

    A clock that jumps ahead by a year must not delete a year of data before anybody can look. Pure: both clocks are passed in.
    """

    def __init__(self, newest_ms: int, wall_ms: int, monotonic_s: float) -> None:
        """`newest_ms`: when the newest row had come, 0 if there is none."""
        self._wall_ms, self._monotonic_s = wall_ms, monotonic_s
        near = not newest_ms or -LEAP_MS <= wall_ms - newest_ms <= LATE_MS
        self._believed_at = monotonic_s if near else monotonic_s + PROOF_S

    def now_ms(self, wall_ms: int, monotonic_s: float) -> int | None:
        """The time, or None while it cannot be believed.

        >>> clock = EvenClock(0, 1_000_000, 0.0)
        >>> clock.now_ms(1_060_000, 60.0), clock.now_ms(400 * DAY_MS, 120.0), clock.now_ms(401 * DAY_MS, 120.0 + 86_400)
        (1060000, None, 34646400000)
        """
        leap_ms = wall_ms - self._wall_ms - (monotonic_s - self._monotonic_s) * 1000
        self._wall_ms, self._monotonic_s = wall_ms, monotonic_s
        if abs(leap_ms) > LEAP_MS:
            self._believed_at = monotonic_s + PROOF_S
        return wall_ms if monotonic_s >= self._believed_at else None


class Retention:
    """Lets the store forget what came more than `keep_ms` ago, again and again until cancelled."""

    def __init__(self, expire: Callable[[int, int], Awaitable[Expired]], newest_ms: int, keep_ms: int, metrics: Metrics) -> None:
        self._expire, self._keep_ms = expire, keep_ms
        self._clock = EvenClock(newest_ms, now_ms(), time.monotonic())
        self._rows = metrics.counter("hearthline_store_expired_rows", "Rows that were kept for their time and let go of.")

    async def run(self) -> None:
        waiting = False
        while True:
            now = self._clock.now_ms(now_ms(), time.monotonic())
            if now is None and not waiting:
                get_logger().warning("store.retention_waits", hint="the clock leapt; nothing is deleted until it has run evenly for a day")
            waiting = now is None
            if now is not None:
                try:
                    gone = await self._expire(now - self._keep_ms, self._keep_ms)
                except Exception as error:  # noqa: BLE001 - whatever the engine raises: tried again at the next turn, and said
                    get_logger().error("store.retention_failed", error=str(error), kind=type(error).__name__)
                else:
                    self._rows.inc(gone.rows)
                    if gone.rows:
                        get_logger().info("store.expired", rows=gone.rows, segments=gone.segments)
            await asyncio.sleep(min(MOST_APART_S, self._keep_ms / 1000 / CHECKS_A_LIFE))
