"""Who is mentioned is asked for, and when there are too many to remember everybody is."""

from cloud.telemetry.mentioned import MOST, Mentioned


def test_only_who_is_mentioned_may_have_rows_until_there_are_too_many_to_remember() -> None:
    mentioned = Mentioned((f"p{number % 7}", f"d{number}") for number in range(MOST - 1))
    assert mentioned.may_hold("p1", "d1")
    assert not mentioned.may_hold("p1", "d2")
    mentioned.add([("p1", "")])
    assert mentioned.may_hold("p1", "d2"), "a gap of the whole product"
    mentioned.add([("q", "one more")])
    assert mentioned.may_hold("nobody", "knows")
