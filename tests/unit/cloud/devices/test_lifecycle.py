import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.devices.lifecycle import Move, State, allowed, is_done, lets_in, moved
from protocols.errors import Reason, Refused


@given(st.lists(st.sampled_from(Move), max_size=30))
def test_a_life_never_leaves_its_table(moves: list[Move]) -> None:
    state, before = State.MANUFACTURED, None
    for move in moves:
        possible, done = allowed(state), is_done(state, move)
        try:
            after, before_after = moved(state, before, move)
        except Refused as refused:
            if refused.reason is not Reason.NOT_ALLOWED or move in possible or done:
                raise
            continue
        assert move in possible or (done and after is state)
        if move is Move.ENABLE and not done:
            assert after is (before or State.MANUFACTURED)
        assert (before_after is not None) == (after is State.DISABLED)
        assert state is not State.RETIRED or after is State.RETIRED
        state, before = after, before_after
        assert lets_in(state) == (state not in (State.DISABLED, State.RETIRED))


@pytest.mark.refusal(Reason.NOT_ALLOWED)
@pytest.mark.parametrize(
    ("state", "move"),
    [(State.MANUFACTURED, Move.CLAIM), (State.RETIRED, Move.ENABLE), (State.ACTIVATED, Move.UNCLAIM), (State.RETIRED, Move.DISABLE)],
)
def test_a_move_without_a_row_is_refused_with_what_is_possible(state: State, move: Move) -> None:
    with pytest.raises(Refused, match="possible is") as refused:
        moved(state, None, move)
    assert refused.value.reason is Reason.NOT_ALLOWED


def test_asking_twice_for_the_same_changes_nothing() -> None:
    assert moved(State.DISABLED, State.CLAIMED, Move.DISABLE) == (State.DISABLED, State.CLAIMED)
    assert moved(State.CLAIMED, None, Move.ENABLE) == (State.CLAIMED, None)
    assert moved(State.RETIRED, None, Move.RETIRE) == (State.RETIRED, None)
