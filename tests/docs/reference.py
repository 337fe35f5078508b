"""The reference pages that are made from the code: `python -m tests.docs.reference` writes them, a test holds them to it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer

from cloud.app import build_api
from cloud.cli import app as hearthline
from cloud.settings import Settings
from edge_agent.cli import app as edgectl
from edge_agent.cli.init import configuration
from firmware_sim.cli import app as fwsim
from tests.docs import products, refusals

PAGES = Path(__file__).parent.parent.parent / "docs" / "reference"


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    nested = getattr(command, "commands", None)
    if nested is None:
        yield " ".join(words), command
        return
    for name in sorted(nested):
        yield from _commands(nested[name], (*words, name))


def command_lines() -> str:
    """Every verb of the three programs with its options."""
    parts = [
        "# Command lines\n",
        "Data goes to stdout, messages to stderr. `--help` on any verb shows defaults and the environment variable of each option.\n",
        "Made by `python -m tests.docs.reference`.\n",
    ]
    for program, app in (("hearthline", hearthline), ("edgectl", edgectl), ("fwsim", fwsim)):
        parts.append(f"\n## {program}\n")
        for name, command in _commands(typer.main.get_command(app), (program,)):
            summary = " ".join((command.help or "").split())
            parts.append(f"\n### `{name}`\n\n{summary}\n")
            rows = []
            for option in command.params:
                named = ", ".join(f"`{text}`" for text in option.opts) if option.param_type_name == "option" else f"`{option.name}`"
                rows.append(f"| {named} | {' '.join((getattr(option, 'help', None) or '').split())} |\n".replace("  ", " "))
            if rows:
                parts.append("\n| option | meaning |\n|---|---|\n" + "".join(rows))
    return "".join(parts)


def api() -> str:
    """Every route with what it answers."""
    nobody: Any = SimpleNamespace()
    document = build_api(
        database=nobody, vault=nobody, bus=nobody, metrics=nobody, downlink=None, sessions=None, changes=None, history=None, checks={}
    ).openapi()
    parts = [
        "# HTTP API\n\n",
        "JSON over HTTP. The key goes into `Authorization: Bearer`. Times are epoch milliseconds; `from` and `to` also take RFC 3339.\n",
        "Every error is an RFC 9457 problem whose `detail` says what to do next. Lists answer `items` and `next` (the next `cursor`).\n",
        "Where the OpenAPI document names `If-None-Match` or `If-Match`, answers carry an `ETag`; where it names `Idempotency-Key`, a\n",
        "request that is sent again within 24 h has no second effect and the same answer. The document is at `/openapi.json` and, for\n",
        "this version, [here](openapi.json); nothing in it breaks a caller of the last release.\n",
        "Made by `python -m tests.docs.reference`.\n\n",
        "| call | operation | what it does |\n|---|---|---|\n",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            what = " ".join(operation.get("description", "").split())
            parts.append(f"| `{method.upper()} {path}` | `{operation['operationId']}` | {what} |\n")
    parts.append("\n## Settings of the cloud\n\n| variable | default | meaning |\n|---|---|---|\n")
    for name, field in Settings.model_fields.items():
        parts.append(f"| `HEARTHLINE_{name.upper()}` | `{field.default}` | {field.description or ''} |\n")
    return "".join(parts)


def edge_configuration() -> str:
    """The commented file that `edgectl init` writes."""
    text = configuration("gw1", "127.0.0.1", 1883)
    return (
        "# Edge configuration\n\nOne TOML file. `edgectl init` writes this one; `edgectl config check` names a key that is wrong\n"
        "and says what is allowed there. Made by `python -m tests.docs.reference`.\n\n```toml\n" + text.strip() + "\n```\n"
    )


def pages() -> dict[Path, str]:
    return {
        PAGES / "command-lines.md": command_lines(),
        PAGES / "api.md": api(),
        PAGES / "edge-configuration.md": edge_configuration(),
        PAGES / "products.md": products.page(),
        PAGES / "refusals.md": refusals.page(),
    }


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
