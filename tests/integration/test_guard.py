"""Supervision: an agent that hangs or dies is started again, one that was told to end is not, and a hung stage is restarted."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.documents.status import read_status
from edge_agent.domain.backoff import Backoff
from edge_agent.guard import Guard
from edge_agent.supervise import RestartPolicy, restart_when_hung
from edge_agent.watchdog import Watchdog, listen
from tests.e2e.platform import ROOT, wait_until

CANARY = "s3cr3t-canary-0451"
QUICK = RestartPolicy(Backoff(first_s=0.1, ceiling_s=0.2), tries=None, hang_s=3.0)


def gateway(folder: Path) -> Path:
    for name, text in (("gateway.secret", CANARY), ("appliances.toml", f'[pk]\nstove = "{CANARY}-2"\n')):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    (folder / "edge.toml").write_text(
        '[gateway]\nproduct_key = "gateway"\ndevice_name = "gw1"\n[uplink]\nhost = "127.0.0.1"\nport = 9\n'
        '[front_door]\nport = 0\n[[device]]\nproduct_key = "pk"\ndevice_name = "stove"\nthing_model = "integrated_stove"\n'
    )
    return folder / "edge.toml"


@contextmanager
def guarded(config: Path, hang_s: float) -> Iterator["subprocess.Popen[bytes]"]:
    """A guard as a process of its own, as `edgectl guard` is, with less patience."""
    code = (
        "from pathlib import Path; from edge_agent.guard import guard; from edge_agent.supervise import RestartPolicy; "
        "from edge_agent.domain.backoff import Backoff; import os, sys; "
        f"sys.exit(guard(Path({str(config)!r}), RestartPolicy(Backoff(0.1, 0.2), tries=None, hang_s={hang_s}), os.environ))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def pid_of(config: Path) -> int | None:
    found = read_status(config.parent / "data")
    return found.get("pid") if found else None


def test_an_agent_that_hangs_is_killed_and_started_again_and_one_that_dies_too(tmp_path: Path) -> None:
    config = gateway(tmp_path)
    with guarded(config, 3.0) as process:
        wait_until(lambda: pid_of(config), 20, "the agent")
        first = pid_of(config)
        assert first is not None
        time.sleep(2.5)  # it has said several times that it lives: what was said before must not count as life afterwards
        os.kill(first, signal.SIGSTOP)
        took = wait_until(lambda: pid_of(config) not in (None, first), 30, "another agent")
        assert 2.0 < took < 20.0
        second = pid_of(config)
        assert second is not None
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: pid_of(config) not in (None, first, second), 30, "a third one")
        process.terminate()
        assert process.wait(20) == 0
    assert pid_of(config) is None, "it ended in order"


def test_a_configuration_that_is_wrong_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("nonsense")
    guard = Guard([sys.executable, "-m", "edge_agent", "--config", str(tmp_path / "edge.toml")], QUICK, os.environ)
    assert guard.run() == 3
    assert guard.starts == 1


def test_the_agent_speaks_sd_notify(tmp_path: Path) -> None:
    config = gateway(tmp_path)
    with listen(str(tmp_path / "notify")) as heard:
        heard.settimeout(20)
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent", "--config", str(config)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        )
        try:
            said = [heard.recv(100) for _ in range(3)]
            process.terminate()
            while said[-1] != b"STOPPING=1":
                said.append(heard.recv(100))
            assert process.wait(15) == 0
        finally:
            process.kill()
    assert said[:3] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_a_watchdog_that_nobody_reads_stops_nobody(tmp_path: Path) -> None:
    with listen(str(tmp_path / "n")) as heard:
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        watchdog = Watchdog(str(tmp_path / "n"))
        began = time.monotonic()
        for _ in range(10_000):
            watchdog.say("WATCHDOG=1")
        assert time.monotonic() - began < 5
        watchdog.close()
    gone = Watchdog(str(tmp_path / "nobody"))
    gone.say("READY=1")
    gone.close()


async def test_a_hung_stage_is_cancelled_and_started_again_and_a_busy_one_is_left_alone() -> None:
    starts: list[float] = []
    busy: list[float | None] = [None]

    async def stage() -> None:
        starts.append(time.monotonic())
        if len(starts) == 1:
            busy[0] = time.monotonic()
            await asyncio.sleep(3_600)
        for _ in range(8):  # each step is short
            busy[0] = time.monotonic()
            await asyncio.sleep(0.2)
        busy[0] = None

    policy = RestartPolicy(Backoff(first_s=0.01, ceiling_s=0.01), hang_s=0.5)
    async with asyncio.timeout(20):
        await restart_when_hung("s", stage, lambda: busy[0], policy, now=time.monotonic, sleep=asyncio.sleep)
    assert len(starts) == 2
    assert starts[1] - starts[0] < 5


def test_a_support_bundle_has_what_helps_and_no_secret(tmp_path: Path) -> None:
    config = gateway(tmp_path)
    log = tmp_path / "agent.log"
    log.write_text(f"someone logged {CANARY} here\n")
    script = "from edge_agent.cli import main; main()"
    words = ["--config", str(config), "diag", "collect", "--into", str(tmp_path / "d.tar.gz"), "--log", str(log)]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "d.tar.gz")
    with tarfile.open(tmp_path / "d.tar.gz") as archive:
        files = {entry.name.removeprefix("hearthline-diag/"): archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert set(files) >= {"configuration.json", "status.json", "buffer.json", "machine.json", "files.json", "agent.log"}
    assert b"stove" in files["configuration.json"]
    assert b"someone logged *** here" in files["agent.log"]
    assert not any(CANARY.encode() in data for data in files.values())
    assert (tmp_path / "d.tar.gz").stat().st_mode & 0o077 == 0
