"""Restart policy of a stage: retry what is worth retrying, with jitter, and be loud about the rest."""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from edge_agent.domain.backoff import Backoff
from protocols.errors import TryAgain

log = logging.getLogger("edge.supervise")

Stage = Callable[[], Awaitable[None]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`tries` failures within `window_s` are survived (None: any number)."""

    backoff: Backoff = field(default_factory=Backoff)
    tries: int | None = 5
    window_s: float = 600.0


async def supervise(
    name: str,
    stage: Stage,
    policy: RestartPolicy,
    *,
    now: Callable[[], float],
    sleep: Sleep,
    chance: Callable[[], float] = random.random,
) -> None:
    """Run `stage`, restarting it after `TryAgain` until it fails too often within the window; anything else is raised at once.

    A run longer than the ceiling counts as a recovery: the next failure waits `first_s` again.
    """
    failures: deque[float] = deque()
    streak = 0
    while True:
        started = now()
        try:
            return await stage()
        except TryAgain as problem:
            failures.append(now())
            while failures[0] <= now() - policy.window_s:
                failures.popleft()
            if policy.tries is not None and len(failures) > policy.tries:
                raise
            streak = 1 if now() - started > policy.backoff.ceiling_s else streak + 1
            if streak == 1:  # the change, not the state
                log.warning("stage.down", extra={"stage": name, "problem": str(problem)})
            await sleep(policy.backoff.wait_s(streak, chance()))
