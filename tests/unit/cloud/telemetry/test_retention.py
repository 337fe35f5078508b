"""Retention believes a clock that runs evenly, and no other."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from cloud.foundation.metrics import Metrics
from cloud.telemetry.model import DAY_MS, Expired
from cloud.telemetry.retention import LEAP_MS, PROOF_S, EvenClock, Retention

T = 1_800_000_000_000


@given(st.integers(2, 1_000), st.sampled_from((-1, 1)), st.integers(1, 400))
def test_a_leap_is_believed_only_after_a_day_that_ran_evenly(before_s: int, direction: int, days: int) -> None:
    clock = EvenClock(T, T, 0.0)
    assert clock.now_ms(T + 1000 * before_s, float(before_s)) == T + 1000 * before_s
    leapt, day_ms = T + direction * days * DAY_MS, int(1000 * PROOF_S)
    assert clock.now_ms(leapt, before_s + 1.0) is None
    assert clock.now_ms(leapt + day_ms - 10_000, before_s + 1.0 + PROOF_S - 10) is None
    assert clock.now_ms(leapt + day_ms, before_s + 1.0 + PROOF_S) == leapt + day_ms


def test_a_platform_that_was_off_for_a_year_waits_a_day_and_one_that_was_off_for_a_week_does_not() -> None:
    assert EvenClock(T, T + 365 * DAY_MS, 0.0).now_ms(T + 365 * DAY_MS, 1.0) is None
    assert EvenClock(T, T + 6 * DAY_MS, 0.0).now_ms(T + 6 * DAY_MS, 1.0) is not None
    assert EvenClock(T, T - 2 * LEAP_MS, 0.0).now_ms(T, 1.0) is None, "the newest row came in the future"
    assert EvenClock(0, T, 0.0).now_ms(T + 1000, 1.0) is not None


async def test_a_store_that_fails_once_is_asked_again() -> None:
    asked: list[tuple[int, int]] = []

    async def expire(before_ms: int, keep_ms: int) -> Expired:
        asked.append((before_ms, keep_ms))
        if len(asked) == 1:
            raise RuntimeError("the disk")
        return Expired(7, 1)

    metrics = Metrics()
    running = asyncio.create_task(Retention(expire, 0, 240, metrics).run())
    async with asyncio.timeout(10):
        while len(asked) < 3:
            await asyncio.sleep(0.01)
    running.cancel()
    assert all(keep_ms == 240 for _, keep_ms in asked)
    assert asked[0][0] <= asked[1][0] <= asked[2][0]
