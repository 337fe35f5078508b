"""The oracle itself: it must see each way in which an account can fail."""

import pytest

from tests.e2e.account import Gap, Row, balance

ROWS = [Row(n, 1000 * n, {"power": n / 10}) for n in range(1, 6)]
ALL = [[1000 * n, n / 10, 7] for n in range(1, 6)]


def test_everything_stored_once_balances() -> None:
    account = balance("meter", ROWS, {"power": ALL}, {"power": []})
    assert account.balanced
    assert (account.produced, account.stored, account.in_gaps) == (5, 5, 0)


def test_a_row_inside_a_gap_balances_and_is_counted_by_reason() -> None:
    account = balance("meter", ROWS, {"power": ALL[:2] + ALL[3:]}, {"power": [Gap(2000, 4000, 1, "agent_down")]})
    assert account.balanced
    assert (account.stored, account.in_gaps, account.rows_in_gaps) == (4, 1, 1)
    assert account.reasons == {"agent_down": 1}


@pytest.mark.parametrize(
    ("points", "gaps", "fault"),
    [
        (ALL[:-1], [], "lost"),
        (ALL[:-1], [Gap(4000, 5000, 1, "agent_down")], "lost"),  # bounds are exclusive
        ([*ALL, ALL[0]], [], "duplicates"),
        (ALL, [Gap(1000, 3000, 1, "agent_down")], "both"),
        ([*ALL[:-1], [5000, 0.6, 7]], [], "wrong"),
        ([*ALL, [5500, 0.55, 7]], [], "invented"),
    ],
)
def test_each_fault_is_seen(points: list[list[float]], gaps: list[Gap], fault: str) -> None:
    account = balance("meter", ROWS, {"power": points}, {"power": gaps})
    assert getattr(account, fault)
    assert not account.balanced


def test_nothing_produced_is_not_a_balance() -> None:
    assert not balance("meter", [], {}, {}).balanced


def test_values_are_equal_as_a_float32_register_carries_them() -> None:
    stored = [[1000, 0.10000000149011612, 7]]
    assert balance("meter", [ROWS[0]], {"power": stored}, {"power": []}).balanced
