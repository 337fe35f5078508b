"""The account by stretches of time, on request: `edgectl` asks with a file, the running agent answers with another within a second.

The buffer is open in one process only, and what it remembers of three months is too much to be said every second.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edge_agent.ports import Stretch

QUESTION, ANSWER = "account.ask", "account.json"
EVERY_S = 0.05


def is_asked(data_dir: Path) -> bool:
    return (data_dir / QUESTION).exists()


def answer(data_dir: Path, stretches: Sequence[Stretch]) -> None:
    """Raises OSError."""
    fresh = data_dir / (ANSWER + ".new")
    fresh.write_text(json.dumps([asdict(one) for one in stretches]))
    (data_dir / QUESTION).unlink(missing_ok=True)
    fresh.replace(data_dir / ANSWER)


def ask(data_dir: Path, timeout_s: float) -> list[Stretch] | None:
    """The running agent's account; None when it does not answer. Raises OSError."""
    file = data_dir / ANSWER
    file.unlink(missing_ok=True)
    (data_dir / QUESTION).touch()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if file.exists():
            found = [Stretch(**one) for one in json.loads(file.read_text())]
            file.unlink(missing_ok=True)
            return found
        time.sleep(EVERY_S)
    (data_dir / QUESTION).unlink(missing_ok=True)
    return None
