"""Which topics a filter matches, and what a session has subscribed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mqtt.codec import SubAck, Subscribe, UnsubAck, Unsubscribe, encode
from protocols.mqtt.filters import Subscriptions, matches
from protocols.mqtt.session import Limits
from tests.unit.protocols.mqtt.sessions import opened, sent


def naive(wanted: list[str], levels: list[str], first: bool = True) -> bool:
    """Paragraph 4.7 once more, level by level and recursive."""
    if first and levels[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted == ["#"]:
        return True
    if not wanted or not levels:
        return not wanted and not levels
    if wanted[0] != "+" and wanted[0] != levels[0]:
        return False
    rest, below = wanted[1:], levels[1:]
    return rest == ["#"] or naive(rest, below, first=False)


level = st.sampled_from(["", "a", "b", "$", "$a", "é"])


@given(st.lists(st.one_of(level, st.just("+")), min_size=1, max_size=4), st.booleans(), st.lists(level, min_size=1, max_size=5))
def test_a_filter_matches_what_a_naive_reading_of_the_specification_matches(wanted: list[str], ends: bool, levels: list[str]) -> None:
    wanted = [*wanted, "#"] if ends else wanted
    assert matches("/".join(wanted), "/".join(levels)) is naive(wanted, levels)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "/finance", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/monitor", False),
        ("+/monitor", "$SYS/monitor", False),
        ("$SYS/#", "$SYS/monitor", True),
        ("ACCOUNTS", "Accounts", False),
        ("e\u0301", "\u00e9", False),
        ("a\ufeff", "a", False),
    ],
)
def test_the_examples_of_the_specification(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


operations = st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "a/+", "a/#", "+/b", "a/b", "#"]), st.integers(0, 1)), max_size=30)


@given(operations, st.sampled_from(["a", "a/b", "b/b", "c"]))
def test_subscriptions_are_a_dictionary_of_filters(done: list[tuple[bool, str, int]], topic: str) -> None:
    held, expected = Subscriptions(3, 100), dict[str, int]()
    for add, text, qos in done:
        if add:
            room = text in expected or len(expected) < 3
            assert held.subscribe([(text, qos)]) == [room]
            if room:
                expected[text] = qos
        else:
            assert held.unsubscribe([text]) == [expected.pop(text, None) is not None]
    assert held.granted(topic) == max((qos for text, qos in expected.items() if matches(text, topic)), default=None)
    assert (len(held), held.size) == (len(expected), sum(map(len, expected)))


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_session_knows_what_it_subscribed_and_at_which_quality(version: int) -> None:
    session = opened(version)
    assert not session.subscribed("/broadcast/pk/news")
    session.receive(encode(Subscribe(1, (("/broadcast/pk/+", 0), ("/broadcast/pk/news", 2))), version), 1.0)
    assert (session.granted("/broadcast/pk/news"), session.granted("/broadcast/pk/other")) == (1, 0)
    assert (session.subscribed("/broadcast/pk/a"), session.subscribed("/broadcast/pk/a/b")) == (True, False)
    session.receive(encode(Subscribe(2, (("/broadcast/pk/news", 0),)), version), 1.0)
    assert session.granted("/broadcast/pk/news") == 0, "the same filter again replaces the first"
    session.receive(encode(Unsubscribe(3, ("/broadcast/pk/+", "/broadcast/pk/#")), version), 1.0)
    assert (session.granted("/broadcast/pk/news"), session.granted("/broadcast/pk/other")) == (0, None)
    assert sent(session) == [SubAck(1, (0, 1)), SubAck(2, (0,)), UnsubAck(3, (0, 0x11) if version == 5 else ())]


def test_the_subscriptions_of_a_session_are_bounded_in_number_and_length() -> None:
    for version, full in ((4, 0x80), (5, 0x97)):
        session = opened(version, limits=Limits(filters=2, filters_characters=10))
        asked = (("aaaa", 1), ("bbbbbbb", 1), ("b", 0), ("c", 1), ("aaaa", 0))
        session.receive(encode(Subscribe(1, asked), version), 1.0)
        assert sent(session) == [SubAck(1, (1, full, 0, full, 0))]
        session.receive(encode(Unsubscribe(2, ("b",)), version) + encode(Subscribe(3, (("c", 1),)), version), 1.0)
        assert sent(session)[1] == SubAck(3, (1,))


@pytest.mark.parametrize("options", [0x01, 0x05, 0x09, 0x11, 0x21, 0x2D])
def test_no_local_retain_as_published_and_retain_handling_are_taken_and_change_nothing(options: int) -> None:
    session = opened(5)
    session.receive(encode(Subscribe(1, (("t", options),)), 5), 1.0)
    assert (sent(session), session.granted("t")) == ([SubAck(1, (1,))], 1)
