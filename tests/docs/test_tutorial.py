"""The tutorial's commands, run in their order as a newcomer would paste them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tutorial" / "first-gateway.md"


def test_the_tutorial_ends_with_readings_and_a_named_gap(tmp_path: Path) -> None:
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"the tutorial uses {program}, which is not installed")
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    # A block that fails ends the script; what is still running then is ended by the trap. `wait` ends with the code of what was killed.
    script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n" + "\n".join(blocks[:-1]) + "\n"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    points = json.loads((tmp_path / "power.json").read_text())["points"]
    assert len(points) == 5
    gaps = json.loads((tmp_path / "gaps.json").read_text())["gaps"]
    assert [gap["reason"] for gap in gaps] == ["agent_down"]
    assert gaps[0]["count"] > 0
