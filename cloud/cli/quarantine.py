"""`hearthline quarantine`: what could not be taken, over the API."""

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, show

app = typer.Typer(no_args_is_help=True, help="What could not be taken, over the API.")


@app.command("list")
def list_quarantine(key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """List what could not be taken, and why."""
    show(pages(api_url, key, "/v1/quarantine"), output)


@app.command("count")
def count_quarantine(key: KeyOption, api_url: UrlOption = URL) -> None:
    """Count it by reason, as JSON."""
    show([call("GET", api_url, key, "/v1/quarantine/count")], Output.JSON)
