"""Children come back when they die, end when told, and never outlive their supervisor. Real processes, tiny ones."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloud.foundation.supervise import ChildSpec, RestartPolicy, Supervisor, ask_for_renewal, lock
from protocols.errors import Refused

ROOT = Path(__file__).parents[4]
SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
]
FAST = RestartPolicy(first_s=0.01, ceiling_s=0.02)


async def pid_of(run_dir: Path, name: str, other_than: int = 0) -> int:
    async with asyncio.timeout(10):
        while True:
            try:
                pid = int((run_dir / f"{name}.pid").read_text())
            except (FileNotFoundError, ValueError):
                pid = 0
            if pid not in (0, other_than):
                return pid
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_the_first_restart_is_fast_and_later_ones_wait_longer_up_to_a_ceiling() -> None:
    policy = RestartPolicy()
    delays = [policy.delay(n) for n in range(1, 50)]
    assert delays[0] <= 0.3
    assert delays == sorted(delays)
    assert delays[-1] == policy.ceiling_s


async def test_a_child_that_does_not_do_its_work_is_renewed_on_request(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, FAST)
    supervisor.start(ChildSpec("role", SLEEPS))
    supervisor.start(ChildSpec("other", SLEEPS))
    first, other = await pid_of(tmp_path, "role"), await pid_of(tmp_path, "other")
    ask_for_renewal(tmp_path, "other", "of another life")
    renewing = asyncio.create_task(supervisor.renew_on_request())
    await asyncio.sleep(0.1)
    ask_for_renewal(tmp_path, "role", "it sleeps")
    second = await pid_of(tmp_path, "role", other_than=first)
    await asyncio.sleep(1.5)
    assert (await pid_of(tmp_path, "role"), await pid_of(tmp_path, "other")) == (second, other), "it was renewed once"
    assert not alive(first)
    renewing.cancel()
    await supervisor.stop(("role", "other"))


async def test_a_killed_child_is_started_again_under_the_same_name(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, FAST)
    supervisor.start(ChildSpec("role", SLEEPS))
    first = await pid_of(tmp_path, "role")
    os.kill(first, signal.SIGKILL)
    second = await pid_of(tmp_path, "role", other_than=first)
    assert supervisor.keeps_dying() is None
    await supervisor.stop(("role",))
    await supervisor.stop(("role",))
    assert not alive(first)
    assert not alive(second)
    assert list(tmp_path.iterdir()) == []


async def test_a_child_that_ignores_sigterm_is_killed_after_its_time(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, FAST)
    supervisor.start(ChildSpec("role", STUBBORN, ends_s=0.2))
    pid = await pid_of(tmp_path, "role")
    await asyncio.sleep(0.3)  # it has to have said what it ignores
    start = time.monotonic()
    await supervisor.stop(("role",))
    assert time.monotonic() - start < 5
    assert not alive(pid)


async def test_a_child_that_keeps_dying_or_cannot_start_is_named(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, FAST)
    supervisor.start(ChildSpec("good", SLEEPS))
    supervisor.start(ChildSpec("bad", [sys.executable, "-c", "raise SystemExit(1)"]))
    async with asyncio.timeout(20):
        while supervisor.keeps_dying(deaths=3) is None:
            await asyncio.sleep(0.01)
    assert supervisor.keeps_dying(deaths=3) == "bad"
    await supervisor.stop(("good", "bad"))
    other = Supervisor(tmp_path, FAST)
    other.start(ChildSpec("missing", ["/nonexistent/program"]))
    async with asyncio.timeout(5):
        while other.keeps_dying() is None:
            await asyncio.sleep(0.01)
    await other.stop(("missing",))


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from cloud.foundation.supervise import ChildSpec, Supervisor\n"
        "async def main():\n"
        "    Supervisor(Path(sys.argv[1])).start(ChildSpec('role', [sys.executable, '-c', 'import time; time.sleep(60)']))\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    child = asyncio.run(pid_of(tmp_path, "role"))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def test_a_directory_has_one_supervisor(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with lock(run_dir / "lock"), pytest.raises(Refused, match="in use"), lock(run_dir / "lock"):
        pass
    with lock(run_dir / "lock"):
        pass
