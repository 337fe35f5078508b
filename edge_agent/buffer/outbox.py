"""The outbox on disk: one writer thread, group commit. What waits while a commit is in flight shares the next."""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from edge_agent.buffer.ballast import Ballast
from edge_agent.buffer.frame_file import FrameFile, translated
from edge_agent.buffer.sealing import NO_SEAL, Seal
from edge_agent.domain.crashpoint import crash_point
from edge_agent.domain.quotas import Quotas
from edge_agent.ports import OutboxClosed, OutboxState, OutboxUnavailable, Stretch
from protocols.edgelink.lanes import LANES, GapReason, Lane

log = logging.getLogger(__name__)

MAX_BATCH = 1_000
"""Operations in one transaction."""
MAX_BATCH_BYTES = 8 * 1024 * 1024


class _Job:
    """One call: `run` in the writer's thread, its outcome back in the caller's loop."""

    __slots__ = ("future", "lane", "run", "size", "writes")

    def __init__(self, run: Callable[[FrameFile], Any], *, writes: bool, lane: Lane | None = None, size: int = 0) -> None:
        self.run, self.writes, self.lane, self.size = run, writes, lane, size
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


_ORDINARY = frozenset((Lane.LIVE, Lane.BULK))
_Outcome = tuple[_Job, Any, BaseException | None]


