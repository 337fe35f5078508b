"""Models over what connectors read: rows pass through first and unchanged, a copy waits for the model, its score comes back as a reading.

Nothing a model does reaches the readings: the copies lie in a queue of `queue_rows` rows that drops its oldest when it is full, and the
scorer lives in a process of its own. Rows that were not scored, whatever the reason, lie in a gap of the score's property, from the last
score to the next one.
"""

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec
import numpy as np

from edge_agent.domain.backoff import Backoff
from edge_agent.domain.batch import Shape
from edge_agent.domain.clock import Clock
from edge_agent.domain.excursion import Excursion
from edge_agent.domain.scoring import GATED, Rows, Scores
from edge_agent.ports import DeviceKey, Intake, Scorer, ScorerDied
from protocols.edgelink.lanes import Gap, GapReason, Lane
from protocols.edgelink.records import EventRecord, GapRecord, Record
from protocols.inference.card import ModelCard
from protocols.thing.datatypes import Value

log = logging.getLogger("edge.refine")

MARK_PREFIX = "score/"
ROWS_A_REQUEST = 512
TRIES = 2  # rows that were with the scorer when it died this often are given up: they may be what it dies of
MOST_TAPS = 4_096
LATENCIES = 512
BACKOFF = Backoff(first_s=0.1, ceiling_s=5.0)

_json = msgspec.json.Encoder()


