"""One simulator process: stops on SIGTERM or Ctrl-C, says what happens as JSON lines on stdout."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from protocols.errors import PlatformError

Stop = asyncio.Event
_STDIN = 0


def say(event: str, **fields: object) -> None:
    """One JSON line for whoever started us."""
    sys.stdout.write(msgspec.json.encode({"event": event} | fields).decode() + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """A line for a person, beside the JSON."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def run(main: Callable[[asyncio.Event], Awaitable[int]], *, fast: bool = False) -> int:
    """Run `main(stop)` in a loop and return its exit code; `stop` is set by the first signal. A refusal is told in one line: code 2.

    `fast` takes uvloop where it is installed.
    """

    async def body() -> int:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await main(stop)

    code = 2
    try:
        with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
            code = runner.run(body())
    except* PlatformError as group:
        for error in _leaves(group):
            remark(f"fwsim: {error}")
    return code


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # only the cloud needs it; a swarm is slower without
        return None
    return uvloop.new_event_loop


def _leaves(group: BaseExceptionGroup[PlatformError]) -> Iterator[PlatformError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def lines() -> AsyncIterator[str]:
    """Lines of stdin, until it ends; a pipe, a terminal, a file or nothing, which not every event loop takes: so a thread reads it.

    At most 100 lines wait; then nothing more is read.
    """
    loop = asyncio.get_running_loop()
    waiting = asyncio.Queue[bytes | None](100)

    def hand_over(line: bytes | None) -> None:
        asyncio.run_coroutine_threadsafe(waiting.put(line), loop).result()

    def read() -> None:
        held = b""
        with suppress(OSError, RuntimeError):  # stdin is closed; the loop has ended
            while data := os.read(_STDIN, 65_536):
                *whole, held = (held + data).split(b"\n")
                for line in whole:
                    hand_over(line)
        with suppress(RuntimeError):
            if held:
                hand_over(held)
            hand_over(None)

    threading.Thread(target=read, name="process.stdin", daemon=True).start()  # nobody waits for it: it may be blocked for ever
    while (line := await waiting.get()) is not None:
        yield line.decode(errors="replace").strip()


async def until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` until it ends or `stop` is set; returns whether it ended by itself, raises what it raised."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        finished = task.done()
        if finished:
            task.result()
        return finished
    finally:
        task.cancel()
        stopped.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
