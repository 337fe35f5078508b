"""Rows 1, 12 to 16, 30, 31 and 59: the agent's process, its clock, its commands and its configuration."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.lone_module import lone_module
from tests.e2e.platform import ROOT, wait_until
from tests.e2e.scenes import Site, said, settled, wait_rows
from tests.e2e.trio import Scene, scene
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import NotHere, Stage, Tally, fault

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def called(stage: Stage, what: str) -> str:
    """A name that no other run on this platform has."""
    return f"{what}-{stage.chance.randrange(1 << 32):08x}"


@contextmanager
def playing(stage: Stage, what: str, rows: int) -> Iterator[Scene]:
    """A machine, an appliance behind a gateway and a direct one, all at work."""
    with scene(stage.cloud(), stage.folder, called(stage, what), rows, code=stage.code) as played:
        wait_rows(played.logs["direct"], 20)
        # Who is killed before its first row of the machine is on disk does not know that there was one.
        machine = f"/v1/telemetry/{played.site.keys['machine']}/machine"
        wait_until(lambda: played.cloud.api.get(machine), 20, "the machine's first row")
        yield played


def account(played: Scene, runs: int, outcome: str = "") -> Tally:
    return Tally.of_accounts(played.accounts(60, raw=("machine", "local")), runs=runs, outcome=outcome)


@fault(1, "the whole agent killed at any moment", runs=40, few=1, how="SIGKILL, started again after 0 to 2 s")
def agent_killed(stage: Stage) -> Tally:
    with playing(stage, "kill", 120 * stage.runs) as played:
        for _ in range(stage.runs):
            time.sleep(stage.chance.random() * 1.2)
            played.site.gateway.kill()
            time.sleep(stage.chance.random() * 2)
            played.site.gateway.start()
        return account(played, stage.runs)


@fault(
    1,
    "the agent beside a controller killed at any moment",
    runs=12,
    mutants=("acknowledge_rows_before_disk",),
    mutant_runs=15,
    how="SIGKILL; a serial line that spoils one byte in 500",
)
def lone_module_killed(stage: Stage) -> Tally:
    name = called(stage, "lone")
    with lone_module(stage.cloud(), stage.folder, name, rows=120 * stage.runs, rate=60, noise=0.002, code=stage.code) as (
        site,
        controller,
        cable,
    ):
        folder = site.gateway.configuration.parent
        for _ in range(stage.runs):
            wait_until(lambda: status_pid(folder) == site.gateway.pid, 20, "the agent is at work")
            time.sleep(0.5 + stage.chance.random())
            site.gateway.kill()
            time.sleep(stage.chance.random())
            site.gateway.start()
        said(controller, "done", 120)
        assert controller.wait(60) == 0, "the controller was told that every row is on disk"
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 30, "an empty buffer")
        found = settled(site.cloud, site.keys["oven"], "oven", stage.folder / "oven.jsonl", raw=True, timeout_s=20)
        site.agree()
        assert cable.spoilt > 0
        tally = Tally.of_accounts({"oven": found}, runs=stage.runs, outcome=f"{found.stored} stored once, {cable.spoilt} bytes spoilt")
        return tally + Tally(runs=0, false_acks=found.in_gaps)  # the controller let go of nothing by itself


@fault(12, "the agent hangs", mutants=("no_watch",), mutant_runs=1, runs=1, how="SIGSTOP under `edgectl guard`")
def agent_hangs(stage: Stage) -> Tally:
    with playing(stage, "hang", 2_400 * stage.runs) as played:
        gateway = played.site.gateway
        old = status_pid(gateway.configuration.parent)
        gateway.kill()
        script = "from edge_agent.cli import main; main()"
        gateway._arguments = ["-c", script, "--config", str(gateway.configuration), "guard"]
        gateway.start()
        slowest = 0.0
        for _ in range(stage.runs):
            wait_until(lambda last=old: status_pid(gateway.configuration.parent) not in (None, last), 30, "another agent")  # type: ignore[misc]
            old = before = status_pid(gateway.configuration.parent)
            assert before is not None
            time.sleep(1 + stage.chance.random())
            os.kill(before, signal.SIGSTOP)
            took = wait_until(lambda old=before: status_pid(gateway.configuration.parent) not in (None, old), 40, "another agent")  # type: ignore[misc]
            slowest = max(slowest, took)
        assert slowest < 30
        return account(played, stage.runs, f"started again after at most {slowest:.0f} s")


def status_pid(folder: Path) -> int | None:
    try:
        pid = json.loads((folder / "edge" / "status.json").read_text())["pid"]
    except (OSError, ValueError, KeyError):
        return None
    return int(pid) if pid else None


@fault(13, "the agent is asked to end", mutants=("no_end",), mutant_runs=1, runs=10, how="SIGTERM in the middle of work")
def agent_ends(stage: Stage) -> Tally:
    with playing(stage, "term", 150 * stage.runs) as played:
        slowest = 0.0
        for _ in range(stage.runs):
            folder, gateway = played.site.gateway.configuration.parent, played.site.gateway
            wait_until(lambda place=folder, one=gateway: status_pid(place) == one.pid, 20, "the agent is at work")  # type: ignore[misc]
            time.sleep(stage.chance.random())
            began = time.monotonic()
            assert played.site.gateway.stop(12) == 0
            slowest = max(slowest, time.monotonic() - began)
            played.site.gateway.start()
        assert slowest <= 10
        return account(played, stage.runs, f"exit 0 after at most {slowest:.1f} s")


# --- the clock


@dataclass(slots=True)
class Timed:
    """A gateway whose clock the test sets, and an appliance that leaves the time to it."""

    site: Site
    appliance: TestAppliance
    clock: Path

    def set(self, to: str) -> None:
        """In libfaketime's words: `+400d`, `-1y`, `@1970-01-01 00:00:10`."""
        self.clock.write_text(to + "\n")

    def judge(self, runs: int, *, within_ms: int = 2_500) -> Tally:
        """Every number is stored once, at the time it was sent (as we know it), whatever the gateway's clock said."""
        api, key = self.site.cloud.api, self.appliance.product_key
        sent = self.appliance.sent

        def points() -> list[tuple[int, int]]:
            return [(int(value), ts) for ts, value, *_ in api.points(key, self.appliance.name, "N", raw=True)]

        wait_until(lambda: len(points()) >= len(sent), 40, "every number in the store")
        wait_until(lambda: self.site.gateway.edgectl("account")["buffered"] == 0, 40, "an empty buffer")
        self.site.agree()
        found = points()
        off = [abs(ts - sent[n]) for n, ts in found]
        wrong = sum(ms > within_ms for ms in off)
        missing = set(sent) - {n for n, _ in found}
        twice = len(found) - len({n for n, _ in found})
        acked_and_gone = missing & self.appliance.acknowledged
        return Tally(
            len(sent),
            len(self.appliance.acknowledged),
            len(missing) + wrong,
            twice,
            len(acked_and_gone),
            runs,
            f"times right within {max(off)} ms",
        )

    def notes(self) -> list[dict[str, object]]:
        """What the platform says about the clock behind the appliance's times."""
        path = f"/v1/telemetry/{self.appliance.product_key}/{self.appliance.name}/N"
        return self.site.cloud.api.get(path)["clock"]  # type: ignore[no-any-return]


