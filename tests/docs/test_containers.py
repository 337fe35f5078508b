"""The container files, as far as they can be held against the project without an engine: schema, paths, commands, users, health checks."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from cloud.cli import app as hearthline
from cloud.foundation.api import router
from docker.locked import blocks, locked, normal
from edge_agent.cli import app as edgectl
from edge_agent.settings import PREFIX
from firmware_sim.cli import app as fwsim

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
IMAGES = ("cloud", "edge", "sim")
EXTRAS = {"cloud": "cloud", "edge": "edge,inference", "sim": "sim"}
PROGRAMS = {"hearthline": hearthline, "edgectl": edgectl, "fwsim": fwsim}
PAGE = ROOT / "docs" / "how-to" / "run-in-containers.md"


@cache
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(DOCKER / "compose.yaml")
    return loaded


def instructions(image: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, the rest) of a Dockerfile, continued lines joined."""
    text = (DOCKER / f"{image}.Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def final_stage(image: str) -> list[tuple[str, str]]:
    found = instructions(image)
    last = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def check_command(words: list[str]) -> None:
    """Fails unless the program has this verb with these options."""
    command: Any = typer.main.get_command(PROGRAMS[words[0]])
    rest = words[1:]
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"{words[0]} has no {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    assert not hasattr(command, "commands"), f"{' '.join(words)} is no command"
    known = {option for parameter in command.params for option in parameter.opts}
    given = {word for word in rest if word.startswith("-")}
    assert given <= known, f"{' '.join(words)}: no option {given - known}"


def test_the_compose_file_is_one() -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    assert program.exists()
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_check_can_fail(tmp_path: Path) -> None:
    broken = compose() | {"services": {"cloud": {"imagee": "x"}}}
    broken = {key: value for key, value in broken.items() if not key.startswith("x-")}
    YAML(typ="safe").dump(broken, tmp_path / "compose.yaml")
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(tmp_path / "compose.yaml")]
    assert subprocess.run(command, capture_output=True).returncode != 0


@pytest.mark.parametrize("name", compose()["services"])
def test_a_service_is_confined_and_listens_on_loopback_only(name: str) -> None:
    service = compose()["services"][name]
    assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert int(service["stop_grace_period"].removesuffix("s")) > 10  # a role drains for so long
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    for volume in service.get("volumes", ()):
        assert volume.split(":")[0] in compose()["volumes"]
    assert not re.search(r"secret|key|token|password", json.dumps(service.get("environment", {})), re.IGNORECASE)


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_exists_and_gets_past_the_ignore_file(image: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = [rest.split()[:-1] for word, rest in instructions(image) if word == "COPY" and not rest.startswith("--from")]
    sources = [source for paths in copied for source in paths]
    assert {"requirements.lock", "pyproject.toml", "protocols"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_user_without_rights_and_asks_its_program_how_it_is(image: str) -> None:
    stage = final_stage(image)
    users = [rest for word, rest in stage if word == "USER"]
    assert users == ["hearthline"]
    assert stage[-1][0] == "CMD"
    (health,) = [rest for word, rest in stage if word == "HEALTHCHECK"]
    words = json.loads(health.partition("CMD ")[2])
    if words[0] in PROGRAMS:
        check_command(words)
    else:
        compile(words[2], "healthcheck", "exec")
        assert words[:2] == ["python", "-c"]
    assert not any(word == "ARG" and re.search("secret|key|token", rest, re.IGNORECASE) for word, rest in instructions(image))


def test_the_clouds_health_check_asks_a_route_that_is_there() -> None:
    app = FastAPI()
    app.include_router(router)
    (health,) = [rest for word, rest in final_stage("cloud") if word == "HEALTHCHECK"]
    found = re.search(r"http://127\.0\.0\.1:8080(/\w+)", health)
    assert found is not None
    assert found[1] in app.openapi()["paths"]


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_runs_is_a_command_with_these_options(image: str) -> None:
    (words,) = [json.loads(rest) for word, rest in final_stage(image) if word == "CMD"]
    if words[:2] == ["sh", "-c"]:
        words = shlex.split(re.sub(r"\$\([^)]*\)", "x", words[2].removeprefix("exec ")))
    check_command(words)


def test_a_gateways_overrides_are_settings() -> None:
    names = compose()["services"]["edge"]["environment"]
    assert all(name.startswith(PREFIX) for name in names)
    reference = (ROOT / "docs" / "reference" / "edge-configuration.md").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^\[(\w+)\][^\n]*\n((?:[^\[\n][^\n]*\n)+)", reference, flags=re.MULTILINE))
    for name in names:
        table = next(table for table in tables if name.startswith(f"{PREFIX}{table.upper()}_"))
        assert f"{name.removeprefix(f'{PREFIX}{table.upper()}_').lower()} =" in tables[table], name


def _needed(name: str, extras: tuple[str, ...], seen: set[str]) -> Iterator[str]:
    """What an installed distribution needs on this machine, by its own metadata."""
    for line in requires(name) or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in extras or ("",)]
        if requirement.marker is not None and not any(requirement.marker.evaluate(one) for one in environments):
            continue
        wanted = normal(requirement.name)
        if wanted in seen:
            continue
        seen.add(wanted)
        yield wanted
        yield from _needed(wanted, tuple(requirement.extras), seen)


@pytest.mark.parametrize("image", IMAGES)
def test_the_lock_of_an_image_holds_what_its_libraries_need_and_no_other_program(image: str) -> None:
    lock, project = (ROOT / "requirements.lock").read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = EXTRAS[image]
    assert f"pyproject.toml {extras} > run.lock" in (DOCKER / f"{image}.Dockerfile").read_text()
    part = blocks(locked(lock, project, extras.split(",")))
    assert all(block == blocks(lock)[name] and "--hash=sha256:" in block for name, block in part.items())
    direct = [normal(line) for extra in extras.split(",") for line in project["project"]["optional-dependencies"][extra]]
    needed = {name for one in direct for name in (one, *_needed(one, (), set()))}
    assert len(needed) > 8
    assert needed <= part.keys()
    assert ("duckdb" in part, "apsw" in part) == (image == "cloud", image == "edge")


def test_every_command_of_the_page_is_one() -> None:
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL))
    text = text.replace("\\\n", " ")
    commands = re.findall(r"\b(?:hearthline|edgectl) (?:tenant|device|init|config|status)[^\n|;)]*", text)
    assert len(commands) == 6
    for command in commands:
        check_command(shlex.split(command))
    services = compose()["services"].keys()
    assert shutil.which("docker") or set(re.findall(r"(?:exec|restart)(?: -e \w+)? (\w+)", text)) <= services
