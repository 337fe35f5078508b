"""`hearthline device`: devices, over the API."""

from typing import Annotated

import typer

from cloud.cli import identity
from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.importing import import_devices
from cloud.cli.output import Output, OutputOption, show

app = typer.Typer(no_args_is_help=True, help="Devices, over the API.")
app.command("import")(import_devices)
app.command("rotate")(identity.rotate_secret)
app.command("accept")(identity.accept)
app.command("reset")(identity.reset_registration)
app.command("identity")(identity.show_identity)


@app.command("create")
def create_device(
    product_key: str,
    device_name: str,
    key: KeyOption,
    site: Annotated[str | None, typer.Option(help="Home or line; made when it is new.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Enter a device; its secret is shown this once."""
    body = {"device_name": device_name, "site": site}
    show([call("POST", api_url, key, f"/v1/products/{product_key}/devices", body)], output)


@app.command("list")
def list_devices(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """List a product's devices."""
    show(pages(api_url, key, f"/v1/products/{product_key}/devices"), output)


@app.command("show")
def show_device(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL) -> None:
    """One device with its reported shadow, as JSON."""
    show([call("GET", api_url, key, f"/v1/devices/{product_key}/{device_name}")], Output.JSON)
