"""Backups on the bus: `core`, which owns the store, makes them while the platform runs."""

from pathlib import Path
from typing import Final

import msgspec

from cloud.backup.model import Manifest
from cloud.backup.service import Backup
from cloud.foundation.bus import Bus
from cloud.foundation.logs import get_logger
from protocols.errors import PlatformError, Reason, Refused, TryAgain

SUBJECT: Final = "core.backup"
MOST_S: Final = 3600.0


class Wanted(msgspec.Struct, frozen=True):
    """`folder` is absolute, on the machine of `core`."""

    folder: str


class Made(msgspec.Struct, frozen=True):
    """The manifest, or why there is none and whether trying again may help."""

    manifest: Manifest | None = None
    error: str = ""
    again: bool = False


_decode_wanted = msgspec.json.Decoder(Wanted).decode
_decode_made = msgspec.json.Decoder(Made).decode
_encode = msgspec.json.Encoder().encode


async def serve_backups(bus: Bus, backup: Backup) -> None:
    """Make one backup after another, as they are asked for."""

    async def make(data: bytes) -> bytes:
        wanted = _decode_wanted(data)
        try:
            manifest = await backup.make(Path(wanted.folder))
        except PlatformError as error:
            get_logger().warning("backup.failed", folder=wanted.folder, error=str(error))
            return _encode(Made(error=str(error), again=isinstance(error, TryAgain)))
        except Exception as error:  # noqa: BLE001 - whoever waits has to hear of it
            get_logger().exception("backup.failed", folder=wanted.folder)
            return _encode(Made(error=f"the backup failed, the log of core says how: {error}"))
        get_logger().info("backup.made", folder=wanted.folder, took_ms=manifest.took_ms, held_ms=manifest.held_ms)
        return _encode(Made(manifest))

    await bus.serve(SUBJECT, make)


async def ask_for_backup(bus: Bus, folder: Path) -> Manifest:
    """The manifest of a backup that `core` made. Raises Refused, TryAgain."""
    made = _decode_made(await bus.request(SUBJECT, _encode(Wanted(str(folder))), timeout_s=MOST_S))
    if made.manifest is None:
        raise TryAgain(made.error) if made.again else Refused(Reason.BAD_CONFIGURATION, made.error)
    return made.manifest
