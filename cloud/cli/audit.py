"""`hearthline audit`: who did what, over the API."""

from typing import Annotated

import typer

from cloud.cli.calling import URL, KeyOption, LimitOption, UrlOption, newest
from cloud.cli.output import Output, OutputOption, show


def show_audit(
    key: KeyOption,
    subject: Annotated[
        str, typer.Option("--of", help="What it was done to: PRODUCT_KEY, PRODUCT_KEY/DEVICE_NAME, firmware/ID, job/ID, group/ID.")
    ] = "",
    limit: LimitOption = 100,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Who did what, and when, newest first."""
    show(newest(api_url, key, "/v1/audit", limit, {"subject": subject} if subject else None), output)
