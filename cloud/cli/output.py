"""What `hearthline` prints: data on stdout as a table, JSON or YAML, messages on stderr, and the exit code."""

import enum
import json
import sys
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


def fail(message: str, code: int) -> NoReturn:
    """End the program with a message on stderr."""
    print(message, file=sys.stderr)
    raise SystemExit(code)
