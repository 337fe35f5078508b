"""The house as data: every shipped file has a home that `house.txt` names, and every home exists."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("protocols", "edge_agent", "cloud", "firmware_sim")
TOP_LEVEL = {"edge_agent", "cloud", "firmware_sim", "protocols", "tests", "docker", "docs"}
IGNORED = {".git", ".ci", ".venv", "build", "dist"}
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "base"}


def house() -> dict[str, str]:
    """path -> what lives there, from house.txt: a folder's line ends with `/`, its files are indented below it."""
    homes: dict[str, str] = {}
    folder = ""
    for line in (Path(__file__).parent / "house.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, what = line.strip().partition(" ")
        if name.endswith("/"):
            folder = name
        else:
            assert line.startswith("    "), f"a file stands indented below its folder: {line!r}"
            homes[f"{folder}{name}"] = what.strip()
    return homes


def shipped() -> list[str]:
    """Every file with content in the four rooms."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path.relative_to(ROOT).as_posix() for path in files if path.stat().st_size)


def test_every_file_has_a_home_and_every_home_its_file() -> None:
    homes, files = house(), shipped()
    assert len(files) > 60
    assert sorted(set(files) - set(homes)) == [], "files without a home: name them in tests/architecture/house.txt"
    assert sorted(set(homes) - set(files)) == [], "homes without a file"


def test_every_home_says_what_lives_there() -> None:
    assert [path for path, what in house().items() if len(what) < 8] == []


def test_top_level_is_the_rooms_and_nothing_else() -> None:
    tracked = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - IGNORED
    assert tracked - {name for name in tracked if name.endswith((".egg-info", "__pycache__"))} <= TOP_LEVEL


@pytest.mark.parametrize("path", [path for path in shipped() if path.endswith(".py")])
def test_a_module_says_what_it_is_and_has_a_telling_name(path: str) -> None:
    assert Path(path).stem not in VAGUE
    if not path.endswith(("__init__.py", "__main__.py")):
        assert ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))), f"{path} has no docstring"


def _reads_environment(tree: ast.AST) -> bool:
    """Whether a module looks into the environment; handing it on whole to a child process (`{**os.environ, ...}`) is not looking."""
    handed_on = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is None
    }
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in ("environ", "getenv")
        for node in ast.walk(tree)
        if id(node) not in handed_on
    )


@pytest.mark.parametrize("room", ["edge_agent", "cloud"])
def test_only_settings_reads_the_environment(room: str) -> None:
    modules = [path for path in (ROOT / room).rglob("*.py") if path.name not in ("settings.py", "cli.py") and "cli" not in path.parts]
    assert len(modules) > 10
    readers = [path.relative_to(ROOT).as_posix() for path in modules if _reads_environment(ast.parse(path.read_text(encoding="utf-8")))]
    assert readers == []


def test_protocols_do_no_input_or_output() -> None:
    forbidden = {"socket", "asyncio", "subprocess", "os", "pathlib", "selectors", "ssl", "urllib"}
    for path in (ROOT / "protocols").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {name.partition(".")[0] for name in names} & forbidden, f"{path.relative_to(ROOT)} imports {names}"


def test_nothing_is_raised_inside_except_star() -> None:
    """Before Python 3.11.4 it comes out wrapped in a group, and whoever waits for it by its type does not see it."""
    handlers = [
        (path, handler)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
    ]
    assert len(handlers) > 2
    assert [str(path) for path, handler in handlers if any(isinstance(node, ast.Raise) for node in ast.walk(handler))] == []
