"""docs/reference/alink.md: every topic of the grammar and every code that is sent, each with a test that exists."""

import re
from pathlib import Path

import pytest

from protocols.alink.codes import Code
from protocols.alink.topics import TEMPLATES, Kind, Topic
from protocols.errors import Refused
from tests.docs.proofs import proofs_in

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "reference" / "alink.md").read_text(encoding="utf-8")
VENDOR = ROOT.parent / "shared" / "reference" / "alink.md"
PROOF = r"`(tests/[\w./]+)::(\w+)`"
TOPICS = re.findall(rf"^\| `(/[^`]+)` \| (device|server|both) \| [^|]+ \| {PROOF} \|$", TEXT, flags=re.MULTILINE)
CODES = re.findall(rf"^\| (\d+) \| [^|]+ \| {PROOF} \|$", TEXT, flags=re.MULTILINE)


def test_every_topic_is_listed_once_with_who_sends_on_it() -> None:
    listed = {template: sender for template, sender, _, _ in TOPICS}
    assert len(listed) == len(TOPICS), "twice"
    expected = {template: Topic(kind, "a1", "d", "x", "7").sender.value for kind, template in TEMPLATES.items() if not is_reply(kind)}
    assert listed == expected


def is_reply(kind: Kind) -> bool:
    """Replies follow one rule: their request's topic with `_reply` behind it."""
    return kind.name.endswith("_REPLY")


def test_every_code_is_listed_once() -> None:
    assert sorted(int(code) for code, _, _ in CODES) == sorted(int(code) for code in Code)


@pytest.mark.parametrize(("path", "name"), sorted({(path, name) for *_, path, name in [*TOPICS, *CODES]}))
def test_every_proof_exists(path: str, name: str) -> None:
    assert name in proofs_in(path)


@pytest.mark.skipif(not VENDOR.exists(), reason="the protocol reference is not beside the project")
def test_no_topic_of_the_protocol_reference_is_missing() -> None:
    found = 0
    for text in re.findall(r"^\| (`[^|]+?) \|", VENDOR.read_text(encoding="utf-8"), flags=re.MULTILINE):
        for topic in written_out(text):
            try:
                Topic.parse(topic)
            except Refused as refused:
                pytest.fail(f"{topic} (of {text}): {refused}")
            found += 1
    assert found > 60


def written_out(text: str) -> list[str]:
    """The topics that a cell of the reference's tables stands for; none if it is about something else."""
    if not re.match(r"`(P |/ext/|/shadow/|/ota/|/broadcast|/pk/|thing/(awss|reset|lan)|…/combine)", text):
        return []
    first, *more = re.findall(r"`([^`]+)`", text)
    first = first.replace("{user topic}", "pk/dn/user/x").replace("{", "").replace("}", "")
    if first.startswith("P "):
        first = "/sys/pk/dn/" + first[2:]
    elif first.startswith("thing/"):
        first = "/sys/pk/dn/" + first
    elif first.startswith("…/"):
        first = "/ext/session/pk/dn/" + first[2:]
    topics = [first.replace(" ", "")]
    for other in more:
        if other.startswith("…/"):  # the last level is another one
            topics.append(topics[0].rsplit("/", 1)[0] + other[1:])
        elif other in ("enable", "delete"):
            topics.append(topics[0].rsplit("/", 1)[0] + "/" + other)
        elif other.startswith("thing/"):
            topics.append("/sys/pk/dn/" + other)
        elif other == "_reply":
            topics.append(topics[0] + other)
    return topics
