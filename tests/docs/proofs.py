"""Which tests there are, for pages that name one beside each promise."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@cache
def proofs_in(path: str) -> frozenset[str]:
    """The names of the tests of a file; a fixture proves nothing."""
    functions = (node for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))) if isinstance(node, _FUNCTION))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
