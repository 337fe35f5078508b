"""What an appliance's controller keeps for its serial line: rows until they are acknowledged, and the sets it has carried out. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from protocols.errors import Refused
from protocols.field.serial_line import (
    AGE_TAG,
    FLOOR_TAG,
    TIME_TAG,
    Kind,
    SerialFrame,
    TagType,
    encode_value,
    next_number,
    rows_between,
)

WINDOW = 8  # rows on their way
AGAIN_S = 0.3  # until a row without an acknowledgement is sent again
SETS = 16  # remembered answers
DONE, NOT_DONE = 200, 460


class Controller:
    """Its memory holds `most` rows; the oldest goes when another comes, and the floor says so.

    `own_time`: rows carry their time; else how old they are. `obey(tag, value)` returns whether the tag takes the value.
    """

    def __init__(self, most: int = 4_000, *, boot: int = 1, own_time: bool = True, obey: Callable[[Mapping[int, bytes]], bool]) -> None:
        self._most, self._own_time, self._obey = most, own_time, obey
        self._rows: OrderedDict[int, tuple[int, float, dict[int, bytes]]] = OrderedDict()  # number -> epoch ms, taken at, tags
        self._sent: dict[int, float] = {}
        self._answers: OrderedDict[int, int] = OrderedDict()
        self._last = boot << 24
        self.dropped = self.acknowledged = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, time_ms: int, now: float, values: Mapping[int, tuple[TagType, float]]) -> None:
        """A row was measured; `now` is monotonic. Values that do not fit their tag are left out."""
        tags: dict[int, bytes] = {}
        for tag, (kind, value) in values.items():
            try:
                tags[tag] = encode_value(kind, value)
            except Refused:
                continue
        self._last = next_number(self._last)
        self._rows[self._last] = (time_ms, now, tags)
        while len(self._rows) > self._most:
            gone, _ = self._rows.popitem(last=False)
            self._sent.pop(gone, None)
            self.dropped += 1

    def reset(self) -> None:
        """Its supply failed for a moment: what it held is gone, and its boot counts on."""
        self.dropped += len(self._rows)
        self._rows.clear()
        self._sent.clear()
        self._answers.clear()
        self._last = ((self._last >> 24) + 1) % 256 << 24

    def due(self, now: float) -> Sequence[SerialFrame]:
        """The rows to send now: those of the window that were not sent, or not acknowledged in time."""
        frames = []
        floor = next(iter(self._rows), 0)
        for place, (number, (time_ms, taken, values)) in enumerate(self._rows.items()):
            if place >= WINDOW:
                break
            if now - self._sent.get(number, -1e9) < AGAIN_S:
                continue
            self._sent[number] = now
            when = (TIME_TAG, encode_value(TagType.UINT64, time_ms))
            if not self._own_time:
                when = (AGE_TAG, encode_value(TagType.UINT32, min(0xFFFF_FFFF, max(0, round(1000 * (now - taken))))))
            tags = {FLOOR_TAG: encode_value(TagType.UINT32, floor)} | dict((when,)) | values
            frames.append(SerialFrame(Kind.ROW, number, tags))
        return frames

    def hear(self, frame: SerialFrame) -> SerialFrame | None:
        """A frame of the module; what it is answered, if anything."""
        if frame.kind is Kind.ACK:
            while self._rows and self._is_acknowledged(number := next(iter(self._rows)), frame.number):
                del self._rows[number]
                self._sent.pop(number, None)
                self.acknowledged += 1
            return None
        if frame.kind is not Kind.SET:
            return None
        code = self._answers.get(frame.number)
        if code is None:
            code = self._answers[frame.number] = DONE if self._obey(frame.tags) else NOT_DONE
            while len(self._answers) > SETS:
                self._answers.popitem(last=False)
        return SerialFrame(Kind.SET_REPLY, frame.number, {1: encode_value(TagType.UINT16, code)})

    @staticmethod
    def _is_acknowledged(number: int, by: int) -> bool:
        return number >> 24 == by >> 24 and rows_between(number, by) >= 0
