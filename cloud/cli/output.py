"""What `hearthline` prints: data on stdout as a table, JSON or YAML, messages on stderr, and the exit code."""

import enum
import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json (a line each) or yaml (a document each).")]


def show(rows: list[dict[str, Any]], output: Output) -> None:
    """Rows on stdout; an empty table says so on stderr."""
    if output is Output.JSON:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    if output is Output.YAML:
        import yaml

        print(yaml.safe_dump_all(rows, allow_unicode=True, sort_keys=False, explicit_start=True), end="")
        return
    if not rows:
        print("none", file=sys.stderr)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


def show_one(row: dict[str, Any], output: Output) -> None:
    """One thing with all that is known of it: as a table a line a field."""
    if output is Output.TABLE:
        show([{"field": name, "value": json.dumps(found, ensure_ascii=False)} for name, found in row.items()], output)
    else:
        show([row], output)


def read_values(pairs: list[str]) -> dict[str, Any]:
    """`name=value` by name: a value that is JSON is that, any other is text.

    >>> read_values(["level=3", "mode=eco", 'label="3"'])
    {'level': 3, 'mode': 'eco', 'label': '3'}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            fail(f"{pair}: write it as name=value", 2)
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def read_file(path: str) -> bytes:
    """The bytes of a file, or of stdin for `-`."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", 1)


def read_text(path: Path, advice: str) -> str:
    """The text of a file; `advice` says what to do with one that holds none."""
    try:
        return read_file(str(path)).decode()
    except UnicodeDecodeError:
        fail(f"{path} is no text: {advice}", 1)


def fail(message: str, code: int) -> NoReturn:
    """End the program with a message on stderr."""
    print(message, file=sys.stderr)
    raise SystemExit(code)