class SqliteOutbox:
    """`Outbox` over one SQLite file. Opening (in the constructor) and `state` are the only calls that do not wait.

    The queue has no bound of its own: every caller waits for its append, so it holds at most one job per producer.
    """

    def __init__(
        self,
        path: Path,
        *,
        quotas: Quotas,
        gateway: tuple[str, str],
        now_ms: Callable[[], int],
        in_doubt: int = 32,
        running_s: Callable[[], float] = time.monotonic,
        shift: Callable[[int], tuple[int, int | None]] = lambda period: (0, 0),
        ballast_bytes: int = 0,
        seal: Seal = NO_SEAL,
    ) -> None:
        """Open or make the file; raises OutboxUnavailable (disk, another agent, another key) and OutboxDamaged."""
        self._ballast = Ballast(path.with_name(path.name + ".ballast"), ballast_bytes)
        self._full = False  # the disk: readings are refused, what the ballast was for is not
        open_file = partial(FrameFile, path, quotas=quotas, gateway=gateway, in_doubt=in_doubt, running_s=running_s, shift=shift, seal=seal)
        try:
            try:
                self._file = open_file()
            except apsw.FullError:
                if not self._ballast.drop():
                    raise
                self._full = True
                self._file = open_file()
        except apsw.Error as error:
            raise translated(error) from error
        if not self._full:
            self._ballast.put()
        self._now_ms = now_ms
        self._state = self._file.state
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._blocked: deque[_Job] = deque()  # appends that wait for room, in order
        self._broken = self._ran_full = False
        self._closing = False
        self._arrivals: list[asyncio.Future[None]] = []
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    # --- the port

    async def append(self, lane: Lane, body: bytes, readings: int, marks: Mapping[str, bytes] | None = None, period: int = 0) -> int:
        def run(file: FrameFile) -> int | None:
            seq = file.append(lane, body, readings, self._now_ms(), period)
            if seq is not None and marks:
                file.remember(marks)
            return seq

        seq: int = await self._submit(_Job(run, writes=True, lane=lane, size=len(body)))
        return seq

    async def remember(self, marks: Mapping[str, bytes]) -> None:
        await self._submit(_Job(lambda file: file.remember(marks), writes=True))

    async def next(self, lane: Lane, after_seq: int, limit: int) -> Sequence[tuple[int, bytes]]:
        while True:
            frames, damaged = await self._submit(_Job(lambda file: file.read(lane, after_seq, limit), writes=False))
            if not damaged:
                return frames  # type: ignore[no-any-return]
            for seq in damaged:
                log.error("buffer.frame_damaged", extra={"lane": lane.value, "seq": seq})
                await self._submit(_Job(lambda file, seq=seq: file.replace_damaged(lane, seq), writes=True))  # type: ignore[misc]

    async def arrival(self, after: Mapping[Lane, int]) -> None:
        while not any(held.frames and held.next_seq - 1 > after.get(lane, 0) for lane, held in self._state.lanes.items()):
            if self._closing:
                raise OutboxClosed("the outbox is closed")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._arrivals.append(waiter)
            await waiter

    async def committed(self, lane: Lane, seq: int) -> None:
        await self._submit(_Job(lambda file: file.forget(lane, seq), writes=True))

    async def reconcile(self, committed: Mapping[Lane, int]) -> None:
        def run(file: FrameFile) -> None:
            for lane in LANES:
                file.reconcile(lane, committed.get(lane, 0), self._now_ms())

        await self._submit(_Job(run, writes=True))

    async def replace(self, lane: Lane, seq: int, body: bytes) -> None:
        await self._submit(_Job(lambda file: file.replace(lane, seq, body, GapReason.REFUSED_FRAME), writes=True))

    async def ledger(self) -> Sequence[Stretch]:
        found: list[Stretch] = await self._submit(_Job(lambda file: file.ledger(), writes=False))
        return found

    def state(self) -> OutboxState:
        return self._state

    async def marks(self, prefix: str = "") -> dict[str, bytes]:
        found: dict[str, bytes] = await self._submit(_Job(lambda file: file.marks(prefix), writes=False))
        return found

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
            self._wake_arrivals()
        await asyncio.to_thread(self._thread.join)

    async def _submit(self, job: _Job) -> Any:
        if self._closing:
            raise OutboxClosed("the outbox is closed")
        self._jobs.put(job)
        return await job.future

    # --- the writer's thread

    def _work(self) -> None:
        open_for_work = True
        while open_for_work:
            jobs, open_for_work = self._gather()
            outcomes = self._settle(jobs)
            if not open_for_work:
                closed = OutboxClosed("the outbox closed before there was room")
                outcomes += [(job, None, closed) for job in self._blocked]
                try:
                    self._file.close()
                except Exception:  # whatever it was, those who wait below must still be told, or they wait for ever
                    log.exception("buffer.close_failed")
            self._report(outcomes)

    def _gather(self) -> tuple[list[_Job], bool]:
        """Wait for one job, then take all that came meanwhile; False once `close` was asked for."""
        jobs: list[_Job] = []
        size = 0
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            size += job.size
            if len(jobs) >= MAX_BATCH or size >= MAX_BATCH_BYTES:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _settle(self, jobs: list[_Job]) -> list[_Outcome]:
        """Writes in one transaction, then reads. A failed transaction fails every write in it."""
        writes = [job for job in jobs if job.writes]
        outcomes: list[_Outcome] = []
        if writes:
            if self._full and self._ballast.has_room():
                self._full = not self._ballast.put()
            if self._full:
                outcomes, writes = self._turn_away(writes)
            outcomes += self._attempt(writes)
            if self._ran_full and self._ballast.drop():
                self._full = True
                log.error("buffer.disk_full", extra={"ballast": "given up"})
                again = [(job, error) for job, _, error in outcomes if isinstance(error, OutboxUnavailable) and job.writes]
                outcomes = [outcome for outcome in outcomes if not isinstance(outcome[2], OutboxUnavailable)]
                turned_away, urgent = self._turn_away([job for job, _ in again])
                outcomes += turned_away + self._attempt(urgent)
        for job in jobs:
            if not job.writes:
                try:
                    outcomes.append((job, job.run(self._file), None))
                except Exception as error:  # noqa: BLE001 - it goes to the caller
                    outcomes.append((job, None, _meaning(error)))
        return outcomes

    def _turn_away(self, writes: list[_Job]) -> tuple[list[_Outcome], list[_Job]]:
        """What a full disk takes no more, and what it still does: alarms, replies, marks, the cloud's commits."""
        refused = OutboxUnavailable("the buffer's disk is full: free some space; alarms and replies still have a reserve")
        turned_away: list[_Outcome] = [(job, None, refused) for job in writes if job.lane in _ORDINARY]
        return turned_away, [job for job in writes if job.lane not in _ORDINARY]

    def _attempt(self, writes: list[_Job]) -> list[_Outcome]:
        """One transaction; a failed one fails every write in it."""
        self._ran_full = False
        if not writes:
            return []
        try:
            outcomes = self._write(writes)
            crash_point("buffer.after_commit")
            return outcomes
        except Exception as error:  # noqa: BLE001 - it goes to every caller
            self._ran_full = isinstance(error, apsw.FullError)
            self._recover(error)
            return [(job, None, _meaning(error)) for job in writes]

    def _write(self, writes: list[_Job]) -> list[_Outcome]:
        if self._broken:
            self._file.reopen()
            self._broken = False
        done: list[_Outcome] = []
        parked: list[_Job] = []
        waiting = [*self._blocked, *writes]
        stuck: set[Lane] = set()
        self._file.begin()
        for job in waiting:
            if job.future.cancelled():
                continue
            if job.lane in stuck:  # keeps a lane's order
                parked.append(job)
                continue
            result = job.run(self._file)
            if result is None and job.lane is not None:
                stuck.add(job.lane)
                parked.append(job)
            else:
                done.append((job, result, None))
        self._file.commit()
        self._blocked = deque(parked)
        return done

    def _recover(self, error: Exception) -> None:
        log.error("buffer.commit_failed", extra={"error": str(error)})
        self._broken = isinstance(error, apsw.Error)
        try:
            self._file.rollback()
        except apsw.Error:
            self._broken = True

    def _report(self, outcomes: list[_Outcome]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
        for outcome in outcomes:
            loops.setdefault(outcome[0].future.get_loop(), []).append(outcome)
        for loop, group in loops.items():
            try:
                loop.call_soon_threadsafe(self._deliver, group)
            except RuntimeError:  # the loop is gone, and everybody who waited in it
                continue

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        self._state = replace(self._file.state, disk_full=True) if self._full else self._file.state
        for job, result, error in outcomes:
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)
        self._wake_arrivals()

    def _wake_arrivals(self) -> None:
        waiters, self._arrivals = self._arrivals, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _meaning(error: Exception) -> Exception:
    return translated(error) if isinstance(error, apsw.Error) else error
