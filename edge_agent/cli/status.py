"""`edgectl status`: is the agent there, and does it reach the cloud."""

import time
from collections.abc import Mapping
from typing import Any

import typer

from edge_agent.cli.output import Context, Exit, Format, Output, say, show, when
from edge_agent.documents.status import is_running, read_status

HUNG_S = 30.0  # the agent writes its status every second


def status(context: typer.Context, output: Output = Format.TABLE) -> None:
    """The agent at a glance. Ends with 4 when it does not run, or has not said for half a minute that it does."""
    session: Context = context.obj
    settings = session.settings()
    found = read_status(settings.data_dir) or {}
    running = is_running(found)
    silent_s = (time.time_ns() // 1_000_000 - int(found.get("written_ms", 0))) / 1000 if running else 0.0
    found = {"running": running, **found}
    uplink, door = found.get("uplink") or {}, found.get("front_door")
    lanes = (found.get("buffer") or {}).get("lanes", {}).values()
    online = sum(1 for entry in found.get("devices", []) if entry["online"])
    rows = [
        ("running", f"yes, pid {found.get('pid')}" if running else "no"),
        ("since", when(found.get("started_ms")) if running else "-"),
        ("clock", _clock(found.get("clock") or {}) if running else "-"),
        ("cloud", "connected" if running and uplink.get("connected") else "away"),
        ("front door", f"port {door['port']}, {door['attached']} attached" if door and running else "-"),
        *(("refused", text) for text in _refused(door if door and running else {})),
        ("devices", f"{online if running else 0} of {len(settings.devices)} online"),
        *((("disk", "full: readings are refused, alarms and replies still have a reserve; free some space"),) if _full(found) else ()),
        ("buffered", f"{sum(lane['readings'] for lane in lanes)} readings in {sum(lane['frames'] for lane in lanes)} frames"),
    ]
    show(found, output, rows, ("WHAT", "STATE"))
    if silent_s > HUNG_S:
        say(f"the agent has said nothing for {silent_s:.0f} s: it hangs; restart it")
    if not running or silent_s > HUNG_S:
        raise typer.Exit(int(Exit.NOTHING_THERE))


def _full(found: Mapping[str, Any]) -> bool:
    return bool((found.get("buffer") or {}).get("disk_full"))


def _clock(clock: Mapping[str, Any]) -> str:
    """What the agent's times are worth."""
    offset = clock.get("cloud_offset_ms")
    return f"{clock.get('quality', '-')}" + ("" if offset is None else f", the cloud's was {offset:+d} ms from it")


def _refused(door: Mapping[str, Any]) -> list[str]:
    """A line for each reason, with who it was last."""
    return [
        f"{entry['count']} x {entry['reason']}, last {entry['who'] or entry['address']} at {when(entry['last_ms'])}: {entry['detail']}"
        for entry in door.get("refused", [])
    ] or ["nothing" if door else "-"]
