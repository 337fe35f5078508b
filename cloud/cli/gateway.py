"""`hearthline gateway`: gateways, over the API."""

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call
from cloud.cli.output import Output, OutputOption, show

app = typer.Typer(no_args_is_help=True, help="Gateways, over the API.")


@app.command("account")
def show_account(device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """What the platform has committed of a gateway, by lane and in all: to be held against `edgectl account`."""
    found = call("GET", api_url, key, f"/v1/gateways/{device_name}/account")
    total = {"buffer_id": "all", "lane": "all", "watermark": None, "delivered": found["delivered"], "in_gaps": found["in_gaps"]}
    show([*found["lanes"], total], output)


@app.callback()
def main() -> None:
    """Gateways, over the API."""
