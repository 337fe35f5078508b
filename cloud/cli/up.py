"""`hearthline up` runs the whole platform, `hearthline run` one role of it."""

import enum
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


class Role(enum.StrEnum):
    CORE = "core"
    ACCESS = "access"
    INGEST = "ingest"


DataOption = Annotated[Path, typer.Option("--data", envvar="HEARTHLINE_DIR", help="Data directory.")]
DATA = Path("hearthline-data")


def up(
    data: DataOption = DATA,
    mqtt_port: Annotated[int, typer.Option(min=0, max=65535, envvar="HEARTHLINE_MQTT_PORT", help="0 takes any free port.")] = 1883,
    api_port: Annotated[int, typer.Option(min=0, max=65535, envvar="HEARTHLINE_API_PORT", help="0 takes any free port.")] = 8080,
    host: Annotated[str, typer.Option(envvar="HEARTHLINE_HOST", help="Address to listen on.")] = "127.0.0.1",
    mqtts_port: Annotated[
        int | None, typer.Option(min=0, max=65535, envvar="HEARTHLINE_MQTTS_PORT", help="Port for MQTT over TLS; none when unset.")
    ] = None,
    ready_json: Annotated[bool, typer.Option("--ready-json", help="When ready, print one line of JSON on stdout.")] = False,
) -> None:
    """Run the whole platform until SIGTERM or Ctrl-C. An empty data directory is initialised first."""
    import asyncio

    from cloud.app import Ready, run_up
    from cloud.foundation import logs
    from cloud.settings import Settings

    def announce(ready: Ready) -> None:
        if ready_json:
            line = {"mqtt_port": ready.mqtt_port, "mqtts_port": ready.mqtts_port, "api_url": ready.api_url, "admin_key": ready.admin_key}
            print(json.dumps(line), flush=True)
            return
        print(f"MQTT on port {ready.mqtt_port}, API at {ready.api_url} (routes at {ready.api_url}/docs)", file=sys.stderr)
        if ready.mqtts_port is not None:
            print(f"MQTT over TLS on port {ready.mqtts_port}; `hearthline ca export` prints what gateways have to trust", file=sys.stderr)
        print(f"Console at {ready.api_url}/console/", file=sys.stderr)
        if ready.admin_key:
            print(f"The key of the tenant `default`, shown this once: {ready.admin_key}", file=sys.stderr)

    settings = Settings.read().for_directory(data)
    settings = settings.model_copy(update={"mqtt_port": mqtt_port, "api_port": api_port, "host": host, "mqtts_port": mqtts_port})
    logs.configure("up", settings.log_level)
    os.umask(0o077)  # what the platform keeps is for its own user
    asyncio.run(run_up(settings, announce))


def run(
    role: Role,
    data: DataOption = DATA,
    listener_fd: Annotated[int | None, typer.Option(help="A listening socket handed over by `up`.", hidden=True)] = None,
    tls_listener_fd: Annotated[int | None, typer.Option(help="Another one, for TLS.", hidden=True)] = None,
) -> None:
    """Run one role until SIGTERM; NATS is that of `hearthline up` on the same directory, or HEARTHLINE_NATS_URL."""
    import socket

    from cloud.app import run_role
    from cloud.settings import Settings

    listeners = [socket.socket(fileno=number) for number in (listener_fd, tls_listener_fd) if number is not None]
    run_role(role.value, Settings.read().for_directory(data), listeners)
    # Everything is closed. Taking the interpreter apart object by object can take a second that the supervisor does not have.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
