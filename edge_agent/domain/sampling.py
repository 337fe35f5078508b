"""What a poll means: a new row, the same one, or rows that were missed. Pure; the last durable row survives in the buffer's marks."""

from dataclasses import dataclass

import msgspec

from protocols.edgelink.lanes import GapReason


class LastRow(msgspec.Struct, frozen=True, array_like=True):
    """The newest row handed to the buffer; `counter` is None for a device without one, `period` that of the clock that stamped it."""

    time_ms: int
    counter: int | None = None
    period: int = 0

    def to_bytes(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> "LastRow | None":
        """Read a mark; None for a missing or foreign one (then nothing is known of the time before)."""
        try:
            return _DECODER.decode(data) if data else None
        except msgspec.MsgspecError:
            return None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(LastRow)


@dataclass(frozen=True, slots=True)
class Missed:
    """Rows between two we have: bounds exclusive, epoch ms; `rows` is None where only the device could know."""

    from_ms: int
    to_ms: int
    rows: int | None
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Verdict:
    """`new`: store the row. `missed`: a gap before it."""

    new: bool
    missed: Missed | None = None


SAME = Verdict(new=False)


class Sampler:
    """Judges the polls of one device, in order. `counter_bits` is None without a counter register."""

    __slots__ = ("_absence", "_certain", "_last", "_modulus", "_poll_ms")

    def __init__(self, last: LastRow | None, *, clean: bool, counter_bits: int | None, poll_ms: int) -> None:
        """`last` is the last durable row of the run before; `clean` says whether that run ended in order."""
        self._last = last
        self._modulus = None if counter_bits is None else 1 << counter_bits
        self._poll_ms = poll_ms
        self._absence: GapReason | None = GapReason.AGENT_DOWN  # why rows may be missing before the next one
        self._certain = not clean  # without a counter: whether rows are taken to be missing whatever the clock says

    @property
    def last(self) -> LastRow | None:
        return self._last

    def settle(self, time_ms: int) -> None:
        """The last row's time is known now: this is it."""
        assert self._last is not None
        self._last = LastRow(time_ms, self._last.counter)

    def unreachable(self) -> None:
        """A poll failed: what is missed from here on is the device's absence, or still the agent's if no poll came before."""
        if self._absence is None:
            self._absence, self._certain = GapReason.DEVICE_UNREACHABLE, True

    def judge(self, time_ms: int, counter: int | None, period: int = 0) -> Verdict:
        """A poll answered with a row stamped `time_ms` (in a period of the clock); becomes the last row if it is new."""
        last, absence, certain = self._last, self._absence, self._certain
        missed = None
        if last is not None:
            if self._modulus is not None and counter is not None and last.counter is not None:
                jump = (counter - last.counter) % self._modulus
                if jump == 0:
                    self._absence = None  # the row that was there before: nothing was missed so far
                    return SAME
                if counter < last.counter and jump > self._modulus // 16:  # no wrap: it started again, and only it knows what it showed
                    missed = _between(last.time_ms, time_ms, None, absence or GapReason.DEVICE_UNREACHABLE)
                elif jump > 1:
                    missed = _between(last.time_ms, time_ms, jump - 1, absence or GapReason.MISSED_POLL)
            elif time_ms == last.time_ms:
                return SAME
            elif absence is not None and (certain or abs(time_ms - last.time_ms) > 2 * self._poll_ms):
                missed = _between(last.time_ms, time_ms, None, absence)
        self._last = LastRow(time_ms, counter, period)
        self._absence = None
        return Verdict(new=True, missed=missed)


def _between(one_ms: int, other_ms: int, rows: int | None, reason: GapReason) -> Missed:
    """The gap between two rows; a device's clock that was set back must not turn it inside out."""
    return Missed(min(one_ms, other_ms), max(one_ms, other_ms), rows, reason)
