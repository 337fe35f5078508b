"""`hearthline product draft`: the next version of a thing model, over the API: write it, look whom it breaks, publish it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call
from cloud.cli.output import Output, OutputOption, fail, show

app = typer.Typer(no_args_is_help=True, help="The next version of a thing model.")


@app.command("put")
def put_draft(
    product_key: str,
    tsl: Annotated[str, typer.Argument(help="TSL JSON, the vendor's own too; - reads stdin.")],
    key: KeyOption,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make this TSL the draft; nobody notices before it is published."""
    show_with_model(call("PUT", api_url, key, _path(product_key), read_tsl(tsl)), output)


@app.command("show")
def show_draft(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """The draft; json and yaml hold its thing model too."""
    show_with_model(call("GET", api_url, key, _path(product_key)), output)


@app.command("report")
def report_draft(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """What publishing the draft would change, and whom that breaks."""
    report = call("GET", api_url, key, f"{_path(product_key)}/report")
    if output is not Output.TABLE:
        show([report], output)
        return
    show(
        [
            {"path": change["path"], "change": change["kind"], "breaks": ", ".join(change["breaks"]) or "-", "what": change["en"]}
            for change in report["changes"]
        ],
        output,
    )
    advice = {
        "yes": "it breaks nobody: `draft publish` takes it",
        "with_accept_breaking": f"it breaks {', '.join(report['breaks'])}: `draft publish --accept-breaking` takes it all the same",
        "no": "it cannot be published:" + "".join(f" {_conflict(conflict)}" for conflict in report["conflicts"]),
    }
    said = f"version {report['version']} after {report['base']}, {report['devices']} devices; {advice[report['publishable']]}"
    print(said, file=sys.stderr)


@app.command("publish")
def publish_draft(
    product_key: str,
    key: KeyOption,
    accept_breaking: Annotated[bool, typer.Option("--accept-breaking", help="Also when the report names somebody who breaks.")] = False,
    note: Annotated[str, typer.Option(help="What this version is for.")] = "",
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the draft the product's thing model."""
    body = {"accept_breaking": accept_breaking, "note": note}
    version = call("POST", api_url, key, f"{_path(product_key)}/publish", body, explain=_broken)
    show_with_model(version, output)


@app.command("delete")
def delete_draft(product_key: str, key: KeyOption, api_url: UrlOption = URL) -> None:
    """Throw the draft away."""
    call("DELETE", api_url, key, _path(product_key))


def read_tsl(file: str) -> Any:
    """The JSON in a file, or on stdin for `-`. Ends the program when there is none."""
    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{file} is no readable JSON file: {error}; give a TSL file, such as `hearthline product export` writes", 1)


def show_with_model(found: dict[str, Any], output: Output) -> None:
    """One thing that holds a thing model: a table counts what is in it."""
    if output is Output.TABLE:
        tsl = found.pop("tsl")
        found |= {group: len(tsl.get(group, [])) for group in ("properties", "events", "services")}
    show([found], output)


def _path(product_key: str) -> str:
    return f"/v1/products/{product_key}/thing-model/draft"


def _conflict(conflict: dict[str, Any]) -> str:
    return f"{conflict['path']} was {conflict['was']} in version {conflict['version']} and cannot be {conflict['wanted']}."


def _broken(problem: dict[str, Any]) -> str:
    """Everything that stands in the way, a line each."""
    report = problem.get("report", {"changes": [], "conflicts": []})
    lines = [f"{change['path']}: {change['en']} Breaks {', '.join(change['breaks'])}." for change in report["changes"] if change["breaks"]]
    return "".join(f"\n  {line}" for line in (*lines, *(_conflict(conflict) for conflict in report["conflicts"])))
