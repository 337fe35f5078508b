"""The agent's life: start the stages, watch over them, and drain within ten seconds when asked to stop."""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.documents.account import answer, is_asked
from edge_agent.documents.registry import DeviceRegistry
from edge_agent.documents.status import write_status
from edge_agent.domain.clock import AgentClock
from edge_agent.pipeline.collect import Collector
from edge_agent.pipeline.forward import Forwarder
from edge_agent.pipeline.obey import Obey
from edge_agent.pipeline.pace import Pace
from edge_agent.pipeline.presence import Presence
from edge_agent.pipeline.refine import Refine
from edge_agent.ports import Outbox, OutboxUnavailable
from edge_agent.southbound.catalogue import Connector
from edge_agent.southbound.mqtt import FrontDoor
from edge_agent.supervise import AGENT, CONNECTOR, RestartPolicy, restart_when_hung, supervise
from edge_agent.watchdog import Watchdog

log = logging.getLogger("edge.agent")

CLEAN = "clean"  # mark: b"1" after a stop in order, b"0" while the agent runs
SCORE_S = 0.5  # of a drain: score what was read; what is left is named when the agent is back
READING_S = 1.0  # of a drain: for connectors to let go
FLUSH_S = 4.0  # of a drain: make everything durable
SEND_S = 3.0  # of a drain: give the cloud what it takes
STATUS_S = 1.0


