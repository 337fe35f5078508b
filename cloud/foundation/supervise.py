"""Child processes under a supervisor: started with their sockets, started again when they die, ended in order."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloud.foundation.logs import get_logger
from protocols.errors import Reason, Refused

WISHES_S = 1.0

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The first restart is fast, since a role that was killed can come back at once; one that keeps dying waits longer each time."""

    first_s: float = 0.1
    ceiling_s: float = 5.0
    healthy_s: float = 10.0

    def delay(self, deaths: int) -> float:
        """Seconds to wait after the `deaths`-th death in a row.

        >>> [RestartPolicy().delay(n) for n in (1, 2, 4, 10)]
        [0.1, 0.2, 0.8, 5.0]
        """
        return min(self.ceiling_s, self.first_s * 2.0 ** min(deaths - 1, 30))


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run. `fds` stay open in the child under the same numbers; `env` comes on top of our own; `ends_s` is its time to end."""

    name: str
    command: Sequence[str]
    fds: Sequence[int] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ends_s: float = 3.0


class Child:
    """One child process for as long as it is wanted. Its pid stands in `run_dir/{name}.pid` while it lives."""

    def __init__(self, spec: ChildSpec, run_dir: Path, policy: RestartPolicy) -> None:
        self.spec = spec
        self._pid_file = run_dir / f"{spec.name}.pid"
        self._policy = policy
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = True
        self.deaths = 0

    async def run(self) -> None:
        """Start it, and again whenever it dies, until `stop`."""
        clock = asyncio.get_running_loop().time
        in_a_row = 0
        while self._wanted:
            started = clock()
            process = await self._start()
            code = await process.wait()
            self._pid_file.unlink(missing_ok=True)
            if not self._wanted:
                return
            self.deaths += 1
            in_a_row = 1 if clock() - started > self._policy.healthy_s else in_a_row + 1
            delay = self._policy.delay(in_a_row)
            get_logger().warning("role.died", name=self.spec.name, pid=process.pid, code=code, restart_in_s=delay)
            await asyncio.sleep(delay)

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self.spec.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2,  # our stdout belongs to whoever reads --ready-json
            pass_fds=self.spec.fds,
            env={**os.environ, **self.spec.env},
            preexec_fn=_die_with_parent,
            start_new_session=True,  # Ctrl-C in a terminal reaches us only, and we end the children in order
        )
        self._process = process
        self._pid_file.write_text(str(process.pid))
        get_logger().info("role.started", name=self.spec.name, pid=process.pid)
        return process

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL when it takes longer than it may. Twice is harmless."""
        self._wanted = False
        await self.renew()
        self._pid_file.unlink(missing_ok=True)

    async def renew(self) -> None:
        """End it as `stop` does; while it is wanted another one is started."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.spec.ends_s)
        except TimeoutError:
            get_logger().error("role.killed", name=self.spec.name, after_s=self.spec.ends_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Supervisor:
    """The children of one platform."""

    def __init__(self, run_dir: Path, policy: RestartPolicy = RestartPolicy()) -> None:
        self._run_dir, self._policy = run_dir, policy
        self._children: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, spec: ChildSpec) -> None:
        """Run a child from now on."""
        child = Child(spec, self._run_dir, self._policy)
        self._children[spec.name] = child
        self._tasks[spec.name] = asyncio.get_running_loop().create_task(child.run(), name=spec.name)

    async def renew_on_request(self) -> None:
        """Give children their next life when a file `run_dir/{name}.renew` asks for it (`ask_for_renewal`), until cancelled."""
        for old in self._run_dir.glob("*.renew"):  # of a platform that has ended
            old.unlink()
        while True:
            await asyncio.sleep(WISHES_S)
            for name, child in self._children.items():
                wish = self._run_dir / f"{name}.renew"
                if wish.exists():
                    get_logger().warning("role.renewed", name=name, why=wish.read_text())
                    await child.renew()
                    wish.unlink(missing_ok=True)

    def keeps_dying(self, deaths: int = 5) -> str | None:
        """The name of a child that died this often, or that could not even be started."""
        return next((name for name, child in self._children.items() if child.deaths >= deaths or self._tasks[name].done()), None)

    async def stop(self, *groups: Sequence[str]) -> None:
        """End group after group, the children of one group together. Twice is harmless."""
        for group in groups:
            await asyncio.gather(*(self._children[name].stop() for name in group if name in self._children))
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def ask_for_renewal(run_dir: Path, name: str, why: str) -> None:
    """Have the supervisor of this directory end and start a child: it is there and does not do its work."""
    (run_dir / f"{name}.renew").write_text(why)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a file lock, which ends with the process. Raises Refused when another process has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"{path.parent.parent} is in use by another `hearthline up`; stop that one or choose another directory"
            raise Refused(Reason.BAD_CONFIGURATION, message) from error
        yield


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    # A supervisor that is killed outright must not leave a platform behind that nobody supervises.
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
