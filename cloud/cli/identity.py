"""`hearthline device rotate|accept|reset|identity` and `hearthline authority`: what proves a device, over the API."""

from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, read_text, show

authority = typer.Typer(no_args_is_help=True, help="Certificate authorities whose certificates devices may show, over the API.")


def rotate_secret(
    product_key: str,
    device_name: str,
    key: KeyOption,
    grace_s: Annotated[int, typer.Option(help="So long the old secret counts too; up to seven days.")] = 0,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a device a new secret, shown this once; the old one ends, and sessions that rest on it."""
    show([call("POST", api_url, key, f"/v1/devices/{product_key}/{device_name}/secret", {"grace_s": grace_s})], output)


def accept(
    product_key: str,
    device_name: str,
    accepts: Annotated[str, typer.Argument(help="secret, certificate or both.")],
    key: KeyOption,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what a device may prove itself with."""
    show([call("PUT", api_url, key, f"/v1/devices/{product_key}/{device_name}/identity", {"accepts": accepts})], output)


def reset_registration(
    product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE
) -> None:
    """Let a device register once more; the secret, token and session that it has end now."""
    show([call("DELETE", api_url, key, f"/v1/devices/{product_key}/{device_name}/registration")], output)


def show_identity(
    product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE
) -> None:
    """What proves a device, and how far its registration is."""
    show([call("GET", api_url, key, f"/v1/devices/{product_key}/{device_name}/identity")], output)


@authority.command("add")
def add_authority(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The authority's certificate, PEM.")],
    key: KeyOption,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take certificates of an authority from devices; two at once during a rotation."""
    pem = read_text(file, "make PEM of it with `openssl x509 -inform der`")
    show([call("POST", api_url, key, "/v1/certificate-authorities", {"pem": pem})], output)


@authority.command("list")
def list_authorities(key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """The authorities, those that are retired among them."""
    show(pages(api_url, key, "/v1/certificate-authorities"), output)


@authority.command("retire")
def retire_authority(number: int, key: KeyOption, api_url: UrlOption = URL) -> None:
    """Take its certificates no more; sessions that rest on one end."""
    call("DELETE", api_url, key, f"/v1/certificate-authorities/{number}")
