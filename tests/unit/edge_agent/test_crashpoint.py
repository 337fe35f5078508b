"""A crash point does nothing unless a test asked for it, by name."""

import signal
import subprocess
import sys
from pathlib import Path

from edge_agent.domain.crashpoint import crash_point

PROGRAM = """
import sys
from pathlib import Path
from edge_agent.domain.crashpoint import arm_crash_points, crash_point
arm_crash_points(Path(sys.argv[1]))
for passed in range(5):
    crash_point("here")
    print(passed, flush=True)
"""


def run(directory: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(directory)], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout.replace("\n", "")


def test_an_unarmed_process_passes() -> None:
    crash_point("here")


def test_an_armed_process_passes_other_points(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    assert run(tmp_path) == (0, "01234")


def test_a_named_point_kills_at_once_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    assert run(tmp_path) == (-signal.SIGKILL, "")
    assert not (tmp_path / "here").exists()
    assert run(tmp_path) == (0, "01234")


def test_a_number_in_the_file_lets_so_many_pass_first(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("3")
    assert run(tmp_path) == (-signal.SIGKILL, "012")
