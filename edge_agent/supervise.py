"""Restart policy of a stage: retry what is worth retrying, with jitter, and be loud about the rest."""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocols.errors import TryAgain

log = logging.getLogger("edge.supervise")

Stage = Callable[[], Awaitable[None]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`tries` failures within `window_s` are survived (None: any number); waits double from `first_s` to `ceiling_s`."""

    first_s: float = 1.0
    ceiling_s: float = 60.0
    tries: int | None = 5
    window_s: float = 600.0
    jitter: float = 0.5  # of the wait, so that a fleet does not knock in step

    def wait_s(self, failures: int, chance: float) -> float:
        """Seconds before try number `failures` + 1; `chance` in [0, 1) spreads it.

        >>> RestartPolicy(first_s=1, ceiling_s=8).wait_s(3, chance=0.0)
        2.0
        >>> RestartPolicy(first_s=1, ceiling_s=8).wait_s(50, chance=0.999) <= 8
        True
        """
        full = min(self.ceiling_s, self.first_s * 2.0 ** min(failures - 1, 62))
        return full * (1.0 - self.jitter + self.jitter * chance)


FOR_EVER = RestartPolicy(tries=None)


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
            streak = 1 if now() - started > policy.ceiling_s else streak + 1
            if streak == 1:  # the change, not the state
                log.warning("stage.down", extra={"stage": name, "problem": str(problem)})
            await sleep(policy.wait_s(streak, chance()))
