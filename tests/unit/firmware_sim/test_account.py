"""The demo's account: it must see each way in which it can fail."""

import pytest

from firmware_sim.account import Account, Gap, balance
from firmware_sim.row_log import Row

ROWS = [Row(n, 1_000 * n, {"power": n / 10}) for n in range(1, 6)]
POINTS: list[tuple[int, object]] = [(row.time_ms, row.values["power"]) for row in ROWS]


def test_a_row_is_stored_or_in_a_gap_whose_bounds_are_exclusive() -> None:
    account = balance(ROWS, {"power": POINTS[:2] + POINTS[3:]}, {"power": [Gap(2_000, 4_000, "agent_down")]}, registers=True)
    assert account.balanced
    assert (account.produced, account.stored, account.in_gaps, account.reasons) == (5, 4, 1, {"agent_down": 1})


@pytest.mark.parametrize(
    ("points", "gaps", "fault"),
    [
        (POINTS[:-1], [], "lost"),
        (POINTS[:-1], [Gap(4_000, 5_000, "agent_down")], "lost"),
        ([*POINTS, POINTS[0]], [], "duplicates"),
        (POINTS, [Gap(1_000, 3_000, "agent_down")], "both"),
        ([*POINTS[:-1], (5_000, 0.6)], [], "wrong"),
        ([*POINTS[:-1], (5_000, "0.5")], [], "wrong"),
        ([*POINTS, (5_500, 0.5)], [], "invented"),
    ],
)
def test_each_fault_is_seen(points: list[tuple[int, object]], gaps: list[Gap], fault: str) -> None:
    account = balance(ROWS, {"power": points}, {"power": gaps}, registers=True)
    assert getattr(account, fault) == 1
    assert not account.balanced
    assert fault in account.sentence()


def test_a_register_carries_a_float32_and_a_message_the_value_itself() -> None:
    stored: list[tuple[int, object]] = [(1_000, 0.10000000149011612)]
    assert balance(ROWS[:1], {"power": stored}, {}, registers=True).balanced
    assert not balance(ROWS[:1], {"power": stored}, {}, registers=False).balanced


def test_nothing_produced_is_no_balance_and_devices_add_up() -> None:
    total = Account()
    assert not total.balanced
    for _ in range(2):
        total.add(balance(ROWS, {"power": POINTS}, {}, registers=True))
    assert (total.produced, total.stored, total.balanced) == (10, 10, True)
