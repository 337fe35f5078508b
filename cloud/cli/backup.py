"""`hearthline backup`: a copy of the whole platform at one moment, while it runs or not, and a platform made of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cloud.cli.output import Output, OutputOption, show
from cloud.cli.up import DATA, DataOption

app = typer.Typer(no_args_is_help=True, help="Backups of the whole platform: telemetry, metadata, secrets.")

FolderArgument = Annotated[Path, typer.Argument(help="The backup's folder.")]


@app.command("create")
def create(folder: FolderArgument, data: DataOption = DATA, output: OutputOption = Output.TABLE) -> None:
    """Back the platform up into a folder that does not exist yet. It may run; devices and queries go on."""
    import asyncio
    import os

    from cloud.app import back_up
    from cloud.settings import Settings

    os.umask(0o077)  # what the platform keeps is for its own user
    show([_row(asyncio.run(back_up(Settings.read().for_directory(data), folder.absolute())))], output)


@app.command("check")
def check(folder: FolderArgument, output: OutputOption = Output.TABLE) -> None:
    """Say whether every file of a backup is what was written."""
    from cloud.backup.model import Manifest

    manifest = Manifest.read(folder)
    manifest.check(folder)
    show([_row(manifest)], output)


@app.command("restore")
def restore(folder: FolderArgument, data: DataOption = DATA, output: OutputOption = Output.TABLE) -> None:
    """Make a data directory of a backup; `hearthline up` then runs on it. What came after the backup becomes named gaps."""
    import os
    import time

    from cloud.backup import service
    from cloud.settings import Settings

    os.umask(0o077)
    began = time.monotonic()
    settings = Settings.read().for_directory(data)
    manifest = service.restore(folder, settings.dir, settings.database_url)
    show([_row(manifest) | {"restored_in_ms": round((time.monotonic() - began) * 1000)}], output)


def _row(manifest: Any) -> dict[str, Any]:
    size = sum(file.size for file in manifest.files.values())
    return {"made": manifest.made_ms, "bytes": size, "files": len(manifest.files), "took_ms": manifest.took_ms, "held_ms": manifest.held_ms}
