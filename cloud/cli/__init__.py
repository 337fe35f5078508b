"""`hearthline`: run the platform, administer tenants on its data directory, and use its API. Data on stdout, messages on stderr.

Exit codes: 0 done, 1 refused (change something first), 2 wrong usage, 3 try again later.
"""

import typer

from cloud.cli import (
    audit,
    backup,
    ca,
    configuration,
    device,
    firmware,
    gateway,
    group,
    identity,
    job,
    product,
    quarantine,
    tenant,
    train,
    up,
)
from cloud.cli.output import fail
from protocols.errors import PlatformError, Refused, TryAgain

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="The Hearthline platform.", pretty_exceptions_enable=False
)
app.command("up")(up.up)
app.command("run")(up.run)
app.add_typer(tenant.app, name="tenant")
app.add_typer(ca.app, name="ca")
app.add_typer(backup.app, name="backup")
app.add_typer(product.app, name="product")
app.add_typer(device.app, name="device")
app.add_typer(group.app, name="group")
app.add_typer(firmware.app, name="firmware")
app.add_typer(configuration.app, name="configuration")
app.add_typer(job.app, name="job")
app.add_typer(identity.authority, name="authority")
app.add_typer(gateway.app, name="gateway")
app.add_typer(quarantine.app, name="quarantine")
app.command("audit")(audit.show_audit)
app.add_typer(train.app, name="train")


def main() -> None:
    """The console script."""
    try:
        app()
    except TryAgain as error:
        fail(f"{error}; try again", 3)
    except (Refused, PlatformError) as error:
        fail(str(error), 1)
