"""What the running agent says of itself: one small JSON file a second, for `edgectl`. It is no promise, so it is not fsynced."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "status.json"
STALE_S = 10.0  # a running agent writes once a second


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


def silent_s(data_dir: Path) -> float | None:
    """How long ago the agent last wrote its status; None when it never did.

    Unlike a process id it tells an agent that hangs, and one that ended with the container in which its number is now another's.
    """
    try:
        return max(0.0, time.time() - (data_dir / FILE).stat().st_mtime)
    except OSError:
        return None
