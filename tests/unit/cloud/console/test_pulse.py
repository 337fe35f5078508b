"""A browser that does not keep up costs nothing but its own freshness."""

import asyncio

from cloud.console.pulse import HIDDEN_EVERY, Pulse
from protocols.errors import TryAgain


class Browser:
    """Answers when told to."""

    def __init__(self) -> None:
        self.answers: list[bool | None] = []  # None: no answer in time
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def visible(self) -> bool:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else True
        if answer is None:
            raise TimeoutError
        return answer


async def nothing() -> None:
    return None


async def test_a_browser_that_keeps_up_gets_every_update() -> None:
    pulse = Pulse(Browser(), nothing)
    for _ in range(5):
        await pulse.tick()
    assert (pulse.updates, pulse.skipped) == (5, 0)


async def test_no_update_leaves_before_the_one_before_has_arrived() -> None:
    browser = Browser()
    browser.gate = asyncio.Event()
    pulse = Pulse(browser, nothing)
    first = asyncio.create_task(pulse.tick())
    await asyncio.sleep(0)
    for _ in range(100):
        await pulse.tick()
    assert (pulse.updates, pulse.skipped, browser.asked) == (1, 100, 1)
    browser.gate.set()
    await first
    await pulse.tick()
    assert pulse.updates == 2


async def test_a_browser_that_does_not_answer_is_asked_again_and_sent_nothing() -> None:
    browser = Browser()
    browser.answers = [None, None, None, True]
    pulse = Pulse(browser, nothing)
    for _ in range(4):
        await pulse.tick()
    assert (pulse.updates, browser.asked) == (1, 4)
    await pulse.tick()
    assert pulse.updates == 2


async def test_a_page_that_nobody_looks_at_is_updated_less_often() -> None:
    browser = Browser()
    browser.answers = [False, True]
    pulse = Pulse(browser, nothing)
    for _ in range(HIDDEN_EVERY):
        await pulse.tick()
    assert pulse.updates == 1
    await pulse.tick()
    assert pulse.updates == 2


async def test_a_role_that_starts_again_leaves_the_page_as_it_is() -> None:
    async def away() -> None:
        raise TryAgain("core starts again")

    browser = Browser()
    pulse = Pulse(browser, away)
    await pulse.tick()
    await pulse.tick()
    assert (pulse.updates, browser.asked) == (0, 0)
