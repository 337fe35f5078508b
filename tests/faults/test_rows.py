"""Rows of the fault matrix, a few runs each: what `make faults` plays whole. The seed is printed; HEARTHLINE_SEED plays it again."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import rows_agent, rows_api, rows_buffer, rows_cloud, rows_limits, rows_link, rows_scale, rows_store  # noqa: F401 - they enter their faults
from tests.faults.harness import FAULTS, Clouds, Fault, NotHere, caught, play

FEW = [one for one in sorted(FAULTS, key=lambda one: one.row) if one.few]


@pytest.fixture(scope="module")
def clouds() -> Iterator[Clouds]:
    """One platform for all of them."""
    found = Clouds()
    yield found
    found.close()


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("HEARTHLINE_SEED") or random.randrange(1 << 32))
    print(f"HEARTHLINE_SEED={seed}")
    return seed


@pytest.mark.parametrize("one", FEW, ids=lambda one: one.id)
def test_nothing_is_lost_and_nothing_is_twice(one: Fault, seed: int, clouds: Clouds, tmp_path: Path) -> None:
    try:
        tally = play(one, seed, one.few, tmp_path / "play", clouds)
    except NotHere as missing:
        pytest.skip(str(missing))
    print(tally)
    assert tally.ok, tally


# The others are shown by `make faults`: a broken build of a whole platform takes half a minute to be seen.
QUICK_MUTANTS = [(one, name) for one in FEW for name in one.mutants if one.row <= 4]


@pytest.mark.parametrize(("one", "name"), QUICK_MUTANTS, ids=lambda value: value if isinstance(value, str) else f"row {value.row}")
def test_the_oracle_catches(one: Fault, name: str, seed: int, tmp_path: Path) -> None:
    try:
        assert caught(one, name, seed, tmp_path)
    except NotHere as missing:
        pytest.skip(str(missing))


def test_every_mutant_of_a_fault_exists_and_every_row_says_how() -> None:
    from tests.e2e.mutant import MUTANTS

    assert {name for one in FAULTS for name in one.mutants} <= set(MUTANTS)
    assert all(one.how for one in FAULTS)
    assert len({one.id for one in FAULTS}) == len(FAULTS)
