"""docs/reference/mqtt.md: every normative statement of both specifications, each with a test that exists or the reason why not."""

import re
from pathlib import Path

import pytest

from tests.docs.proofs import proofs_in

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "reference" / "mqtt.md").read_text(encoding="utf-8")
PROOF = re.compile(r"`(?P<path>tests/[\w./]+)::(?P<name>\w+)`")
ROW = re.compile(r"^\| (\d[^|]*) \| ([^|]+) \| ([^|]+) \|$", flags=re.MULTILINE)

# How many statements each paragraph has (appendix B of each specification).
MQTT_5 = """
1.5.4:3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:2-6 2.2.2:1 3.1.0:2 3.1.2:30 3.1.3:12 3.1.4:6 3.2.0:2 3.2.2:22 3.3.1:13 3.3.2:20 3.3.4:10
3.4.2:3 3.5.2:3 3.6.1:1 3.6.2:3 3.7.2:3 3.8.1:1 3.8.3:5 3.8.4:8 3.9.2:2 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.11.2:2 3.11.3:2
3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:4 3.14.4:3 3.15.1:1 3.15.2:3 4.1.0:2 4.2.0:1 4.3.1:1 4.3.2:5 4.3.3:13 4.4.0:2 4.5.0:2 4.6.0:6
4.7.0:1 4.7.1:2 4.7.2:1 4.7.3:4 4.8.2:6 4.9.0:3 4.12.0:7 4.12.1:2 4.13.1:1 4.13.2:1 6.0.0:4
"""
MQTT_3_1_1 = """
1.5.3:3 2.2.2:2 2.3.1:7 3.1.0:2 3.1.2:24 3.1.3:11 3.1.4:5 3.2.0:1 3.2.2:6 3.3.1:12 3.3.2:3 3.3.4:1 3.3.5:2 3.6.1:1 3.8.1:1 3.8.3:4
3.8.4:6 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.12.4:1 3.14.1:1 3.14.4:3 4.1.0:2 4.3.1:1 4.3.2:2 4.3.3:2 4.4.0:1 4.5.0:2 4.6.0:6
4.7.1:3 4.7.2:1 4.7.3:4 4.8.0:2 6.0.0:4 7.0.0:2 7.1.1:1 7.1.2:1
"""


def numbers(paragraph: str) -> list[str]:
    """`2.2.1:2-6` is five statements, `3.1.0:2` two."""
    name, _, count = paragraph.partition(":")
    first, _, last = count.rpartition("-")
    return [f"{name}-{n}" for n in range(int(first or 1), int(last) + 1)]


def listed(ids: str) -> list[str]:
    """`a-1, a-2` and `a-1 to a-3`."""
    first, _, last = ids.partition(" to ")
    if last:
        name, _, start = first.partition("-")
        return numbers(f"{name}:{start}-{last.rpartition('-')[2]}")
    return ids.split(", ")


def rows(version: str) -> list[tuple[str, str, str]]:
    return ROW.findall(TEXT.partition(f"\n## MQTT {version}\n")[2].partition("\n## ")[0])


@pytest.mark.parametrize(("version", "paragraphs"), [("5.0", MQTT_5), ("3.1.1", MQTT_3_1_1)])
def test_every_statement_is_listed_once(version: str, paragraphs: str) -> None:
    expected = [one for paragraph in paragraphs.split() for one in numbers(paragraph)]
    found = [one for ids, _, _ in rows(version) for one in listed(ids)]
    assert sorted(set(found)) == sorted(found), "twice"
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("row", [*rows("5.0"), *rows("3.1.1")], ids=lambda row: row[0])
def test_each_statement_names_a_test_that_exists_or_the_reason_why_not(row: tuple[str, str, str]) -> None:
    _, _, shown = row
    proofs = list(PROOF.finditer(shown))
    assert proofs or shown == "client" or shown.startswith("not here: "), f"neither a test nor a reason: {shown!r}"
    assert shown.count("::") == len(proofs), f"a test that cannot be read: {shown!r}"
    for proof in proofs:
        assert proof["name"] in proofs_in(proof["path"]), f"{proof['path']} has no {proof['name']}"
