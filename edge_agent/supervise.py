"""Restart policy of a stage: retry what is worth retrying, with jitter, and be loud about the rest."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from edge_agent.domain.backoff import Backoff
from protocols.errors import TryAgain

log = logging.getLogger("edge.supervise")

LOOK_S = 1.0

Stage = Callable[[], Coroutine[Any, Any, None]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`tries` failures within `window_s` are survived (None: any number). A stage at one thing for `hang_s` hangs."""

    backoff: Backoff = field(default_factory=Backoff)
    tries: int | None = 5
    window_s: float = 600.0
    hang_s: float = 20.0


CONNECTOR = RestartPolicy(Backoff(first_s=0.5, ceiling_s=30.0), tries=None)
"""A connector that hangs is cancelled and started again; the others go on."""
AGENT = RestartPolicy(Backoff(first_s=0.5, ceiling_s=30.0), tries=None)
"""The process, by who watches it (systemd, `edgectl guard`): killed when it says nothing for `hang_s`, and started again."""


async def restart_when_hung(
    name: str, stage: Stage, busy_since: Callable[[], float | None], policy: RestartPolicy, *, now: Callable[[], float], sleep: Sleep
) -> None:
    """Run `stage`; cancel it and start it again whenever it has been at one thing for `hang_s`. What it raises is raised."""
    hung = 0
    while True:
        started = now()
        task = asyncio.ensure_future(stage())
        try:
            while not task.done():
                since = busy_since()
                if since is not None and now() - max(since, started) > policy.hang_s:
                    break
                await asyncio.wait({task}, timeout=LOOK_S)
            if task.done():
                return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=LOOK_S)
        hung += 1
        log.error("stage.hung", extra={"stage": name, "times": hung})
        await sleep(policy.backoff.wait_s(hung, random.random()))  # noqa: S311 - no secret


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
