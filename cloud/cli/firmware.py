"""`hearthline firmware`: images, and whom they are offered to, over the API."""

from typing import Annotated

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, fail, read_file, show, show_one

app = typer.Typer(no_args_is_help=True, help="Firmware images and their offers, over the API.")


@app.command("upload")
def upload(
    product_key: str,
    version: str,
    file: Annotated[str, typer.Argument(help="The image; - reads stdin.")],
    key: KeyOption,
    module: Annotated[str, typer.Option(help="Of the devices' firmware.")] = "default",
    sign_method: Annotated[str, typer.Option(help="The digest that devices check: SHA256 or Md5.")] = "SHA256",
    diff: Annotated[bool, typer.Option("--diff", help="It is a difference to the version before.")] = False,
    note: str = "",
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take an image in; it never changes, a new one has a new version."""
    query = {"product_key": product_key, "version": version, "module": module, "sign_method": sign_method, "note": note}
    query["is_diff"] = "true" if diff else "false"
    show([call("POST", api_url, key, "/v1/firmware", query=query, data=read_file(file))], output)


@app.command("list")
def list_firmware(
    key: KeyOption,
    product_key: Annotated[str | None, typer.Option("--product", help="Of this product only.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List images, oldest first."""
    show(pages(api_url, key, "/v1/firmware", None if product_key is None else {"product_key": product_key}), output)


@app.command("show")
def show_firmware(firmware_id: int, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """One image."""
    show_one(call("GET", api_url, key, f"/v1/firmware/{firmware_id}"), output)


@app.command("delete")
def delete_firmware(firmware_id: int, key: KeyOption, api_url: UrlOption = URL) -> None:
    """Delete an image that nobody is offered any more."""
    call("DELETE", api_url, key, f"/v1/firmware/{firmware_id}")


@app.command("offer")
def offer(firmware_id: int, device_names: list[str], key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Offer an image to devices of its product; one that failed is offered it again."""
    found = call("POST", api_url, key, f"/v1/firmware/{firmware_id}/offers", {"device_names": device_names})
    show(found["offers"], output)
    if found["unknown"]:
        fail(f"no such devices: {', '.join(found['unknown'])}; it was offered to the others", 1)


@app.command("offers")
def list_offers(firmware_id: int, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Whom an image was offered to, and what became of it."""
    show(pages(api_url, key, f"/v1/firmware/{firmware_id}/offers"), output)


@app.command("cancel")
def cancel(firmware_id: int, device_name: str, key: KeyOption, api_url: UrlOption = URL) -> None:
    """Take an offer back."""
    call("DELETE", api_url, key, f"/v1/firmware/{firmware_id}/offers/{device_name}")
