"""The life of a device as a table of moves (design.md par. 6). A move that has no row is refused."""

import enum
from typing import Final

from protocols.errors import Reason, Refused


class State(enum.StrEnum):
    """Where a device is in its life. A product is designed before; in service is a device that is claimed and connects."""

    MANUFACTURED = "manufactured"  # it has an identity
    ACTIVATED = "activated"  # it connected for the first time
    CLAIMED = "claimed"  # bound to a home or a line
    DISABLED = "disabled"  # locked out; goes back to where it was
    RETIRED = "retired"  # for good; its history stays


class Move(enum.StrEnum):
    """What can be done to a device."""

    ACTIVATE = "activate"
    CLAIM = "claim"
    TRANSFER = "transfer"
    UNCLAIM = "unclaim"
    DISABLE = "disable"
    ENABLE = "enable"
    RETIRE = "retire"


_BEFORE: Final = object()
"""The state that the device had before it was disabled."""

_MOVES: Final[dict[tuple[State, Move], object]] = {
    (State.MANUFACTURED, Move.ACTIVATE): State.ACTIVATED,
    (State.ACTIVATED, Move.CLAIM): State.CLAIMED,
    (State.CLAIMED, Move.TRANSFER): State.CLAIMED,
    (State.CLAIMED, Move.UNCLAIM): State.ACTIVATED,
    (State.MANUFACTURED, Move.DISABLE): State.DISABLED,
    (State.ACTIVATED, Move.DISABLE): State.DISABLED,
    (State.CLAIMED, Move.DISABLE): State.DISABLED,
    (State.DISABLED, Move.ENABLE): _BEFORE,
    (State.MANUFACTURED, Move.RETIRE): State.RETIRED,
    (State.ACTIVATED, Move.RETIRE): State.RETIRED,
    (State.CLAIMED, Move.RETIRE): State.RETIRED,
    (State.DISABLED, Move.RETIRE): State.RETIRED,
}

_ALREADY: Final = {Move.DISABLE: State.DISABLED, Move.RETIRE: State.RETIRED}
"""Moves that may be asked for twice: the second time nothing happens."""


def moved(state: State, before: State | None, move: Move) -> tuple[State, State | None]:
    """(state, state before it was disabled) after `move`.

    Raises `Refused(NOT_ALLOWED)` naming what is possible instead.

    >>> moved(State.CLAIMED, None, Move.DISABLE)
    (<State.DISABLED: 'disabled'>, <State.CLAIMED: 'claimed'>)
    >>> moved(State.DISABLED, State.CLAIMED, Move.ENABLE)
    (<State.CLAIMED: 'claimed'>, None)
    """
    target = _MOVES.get((state, move))
    if target is None:
        if is_done(state, move):
            return state, before
        possible = ", ".join(allowed(state)) or "nothing"
        raise Refused(Reason.NOT_ALLOWED, f"a device that is {state} cannot {move}; possible is: {possible}")
    if target is _BEFORE:
        return before or State.MANUFACTURED, None
    assert isinstance(target, State)
    return target, state if target is State.DISABLED else None


def is_done(state: State, move: Move) -> bool:
    """Whether there is nothing left to do: it is so already."""
    if move is Move.ENABLE:
        return state not in (State.DISABLED, State.RETIRED)
    return _ALREADY.get(move) is state


def allowed(state: State) -> tuple[Move, ...]:
    """The moves from `state`, in the order of a life."""
    return tuple(move for move in Move if (state, move) in _MOVES)


def lets_in(state: State) -> bool:
    """Whether a device in this state may connect."""
    return state not in (State.DISABLED, State.RETIRED)
