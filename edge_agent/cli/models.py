"""`edgectl models`: the models of this gateway, what they score, and how their process fares."""

from typing import Any

import typer

from edge_agent.cli.output import Context, Format, Output, say, show, when
from edge_agent.documents.status import is_running, read_status

app = typer.Typer(help="Models beside the readings.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """Models beside the readings."""


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Each model and device: its last score, and how many rows were scored, not scored, or wait."""
    session: Context = context.obj
    settings = session.settings()
    status = read_status(settings.data_dir)
    live: dict[str, Any] = (status or {}).get("models") or {} if is_running(status) else {}
    found = {(entry["model"], entry["device_name"]): entry for entry in live.get("machines", [])}
    entries = []
    for model in settings.models:
        for name in model.devices:
            known = {"file": str(model.file), "signals": list(model.card.signals), "window_rows": model.card.window_rows}
            entries.append({"model": model.name, "device_name": name, **known, **found.get((model.name, name), {"running": False})})
    rows = [
        (
            entry["model"],
            entry["device_name"],
            entry.get("fault") or ("running" if entry["running"] else "not running"),
            "-" if entry.get("score") is None else f"{entry['score']:.3f}",
            when(entry.get("scored_ms")),
            entry.get("scored", 0),
            entry.get("not_scored", 0),
            entry.get("waiting", 0),
            "yes" if entry.get("anomaly") else "no",
        )
        for entry in entries
    ]
    show(entries, output, rows, ("MODEL", "DEVICE", "STATE", "SCORE", "AT", "SCORED", "NOT SCORED", "WAITING", "ANOMALY"))
    if live:
        say(f"a request takes {live['p50_ms']} ms, at most {live['p99_ms']} ms in 99 of 100; started again {live['restarts']} times")
