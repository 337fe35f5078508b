"""Stages are started again while that makes sense, and bugs are loud."""

import pytest

from edge_agent.domain.backoff import Backoff
from edge_agent.supervise import RestartPolicy, supervise
from protocols.errors import TryAgain


class Times:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.at, self.sleeps = 0.0, list[float]()

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.at += seconds


async def run(outcomes: list[Exception | None], policy: RestartPolicy, times: Times) -> None:
    async def stage() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    await supervise("stage", stage, policy, now=times.now, sleep=times.sleep, chance=lambda: 1.0)


async def test_what_is_worth_retrying_is_retried_ever_more_slowly() -> None:
    times = Times()
    await run([TryAgain("away")] * 4 + [None], RestartPolicy(Backoff(first_s=1, ceiling_s=4), tries=None), times)
    assert times.sleeps == [1, 2, 4, 4]


async def test_it_gives_up_when_it_fails_too_often_within_the_window() -> None:
    with pytest.raises(TryAgain):
        await run([TryAgain("away")] * 9, RestartPolicy(tries=3, window_s=100), Times())


async def test_failures_long_ago_do_not_count() -> None:
    await run([TryAgain("away")] * 9 + [None], RestartPolicy(Backoff(first_s=60, ceiling_s=60), tries=3, window_s=100), Times())


async def test_a_bug_is_raised_at_once() -> None:
    times = Times()
    with pytest.raises(ZeroDivisionError):
        await run([ZeroDivisionError()], RestartPolicy(), times)
    assert times.sleeps == []
