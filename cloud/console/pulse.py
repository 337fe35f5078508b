"""Live pages that a slow browser cannot fill the server's memory with: the next update leaves when the one before has arrived."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from protocols.errors import TryAgain

EVERY_S = 1.0
HIDDEN_EVERY = 5  # a page that nobody looks at is updated so many times less often
ANSWER_S = 10.0


class Browser(Protocol):
    """The page at the other end."""

    async def visible(self) -> bool:
        """Whether somebody looks at it; answered when everything sent before has arrived. Raises TimeoutError."""
        ...


class Pulse:
    """Calls `update` once a second at most, and never before the browser has taken in what the call before sent."""

    def __init__(self, browser: Browser, update: Callable[[], Awaitable[None]]) -> None:
        self._browser, self._update = browser, update
        self._busy = self._behind = False
        self._rest = 0
        self.updates = self.skipped = 0

    async def tick(self) -> None:
        """Once a second: update, or leave it out."""
        if self._busy:
            self.skipped += 1
            return
        if self._rest:
            self._rest -= 1
            return
        self._busy = True
        try:
            if not self._behind:
                await self._update()
                self.updates += 1
            self._behind = True
            visible = await self._browser.visible()
            self._behind = False
            self._rest = 0 if visible else HIDDEN_EVERY - 1
        except TimeoutError:
            self.skipped += 1  # it still has not taken in the last one: ask again, send nothing
        except TryAgain:
            self._behind = False  # a role starts again: the page keeps what it shows
        finally:
            self._busy = False
