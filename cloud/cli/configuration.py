"""`hearthline configuration`: one file for all devices of a product, over the API."""

import sys
from typing import Annotated

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call
from cloud.cli.output import Output, OutputOption, read_file, show, show_one

app = typer.Typer(no_args_is_help=True, help="The file that all devices of a product are given, over the API.")


@app.command("put")
def put(
    product_key: str,
    file: Annotated[str, typer.Argument(help="Up to 1 MiB; - reads stdin.")],
    key: KeyOption,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give all devices of a product this file; `push` tells those that are connected."""
    show_one(call("PUT", api_url, key, f"/v1/products/{product_key}/configuration", data=read_file(file)), output)


@app.command("show")
def show_configuration(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """What is known of it."""
    show_one(call("GET", api_url, key, f"/v1/products/{product_key}/configuration"), output)


@app.command("get")
def get(product_key: str, key: KeyOption, api_url: UrlOption = URL) -> None:
    """The file itself, on stdout."""
    sys.stdout.buffer.write(call("GET", api_url, key, f"/v1/products/{product_key}/configuration/content"))
    sys.stdout.buffer.flush()


@app.command("switch")
def switch(
    product_key: str,
    enabled: Annotated[bool, typer.Option("--on/--off", help="While it is off, devices are told so and download nothing.")],
    key: KeyOption,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Switch it on or off."""
    show_one(call("PATCH", api_url, key, f"/v1/products/{product_key}/configuration", {"enabled": enabled}), output)


@app.command("delete")
def delete(product_key: str, key: KeyOption, api_url: UrlOption = URL) -> None:
    """Take the file away."""
    call("DELETE", api_url, key, f"/v1/products/{product_key}/configuration")


@app.command("push")
def push(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Tell all connected devices of the product."""
    show([call("POST", api_url, key, f"/v1/products/{product_key}/configuration/push", {})], output)
