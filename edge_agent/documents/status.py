"""What the running agent says of itself: one small JSON file a second, for `edgectl`. It is no promise, so it is not fsynced."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "status.json"


def write_status(data_dir: Path, status: Mapping[str, object]) -> None:
    """Replace the file whole; raises OSError."""
    fresh = data_dir / (FILE + ".new")
    fresh.write_text(json.dumps(status, ensure_ascii=False))
    fresh.replace(data_dir / FILE)


def read_status(data_dir: Path) -> dict[str, Any] | None:
    """The last status written; None when there is none."""
    try:
        found = json.loads((data_dir / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_running(status: Mapping[str, Any] | None) -> bool:
    """Whether the process that wrote `status` still exists."""
    pid = status.get("pid") if status else None
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
