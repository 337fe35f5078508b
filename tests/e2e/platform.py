"""Starts, stops, kills and waits for the real processes. Nothing here looks inside them: it knows command lines, files and HTTP.

`code` is the tree whose code runs: the project itself, or a copy of it with one deliberate fault (tests/e2e/mutant.py).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from tests.e2e.account import Api

ROOT = Path(__file__).parent.parent.parent
READY_S = 60.0
STOP_S = 10.0


def wait_until(holds: Callable[[], object], timeout_s: float, what: str, every_s: float = 0.05) -> float:
    """Seconds until `holds()` is true; raises TimeoutError that names `what`."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(every_s)
    return time.monotonic() - start


class Process:
    """One real process with its log; ends with the `with` block whatever happens inside."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, *, code: Path = ROOT, crash_dir: Path | None = None) -> None:
        self.name, self._arguments, self.folder, self._code = name, list(arguments), folder, code
        self._crash_dir = crash_dir
        self.environment: dict[str, str] = {}  # on top of ours
        self.prefix: list[str] = []  # what runs the command
        self.stdin: int | None = None  # PIPE for a process that is told things
        self._child: subprocess.Popen[str] | None = None
        self.log = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEARTHLINE_")}
        environment |= {"PYTHONPATH": str(self._code), "PYTHONUNBUFFERED": "1"} | self.environment
        if self._crash_dir is not None:
            self._crash_dir.mkdir(parents=True, exist_ok=True)
            environment["HEARTHLINE_CRASH_DIR"] = str(self._crash_dir)
        with self.log.open("a") as errors:
            command = [*self.prefix, sys.executable, *self._arguments]
            self._child = subprocess.Popen(
                command, stdin=self.stdin, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=self._code
            )
        return self._child

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def stdout(self) -> IO[str]:
        assert self._child is not None
        assert self._child.stdout is not None
        return self._child.stdout

    def tell(self, line: str) -> Any:
        """Say a line to a process that answers with a line of JSON; the answer."""
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return self.hear()

    def hear(self, timeout_s: float = 60.0) -> Any:
        """The next line of JSON that the process says; one that is silent for so long is killed. Raises RuntimeError at its end."""
        assert self._child is not None
        silence = threading.Timer(timeout_s, self._child.kill)
        silence.start()
        try:
            line = self.stdout.readline()
        finally:
            silence.cancel()
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self.tail()}")
        return json.loads(line)

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def wait(self, timeout_s: float) -> int:
        """The exit code; raises TimeoutExpired."""
        assert self._child is not None
        return self._child.wait(timeout_s)

    def kill(self) -> float:
        """SIGKILL; returns the monotonic time of the kill. A process that ended by itself before is an error."""
        assert self._child is not None
        assert self.running, f"{self.name} had ended by itself:\n{self.tail()}"
        at = time.monotonic()
        self._child.kill()
        self._child.wait(10)
        self.stdout.close()
        return at

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM and the exit code; a process that needs longer than it promised is an error."""
        assert self._child is not None
        if self.running:
            self._child.terminate()
        try:
            return self._child.wait(timeout_s)
        finally:
            self.stdout.close()

    def end(self) -> None:
        if self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        if self.running:
            self.kill()

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Cloud(Process):
    """`hearthline up` and its roles."""

    def __init__(self, folder: Path, *, code: Path = ROOT, crash_points: bool = True) -> None:
        self.data = folder / "cloud"
        self.crash_dir = folder / "crash-cloud"
        self.mqtt_port = self.mqtts_port = self.api_port = 0
        self.api_url = self.admin_key = ""
        super().__init__("up", [], folder, code=code, crash_dir=self.crash_dir if crash_points else None)

    def start(self) -> "subprocess.Popen[str]":
        ports = ["--mqtt-port", str(self.mqtt_port), "--api-port", str(self.api_port), "--mqtts-port", str(self.mqtts_port)]
        self._arguments = ["-m", "cloud", "up", "--data", str(self.data), *ports, "--ready-json"]
        child = super().start()
        line = self.stdout.readline()
        if not line:
            raise RuntimeError(f"hearthline up ended before it was ready:\n{self.tail()}")
        ready = json.loads(line)
        self.mqtt_port, self.mqtts_port, self.api_url = ready["mqtt_port"], ready["mqtts_port"], ready["api_url"]
        self.api_port = int(self.api_url.rsplit(":", 1)[1].split("/")[0])
        self.admin_key = ready["admin_key"] or self.admin_key
        return child

    @property
    def api(self) -> Api:
        return Api(self.api_url, self.admin_key)

    def role_pid(self, role: str) -> int | None:
        """The process id of `nats`, `access`, `ingest` or `core`, from the supervisor's file."""
        try:
            return int((self.data / "run" / f"{role}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def kill_role(self, role: str) -> None:
        """SIGKILL one role and wait until the supervisor has started another."""
        pid = self.role_pid(role)
        assert pid is not None, f"no pid file of {role}"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.role_pid(role) not in (None, pid), 20, f"{role} started again")

    def crash(self, point: str, passes: int = 0) -> Path:
        """Arm a crash point; the file vanishes when the process has died there."""
        return arm(self.crash_dir, point, passes)

    def post(self, path: str, body: object) -> Any:
        """POST JSON with the admin key; raises with the problem's text."""
        request = urllib.request.Request(
            f"{self.api_url}{path}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.admin_key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            raise

    def product(self, name: str, tsl: object) -> str:
        """The product key of a new product."""
        return str(self.post("/v1/products", {"name": name, "tsl": tsl})["product_key"])

    def device(self, product_key: str, name: str, site: str | None = None) -> str:
        """The secret of a new device."""
        body = {"device_name": name} | ({"site": site} if site else {})
        return str(self.post(f"/v1/products/{product_key}/devices", body)["device_secret"])


class Gateway(Process):
    """`edgectl run` on a configuration of the test's."""

    def __init__(self, folder: Path, configuration: str, *, secret: str, appliances: str = "", code: Path = ROOT) -> None:
        self.configuration = folder / "edge.toml"
        self.crash_dir = folder / "crash-edge"
        folder.mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(configuration)
        for name, text in (("gateway.secret", secret), ("appliances.toml", appliances)):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text)
        super().__init__("agent", ["-m", "edge_agent", "--config", str(self.configuration)], folder, code=code, crash_dir=self.crash_dir)

    def crash(self, point: str, passes: int = 0) -> Path:
        """Arm a crash point; the file vanishes when the agent has died there."""
        return arm(self.crash_dir, point, passes)

    def edgectl(self, *words: str) -> Any:
        """The JSON answer of one `edgectl` call."""
        script = "from edge_agent.cli import main; main()"
        command = [sys.executable, "-c", script, "--config", str(self.configuration), *words, "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | {"PYTHONPATH": str(self._code)})
        if done.returncode:
            raise RuntimeError(f"edgectl {' '.join(words)}: exit {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    @property
    def at_work(self) -> bool:
        """Whether the process that was started last has said that it runs."""
        try:
            return bool(self.edgectl("status")["pid"] == self.pid)
        except RuntimeError:  # exit 4: not yet, or not any more
            return False


def simulator(name: str, arguments: Sequence[str], folder: Path) -> Process:
    """A `fwsim` call. Simulators are never mutated: they are part of the oracle's side."""
    return Process(name, ["-m", "firmware_sim", *arguments], folder)


def arm(folder: Path, point: str, passes: int) -> Path:
    """Arm `point` below `folder`, to fire after `passes` further passes."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{point}"
    fresh.write_text(str(passes))
    return fresh.rename(folder / point)


def wait_gone(armed: Path, timeout_s: float = 30.0) -> None:
    """Wait until an armed crash point has fired; raises if it never did."""
    wait_until(lambda: not armed.exists(), timeout_s, f"crash point {armed.name} fired", every_s=0.005)
