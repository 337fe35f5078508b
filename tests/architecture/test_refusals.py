"""No reason of a refusal without words for people and a test that provokes it."""

import enum
import re
from pathlib import Path

import pytest

from protocols.errors import Reason
from protocols.refusals import ADVICE
from tests.docs.refusals import provoked, untested


def test_every_reason_has_a_test_that_provokes_it() -> None:
    assert untested(Reason, provoked()) == [], "mark a test with @pytest.mark.refusal(Reason.X)"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_what_it_means_and_what_to_do_in_both_languages(reason: Reason) -> None:
    for english, chinese in (ADVICE[reason].meaning, ADVICE[reason].next_step):
        assert len(english) > 15
        assert english.endswith(".")
        assert not re.search("[\u4e00-\u9fff]", english)
        assert re.search("[\u4e00-\u9fff]", chinese)
        assert chinese.endswith("。")


def test_a_reason_without_a_test_is_found(tmp_path: Path) -> None:
    class Made(enum.StrEnum):
        TESTED = "tested"
        ONLY_MENTIONED = "only_mentioned"

    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_made.py").write_text(
        "import pytest\n@pytest.mark.refusal(Reason.TESTED)\ndef test_one(): ...\n"
        "@pytest.mark.refusal(Reason.ONLY_MENTIONED)\ndef not_a_test(): ...\nREASON = Reason.ONLY_MENTIONED\n"
    )
    assert untested(Made, provoked(tmp_path / "tests")) == ["ONLY_MENTIONED"]
