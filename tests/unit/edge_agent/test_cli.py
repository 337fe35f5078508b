"""`edgectl`: what scripts rely on. Exit codes, stdout for data, a configuration that is right from the start."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.cli.output import Exit
from edge_agent.documents.status import write_status
from edge_agent.settings import load
from edge_agent.southbound.plan import ModbusPlan

runner = CliRunner()
ROOT = Path(__file__).parent.parent.parent.parent


def edgectl(home: Path, *words: str) -> tuple[int, str, str]:
    done = runner.invoke(app, ["--config", str(home / "edge.toml"), *words])
    return done.exit_code, done.stdout, done.stderr


def test_init_writes_a_configuration_that_is_right_and_secrets_only_their_owner_reads(tmp_path: Path) -> None:
    code, out, err = edgectl(tmp_path, "init", "--name", "gw7", "--host", "cloud", "--port", "2883", "--secret", "s3cret")
    assert (code, out) == (0, "")
    assert "edge.toml" in err
    settings = load(tmp_path / "edge.toml", {})
    assert (settings.gateway.device_name, settings.gateway.secret, settings.uplink.port) == ("gw7", "s3cret", 2883)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("gateway.secret", "appliances.toml")] == [0o600, 0o600]
    assert "s3cret" not in err


def test_the_commented_part_of_the_template_is_right_too(tmp_path: Path) -> None:
    edgectl(tmp_path, "init", "--secret", "s")
    path = tmp_path / "edge.toml"
    head, _, example = path.read_text().partition("# [[device]]")
    lines = ("# [[device]]" + example).splitlines()
    path.write_text(head + "\n".join(line.removeprefix("# ") for line in lines).replace("<product key>", "pk"))
    shutil.copy(ROOT / "firmware_sim" / "models" / "stamping_press.onnx", tmp_path / "press.onnx")
    settings = load(path, {})
    connector, serial = settings.connectors
    assert isinstance(connector, ModbusPlan)
    assert serial.kind == "serial-line"
    (model,) = settings.models
    assert (model.devices, model.score, model.event, settings.inference.queue_rows) == (
        ("press-1",),
        "AnomalyScore",
        "AnomalyDetected",
        10_000,
    )
    assert (connector.sample_on, connector.time_from) == ("counter", "time_ms")


def test_init_touches_nothing_that_exists(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("mine")
    assert edgectl(tmp_path, "init")[0] == Exit.FAILED
    assert (tmp_path / "edge.toml").read_text() == "mine"
    (tmp_path / "edge.toml").unlink()
    (tmp_path / "gateway.secret").write_text("kept")
    assert edgectl(tmp_path, "init", "--secret", "new")[0] == 0
    assert (tmp_path / "gateway.secret").read_text() == "kept"


def test_config_check_names_the_key_and_ends_with_its_own_code(tmp_path: Path) -> None:
    edgectl(tmp_path, "init", "--secret", "s")
    code, out, _ = edgectl(tmp_path, "config", "check", "-o", "json")
    assert (code, json.loads(out)["gateway"]) == (0, "gateway/gw1")
    path = tmp_path / "edge.toml"
    path.write_text(path.read_text().replace("window = 16", "window = 0"))
    code, out, err = edgectl(tmp_path, "config", "check")
    assert (code, out) == (Exit.BAD_CONFIGURATION, "")
    assert "uplink.window" in err


def test_before_the_first_run_there_is_no_buffer(tmp_path: Path) -> None:
    edgectl(tmp_path, "init", "--secret", "s")
    assert edgectl(tmp_path, "buffer", "status")[0] == Exit.NOTHING_THERE
    assert edgectl(tmp_path, "account")[0] == Exit.NOTHING_THERE
    assert edgectl(tmp_path, "status")[0] == Exit.NOTHING_THERE


def test_the_account_of_a_running_agent_is_of_now_and_not_of_a_second_ago(tmp_path: Path) -> None:
    edgectl(tmp_path, "init", "--secret", "s")
    data_dir = load(tmp_path / "edge.toml", {}).data_dir
    data_dir.mkdir(exist_ok=True)

    def speak(written_ms: int, readings: int) -> None:
        lane = {"collected": readings, "delivered": 0, "readings": readings, "in_gaps": 0}
        write_status(data_dir, {"pid": os.getpid(), "written_ms": written_ms, "buffer": {"lanes": {"live": lane}}})

    speak(1, 4)
    later = threading.Timer(0.3, speak, (2, 6))
    later.start()
    code, out, _ = edgectl(tmp_path, "account", "-o", "json")
    later.join()
    assert (code, json.loads(out)["collected"]) == (0, 6)


def commands() -> list[tuple[str, typer.core.TyperCommand]]:
    group = typer.main.get_command(app)
    found: list[tuple[str, typer.core.TyperCommand]] = []

    def walk(path: str, command: object) -> None:
        if isinstance(command, typer.core.TyperGroup):
            for name, child in command.commands.items():
                walk(f"{path} {name}".strip(), child)
        elif isinstance(command, typer.core.TyperCommand):
            found.append((path, command))

    walk("", group)
    return found


@pytest.mark.parametrize(("path", "command"), commands(), ids=[path for path, _ in commands()])
def test_every_option_has_a_variable_and_every_command_says_what_it_does(path: str, command: typer.core.TyperCommand) -> None:
    assert command.help
    for parameter in command.params:
        if parameter.name != "help":
            assert getattr(parameter, "envvar", None), f"{path} --{parameter.name}"
            assert getattr(parameter, "help", None), f"{path} --{parameter.name}"
