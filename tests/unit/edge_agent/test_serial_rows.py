"""Whatever a serial line does, a controller's rows are taken once, in order, and what nobody has is counted."""

import random

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.domain.sampling import LastRow
from edge_agent.domain.serial_rows import MOST_HELD, SerialRows
from firmware_sim.wire.serial_controller import WINDOW, Controller
from protocols.edgelink.lanes import GapReason
from protocols.field.serial_line import FLOOR_TAG, Kind, SerialFrame, TagType, decode_value


class Module:
    """The agent's side: takes rows, forgets what is not durable when it dies, acknowledges what is."""

    def __init__(self) -> None:
        self.durable: LastRow | None = None
        self.taken: list[tuple[int, int | None]] = []  # (number, lost before it)
        self.start()

    def start(self) -> None:
        self.rows: SerialRows[int] = SerialRows(self.durable)

    def hear(self, frame: SerialFrame) -> None:
        floor = int(decode_value(TagType.UINT32, frame.tags[FLOOR_TAG]))
        for number, _, lost in self.rows.offer(frame.number, floor, 0):
            self.rows.take(LastRow(number & 0xFFFFFF, number), lost)
            self.taken.append((number, lost))
        self.durable = self.rows.last

    def acknowledgement(self) -> SerialFrame | None:
        last = self.durable
        return None if last is None or last.counter is None else SerialFrame(Kind.ACK, last.counter)


@given(st.integers(0, 2**32), st.integers(1, 40), st.floats(0, 0.6))
def test_over_a_lossy_line_and_restarts_every_row_is_taken_once_or_counted(seed: int, memory: int, loss: float) -> None:
    chance = random.Random(seed)
    controller, module, now = Controller(memory, boot=254, obey=lambda _: True), Module(), 0.0
    made = resets = 0
    for _ in range(150):
        now += chance.choice([0.01, 0.1, 0.4])
        for _ in range(chance.randrange(4)):
            controller.add(0, now, {})
            made += 1
        what = chance.random()
        if what < 0.02:
            controller.reset()
            resets += 1
        elif what < 0.06:
            module.start()
        for frame in controller.due(now):
            if chance.random() >= loss:
                module.hear(frame)
        answer = module.acknowledgement()
        if answer is not None and chance.random() >= loss:
            controller.hear(answer)
    for _ in range(2 * (memory + WINDOW)):  # a quiet line: all that is left comes through
        now += 1
        for frame in controller.due(now):
            module.hear(frame)
        answer = module.acknowledgement()
        if answer is not None:
            controller.hear(answer)
    assert len(controller) == 0
    numbers = [number for number, _ in module.taken]
    assert len(numbers) == len(set(numbers)), "none is taken twice"
    assert numbers == sorted(numbers, key=lambda number: ((number >> 24) - 254) % 256 << 24 | number & 0xFFFFFF), "in order"
    lost = [count for _, count in module.taken]
    assert sum(count is None for count in lost) <= resets
    if resets == 0 and numbers:
        before_the_first = (numbers[0] & 0xFFFFFF) - 1  # nobody knew of the controller
        assert before_the_first + len(numbers) + sum(count or 0 for count in lost) == made
    assert len(numbers) + controller.dropped >= made, "what is not taken was dropped by the controller"


def test_the_reason_of_a_gap_is_who_was_away() -> None:
    rows: SerialRows[str] = SerialRows(LastRow(100, 0x0100_0001))

    def come(number: int, time_ms: int) -> object:
        ((_, _, lost),) = rows.offer(number, number, "")
        return rows.take(LastRow(time_ms, number), lost)

    assert come(0x0100_0004, 400).reason is GapReason.AGENT_DOWN  # type: ignore[attr-defined]
    overrun = come(0x0100_0009, 900)
    assert (overrun.reason, overrun.rows, overrun.from_ms, overrun.to_ms) == (GapReason.OVERRUN, 4, 400, 900)  # type: ignore[attr-defined]
    assert come(0x0100_000A, 1000) is None
    restarted = come(0x0200_0001, 1100)
    assert (restarted.reason, restarted.rows) == (GapReason.DEVICE_UNREACHABLE, None)  # type: ignore[attr-defined]


def test_rows_that_wait_for_their_turn_are_bounded() -> None:
    rows: SerialRows[int] = SerialRows(LastRow(0, 0x0100_0000))
    for n in range(2, 500):
        assert list(rows.offer(0x0100_0000 + n, 0x0100_0001, n)) == []
    taken = []
    for number, _, lost in rows.offer(0x0100_0001, 0x0100_0001, 1):
        rows.take(LastRow(0, number), lost)
        taken.append(number & 0xFFFFFF)
    assert taken == list(range(1, MOST_HELD + 2))
