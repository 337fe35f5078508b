"""`edgectl device`: the devices behind this gateway."""

import typer

from edge_agent.cli.output import Context, Format, Output, show, when
from edge_agent.documents.registry import DeviceRegistry
from edge_agent.documents.status import is_running, read_status

app = typer.Typer(help="Devices behind this gateway.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """Devices behind this gateway."""


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Every configured device, how it is attached, and whether it answers."""
    session: Context = context.obj
    settings = session.settings()
    status = read_status(settings.data_dir)
    running = is_running(status)
    notes = DeviceRegistry(settings.data_dir).notes() if settings.data_dir.is_dir() else {}
    live = {(entry["product_key"], entry["device_name"]): entry for entry in (status or {}).get("devices", [])} if running else {}
    sources = {connector.device: connector.name for connector in settings.connectors}
    devices = []
    for device in settings.devices:
        key = (device.product_key, device.device_name)
        note, now = notes.get(key), live.get(key)
        devices.append(
            {
                "product_key": device.product_key,
                "device_name": device.device_name,
                "source": sources.get(device.device_name, "front_door"),
                "online": bool(now and now["online"]),
                "since_ms": now["since_ms"] if now else note.last_change_ms if note else None,
                "first_seen_ms": note.first_seen_ms if note and note.first_seen_ms else None,
            }
        )
    rows = [
        (entry["product_key"], entry["device_name"], entry["source"], "yes" if entry["online"] else "no", when(entry["since_ms"]))
        for entry in devices
    ]
    show(devices, output, rows, ("PRODUCT", "DEVICE", "SOURCE", "ONLINE", "SINCE"))
