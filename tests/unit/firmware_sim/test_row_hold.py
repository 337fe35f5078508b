"""How long a row stays on the registers."""

from firmware_sim.wire.row_hold import RowHold


def test_the_first_row_waits_for_the_first_reader() -> None:
    hold = RowHold()
    hold.show(now=0.0, period_s=0.1)
    assert hold.moves_at() is None


def test_a_row_moves_on_after_two_polls_but_not_before_its_period() -> None:
    hold = RowHold(idle_s=9)
    hold.show(now=0.0, period_s=0.1)
    for at in (0.01, 0.02, 0.03):
        hold.touched(at, counter=True)
    assert hold.moves_at() == 0.03 + 9
    hold.touched(0.035, counter=False)
    hold.touched(0.04, counter=True)
    assert hold.moves_at() == 0.1


def test_with_nobody_polling_rows_move_on_at_their_own_pace() -> None:
    hold = RowHold(idle_s=1.0)
    hold.show(now=0.0, period_s=0.1)
    hold.touched(0.05, counter=True)
    assert hold.moves_at() == 1.05
    hold.show(now=1.05, period_s=0.1)
    assert hold.moves_at() == 1.05 + 0.1


def test_a_bound_on_the_age_ends_any_wait_but_the_first() -> None:
    hold = RowHold(idle_s=9, max_age_s=0.5)
    hold.show(now=0.0, period_s=0.1)
    assert hold.moves_at() is None
    hold.touched(0.2, counter=True)
    assert hold.moves_at() == 0.5


def test_a_line_may_end_when_its_last_row_was_polled_twice_or_nobody_polls() -> None:
    hold = RowHold()
    hold.show(now=0.0, period_s=0.1)
    assert hold.settled
    for _ in range(3):
        hold.touched(0.1, counter=True)
    assert not hold.settled
    hold.touched(0.1, counter=True)
    assert hold.settled
