"""`hearthline product`: products, over the API."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, fail, show

app = typer.Typer(no_args_is_help=True, help="Products, over the API.")


@app.command("create")
def create_product(
    name: str,
    tsl: Annotated[Path, typer.Argument(help="The thing model, a TSL JSON file; - reads stdin.")],
    key: KeyOption,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Enter a product with its thing model."""
    try:
        document = json.loads(sys.stdin.read() if str(tsl) == "-" else tsl.read_text())
    except (OSError, ValueError) as error:
        fail(f"{tsl} is no readable JSON file: {error}", 1)
    product = call("POST", api_url, key, "/v1/products", {"name": name, "tsl": document})
    show([{"product_key": product["product_key"], "name": product["name"]}], output)


@app.command("list")
def list_products(key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """List the tenant's products."""
    show(pages(api_url, key, "/v1/products"), output)


@app.command("registration")
def registration(
    product_key: str,
    key: KeyOption,
    mode: Annotated[str | None, typer.Option(help="closed, registered_only or open; without it the present one is shown.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Whether devices of a product can register themselves."""
    path = f"/v1/products/{product_key}/registration"
    show([call("GET", api_url, key, path) if mode is None else call("PUT", api_url, key, path, {"mode": mode})], output)


@app.command("secret")
def rotate_product_secret(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Give a product a new secret for its firmware, shown this once; the old one registers nobody any more."""
    show([call("POST", api_url, key, f"/v1/products/{product_key}/registration/secret", {})], output)
