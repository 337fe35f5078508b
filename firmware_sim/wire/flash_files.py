"""The flash of a simulated device as files in a folder: what is written there is what a killed process goes on from."""

import os
from pathlib import Path

from firmware_sim.firmware.bootloader import factory
from firmware_sim.firmware.flash import RECORDS, Area, Flash, Write
from protocols.errors import Reason, Refused


class FlashFiles:
    """`flash` is what the files hold. A folder without any gets what a device has when it leaves the factory."""

    def __init__(self, folder: Path, version: str, image: bytes) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.flash = Flash({area: path.read_bytes() for area in Area if (path := folder / area).exists()})
            if not any(self.flash.read(area) for area in RECORDS):
                made = factory(version, image)
                for area in (Area.SLOT_A, Area.RECORD_0):  # the record last: it says that the slot is whole
                    self.write(Write(area, 0, made.read(area), erase=True))
        except OSError as error:
            raise Refused(Reason.BAD_CONFIGURATION, f"--state-dir: {error}") from error

    def write(self, write: Write) -> None:
        """Carry out a write; it is on the disk when this returns."""
        path = self._folder / write.area
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(write.offset)
            file.write(write.data)
            if write.erase:
                file.truncate()
            file.flush()
            os.fsync(file.fileno())
        self.flash = self.flash.after(write)