@contextmanager
def timed(stage: Stage, what: str, begin: str, *, linked: bool) -> Iterator[Timed]:
    if not FAKETIME.exists():
        raise NotHere("libfaketime is missing (make ci-deps)")
    name = called(stage, what)
    more = '[clock]\ntrust = "cloud"\n'
    site = Site.build(stage.cloud(), stage.folder / "edge", name, appliances={"clockless": TSL}, more=more, code=stage.code)
    text = site.gateway.configuration.read_text()
    site.gateway.configuration.write_text(text.replace("[buffer]\n", "[buffer]\nlive.max_age_s = 86400\n"))
    clock = stage.folder / "clock"
    clock.write_text(begin + "\n")
    site.gateway.environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    if not linked:
        site.uplink.cut()
    try:
        site.gateway.start()
        wait_until(lambda: status_pid(stage.folder / "edge"), 20, "the agent")
        appliance = TestAppliance(site.front_port, site.keys["clockless"], "clockless", site.secrets["clockless"])
        try:
            yield Timed(site, appliance, clock)
        finally:
            appliance.close()
    finally:
        site.end()


def jumped(stage: Stage, to: str) -> Tally:
    with timed(stage, "jump", "+0", linked=True) as played:
        stop = threading.Event()
        posting = played.appliance.keep_posting(0.05, stop)
        for _ in range(stage.runs):
            time.sleep(2)
            played.site.uplink.cut()
            time.sleep(1)
            played.set(to)
            time.sleep(3)
            played.site.uplink.restore()
            time.sleep(2)
            played.set("+0")
        stop.set()
        posting.join()
        in_gaps = sum(lane["in_gaps"] for lane in played.site.gateway.edgectl("buffer", "status")["lanes"].values())
        assert in_gaps == 0, "a jump of the clock expired something"
        return played.judge(stage.runs)


