"""The order of a controller's numbered rows: which come next, which we have, which wait. Pure; see protocols/field/serial_line.py."""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from edge_agent.domain.sampling import LastRow, Missed
from protocols.edgelink.lanes import GapReason
from protocols.field.serial_line import boot_of, next_number, rows_between

MOST_HELD: Final = 64

T = TypeVar("T")


class SerialRows(Generic[T]):
    """Rows of one controller over its restarts and ours. Those that came before their turn are held, at most `MOST_HELD`.

    A row's turn comes behind the one before it, or when its controller says (by its floor) that nothing before it is left.
    """

    def __init__(self, last: LastRow | None) -> None:
        """`last` is the last durable row of the run before."""
        self._last = last
        self._held: dict[int, T] = {}
        self._absence: GapReason | None = GapReason.AGENT_DOWN  # why rows may be missing before the next one

    @property
    def last(self) -> LastRow | None:
        return self._last

    def unreachable(self) -> None:
        """Nothing was heard for too long, or the line is gone."""
        if self._absence is None:
            self._absence = GapReason.DEVICE_UNREACHABLE

    def settle(self, time_ms: int) -> None:
        """The last row's time is known now: this is it."""
        assert self._last is not None
        self._last = LastRow(time_ms, self._last.counter)

    def knows(self, number: int) -> bool:
        """Whether this row was taken before."""
        last = self._last.counter if self._last else None
        return last is not None and boot_of(number) == boot_of(last) and rows_between(last, number) <= 0

    def offer(self, number: int, floor: int, row: T) -> Iterator[tuple[int, T, int | None]]:
        """A row that came, and the oldest number its controller holds: what is to be taken now, in order, each with what is lost before it.

        None: only the controller could know how many rows. Each has to be given to `take` before the next is asked for.
        """
        if not self.knows(number):
            self._held[number] = row
        while True:
            last = self._last.counter if self._last else None
            if last is not None and (following := next_number(last)) in self._held:
                yield following, self._held.pop(following), 0
            elif floor in self._held and not self.knows(floor):
                same = last is not None and boot_of(last) == boot_of(floor)
                lost = rows_between(last, floor) - 1 if same and last is not None else None if last is not None else 0
                yield floor, self._held.pop(floor), lost
            else:
                break
        self._held = {one: held for one, held in self._held.items() if boot_of(one) == boot_of(number) and not self.knows(one)}
        while len(self._held) > MOST_HELD:
            self._held.pop(max(self._held, key=lambda one: rows_between(floor, one)))

    def take(self, row: LastRow, lost: int | None) -> Missed | None:
        """The row is the last one now; what is missing before it is named."""
        before, absence = self._last, self._absence
        self._last, self._absence = row, None
        if before is None or lost == 0:
            return None
        reason = absence or (GapReason.OVERRUN if lost else GapReason.DEVICE_UNREACHABLE)
        return Missed(min(before.time_ms, row.time_ms), max(before.time_ms, row.time_ms), lost, reason)