@dataclass(slots=True)
class Agent:
    """All stages, wired (compose.py). `run` returns after a drain; a bug in a stage is raised and ends the process."""

    data_dir: Path
    clock: AgentClock
    outbox: Outbox
    collector: Collector
    forwarder: Forwarder
    obey: Obey
    presence: Presence
    registry: DeviceRegistry
    connectors: Sequence[Connector]
    refine: Refine | None
    front_door: FrontDoor | None
    listen: tuple[str, int] | None
    link_policy: RestartPolicy
    start_spread_s: float = 0.0
    pace: Pace = field(default_factory=Pace)
    watchdog: Watchdog = field(default_factory=Watchdog)
    started_ms: int = 0
    _said: str | None = None
    ready: Callable[[], None] = field(default=lambda: None)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain; raises what no stage could survive."""
        self.started_ms = self.clock.now_ms()
        await self.outbox.remember({CLEAN: b"0"})
        collecting = asyncio.create_task(self.collector.run(), name="collect")
        forwarding = asyncio.create_task(self._forward(), name="forward")
        side = [
            asyncio.create_task(stage(), name=name)
            for name, stage in (
                ("presence", self.presence.run),
                ("obey", self.obey.run),
                ("expire", self._expire),
                ("status", self._report),
            )
        ]
        if self.refine is not None:
            side.append(asyncio.create_task(self.refine.run(), name="refine"))
        reading = [
            asyncio.create_task(self._read(f"connector-{index}", connector), name=f"connector-{index}")
            for index, connector in enumerate(self.connectors)
        ]
        if self.front_door is not None and self.listen is not None:
            await self.front_door.start(*self.listen)
            log.info("front_door.open", extra={"host": self.listen[0], "port": self.front_door.port})
            reading.append(asyncio.create_task(self.front_door.run(), name="front-door"))
        stopping = asyncio.create_task(stop.wait(), name="stop")
        everything = [collecting, forwarding, *side, *reading]
        self._write_status()
        log.info("agent.ready", extra={"data_dir": str(self.data_dir)})
        self.ready()
        self.watchdog.say("READY=1")
        try:
            ended, _ = await asyncio.wait([stopping, *everything], return_when=asyncio.FIRST_COMPLETED)
            for task in ended - {stopping}:
                task.result()  # raises: no stage ends by itself
            await self._drain(reading, forwarding)
        finally:
            for task in (stopping, *everything):
                task.cancel()
            await asyncio.gather(stopping, *everything, return_exceptions=True)
            if self.front_door is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self.front_door.close()
            await self.outbox.close()
            self._write_status(running=False)
            self.registry.close()
            self.watchdog.close()

    async def _drain(self, reading: "Sequence[asyncio.Task[None]]", forwarding: "asyncio.Task[None]") -> None:
        """Stop reading, make durable what was read, send what the cloud takes, and note that this was a stop in order."""
        log.info("agent.draining")
        self.watchdog.say("STOPPING=1")
        if self.front_door is not None:
            self.front_door.stop_reading()
        for task in reading:
            task.cancel()
        if reading:  # a connector that does not let go must not keep the others' readings from the disk
            await asyncio.wait(reading, timeout=READING_S)
        if self.refine is not None:
            await self._within(SCORE_S, self.refine.drain())
        clean = await self._within(FLUSH_S, self.collector.flush())
        if self.front_door is not None:
            await self._within(1.0, self.front_door.close())
        if self.forwarder.connected:
            await self._within(SEND_S, self._sent())
        forwarding.cancel()
        if clean:
            await self._within(1.0, self.outbox.remember({CLEAN: b"1"}))
        log.info("agent.drained", extra={"clean": clean, "left": sum(held.frames for held in self.outbox.state().lanes.values())})

    async def _within(self, seconds: float, work: Awaitable[None]) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await work
        except TimeoutError:
            return False
        return True

    async def _sent(self) -> None:
        while self.forwarder.connected and not self.forwarder.idle:  # noqa: ASYNC110 - two conditions of others, once in a life
            await asyncio.sleep(0.02)

    async def _read(self, name: str, connector: Connector) -> None:
        await restart_when_hung(name, connector.run, lambda: connector.busy_since, CONNECTOR, now=self.clock.monotonic, sleep=asyncio.sleep)

    def stuck(self) -> str | None:
        """What hangs that only a new process mends, if anything does."""
        now = self.clock.monotonic()
        for name, since in (("collect", self.collector.busy_since), ("forward", self.forwarder.busy_since)):
            if since is not None and now - since > AGENT.hang_s / 2:
                return f"{name} waits for the disk for {now - since:.0f} s"
        return None

    async def _forward(self) -> None:
        await asyncio.sleep(random.uniform(0.0, self.start_spread_s))  # noqa: S311 - no secret
        await supervise("forward", self.forwarder.run, self.link_policy, now=self.clock.monotonic, sleep=asyncio.sleep)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.obey.expire()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(STATUS_S)
            self.pace.sample(self.clock.monotonic(), self.outbox.state())
            stuck = self.stuck()
            if stuck is None:
                self.watchdog.say("WATCHDOG=1")
            elif stuck != self._said:
                log.error("agent.stuck", extra={"problem": stuck})
            self._said = stuck
            self._write_status()
            await self._answer()
            await self._look_at_the_clock()

    async def _look_at_the_clock(self) -> None:
        before = self.clock.quality
        self.clock.poll()
        if self.clock.quality is not before:
            log.warning("clock.changed", extra=self.clock.summary())
        marks = self.clock.take_marks()
        if marks:
            with suppress(OutboxUnavailable):
                await self.outbox.remember(marks)
        floor = self.clock.floor()
        if floor is not None:
            self.collector.mark(*floor)  # with the next frame, at no cost of its own

    async def _answer(self) -> None:
        """The account by ten minutes, for `edgectl account` when it asks."""
        if is_asked(self.data_dir):
            try:
                answer(self.data_dir, await self.outbox.ledger())
            except (OSError, OutboxUnavailable) as problem:
                log.warning("account.not_written", extra={"problem": str(problem)})

    def _write_status(self, *, running: bool = True) -> None:
        try:
            write_status(self.data_dir, self.status() | ({} if running else {"pid": None}))
        except OSError as problem:  # a full disk must not end the agent; the buffer says so in its own way
            log.debug("status.not_written", extra={"problem": str(problem)})

    def status(self) -> dict[str, object]:
        """What `edgectl` shows."""
        door = self.front_door
        return {
            "pid": os.getpid(),
            "started_ms": self.started_ms,
            "written_ms": self.clock.now_ms(),
            "clock": self.clock.summary(),
            "uplink": {
                "connected": self.forwarder.connected,
                "since_ms": self.forwarder.connected_since_ms,
                "connects": self.forwarder.reconnects,
                "frames_sent": self.forwarder.sent,
                "frames_refused": self.forwarder.refused,
            },
            "front_door": None if door is None else door.status(),
            "models": None if self.refine is None else {**self.refine.summary(), "machines": self.refine.status()},
            "connectors": [connector.status() for connector in self.connectors],
            "devices": [
                {"product_key": key.product_key, "device_name": key.device_name, "source": source, "online": online, "since_ms": since_ms}
                for key, (online, since_ms, source) in self.presence.states.items()
            ],
            "buffer": self.outbox.state().summary(),
            "pace": self.pace.summary(),
        }
