"""Devices on other people's SDKs, driven over JSON lines: each in a process and an environment of its own."""

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

ROOT = Path(__file__).parent.parent.parent
BUILT = ROOT / "build" / "clients"
HERE = Path(__file__).parent
ANSWER_S = 30.0


class Driver:
    """A driver's process. `call` waits for its answer; `wait` for an event, those that came before counted too."""

    def __init__(self, command: Sequence[str], log: Path, cwd: Path | None = None, more: Mapping[str, str] | None = None) -> None:
        self._errors = log.open("w")
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": ""} | dict(more or {})
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment, cwd=cwd
        )
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._came = threading.Condition()
        self.log = log
        self.events: list[tuple[str, list[Any]]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for text in self._child.stdout:
            line = json.loads(text)
            if "event" in line:
                with self._came:
                    self.events.append((line["event"], line["args"]))
                    self._came.notify_all()
            else:
                self._answers.put(line)

    def send(self, **line: Any) -> Any:
        """What the driver returns; raises RuntimeError with what the SDK raised."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(line) + "\n")
        self._child.stdin.flush()
        answer = self._answers.get(timeout=ANSWER_S)
        if "raised" in answer:
            raise RuntimeError(answer["raised"])
        return answer["returned"]

    def call(self, name: str, *arguments: Any) -> Any:
        return self.send(call=name, args=list(arguments))

    def wait(self, name: str, holds: Callable[[list[Any]], bool] = lambda _: True, timeout_s: float = 20.0) -> list[Any]:
        """The arguments of the first event of this name for which `holds`."""
        until = time.monotonic() + timeout_s
        with self._came:
            while True:
                for event, arguments in self.events:
                    if event == name and holds(arguments):
                        return arguments
                left = until - time.monotonic()
                if left <= 0 or not self._came.wait(left):
                    seen = "\n".join(f"  {event} {arguments}" for event, arguments in self.events[-30:])
                    raise TimeoutError(f"no {name} in {timeout_s:g} s; seen:\n{seen}\n{self.log.read_text()[-2000:]}")

    def count(self, name: str) -> int:
        with self._came:
            return sum(event == name for event, _ in self.events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait(10)
        self._errors.close()


def linkkit(log: Path) -> Driver:
    """A device on the vendor's Python SDK; skips where `make clients` has not been run."""
    python = BUILT / "linkkit" / "bin" / "python"
    if not python.exists():
        pytest.skip("the vendor's Python SDK is not here: make clients")
    return Driver([str(python), str(HERE / "linkkit_driver.py")], log)


def node(log: Path, ca_file: Path | None = None) -> Driver:
    """A device on the vendor's Node SDK; skips where `make clients` has not been run, or there is no node.

    The SDK cannot be given a CA: Node itself is.
    """
    modules = BUILT / "node" / "node_modules"
    if not modules.is_dir():
        pytest.skip("the vendor's Node SDK is not here: install nodejs and npm, then make clients")
    more = {} if ca_file is None else {"NODE_EXTRA_CA_CERTS": str(ca_file)}
    return Driver(["node", str(HERE / "node_driver.js")], log, BUILT / "node", more)
