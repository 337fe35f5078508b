"""The part of requirements.lock that some extras need, on stdout, hashes and all: an edge image without the cloud's libraries.

    python locked.py requirements.lock pyproject.toml edge,inference

The lock says for each package on whose account it is there (`# via`); what is left has to hold for everything that is asked for.
"""

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUILD = "build"  # a dependency group instead of an extra


def normal(name: str) -> str:
    """A package's name as the lock writes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name.strip(), maxsplit=1)[0]).lower()


def blocks(lock: str) -> dict[str, str]:
    """Each package's lines, by name."""
    found: dict[str, str] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE):
        if block.strip():
            found[normal(block)] = block
    return found


def wanted_by(block: str) -> set[str]:
    """Who needs the package of these lines."""
    after = block.partition("# via")[2]
    return {normal(name) for name in re.findall(r"[A-Za-z0-9][\w.\-]*", after.replace("# ", " ").replace("#", " "))}


def locked(lock: str, project: Mapping[str, Any], extras: list[str]) -> str:
    """The lines of every package that the extras need, directly or not. Raises SystemExit naming what the lock lacks."""
    names = {normal(name) for name in project["project"]["dependencies"]} if extras != [BUILD] else set()
    for extra in extras:
        group = project["dependency-groups"][BUILD] if extra == BUILD else project["project"]["optional-dependencies"][extra]
        names |= {normal(name) for name in group}
    held = blocks(lock)
    if names - held.keys():
        raise SystemExit(f"requirements.lock lacks {', '.join(sorted(names - held.keys()))}: run `make lock`")
    grown = True
    while grown:
        more = {name for name, block in held.items() if name not in names and wanted_by(block) & names}
        names, grown = names | more, bool(more)
    return "".join(block for name, block in held.items() if name in names)


def main() -> int:
    lock, project, extras = sys.argv[1:4]
    sys.stdout.write(
        locked(Path(lock).read_text(encoding="utf-8"), tomllib.loads(Path(project).read_text(encoding="utf-8")), extras.split(","))
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
