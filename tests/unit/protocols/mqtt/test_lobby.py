"""Who may stay when there is no room: those let in always, of the others the newest."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocols.mqtt.lobby import Lobby

CONNECTIONS, STRANGERS = 6, 4


def test_the_oldest_stranger_makes_room_and_who_was_let_in_does_not() -> None:
    lobby = Lobby[str](connections=3, strangers=2)
    assert [lobby.enter(name) for name in ("owner", "a", "b")] == [None, None, "owner"]
    lobby.asked("a")
    lobby.admitted("a")
    assert [lobby.enter(name) for name in ("c", "d")] == [None, "b"]
    assert (len(lobby), lobby.strangers) == (3, 2)


def test_a_lobby_full_of_those_let_in_turns_the_new_one_away() -> None:
    lobby = Lobby[str](connections=2, strangers=2)
    for name in ("a", "b"):
        lobby.enter(name)
        lobby.asked(name)
        lobby.admitted(name)
    assert lobby.enter("c") == "c"
    lobby.left("a")
    assert lobby.enter("c") is None


class Rush(RuleBasedStateMachine):
    """Any order of what connections do, against lists that say the same in plain words."""

    def __init__(self) -> None:
        super().__init__()
        self.lobby = Lobby[int](CONNECTIONS, STRANGERS)
        self.made = 0
        self.silent: list[int] = []
        self.judged: list[int] = []
        self.inside: list[int] = []

    @rule()
    def enter(self) -> None:
        self.made += 1
        before = list(self.silent)
        room = len(self.silent + self.judged + self.inside) < CONNECTIONS and len(self.silent + self.judged) < STRANGERS
        gone = self.lobby.enter(self.made)
        if room:
            assert gone is None
        else:
            assert gone == (before[0] if before else self.made)
        self.silent.append(self.made)
        if gone is not None:
            self.silent.remove(gone)

    @precondition(lambda self: self.silent)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(self.silent))
        self.lobby.asked(who)
        self.silent.remove(who)
        self.judged.append(who)

    @precondition(lambda self: self.judged)
    @rule(data=st.data(), right=st.booleans())
    def judge(self, data: st.DataObject, right: bool) -> None:
        who = data.draw(st.sampled_from(self.judged))
        self.judged.remove(who)
        if right:
            self.lobby.admitted(who)
            self.inside.append(who)
        else:
            self.lobby.denied(who)
            self.silent.append(who)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        who = data.draw(st.integers(1, self.made + 1))
        self.lobby.left(who)
        for where in (self.silent, self.judged, self.inside):
            if who in where:
                where.remove(who)

    @rule(data=st.data())
    def say_something_after_the_end(self, data: st.DataObject) -> None:
        gone = data.draw(st.integers(self.made + 1, self.made + 9))
        for happens in (self.lobby.asked, self.lobby.denied, self.lobby.admitted):
            happens(gone)

    @invariant()
    def counts_are_right_and_bounded(self) -> None:
        assert len(self.lobby) == len(self.silent + self.judged + self.inside) <= CONNECTIONS
        assert self.lobby.strangers == len(self.silent + self.judged) <= STRANGERS


TestRush = Rush.TestCase