@fault(
    14,
    "the clock jumps back a year",
    runs=2,
    mutants=("believe_the_wall_clock",),
    mutant_runs=1,
    how="libfaketime, offline and back",
)
def clock_back(stage: Stage) -> Tally:
    return jumped(stage, "-365d")


@fault(15, "the clock jumps 400 days ahead", runs=2, how="libfaketime, offline and back; max_age_s of a day")
def clock_ahead(stage: Stage) -> Tally:
    return jumped(stage, "+400d")


@fault(16, "a start in 1970, without NTP and without the cloud", runs=2, few=1, how="libfaketime; the agent killed once meanwhile")
def no_ntp(stage: Stage) -> Tally:
    total = Tally(runs=0)
    for _ in range(stage.runs):
        inner = Stage(stage.chance, stage.folder / called(stage, "s"), 1, stage.code, stage._clouds)
        inner.folder.mkdir()
        with timed(inner, "ntp", "@1970-01-01 00:00:10", linked=False) as played:
            for number in range(60):
                played.appliance.number()
                time.sleep(0.02)
                if number == 30:
                    played.site.gateway.kill()
                    played.site.gateway.start()
            played.site.uplink.restore()
            for _ in range(20):
                played.appliance.number()
                time.sleep(0.05)
            tally = played.judge(1)
            notes = played.notes()
            assert notes, "the platform keeps that these times were moved"
            assert all(note["shift_ms"] for note in notes)
            total += tally
    return total


# --- commands


@fault(30, "commands handed over again", runs=40, mutants=("forget_commands",), how="their answers held up on the link for 9 s")
def commands_repeated(stage: Stage) -> Tally:
    return commands(stage, kill=False)


@fault(31, "the gateway killed while a command is under way", runs=20, few=3, how="SIGKILL between note and device, or later")
def commands_interrupted(stage: Stage) -> Tally:
    return commands(stage, kill=True)


