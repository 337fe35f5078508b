"""Rows of one device on their way into the buffer: missed ones and refused values leave gaps, and the last one is remembered."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from edge_agent.domain.batch import Shape
from edge_agent.domain.clock import Clock
from edge_agent.domain.normalise import Normaliser
from edge_agent.domain.sampling import LastRow, Missed
from edge_agent.ports import DeviceKey, Intake
from protocols.edgelink.lanes import Gap, GapReason, Lane
from protocols.edgelink.records import GapRecord
from protocols.errors import Reason, Refused
from protocols.thing.model import ThingModel

log = logging.getLogger("edge.rows")

MARK_PREFIX = "row/"


class Order(Protocol):
    """Who judges which row is the next one."""

    @property
    def last(self) -> LastRow | None: ...
    def settle(self, time_ms: int) -> None: ...


class DeviceRows:
    """What a connector took from its device, in order. `own_time`: the device says when; else our clock did, and may learn better."""

    def __init__(
        self,
        device: DeviceKey,
        model: ThingModel,
        identifiers: Sequence[str],
        intake: Intake,
        clock: Clock,
        *,
        last: LastRow | None,
        own_time: bool,
    ) -> None:
        """Raises Refused(UNKNOWN_IDENTIFIER)."""
        self._device, self._model, self._intake, self._clock, self._own_time = device, model, intake, clock, own_time
        self._identifiers = tuple(identifiers)
        self._normaliser = Normaliser(model, self._identifiers)
        self._shapes: dict[tuple[str, ...], Shape] = {}
        self._mark = MARK_PREFIX + str(device)
        self._complained: set[str] = set()
        self._refused: dict[str, tuple[int | None, int]] = {}  # identifier -> last time it was good, values refused since
        self._stored_ms = last.time_ms if last else None
        self.kept = 0

    @property
    def _period(self) -> int:
        return 0 if self._own_time else self._clock.period

    def keep(self, row: LastRow, raw: Sequence[int | float], missed: Missed | None) -> None:
        """The next row, its values in the order of the identifiers (NaN: not there), and what was missed before it."""
        if missed is not None:
            self._name(missed)
        (identifiers, values), refused = self._normaliser.row(raw)
        self._left_out(row.time_ms, refused)
        if identifiers:
            shape = self._shapes.get(identifiers)
            if shape is None:
                shape = self._shapes[identifiers] = Shape(self._device.product_key, self._device.device_name, self._model, identifiers)
            self._intake.row(shape, values, row.time_ms, row.period)
            self.kept += 1
        self._stored_ms = row.time_ms
        self._intake.mark(self._mark, row.to_bytes())

    def settle(self, order: Order) -> None:
        """Rows stamped before the clock was known have other times now, in `order` too."""
        last = order.last
        if last is None or not last.period or last.period == self._clock.period:
            return
        known_ms = self._clock.settled(last.period, last.time_ms)
        order.settle(known_ms)
        by_ms = known_ms - last.time_ms
        self._stored_ms = None if self._stored_ms is None else self._stored_ms + by_ms
        self._refused = {name: (None if since is None else since + by_ms, count) for name, (since, count) in self._refused.items()}

    def end(self) -> None:
        """No more rows in this life: stretches of refused values end here."""
        if self._stored_ms is not None:
            self._left_out(self._stored_ms + 1, {})

    def complain(self, what: str, problem: str) -> None:
        """Say once that a value is left out, not once a row."""
        if what not in self._complained:
            self._complained.add(what)
            log.warning("value.refused", extra={"device": str(self._device), "problem": problem, "reason": Reason.BAD_REGISTER.value})

    def _name(self, missed: Missed) -> None:
        """Enter a gap record for each property: its count is then that property's."""
        log.warning("rows.missed", extra={"device": str(self._device), "reason": missed.reason.value, "rows": missed.rows})
        for identifier in self._identifiers:
            self._gap(identifier, missed)

    def _gap(self, identifier: str, missed: Missed) -> None:
        key = self._device
        gap = Gap(key.product_key, key.device_name, (identifier,), missed.from_ms, missed.to_ms, missed.rows, missed.reason)
        self._intake.record(Lane.ALARM, GapRecord(gap), self._period)

    def _left_out(self, time_ms: int, refused: Mapping[str, Refused]) -> None:
        """Values that do not fit leave a gap for each stretch of them, written when the stretch ends."""
        for identifier, problem in refused.items():
            self.complain(identifier, str(problem))
            since, count = self._refused.get(identifier, (self._stored_ms, 0))
            self._refused[identifier] = (time_ms - 1 if since is None else since, count + 1)
        for identifier in [name for name in self._refused if name not in refused]:
            since, count = self._refused.pop(identifier)
            self._complained.discard(identifier)
            self._gap(identifier, Missed(since or 0, time_ms, count, GapReason.REFUSED_VALUE))
