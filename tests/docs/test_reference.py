"""The reference pages name every verb, route and setting, as they are."""

import re
from pathlib import Path

import pytest

from tests.docs.reference import pages


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: page.name)
def test_a_reference_page_is_what_the_code_says(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], f"stale: run python -m tests.docs.reference ({page.name})"


def test_every_link_between_pages_leads_somewhere() -> None:
    root = Path(__file__).parent.parent.parent
    links = [
        (page, target)
        for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 5
    assert [f"{page.relative_to(root)} -> {target}" for page, target in links if not (page.parent / target).exists()] == []
