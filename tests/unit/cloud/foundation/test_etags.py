import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.foundation.etags import Reading, Writing, body_tag, revision_tag
from cloud.foundation.problems import Problem

tags = st.lists(st.integers(0, 5) | st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=3).map(
    lambda p: revision_tag(*p)
)


@given(tags, st.lists(tags, max_size=3))
def test_a_reader_is_told_only_that_what_it_holds_is_the_newest(tag: str, held: list[str]) -> None:
    answer = Reading(", ".join(held)).unchanged(tag)
    assert (answer is not None) == (tag in held)
    weak = Reading(", ".join(f"W/{one}" for one in held)).unchanged(tag)
    assert (weak is not None) == (tag in held)
    if answer is not None:
        assert (answer.status_code, answer.headers["etag"], answer.body) == (304, tag, b"")


@given(tags, st.lists(tags, min_size=1, max_size=3))
def test_a_change_is_based_on_what_is_there(tag: str, based_on: list[str]) -> None:
    writing = Writing(", ".join(based_on))
    if tag in based_on:
        writing.check(tag)
    else:
        with pytest.raises(Problem) as refused:
            writing.check(tag)
        assert (refused.value.status, refused.value.headers["ETag"]) == (412, tag)


def test_a_weak_tag_is_no_base_for_a_change() -> None:
    with pytest.raises(Problem):
        Writing('W/"a-1"').check('"a-1"')


def test_without_conditions_everything_is_read_and_changed() -> None:
    assert Reading(None).unchanged('"a"') is None
    Writing(None).check('"a"')
    Writing(None).check(None)


def test_a_star_stands_for_whatever_is_there_and_not_for_nothing() -> None:
    Writing("*").check('"a"')
    with pytest.raises(Problem):
        Writing("*").check(None)


@given(st.text(max_size=40))
def test_a_header_that_is_no_list_of_tags_matches_nothing(header: str) -> None:
    assert body_tag(b"x") not in header
    assert (Reading(header).unchanged(body_tag(b"x")) is not None) == (header.strip() == "*")
