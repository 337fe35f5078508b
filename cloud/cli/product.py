"""`hearthline product`: products, their thing models and the standard library, over the API."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cloud.cli import draft
from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, fail, read_text, show

app = typer.Typer(no_args_is_help=True, help="Products, over the API.")
app.add_typer(draft.app, name="draft")

VersionOption = Annotated[int | None, typer.Option("--version", help="Of this version; without, of the active one.")]


@app.command("create")
def create_product(
    name: str,
    key: KeyOption,
    tsl: Annotated[str | None, typer.Argument(help="The thing model, a TSL JSON file; - reads stdin. Or --library.")] = None,
    library: Annotated[str | None, typer.Option(help="Take this model; `hearthline product library` lists them.")] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="Its devices carry sub-devices.")] = False,
    product_key: Annotated[str | None, typer.Option(help="The key that its firmware carries from another cloud; else one is made.")] = None,
    description: str = "",
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Enter a product with its thing model, from a file or from the standard library."""
    if (tsl is None) == (library is None):
        fail("give either a TSL file or --library KEY; `hearthline product library` lists the keys", 2)
    body: dict[str, Any] = {"name": name, "description": description, "node_type": "gateway" if gateway else "device"}
    body |= {} if product_key is None else {"product_key": product_key}
    body |= {"library": library} if tsl is None else {"tsl": draft.read_tsl(tsl)}
    product = call("POST", api_url, key, "/v1/products", body, once=True)
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
def rotate_product_secret(
    product_key: str,
    key: KeyOption,
    own: Annotated[Path | None, typer.Option("--from", help="A file with the secret that firmware in the field carries.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a product a new secret for its firmware, shown this once, or the one it carries; the old one registers nobody any more."""
    body = {} if own is None else {"product_secret": read_text(own, "write the secret into it as UTF-8").strip()}
    show([call("POST", api_url, key, f"/v1/products/{product_key}/registration/secret", body)], output)


@app.command("show")
def show_product(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """One product; json and yaml hold its thing model too."""
    draft.show_with_model(call("GET", api_url, key, f"/v1/products/{product_key}"), output)


@app.command("change")
def change_product(
    product_key: str,
    key: KeyOption,
    name: Annotated[str | None, typer.Option(help="The new name.")] = None,
    description: Annotated[str | None, typer.Option(help="The new description.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a product another name or description; `draft put` changes its thing model."""
    body = {field: value for field, value in (("name", name), ("description", description)) if value is not None}
    if not body:
        fail("say what to change: --name or --description", 2)
    draft.show_with_model(call("PATCH", api_url, key, f"/v1/products/{product_key}", body), output)


@app.command("delete")
def delete_product(
    product_key: str,
    key: KeyOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be deleted.")] = False,
    api_url: UrlOption = URL,
) -> None:
    """Delete a product that no device is entered under, with all versions of its thing model."""
    path = f"/v1/products/{product_key}"
    if not yes:
        product = call("GET", api_url, key, path)
        fail(f"{product['name']} and {product['version']} versions of its thing model would be deleted; say --yes to delete them", 1)
    call("DELETE", api_url, key, path)


@app.command("export")
def export_tsl(
    product_key: str, key: KeyOption, version: VersionOption = None, api_url: UrlOption = URL, output: OutputOption = Output.JSON
) -> None:
    """The thing model as the vendor's TSL, for device SDKs, on stdout: JSON, unless told otherwise."""
    query = None if version is None else {"version": str(version)}
    document = call("GET", api_url, key, f"/v1/products/{product_key}/tsl", query=query)
    if output is Output.TABLE:
        fail("a thing model is no table; take -o json or -o yaml", 2)
    show([document], output)


@app.command("versions")
def list_versions(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """List the versions of a product's thing model, oldest first."""
    show(pages(api_url, key, f"/v1/products/{product_key}/thing-model/versions"), output)


@app.command("library")
def library(
    key: KeyOption,
    model: Annotated[str | None, typer.Argument(help="Show the TSL of this model; without, list them all.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the models of the standard library, or show one."""
    if model is not None:
        draft.show_with_model(call("GET", api_url, key, f"/v1/library/{model}"), output)
        return
    rows = pages(api_url, key, "/v1/library")
    if output is Output.TABLE:
        rows = [{"key": row["key"], **row["names"]} for row in rows]
    show(rows, output)