def commands(stage: Stage, *, kill: bool) -> Tally:
    """Each command is carried out at most once and comes to a definite end."""
    name = called(stage, "obey")
    site = Site.build(stage.cloud(), stage.folder / "edge", name, appliances={"hood": TSL}, code=stage.code)
    ids: dict[int, str] = {}
    died = 0
    try:
        if not kill:  # a link that is silent for nine seconds is not given up: the command comes again on the same connection
            text = site.gateway.configuration.read_text()
            site.gateway.configuration.write_text(text.replace("keepalive_s = 5\n", "keepalive_s = 60\n"))
        site.gateway.start()
        wait_until(lambda: status_pid(stage.folder / "edge"), 20, "the agent")
        device = TestAppliance(site.front_port, site.keys["hood"], "hood", site.secrets["hood"])
        path = f"/v1/devices/{site.keys['hood']}/hood"
        try:
            for value in range(1, stage.runs + 1):
                wait_until(lambda: attached(stage.folder / "edge") and site.cloud.api.get(path)["online"], 30, "it is online", every_s=0.2)
                if kill and (stage.chance.random() < 0.7 or died == 0):
                    armed = site.gateway.crash("obey.after_note")
                    ids[value] = send(site, path, value)

                    def over(armed: Path = armed, command: str = ids[value]) -> bool:
                        return not armed.exists() or site.cloud.api.get(f"/v1/commands/{command}")["state"] not in ("sent", "queued")

                    wait_until(over, 60, "it died, or the appliance was not there to be asked")
                    if armed.exists():
                        armed.unlink()
                        continue
                    died += 1
                    site.gateway.wait(10)
                    site.gateway.start()
                elif kill:
                    ids[value] = send(site, path, value)
                    time.sleep(stage.chance.random() * 0.2)
                    site.gateway.kill()
                    site.gateway.start()
                else:
                    if value == 1:  # obeyed at once, and no answer arrives: the platform hands them over once more
                        site.uplink.freeze(up=True, down=False)
                    ids[value] = send(site, path, value)
            if not kill:
                time.sleep(9)
                site.uplink.restore()

            def states() -> list[str]:
                return [str(site.cloud.api.get(f"/v1/commands/{command}")["state"]) for command in ids.values()]

            wait_until(lambda: not {"sent", "queued"} & set(states()), 90, f"every command ends ({states()})", every_s=1)
            again = sum(count - 1 for count in device.obeyed.values())
            assert died > 0 or not kill, "nobody died between note and device"
            completed = sum(state == "completed" for state in states())
            never = sum(
                device.obeyed[value] == 0 and site.cloud.api.get(f"/v1/commands/{command}")["state"] == "completed"
                for value, command in ids.items()
            )
            outcome = f"{completed} completed, the others failed by name; {len(device.obeyed)} carried out"
            return Tally(len(ids), len(ids), 0, again, never, stage.runs, outcome)
        finally:
            device.close()
    finally:
        site.end()


def attached(folder: Path) -> bool:
    """Whether the agent that runs now has its appliance."""
    try:
        found = json.loads((folder / "edge" / "status.json").read_text())
        os.kill(found["pid"], 0)
        return bool(found["front_door"]["attached"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def send(site: Site, path: str, value: int) -> str:
    for _ in range(100):
        try:
            return str(site.cloud.post(f"{path}/properties?expires_in_s=40", {"Level": value})["command_id"])
        except urllib.error.HTTPError as refused:
            if refused.code not in (409, 503):
                raise
            time.sleep(0.2)
    raise TimeoutError("no command was taken")


# --- configuration


@fault(
    59,
    "the configuration is cut off or garbled",
    mutants=("trip_over_toml",),
    mutant_runs=10,
    runs=40,
    how="truncated or a byte changed, anywhere",
)
def bad_configuration(stage: Stage) -> Tally:
    """A wrong file is answered with exit 3 and what is wrong; the one before is still there for who put it back; nothing is lost by it."""
    with playing(stage, "config", 60 * stage.runs + 300) as played:
        gateway = played.site.gateway
        good = gateway.configuration.read_bytes()
        refused = 0
        trial = gateway.configuration.with_name("trial.toml")
        for _ in range(stage.runs):
            data = bytearray(good)
            at = stage.chance.randrange(len(data))
            if stage.chance.random() < 0.5:
                data = data[:at]
            else:
                data[at] = stage.chance.randrange(256)
            trial.write_bytes(data)
            script = "from edge_agent.cli import main; main()"
            command = [sys.executable, "-c", script, "--config", str(trial), "config", "check"]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=30, env=os.environ | {"PYTHONPATH": str(stage.code)}, cwd=ROOT
            )
            assert done.returncode in (0, 3), done.stderr
            assert "Traceback" not in done.stderr
            refused += done.returncode == 3
        gateway.stop()
        gateway.configuration.write_bytes(good[: len(good) // 2])
        gateway.start()
        assert gateway.wait(20) == 3
        gateway.configuration.write_bytes(good)
        gateway.start()
        assert refused > 0
        return account(played, stage.runs, f"{refused} refused by name, the others still say what they mean")
