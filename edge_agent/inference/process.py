"""The agent's side of the inference worker: start it, ask it, and end it when it does not answer in time."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_agent.domain.scoring import BadMessage, Rows, Scores
from edge_agent.inference.wire import LENGTH, Load, Loaded, framed, size_of
from edge_agent.ports import ScorerDied

START_S = 20.0  # loading the runtime takes a third of a second on a desktop, several on a small gateway
END_S = 1.0


class WorkerProcess:
    """`Scorer` in a process of its own. One request is under way at a time; a late answer ends the process."""

    def __init__(self, models: Sequence[tuple[Path, int]], *, deadline_s: float, memory_mib: int) -> None:
        self._load = Load(tuple(str(path) for path, _ in models), tuple(machines for _, machines in models), memory_mib)
        self._deadline_s = deadline_s
        self._process: asyncio.subprocess.Process | None = None
        self.rss_bytes = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> Sequence[str]:
        await self.stop()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edge_agent.inference.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        answer = await self._ask(msgspec.msgpack.encode(self._load), START_S)
        try:
            loaded = msgspec.msgpack.decode(answer, type=Loaded)
        except msgspec.MsgspecError as error:
            raise await self._ended(f"its first answer cannot be read: {error}") from error
        self.rss_bytes = loaded.rss_bytes
        return loaded.faults

    async def score(self, rows: Rows) -> Scores:
        answer = await self._ask(rows.to_bytes(), self._deadline_s)
        try:
            scores = Scores.from_bytes(answer)
        except BadMessage as error:
            raise await self._ended(str(error)) from error
        if len(scores.score) != len(rows.machines):
            raise await self._ended("it answered for another number of rows")
        return scores

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with suppress(ProcessLookupError):
            process.kill()  # it holds nothing that could be lost
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)

    async def _ask(self, request: bytes, deadline_s: float) -> bytes:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ScorerDied("it does not run")
        try:
            async with asyncio.timeout(deadline_s):
                process.stdin.write(framed(request))
                await process.stdin.drain()
                return await process.stdout.readexactly(size_of(await process.stdout.readexactly(LENGTH.size)))
        except TimeoutError as error:
            raise await self._ended(f"no answer within {deadline_s:g} s") from error
        except asyncio.IncompleteReadError as error:
            raise await self._ended("it ended") from error
        except (OSError, BadMessage) as error:
            raise await self._ended(str(error)) from error

    async def _ended(self, why: str) -> ScorerDied:
        """End what is left of it; the error to raise."""
        process = self._process
        await self.stop()
        code = None if process is None else process.returncode
        return ScorerDied(f"{why} (exit code {code})")
