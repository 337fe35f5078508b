"""Sessions without a connection: bounded in memory, ended in time, their wills published once or never."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from protocols.mqtt.downlink import Downlink, Message
from protocols.mqtt.events import KeptSession, Limits
from protocols.mqtt.filters import Subscriptions
from protocols.mqtt.kept import OVERHEAD, KeptSessions, size_of
from protocols.mqtt.packets import Will

LIMITS = Limits(queued_messages=3, queued_bytes=1_000)
WILL = Will("w", b"gone")
Store = KeptSessions[str, str]


def store(size: int = 1 << 20) -> Store:
    return KeptSessions(size, LIMITS)


def session(expiry_s: int = 60, will: Will | None = None, delay_s: int = 0) -> KeptSession:
    return KeptSession(expiry_s, will=will, will_delay_s=delay_s)


def test_a_session_is_there_until_its_time_is_over() -> None:
    kept = store()
    assert kept.keep("d", session(60), "owner", 100.0) == []
    assert kept.due(159.9) == []
    assert ("d" in kept, kept.owner("d"), len(kept)) == (True, "owner", 1)
    kept.due(160.0)
    assert (kept.resume("d"), len(kept), kept.size) == (None, 0, 0)


def test_a_session_goes_on_once() -> None:
    kept, left = store(), session()
    kept.keep("d", left, "owner", 0.0)
    assert kept.resume("d") is left
    assert kept.resume("d") is None


def test_a_will_is_published_when_it_has_waited_and_only_once() -> None:
    kept = store()
    kept.keep("d", session(60, WILL, 10), "owner", 0.0)
    assert kept.due(9.9) == []
    assert kept.due(10.0) == [("owner", WILL)]
    assert kept.due(11.0) == kept.due(60.0) == []
    assert len(kept) == 0


def test_a_device_that_is_back_in_time_has_no_will_published() -> None:
    kept = store()
    kept.keep("d", session(60, WILL, 10), "owner", 0.0)
    kept.resume("d")
    assert kept.due(100.0) == []


def test_a_will_goes_out_with_its_session_however_that_ends() -> None:
    kept = store()
    ends: list[Callable[[], list[tuple[str, Will]]]] = [lambda: kept.end("d"), kept.end_all, lambda: kept.due(1e9)]
    for end in ends:
        kept.keep("d", session(60, WILL, 60), "owner", 0.0)
        assert end() == [("owner", WILL)]
        assert kept.end("d") == kept.end_all() == []
    assert kept.keep("d", session(60, WILL, 60), "first", 0.0) == []
    assert kept.keep("d", session(60), "second", 1.0) == [("first", WILL)]


def test_messages_wait_and_the_session_takes_them_along() -> None:
    kept = store()
    kept.keep("d", session(), "owner", 0.0)
    assert [kept.offer("d", Message("t", b"%d" % n, 50.0), 1.0)[0] for n in range(5)] == [True, True, True, False, False]
    assert kept.offer("other", Message("t", b"", 50.0), 1.0) == (False, [])
    assert kept.offer("d", Message("t", b"", 50.0), 50.0) == (False, []), "it has expired"
    left = kept.resume("d")
    assert left is not None
    assert left.downlink is not None
    left.downlink.resume(9)
    assert [message.payload for _, _, message in left.downlink.ready(2.0)] == [b"0", b"1", b"2"]


def test_nothing_is_put_before_a_session_that_is_over() -> None:
    kept = store()
    kept.keep("d", session(10), "owner", 0.0)
    assert kept.offer("d", Message("t", b"", 50.0), 10.0) == (False, [])


def test_beyond_its_bound_the_session_that_has_waited_longest_ends_and_its_will_is_published() -> None:
    kept = store(3 * OVERHEAD)
    kept.keep("a", session(60), "a", 0.0)
    kept.keep("b", session(60, WILL, 30), "b", 1.0)
    assert kept.keep("c", session(60), "c", 2.0) == []  # b's will counts, too: a has to go
    assert list(kept) == ["b", "c"]
    taken, wills = kept.offer("c", Message("t", bytes(990), 50.0), 3.0)
    assert (taken, wills, list(kept), kept.given_up) == (True, [("b", WILL)], ["c"], 2)


def test_a_session_larger_than_the_bound_is_not_kept() -> None:
    kept = store(OVERHEAD + 10)
    kept.keep("a", session(), "a", 0.0)
    assert kept.offer("a", Message("t", bytes(100), 50.0), 1.0) == (False, [])
    assert (len(kept), kept.size) == (0, 0)


def test_what_a_session_holds_counts() -> None:
    full = session(will=WILL)
    full.downlink = Downlink(0, 10, 10_000, keeps=True)
    full.downlink.offer(Message("topic", bytes(2_000)), 0.0)
    full.subscriptions = Subscriptions(10, 1_000)
    full.subscriptions.subscribe([("x" * 500, 1)])
    assert size_of(full) > size_of(session()) + 2_500


@dataclass
class Model:
    """Kept sessions as a dictionary: who ends when, whose will goes when."""

    ends: dict[str, float] = field(default_factory=dict)
    wills: dict[str, float] = field(default_factory=dict)

    def pass_time(self, now: float) -> list[str]:
        gone = [key for key, at in self.ends.items() if at <= now]
        published = [key for key, at in self.wills.items() if at <= now]
        for key in published:
            del self.wills[key]
        for key in gone:
            del self.ends[key]
        return sorted(published)


steps = st.one_of(
    st.tuples(st.just("keep"), st.sampled_from("abc"), st.integers(1, 20), st.none() | st.integers(1, 20)),
    st.tuples(st.just("resume"), st.sampled_from("abc"), st.none(), st.none()),
    st.tuples(st.just("end"), st.sampled_from("abc"), st.none(), st.none()),
    st.tuples(st.just("pass"), st.just(""), st.integers(0, 10), st.none()),
)


@given(st.lists(steps, max_size=40))
def test_whatever_happens_each_will_is_published_once_or_its_device_was_back(done: list[tuple[str, str, int, int | None]]) -> None:
    kept, model, now = store(), Model(), 0.0
    for what, key, number, delay in done:
        if what == "pass":
            now += number
            assert sorted(owner for owner, _ in kept.due(now)) == model.pass_time(now)
        elif what == "resume":
            assert (kept.resume(key) is not None) is (model.ends.pop(key, None) is not None)
            model.wills.pop(key, None)
        else:
            had = [key] if model.wills.pop(key, None) is not None else []
            model.ends.pop(key, None)
            if what == "end":
                wills = kept.end(key)
            else:
                delay = None if delay is None else min(delay, number)
                wills = kept.keep(key, session(number, None if delay is None else WILL, delay or 0), key, now)
                model.ends[key] = now + number
                if delay is not None:
                    model.wills[key] = now + delay
            assert [owner for owner, _ in wills] == had
        assert sorted(kept) == sorted(model.ends)
        assert kept.size >= OVERHEAD * len(kept)
        assert bool(kept.size) is bool(model.ends)
