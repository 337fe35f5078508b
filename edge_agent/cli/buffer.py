"""`edgectl buffer`: what waits for the cloud."""

from typing import Any

import typer

from edge_agent.cli.output import Context, Format, Output, buffer_of, show

app = typer.Typer(help="The buffer on this gateway's disk.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """The buffer on this gateway's disk."""


@app.command("status")
def status(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Frames, bytes and readings by lane; works with the agent running and stopped."""
    session: Context = context.obj
    found: Any = buffer_of(session.settings())
    rows = [
        (name, lane["frames"], lane["readings"], lane["used_bytes"], lane["floor"], lane["next_seq"])
        for name, lane in found["lanes"].items()
    ]
    show(found, output, rows, ("LANE", "FRAMES", "READINGS", "BYTES", "FIRST SEQ", "NEXT SEQ"))
