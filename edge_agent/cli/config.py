"""`edgectl config`: is the configuration right, before anything runs with it."""

import typer

from edge_agent.cli.output import Context, Format, Output, show

app = typer.Typer(help="The configuration file.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """The configuration file."""


@app.command("check")
def check(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Read everything the agent would read, and change nothing. Ends with 3 and the key's name if something is wrong."""
    session: Context = context.obj
    settings = session.settings()
    summary = {
        "config": str(settings.path),
        "data_dir": str(settings.data_dir),
        "gateway": f"{settings.gateway.product_key}/{settings.gateway.device_name}",
        "uplink": f"{settings.uplink.host}:{settings.uplink.port}",
        "front_door": f"{settings.front_door.host}:{settings.front_door.port}" if settings.front_door else None,
        "devices": [f"{device.product_key}/{device.device_name}" for device in settings.devices],
        "connectors": [connector.name for connector in settings.connectors],
        "models": [model.name for model in settings.models],
    }
    rows = [(key, ", ".join(value) if isinstance(value, list) else value) for key, value in summary.items()]
    show(summary, output, rows, ("KEY", "VALUE"))