class ScoreMark(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered with the last durable score of a machine."""

    time_ms: int
    raised: bool
    period: int = 0

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> "ScoreMark | None":
        """The mark, None for no or strange bytes."""
        try:
            return msgspec.msgpack.decode(data, type=cls) if data else None
        except msgspec.MsgspecError:
            return None


@dataclass(frozen=True, slots=True)
class Plan:
    """One model on this gateway, and the devices it watches. `event` is "" where none is wanted, `outputs` what that event carries."""

    name: str
    card: ModelCard
    devices: tuple[DeviceKey, ...]
    score: str
    shapes: tuple[Shape, ...]  # of the score, by device
    event: str = ""
    outputs: frozenset[str] = frozenset()
    raise_after: int = 3
    clear_after: int = 10


@dataclass(slots=True)
class _Machine:
    """One device as a model sees it."""

    plan: int
    number: int
    device: DeviceKey
    shape: Shape
    history: deque["_Row"]  # the rows before the next one: a new scorer gets them first
    values: list[float]  # the newest of each signal, and its time
    at: list[int]
    scored_ms: int | None
    excursion: Excursion
    unsure: bool  # rows may have gone unscored that nobody counted: the agent was away
    scored_period: int = 0
    newest_ms: int = 0
    unscored: int = 0
    score: float | None = None
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Row:
    machine: _Machine
    time_ms: int
    values: tuple[float, ...]
    period: int = 0
    tries: int = 0


@dataclass(frozen=True, slots=True)
class _Tap:
    """Where a machine's signals sit in rows of one shape: (signal, place in the row)."""

    machine: _Machine
    places: tuple[tuple[int, int], ...]
    whole: tuple[int, ...] | None  # places of all signals in order, where the row has them all


class Refine:
    """`Intake` over an intake, with models beside it. `run` is the stage."""

    def __init__(
        self,
        intake: Intake,
        scorer: Scorer,
        plans: Sequence[Plan],
        clock: Clock,
        marks: Mapping[str, bytes],
        *,
        queue_rows: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._intake, self._scorer, self._plans, self._clock = intake, scorer, plans, clock
        self._chance, self._queue_rows = chance, queue_rows
        self._machines: dict[DeviceKey, list[_Machine]] = {}
        for index, plan in enumerate(plans):
            for number, (device, shape) in enumerate(zip(plan.devices, plan.shapes, strict=True)):
                mark = ScoreMark.from_bytes(marks.get(_mark(plan, device)))
                machine = _Machine(
                    plan=index,
                    number=number,
                    device=device,
                    shape=shape,
                    history=deque(maxlen=plan.card.window_rows - 1),
                    values=[float("nan")] * len(plan.card.signals),
                    at=[0] * len(plan.card.signals),
                    scored_ms=clock.settled(mark.period, mark.time_ms) if mark else None,
                    excursion=Excursion(raised=mark.raised) if mark else Excursion(),
                    unsure=mark is not None,
                )
                self._machines.setdefault(device, []).append(machine)
        self._taps: dict[Shape, tuple[_Tap, ...]] = {}
        self._queue: deque[_Row] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._up = False
        self._failures = 0
        self.faults: Sequence[str] = [""] * len(plans)
        self.restarts = 0
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES)

    # --- the port: everything passes through

    @property
    def full(self) -> bool:
        return self._intake.full

    async def room(self) -> None:
        await self._intake.room()

    def record(self, lane: Lane, record: Record, period: int = 0) -> None:
        self._intake.record(lane, record, period)

    def mark(self, key: str, value: bytes, lane: Lane = Lane.LIVE) -> None:
        self._intake.mark(key, value, lane)

    def when_durable(self, call: Callable[[], None]) -> None:
        self._intake.when_durable(call)

    def row(self, shape: Shape, values: Sequence[Value], times: Sequence[int] | int, period: int = 0) -> None:
        self._intake.row(shape, values, times, period)
        for tap in self._taps_of(shape):
            self._copy(tap, values, times, period)

    def rows(self, shape: Shape, count: int, values: Sequence[Value], times: Sequence[int]) -> None:
        self._intake.rows(shape, count, values, times)
        for tap in self._taps_of(shape):
            for begin in range(0, count * shape.width, shape.width):
                self._copy(tap, values[begin : begin + shape.width], times[begin : begin + shape.width])

    # --- copies for the models

    def _taps_of(self, shape: Shape) -> tuple[_Tap, ...]:
        taps = self._taps.get(shape)
        if taps is None:
            if len(self._taps) >= MOST_TAPS:  # a device that invents subsets of its properties must not fill memory
                self._taps.clear()
            taps = self._taps[shape] = tuple(self._taps_for(shape))
        return taps

    def _taps_for(self, shape: Shape) -> "list[_Tap]":
        taps = []
        product_key, device_name, _ = shape.keys[0]
        for machine in self._machines.get(DeviceKey(product_key, device_name), ()):
            place_of = {identifier: place for place, (_, _, identifier) in enumerate(shape.keys)}
            signals = self._plans[machine.plan].card.signals
            places = tuple((signal, place_of[name]) for signal, name in enumerate(signals) if name in place_of)
            if places:
                taps.append(_Tap(machine, places, tuple(place for _, place in places) if len(places) == len(signals) else None))
        return taps

    def _copy(self, tap: _Tap, values: Sequence[Value], times: Sequence[int] | int, period: int = 0) -> None:
        """Queue a row. A post that brings only some signals takes the others from before, if those are not too old for one window."""
        machine = tap.machine
        for signal, place in tap.places:
            machine.values[signal] = float(values[place])  # type: ignore[arg-type]  # numbers: settings checked the model
            machine.at[signal] = times if isinstance(times, int) else times[place]
        newest = max(machine.at)
        if tap.whole is None and newest - min(machine.at) > self._plans[machine.plan].card.max_gap_ms:
            machine.counts["incomplete"] += 1
            return
        if len(self._queue) >= self._queue_rows:
            self._give_up(self._queue.popleft(), "overflow")
        self._queue.append(_Row(machine, newest, tuple(machine.values), period))
        self._work.set()

    def _give_up(self, row: _Row, why: str) -> None:
        row.machine.unscored += 1
        row.machine.counts["not_scored"] += 1
        row.machine.counts[why] += 1

    # --- the stage

    async def run(self) -> None:
        """Score what waits, for ever; a scorer that dies is started again, with the rows it had lost."""
        try:
            while True:
                await self._work.wait()
                self._idle.clear()
                await self._intake.room()
                if self._up or await self._start():
                    await self._score()
                if not self._queue:
                    self._work.clear()
                    self._idle.set()
        finally:
            self._up = False
            await self._scorer.stop()

    async def drain(self) -> None:
        """Wait until nothing waits to be scored."""
        if self._machines:
            await self._idle.wait()

    async def _start(self) -> bool:
        if self._failures:
            await asyncio.sleep(BACKOFF.wait_s(self._failures, self._chance()))
        try:
            faults = await self._scorer.start()
            if faults != self.faults:
                for plan, fault in zip(self._plans, faults, strict=True):
                    if fault:
                        log.error("model.refused", extra={"model": plan.name, "problem": fault})
            self.faults = faults
            await self._hand_over_history()
        except ScorerDied as died:
            self._failed(died)
            return False
        self._up = True
        return True

    async def _hand_over_history(self) -> None:
        """A new scorer's windows are filled with the rows before the next one: no score is missed for lack of them."""
        for index in range(len(self._plans)):
            machines = [machine for group in self._machines.values() for machine in group if machine.plan == index and machine.history]
            rows = [row for machine in machines for row in machine.history]
            for begin in range(0, len(rows), ROWS_A_REQUEST):
                if not self.faults[index]:
                    await self._scorer.score(_columns(index, rows[begin : begin + ROWS_A_REQUEST]))

    def _failed(self, died: ScorerDied) -> None:
        self._up = False
        self._failures += 1
        self.restarts += 1
        log.warning("scorer.died", extra={"problem": str(died), "times": self.restarts})

    async def _score(self) -> None:
        """One request: rows of one model from the head of the queue."""
        plan = self._queue[0].machine.plan
        rows: list[_Row] = []
        for row in islice(self._queue, ROWS_A_REQUEST):
            if row.machine.plan != plan:
                break
            rows.append(row)
        for _ in rows:
            self._queue.popleft()
        if self.faults[plan]:
            for row in rows:
                self._give_up(row, "no_model")
            return
        began = self._clock.monotonic()
        try:
            scores = await self._scorer.score(_columns(plan, rows))
        except ScorerDied as died:
            self._failed(died)
            for row in reversed(rows):
                row.tries += 1
                if row.tries >= TRIES:
                    self._give_up(row, "scorer_died")  # and it does not enter the history: it may be what the scorer dies of
                else:
                    self._queue.appendleft(row)
            return
        self._failures = 0
        self.latencies_ms.append((self._clock.monotonic() - began) * 1000)
        self._take(rows, scores)

    def _take(self, rows: Sequence[_Row], scores: Scores) -> None:
        for row, score, signal in zip(rows, scores.score.tolist(), scores.signal.tolist(), strict=True):
            machine = row.machine
            late = row.time_ms <= machine.newest_ms and bool(machine.history)
            if score >= 0:
                self._emit(row, score, signal)
            elif score == GATED:
                self._give_up(row, "gated")
            elif late:
                machine.counts["late"] += 1
            else:
                machine.counts["warming"] += 1
                machine.unscored += 1
            if not late:
                machine.newest_ms = row.time_ms
                machine.history.append(row)

    def _emit(self, row: _Row, score: float, signal: int) -> None:
        machine = row.machine
        plan = self._plans[machine.plan]
        before = None if machine.scored_ms is None else self._clock.settled(machine.scored_period, machine.scored_ms)
        if before is not None and (machine.unscored or machine.unsure) and row.time_ms > before + 1:
            count = None if machine.unsure else machine.unscored
            device = machine.device
            gap = Gap(device.product_key, device.device_name, (plan.score,), before, row.time_ms, count, GapReason.NOT_SCORED)
            self._intake.record(Lane.LIVE, GapRecord(gap), row.period)
        machine.unsure, machine.unscored = False, 0
        machine.scored_ms, machine.scored_period, machine.score = row.time_ms, row.period, score
        machine.counts["scored"] += 1
        machine.excursion, begins = machine.excursion.after(
            score, plan.card.threshold, raise_after=plan.raise_after, clear_after=plan.clear_after
        )
        self._intake.row(machine.shape, (score,), row.time_ms, row.period)
        self._intake.mark(_mark(plan, machine.device), ScoreMark(row.time_ms, machine.excursion.raised, row.period).to_bytes())
        if begins and plan.event:
            machine.counts["anomalies"] += 1
            outputs = {"Score": score, "Threshold": plan.card.threshold, "Signal": plan.card.signals[signal], "Model": plan.name}
            output = _json.encode({name: value for name, value in outputs.items() if name in plan.outputs}).decode()
            device = machine.device
            event = EventRecord(device.product_key, device.device_name, plan.event, row.time_ms, output)
            self._intake.record(Lane.ALARM, event, row.period)

    # --- for people

    def status(self) -> list[dict[str, object]]:
        """What `edgectl models list` shows, one entry for each model and device."""
        waiting = Counter(id(row.machine) for row in self._queue)
        return [
            {
                "model": self._plans[machine.plan].name,
                "product_key": machine.device.product_key,
                "device_name": machine.device.device_name,
                "fault": self.faults[machine.plan],
                "running": self._up,
                "scored": machine.counts["scored"],
                "not_scored": machine.counts["not_scored"],
                "warming": machine.counts["warming"],
                "late": machine.counts["late"],
                "waiting": waiting[id(machine)],
                "anomalies": machine.counts["anomalies"],
                "anomaly": machine.excursion.raised,
                "score": machine.score,
                "scored_ms": machine.scored_ms,
            }
            for group in self._machines.values()
            for machine in group
        ]

    def summary(self) -> dict[str, object]:
        """The scorer as a whole: milliseconds of the last requests, and how often it had to be started again."""
        latencies = sorted(self.latencies_ms)
        return {
            "running": self._up,
            "restarts": self.restarts,
            "waiting": len(self._queue),
            "p50_ms": round(latencies[len(latencies) // 2], 3) if latencies else None,
            "p99_ms": round(latencies[len(latencies) * 99 // 100], 3) if latencies else None,
        }


def _columns(plan: int, rows: Sequence[_Row]) -> Rows:
    return Rows(
        plan,
        np.array([row.machine.number for row in rows], np.int32),
        np.array([row.time_ms for row in rows], np.int64),
        np.array([row.values for row in rows], np.float64),
    )


def _mark(plan: Plan, device: DeviceKey) -> str:
    return f"{MARK_PREFIX}{plan.name}/{device}"
