"""Watches over the agent's process where no systemd does: starts it again when it dies, and kills it when it says nothing for too long."""

import logging
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_agent.supervise import RestartPolicy
from edge_agent.watchdog import listen

log = logging.getLogger("edge.guard")

STOP_S = 15.0
"""An agent that was asked to end drains for ten seconds at most."""
START_S = 120.0
"""A large buffer that has to be salvaged is opened within that."""
FATAL = frozenset((3,))
"""Exit codes that starting again does not mend: a bad configuration."""


class Guard:
    """`run` ends when told to stop (the agent's exit code), or when the agent ends in a way that a new start would not change."""

    def __init__(
        self, command: Sequence[str], policy: RestartPolicy, environ: Mapping[str, str], chance: Callable[[], float] = random.random
    ) -> None:
        self._environ = dict(environ)
        self._command, self._policy, self._chance = list(command), policy, chance
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None
        self.starts = self.kills = 0

    def stop(self, *_: object) -> None:
        """Ask the agent to end, and do not start it again."""
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def run(self) -> int:
        failures = 0
        with tempfile.TemporaryDirectory(prefix="hearthline-guard-") as folder:
            path = str(Path(folder) / "notify")
            with listen(path) as heard:
                while True:
                    started = time.monotonic()
                    code = self._once(path, heard)
                    if self._stopping or code in FATAL:
                        return code
                    failures = 1 if time.monotonic() - started > self._policy.window_s else failures + 1
                    wait_s = self._policy.backoff.wait_s(failures, self._chance())
                    log.error("agent.ended", extra={"code": code, "again_in_s": round(wait_s, 1)})
                    self._sleep(wait_s)
                    if self._stopping:
                        return code

    def _once(self, path: str, heard: socket.socket) -> int:
        """One life of the agent."""
        environment = self._environ | {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(int(self._policy.hang_s * 1e6))}
        self._child = child = subprocess.Popen(self._command, env=environment)
        self.starts += 1
        last, ready = time.monotonic(), False
        try:
            while child.poll() is None:
                if select.select([heard], [], [], 0.2)[0]:
                    said = heard.recv(4_096)
                    ready = ready or b"READY=1" in said
                    last = time.monotonic()
                patience = STOP_S if self._stopping else self._policy.hang_s if ready else START_S
                if time.monotonic() - last > patience:
                    self.kills += 1
                    log.error("agent.hung", extra={"pid": child.pid, "silent_s": round(time.monotonic() - last, 1)})
                    child.kill()
                    child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        return child.returncode

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            time.sleep(0.05)


def guard(config: Path, policy: RestartPolicy, environ: Mapping[str, str]) -> int:
    """Run the agent of this configuration under a guard until SIGTERM or SIGINT; returns its last exit code."""
    found = Guard([sys.executable, "-m", "edge_agent", "--config", str(config)], policy, environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, found.stop)
    return found.run()
