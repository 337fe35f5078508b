"""`hearthline gateway`: gateways, over the API."""

from typing import Annotated

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call
from cloud.cli.output import Output, OutputOption, show

app = typer.Typer(no_args_is_help=True, help="Gateways, over the API.")


@app.command("account")
def show_account(
    device_name: str,
    key: KeyOption,
    begin: Annotated[str | None, typer.Option("--from", help="Only readings whose frames were made from then on (RFC 3339).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only those whose frames were made before then.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """What the platform has committed of a gateway, by lane and in all: to be held against `edgectl account`.

    An interval is by the gateway's clock, and widened to whole ten minutes: so finely, and for 92 days of work, both ends remember.
    """
    query = {name: bound for name, bound in (("from", begin), ("to", end)) if bound is not None}
    found = call("GET", api_url, key, f"/v1/gateways/{device_name}/account", query=query)
    total = {"buffer_id": "all", "lane": "all", "watermark": None, "delivered": found["delivered"], "in_gaps": found["in_gaps"]}
    show([*found["lanes"], total], output)


@app.callback()
def main() -> None:
    """Gateways, over the API."""
