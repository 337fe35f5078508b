"""Time as a value that is passed in: nobody below the composition root reads a clock of its own.

The agent's clock runs on the machine's monotonic time from an anchor. Until somebody who knows the time has confirmed the anchor (NTP,
the cloud), what it stamps belongs to a *period*: when the time becomes known, readings of that period are moved by one shift. A step of
the machine's clock that nobody confirms moves nothing.
"""

import ctypes
import enum
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

RELEASED_MS = 1_764_547_200_000
"""2025-12-01: a clock before this release was made is not set."""
STEP_MS = 2_000
AGREES_MS = 1_000
"""Closer than this (and than what the answer's way leaves open) two clocks agree."""
DRIFT = 1e-4
"""How much an unconfirmed clock may be off without being called wrong: 100 ppm of its run, and `UNSURE_MS`."""
UNSURE_MS = 60_000
JUST_NOW_MS = 300_000
MARK_PREFIX = "clock/"
FLOOR_MARK = MARK_PREFIX + "floor"
MOST_PERIODS = 64


class ClockQuality(enum.StrEnum):
    """What the agent's times are worth. Values are reported: stable, never reworded."""

    SYNCHRONISED = "synchronised"  # the machine's clock is kept by NTP (or was declared right)
    CONFIRMED = "confirmed"  # the cloud gave the time, and the monotonic clock has carried it since
    UNSURE = "unsure"  # plausible, and nobody has confirmed it
    UNSET = "unset"  # the machine's clock is evidently wrong


class Clock(Protocol):
    """Two clocks, never mixed: `now_ms` stamps readings, `monotonic` (seconds) measures durations."""

    @property
    def period(self) -> int:
        """0 while the time is known, else the period that stamps of now belong to."""
        ...

    def now_ms(self) -> int: ...
    def monotonic(self) -> float: ...

    def settled(self, period: int, time_ms: int) -> int:
        """A time stamped in `period`, as it is known today."""
        ...


class Machine:
    """The machine's own clocks, and what its kernel says of them."""

    __slots__ = ("_adjtimex", "os_boot")

    def __init__(self) -> None:
        self.os_boot = ""
        with suppress(OSError):
            self.os_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._adjtimex: Callable[[bytes], int] | None = getattr(ctypes.CDLL(None), "adjtimex", None)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def running_ms(self) -> int:
        """Since the machine was started, sleep included."""
        return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000

    def synchronised(self) -> bool:
        """Whether the kernel says that NTP keeps the clock (adjtimex(2): TIME_ERROR is 5)."""
        if self._adjtimex is None:
            return False
        return self._adjtimex(ctypes.create_string_buffer(512)) in range(5)  # type: ignore[arg-type]


class Trust(enum.StrEnum):
    """Whose word sets the agent's time (`[clock] trust`)."""

    AUTO = "auto"  # the kernel's, when it says that NTP keeps the clock; else the cloud's
    SYSTEM = "system"  # the machine's clock is right, always
    CLOUD = "cloud"  # the cloud's, and nobody else's


class Period(msgspec.Struct, frozen=True, array_like=True):
    """Times stamped while nobody had confirmed the clock: `base_ms` + running time.

    `shift_ms` makes them right; None: not known yet.
    """

    id: int
    os_boot: str
    base_ms: int
    begin_ms: int
    set: bool
    shift_ms: int | None = None

    def judged(self, base_ms: int, elapsed_ms: int) -> "Period":
        """With the shift that follows from the true base; a clock that was set is believed within its drift."""
        shift = base_ms - self.base_ms
        allowed = UNSURE_MS + int(DRIFT * max(0, elapsed_ms)) if self.set else AGREES_MS
        return Period(self.id, self.os_boot, self.base_ms, self.begin_ms, self.set, shift if abs(shift) > allowed else 0)


