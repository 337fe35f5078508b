"""Every promise in docs/guarantees.md names the test that shows it, and that test exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
PROOF = re.compile(r"\[test: (?P<path>[\w./]+)::(?P<name>\w+)\]")


def promises() -> list[str]:
    """The bullet points, each on one logical line."""
    bullets = re.findall(r"^- (.+?)(?=^- |^#|^\||\Z|^$)", TEXT, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(bullet.split()) for bullet in bullets]


def sentences(promise: str) -> list[str]:
    """A sentence ends with its proof; what stands behind the last proof has none."""
    return [part.strip() for part in re.split(r"(?<=\])\s*", promise) if part.strip()]


def test_there_are_promises() -> None:
    assert len(promises()) >= 12


@pytest.mark.parametrize("sentence", [sentence for promise in promises() for sentence in sentences(promise)])
def test_each_sentence_ends_with_a_test_that_exists(sentence: str) -> None:
    proof = PROOF.search(sentence)
    assert proof, f"no proof: {sentence!r}"
    assert sentence.endswith(proof[0]), f"the proof ends the sentence: {sentence!r}"
    assert sentence.count(". ") == 1, f"one sentence, one proof: {sentence!r}"
    exists(proof)


def exists(proof: re.Match[str]) -> None:
    tree = ast.parse((ROOT / proof["path"]).read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert proof["name"] in names, f"{proof['path']} has no {proof['name']}"


def loss_windows() -> list[str]:
    """The rows of the table, without its head."""
    return re.findall(r"^\| .+\|$", TEXT.partition("## Loss windows")[2].partition("\n## ")[0], flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("row", loss_windows(), ids=lambda row: row.split("|")[1].strip())
def test_each_loss_window_names_a_test_that_exists(row: str) -> None:
    proof = PROOF.search(row)
    assert proof, f"no proof: {row!r}"
    exists(proof)


def test_there_are_loss_windows() -> None:
    assert len(loss_windows()) >= 10


def test_decisions_are_numbered_once_and_without_holes() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
