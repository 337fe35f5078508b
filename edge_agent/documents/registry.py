"""What this gateway knows about the devices behind it, across restarts: when each was first and last seen, and by whom."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tinydb import TinyDB

from edge_agent.documents.storage import AtomicStorage

FILE = "devices.json"


@dataclass(frozen=True, slots=True)
class DeviceNote:
    """`source` is the connector's name or "front_door"; times in epoch ms, 0 = never."""

    product_key: str
    device_name: str
    source: str
    online: bool = False
    first_seen_ms: int = 0
    last_change_ms: int = 0


class DeviceRegistry:
    """A few hundred notes at most, written on a change of presence and never per message."""

    def __init__(self, data_dir: Path) -> None:
        self._database = TinyDB(data_dir / FILE, storage=AtomicStorage)
        self._table = self._database.table("device")

    def notes(self) -> dict[tuple[str, str], DeviceNote]:
        """Every note by (product_key, device_name); notes that no longer read are left out."""
        found = {}
        for document in self._table.all():
            try:
                note = DeviceNote(**document)
            except TypeError:  # written by another version: it will be noted again
                continue
            found[note.product_key, note.device_name] = note
        return found

    def keep(self, notes: Mapping[tuple[str, str], DeviceNote]) -> None:
        """Replace all notes in one write; raises OSError when the disk refuses."""
        # One write through the storage: table.truncate() and insert_multiple() would be two, with nothing in between.
        self._database.storage.write({"device": {str(index): asdict(note) for index, note in enumerate(notes.values(), 1)}})
        self._table.clear_cache()

    def close(self) -> None:
        self._database.close()
