"""`edgectl status`: is the agent there, and does it reach the cloud."""

from typing import Annotated

import typer

from edge_agent.cli.output import Context, Exit, Format, Output, fail, show, when
from edge_agent.documents.status import STALE_S, is_running, read_status, silent_s


def status(
    context: typer.Context,
    output: Output = Format.TABLE,
    check: Annotated[
        bool,
        typer.Option(
            "--check", envvar="HEARTHLINE_EDGE_STATUS_CHECK", help="Only the exit code: 4 unless the agent wrote its status just now."
        ),
    ] = False,
) -> None:
    """The agent at a glance. Ends with 4 when it does not run."""
    session: Context = context.obj
    settings = session.settings()
    found = read_status(settings.data_dir) or {}
    running = is_running(found)
    if check:
        silent = silent_s(settings.data_dir)
        if not running or silent is None or silent > STALE_S:
            fail(
                Exit.NOTHING_THERE, "the agent does not run" if not running or silent is None else f"the agent is silent for {silent:.0f} s"
            )
        return
    found = {"running": running, **found}
    uplink, door = found.get("uplink") or {}, found.get("front_door")
    lanes = (found.get("buffer") or {}).get("lanes", {}).values()
    online = sum(1 for entry in found.get("devices", []) if entry["online"])
    rows = [
        ("running", f"yes, pid {found.get('pid')}" if running else "no"),
        ("since", when(found.get("started_ms")) if running else "-"),
        ("cloud", "connected" if running and uplink.get("connected") else "away"),
        ("front door", f"port {door['port']}, {door['attached']} attached" if door and running else "-"),
        ("devices", f"{online if running else 0} of {len(settings.devices)} online"),
        ("buffered", f"{sum(lane['readings'] for lane in lanes)} readings in {sum(lane['frames'] for lane in lanes)} frames"),
    ]
    show(found, output, rows, ("WHAT", "STATE"))
    if not running:
        raise typer.Exit(int(Exit.NOTHING_THERE))
