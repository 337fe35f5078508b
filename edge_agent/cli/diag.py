"""`edgectl diag`: one archive for whoever helps, without a secret in it."""

import io
import json
import platform
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent.cli.output import Context, Exit, buffer_of, fail, say
from edge_agent.documents.status import read_status
from edge_agent.sections import read_toml
from edge_agent.settings import Settings

app = typer.Typer(help="Help for whoever helps.", no_args_is_help=True)

LOG_BYTES = 2 << 20
_PACKAGES = ("hearthline", "apsw", "aiomqtt", "paho-mqtt", "pymodbus", "msgspec", "numpy", "zstandard", "onnxruntime")
_HIDDEN = ("secret", "password", "token", "key_file")


@app.callback()
def _noun() -> None:
    """Help for whoever helps."""


@app.command("collect")
def collect(
    context: typer.Context,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into", envvar="HEARTHLINE_EDGE_DIAG_INTO", help="The archive to write.", show_default="hearthline-diag-<time>.tar.gz"
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", envvar="HEARTHLINE_EDGE_DIAG_LOG", help="The agent's log; its last 2 MiB go along.")
    ] = None,
) -> None:
    """Gather configuration, state, versions and disk space. Secrets, and files that hold them, stay out. Prints the archive's name."""
    session: Context = context.obj
    into = into or Path(f"hearthline-diag-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    settings = session.settings()
    secrets = _secrets(settings)
    try:
        with tarfile.open(into, "w:gz") as archive:
            for name, data in _parts(settings, log):
                for secret in secrets:  # whatever found its way into a log
                    data = data.replace(secret, b"***")
                entry = tarfile.TarInfo(f"hearthline-diag/{name}")
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(data))
        into.chmod(0o600)
    except OSError as problem:
        fail(Exit.FAILED, f"{into} cannot be written: {problem.strerror}; name another place with --into")
    typer.echo(str(into))
    say("look through it before you send it: it names your devices and their thing models")


def _secrets(settings: Settings) -> list[bytes]:
    found = [settings.gateway.secret, *(settings.front_door.secrets.values() if settings.front_door else ())]
    return [secret.encode() for secret in found if len(secret) >= 4]


def _parts(settings: Settings, log: Path | None) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file; a part that cannot be had says why in its place."""
    yield "configuration.json", _json(_without_secrets(read_toml(settings.path)))
    yield "status.json", _json(read_status(settings.data_dir) or {"problem": "the agent has written no status"})
    try:
        yield "buffer.json", _json(buffer_of(settings))
    except (SystemExit, typer.Exit):
        yield "buffer.json", _json({"problem": "the buffer cannot be read; `edgectl buffer status` says why"})
    yield "machine.json", _json(_machine(settings))
    yield "files.json", _json([_file(path) for path in sorted(settings.data_dir.rglob("*")) if path.is_file()])
    for path in sorted(settings.data_dir.glob("*.json")):
        if path.name != "status.json":
            with suppress(OSError):
                yield f"documents/{path.name}", path.read_bytes()
    if log is not None:
        try:
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - LOG_BYTES))
                yield "agent.log", file.read()
        except OSError as problem:
            yield "agent.log", f"{log}: {problem.strerror}\n".encode()


def _machine(settings: Settings) -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    disk = shutil.disk_usage(settings.data_dir) if settings.data_dir.exists() else None
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": versions,
        "disk": None if disk is None else disk._asdict(),
    }


def _file(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {"name": path.name, "bytes": found.st_size, "mode": oct(found.st_mode & 0o777), "changed": int(found.st_mtime)}


def _without_secrets(value: object, key: str = "") -> object:
    """The configuration names files of secrets and holds none; should one stand in it by mistake, it is left out."""
    if isinstance(value, Mapping):
        return {name: _without_secrets(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, key) for item in value]
    if any(word in key.lower() for word in _HIDDEN) and not key.endswith("_file"):
        return "***"
    return value


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str).encode()