class AgentClock:
    """`Clock` of the running agent. Only the loop's thread calls anything but `now_ms`, `monotonic` and `shift`."""

    def __init__(self, machine: Machine, trust: Trust = Trust.AUTO, marks: Mapping[str, bytes] | None = None) -> None:
        """`marks` are those of the buffer: periods, and the last time that was known."""
        marks = marks or {}
        self._machine, self._trust = machine, trust
        self._floor_ms = max(RELEASED_MS, _number(marks.get(FLOOR_MARK)))
        self._periods = {period.id: period for period in _read(marks)}
        self._unsaid: dict[str, bytes] = {}
        self._period = 0
        self.cloud_offset_ms: int | None = None
        """What the cloud's clock read beyond ours when it was last heard."""
        running, wall = machine.running_ms(), machine.wall_ms()
        self._machine_base = wall - running
        self._base = self._machine_base
        self.quality = ClockQuality.SYNCHRONISED
        if not self._machine_is_right():
            plausible = wall >= self._floor_ms
            if not plausible:
                self._base = self._floor_ms - running
            self._begin(plausible)
        else:
            self._settle_all()

    # --- the port

    @property
    def period(self) -> int:
        return self._period

    def now_ms(self) -> int:
        return self._base + self._machine.running_ms()

    def monotonic(self) -> float:
        return time.monotonic()

    def settled(self, period: int, time_ms: int) -> int:
        found = self._periods.get(period)
        if found is None or not found.shift_ms or time_ms < found.begin_ms:
            return time_ms
        return time_ms + found.shift_ms

    def shift(self, period: int) -> tuple[int, int | None]:
        """(times from which on, how far to move them, None while that is not known) for frames of a period."""
        found = self._periods.get(period)
        return (0, None) if found is None else (found.begin_ms, found.shift_ms)

    # --- hearing the time

    def poll(self) -> None:
        """Look at the machine's clock; every second or so."""
        running, wall = self._machine.running_ms(), self._machine.wall_ms()
        stepped = wall - running - self._machine_base
        if self._machine_is_right():
            self.quality = ClockQuality.SYNCHRONISED
            self._known(wall - running)
        elif abs(stepped) > STEP_MS and self._period == 0:
            self._begin(plausible=True)
        self._machine_base = wall - running

    def learn(self, true_ms: int, give_or_take_ms: int) -> None:
        """The cloud says what time it is now. A clock that NTP keeps is not moved by that, only compared."""
        self.cloud_offset_ms = true_ms - self.now_ms()
        if self.quality is ClockQuality.SYNCHRONISED:
            return
        agrees = abs(self.cloud_offset_ms) <= max(AGREES_MS, give_or_take_ms)
        self.quality = ClockQuality.CONFIRMED
        self._known(self._base if agrees else self._base + self.cloud_offset_ms)

    def machine_started_just_now(self) -> bool:
        """Whether the machine itself runs for a few minutes only."""
        return self._machine.running_ms() < JUST_NOW_MS

    def take_marks(self) -> dict[str, bytes]:
        """What the buffer has to remember since the last call."""
        unsaid, self._unsaid = self._unsaid, {}
        return unsaid

    def floor(self) -> tuple[str, bytes] | None:
        """The mark of a time that is known to be past, while the time is known."""
        return None if self._period else (FLOOR_MARK, str(self.now_ms()).encode())

    def summary(self) -> dict[str, object]:
        """What `edgectl status` shows."""
        return {"quality": self.quality.value, "period": self._period, "cloud_offset_ms": self.cloud_offset_ms, "trust": self._trust.value}

    # --- periods

    def _machine_is_right(self) -> bool:
        return self._trust is Trust.SYSTEM or (self._trust is Trust.AUTO and self._machine.synchronised())

    def _begin(self, plausible: bool) -> None:
        self.quality = ClockQuality.UNSURE if plausible else ClockQuality.UNSET
        self._period = max(self._periods, default=0) + 1
        self._keep(Period(self._period, self._machine.os_boot, self._base, self.now_ms(), plausible))
        for old in sorted(self._periods)[:-MOST_PERIODS]:
            del self._periods[old]
            self._unsaid[f"{MARK_PREFIX}{old}"] = b""

    def _known(self, base_ms: int) -> None:
        self._base = base_ms
        self._period = 0
        self._settle_all()

    def _settle_all(self) -> None:
        """Periods of this run of the machine hang on its monotonic clock: the true base tells how far each was off."""
        for period in list(self._periods.values()):
            if period.shift_ms is None and period.os_boot == self._machine.os_boot:
                self._keep(period.judged(self._base, self.now_ms() - period.begin_ms))

    def _keep(self, period: Period) -> None:
        self._periods[period.id] = period
        self._unsaid[f"{MARK_PREFIX}{period.id}"] = msgspec.msgpack.encode(period)


def _read(marks: Mapping[str, bytes]) -> Iterable[Period]:
    for key, value in marks.items():
        if key.startswith(MARK_PREFIX) and key != FLOOR_MARK:
            with suppress(msgspec.MsgspecError):
                yield msgspec.msgpack.decode(value, type=Period)


def _number(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() else 0
