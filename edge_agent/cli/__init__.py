"""`edgectl`: one file per noun. Data goes to stdout, messages to stderr; exit codes are in `output.py`."""

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli import account, buffer, config, device, diag, guard, init, models, run, status
from edge_agent.cli.output import Context

app = typer.Typer(
    name="edgectl",
    help="Look after a Hearthline gateway. Exit codes: 0 done, 1 failed, 2 usage, 3 bad configuration, 4 nothing there, 5 cannot start.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("init")(init.init)
app.command("run")(run.run)
app.command("guard")(guard.guard)
app.command("status")(status.status)
app.command("account")(account.account)
app.add_typer(config.app, name="config")
app.add_typer(device.app, name="device")
app.add_typer(buffer.app, name="buffer")
app.add_typer(diag.app, name="diag")
app.add_typer(models.app, name="models")


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", envvar="HEARTHLINE_EDGE_CONFIG", help="The gateway's configuration file.", show_default=True)
    ] = Path("edge.toml"),
) -> None:
    """What all commands share."""
    context.obj = Context(config)


def main() -> None:
    """The console script."""
    app()
