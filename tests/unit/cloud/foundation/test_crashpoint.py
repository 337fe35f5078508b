"""A crash point stops its process when, and only when, its file says so."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PROGRAM = """
import sys
from pathlib import Path
from cloud.foundation.crashpoint import arm, crash_point
if sys.argv[1]:
    arm(Path(sys.argv[1]))
for n in range(4):
    crash_point("here")
    print(n)
"""


def run(directory: Path | str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-u", "-c", PROGRAM, str(directory)], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout.replace("\n", "")


def test_nothing_happens_unarmed_or_without_a_file(tmp_path: Path) -> None:
    assert run("") == (0, "0123")
    (tmp_path / "elsewhere").touch()
    assert run(tmp_path) == (0, "0123")


def test_an_armed_point_kills_once_and_its_file_vanishes(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    assert run(tmp_path) == (-signal.SIGKILL, "")
    assert run(tmp_path) == (0, "0123")


def test_a_number_in_the_file_lets_as_many_passes_through(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("2")
    assert run(tmp_path) == (-signal.SIGKILL, "01")
    assert list(tmp_path.iterdir()) == []
