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
