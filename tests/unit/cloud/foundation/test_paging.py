"""A cursor brings back its place, and anything else is a problem."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.foundation.paging import read_cursor, write_cursor
from cloud.foundation.problems import Problem


@given(st.integers(min_value=0, max_value=10**18 - 1))
def test_a_cursor_round_trips(place: int) -> None:
    assert read_cursor(write_cursor(place)) == place


def test_no_cursor_is_the_beginning() -> None:
    assert read_cursor(None) == 0


@given(st.text(max_size=64))
def test_any_text_is_a_place_or_a_problem(text: str) -> None:
    with contextlib.suppress(Problem):
        assert read_cursor(text) >= 0


def test_a_place_that_no_row_can_have_is_a_problem() -> None:
    with pytest.raises(Problem):
        read_cursor(write_cursor(10**19))
