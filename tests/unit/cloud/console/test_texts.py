"""Both languages, whole."""

import re
import string

import pytest

from cloud.console.texts import RANGES, TEXTS, Language, preferred, text

SAME_IN_BOTH = {"language", "api_docs"}


def places(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_exists_in_both_languages_with_the_same_places(name: str) -> None:
    english, chinese = TEXTS[name]
    assert english.strip()
    assert chinese.strip()
    assert places(english) == places(chinese)
    assert not re.search("[\u4e00-\u9fff]", english) or name in SAME_IN_BOTH
    assert re.search("[\u4e00-\u9fff]", chinese) or name in SAME_IN_BOTH


def test_every_range_has_a_name() -> None:
    assert {f"range_{name}" for name in RANGES} == {name for name in TEXTS if re.fullmatch(r"range_\d+[mhd]", name)}


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, Language.EN),
        ("", Language.EN),
        ("zh-CN,zh;q=0.9,en;q=0.8", Language.ZH),
        ("en-GB,zh;q=0.9", Language.EN),
        ("de,fr", Language.EN),
        ("de,zh-TW;q=0.1", Language.ZH),
        ("zh;q=x,en;q=0.1", Language.EN),
        (";;;,,q=", Language.EN),
    ],
)
def test_the_browser_s_language_is_ours_where_we_have_it(header: str | None, language: Language) -> None:
    assert preferred(header) is language


def test_a_text_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        text(Language.EN, "no_such_text")
