"""Deliberately broken builds: a copy of the shipped rooms with one patch file applied, to show that an oracle can fail."""

import shutil
import subprocess
from pathlib import Path

from tests.e2e.platform import ROOT

ROOMS = ("protocols", "edge_agent", "cloud", "firmware_sim")
PATCHES = Path(__file__).parent / "mutants"


def mutant(name: str, into: Path) -> Path:
    """A copy of the code with `mutants/<name>.patch` applied; fails when the patch no longer applies."""
    code = into / "code"
    for room in ROOMS:
        shutil.copytree(ROOT / room, code / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["git", "apply", "--unidiff-zero", "--verbose", str(PATCHES / f"{name}.patch")]
    # GIT_DIR=/dev/null would still search upwards; a ceiling keeps git from taking the copy for part of some repository.
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, env={"GIT_CEILING_DIRECTORIES": str(into), "PATH": _path()})
    assert done.returncode == 0, f"the mutant {name} no longer applies: mend its patch file\n{done.stderr}"
    return code


def _path() -> str:
    return str(Path(shutil.which("git") or "/usr/bin/git").parent)
