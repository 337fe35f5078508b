"""The container files, as far as they can be held to anything without an engine: schema, paths, commands, users, health checks."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cloud.app import build_api
from cloud.cli import app as hearthline
from edge_agent.cli import app as edgectl
from firmware_sim.cli import app as fwsim

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
PROGRAMS = {"hearthline": hearthline, "edgectl": edgectl, "fwsim": fwsim}
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"\\\n\s*", " ", file.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def last(file: Path, name: str) -> str:
    return next(arguments for instruction, arguments in reversed(instructions(file)) if instruction == name)


def check_command(words: list[str]) -> None:
    """The words are a verb of ours with options that it has."""
    command: Any = typer.main.get_command(PROGRAMS[words[0]])
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    assert not hasattr(command, "commands"), f"{words} names no verb"
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= options, words


def test_the_compose_file_is_one_by_its_own_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_compose_file_that_is_none_would_be_found(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("stop_grace_period: 15s", "stop_grace_period: {}"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1


def test_every_service_has_its_file_its_bounds_and_time_to_drain() -> None:
    assert len(COMPOSE["services"]) == 3
    for name, service in COMPOSE["services"].items():
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).resolve() in DOCKERFILES, name
        assert service["read_only"] and service["mem_limit"], name  # noqa: PT018 - both of one service
        assert "no-new-privileges:true" in service["security_opt"]
        assert int(service["stop_grace_period"].removesuffix("s")) >= 12, "the agent and the cloud drain within ten seconds"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "published on loopback"
        program = json.loads(last(DOCKER / Path(service["build"]["dockerfile"]).name, "ENTRYPOINT"))
        if "command" in service:
            check_command([*program, *service["command"]])
    mounted = {volume.partition(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", [])}
    assert {name for name in mounted if not name.startswith(".")} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_a_dockerfile_copies_what_exists_runs_what_exists_and_not_as_root(file: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copies = [arguments.split() for name, arguments in instructions(file) if name == "COPY" and "--from=" not in arguments]
    assert len(copies) >= 5
    for *sources, _ in copies:
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] not in ignored
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(file, "USER"))
    assert "--require-hashes" in file.read_text()
    check_command([*json.loads(last(file, "ENTRYPOINT")), *json.loads(last(file, "CMD"))])
    health = json.loads(last(file, "HEALTHCHECK").partition("CMD ")[2])
    if health[0] in PROGRAMS:
        check_command(health)
    else:
        compile(health[2], file.name, "exec")
        assert health[:2] == ["python", "-c"]
    given = " ".join(text for name, text in instructions(file) if name in ("ENV", "ARG"))
    assert not re.search(r"(?i)secret|token|password|api_key", given)


def test_the_cloud_s_health_check_asks_a_route_that_there_is() -> None:
    nobody: Any = None
    app = build_api(
        database=nobody, vault=nobody, bus=nobody, metrics=nobody, downlink=None, sessions=None, changes=None, history=None, checks={}
    )
    assert "http://127.0.0.1:8080/readyz" in last(DOCKER / "cloud.Dockerfile", "HEALTHCHECK")
    assert "/readyz" in app.openapi()["paths"]


def test_what_the_edge_image_installs_is_locked_as_everywhere_else_and_light() -> None:
    pins = [set(re.findall(r"^([\w.-]+==\S+)", (ROOT / name).read_text(), re.M)) for name in ("docker/edge.lock", "requirements.lock")]
    assert pins[0] <= pins[1], pins[0] - pins[1]
    assert len(pins[0]) < len(pins[1]) / 2
    assert not {pin for pin in pins[0] if pin.startswith(("duckdb", "nicegui", "sqlalchemy", "pyarrow", "nats"))}
