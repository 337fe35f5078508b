"""A gateway comes back with a day of readings: how fast its backlog drains, and what live readings feel of it, its own and another's.

`edge.drain`: 1,000 readings/s of one machine for so many hours, written into the buffer by the agent's own code beforehand; from the
agent's start until the platform's account has the last, over the live rate. The probes are appliances that post every 50 ms through the
front door of a second gateway, and of this one: the time from a post until the query API returns it, in quiet and during the drain.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.row import Row
from tests.e2e.platform import ROOT, Cloud, wait_until
from tests.e2e.scenes import Site, tsl_of
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.day_writer import PROPERTIES

LIVE_RATE = 1_000  # readings/s
HOURS = 8.0
PROBE_S = 0.05
QUIET_S = 15.0
TARGET = 20


class Probe:
    """Posts numbers through a gateway; how long each took until the API had it, in ms, by when it was posted."""

    def __init__(self, cloud: Cloud, site: Site, device: str) -> None:
        self._cloud, self._key, self._device = cloud, site.keys[device], device
        self._appliance = TestAppliance(site.front_port, site.keys[device], device, site.secrets[device])
        self._stop = threading.Event()
        self.took: list[tuple[float, float]] = []  # (monotonic when posted, ms)
        self._threads = [self._appliance.keep_posting_now(PROBE_S, self._stop), threading.Thread(target=self._watch)]
        self._threads[1].start()

    def _watch(self) -> None:
        seen_ms = int(time.time() * 1000) - 1
        while not self._stop.is_set():
            path = f"/v1/telemetry/{self._key}/{self._device}/N"
            found = self._cloud.api.get(path, **{"from": seen_ms + 1, "to": seen_ms + 600_000, "limit": 1_000})["points"]
            now, wall_ms = time.monotonic(), time.time() * 1000
            for time_ms, *_ in found:
                self.took.append((now - (wall_ms - time_ms) / 1000, wall_ms - time_ms))
                seen_ms = max(seen_ms, time_ms)
            self._stop.wait(0.02)

    def between(self, begin: float, end: float) -> list[float]:
        return sorted(ms for at, ms in self.took if begin <= at <= end)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._appliance.close()


@dataclass(frozen=True, slots=True)
class Drained:
    """`seconds` for `readings`; ms of live readings, in order of size: the other gateway's before and meanwhile, its own meanwhile."""

    readings: int
    seconds: float
    quiet: list[float]
    during: list[float]
    own: list[float]


def measure(hours: float) -> Drained:
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="drain-bench-") as name:
        folder = Path(name)
        with Cloud(folder / "platform", crash_points=False) as cloud:
            machine = tsl_of({f"p{n}": "double" for n in range(PROPERTIES)})
            back = Site.build(cloud, folder / "back", "back", appliances={"press": machine, "own": TSL})
            live = Site.build(cloud, folder / "live", "live", appliances={"probe": TSL})
            try:
                file, seconds = back.gateway.configuration, int(hours * 3600)
                (file.parent / "edge").mkdir()
                begin_ms = int(time.time()) * 1000 - 1000 * seconds
                command = [sys.executable, str(ROOT / "tests" / "faults" / "day_writer.py"), str(file), back.keys["press"], "press"]
                environment = os.environ | {"PYTHONPATH": str(ROOT)}
                words = [*command, str(begin_ms), str(seconds)]
                readings = int(subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT, check=True).stdout)
                live.gateway.start()
                wait_until(lambda: live.gateway.at_work, 30, "the agent")
                probe = Probe(cloud, live, "probe")
                probes = [probe]
                try:
                    wait_until(lambda: len(probe.took) > 20, 30, "live readings")
                    quiet = time.monotonic()
                    time.sleep(QUIET_S)
                    began = time.monotonic()
                    back.gateway.start()
                    own = Probe(cloud, back, "own")
                    probes.append(own)
                    wait_until(lambda: told(cloud) >= readings, 900, "the last frame", every_s=0.2)
                    ended = time.monotonic()
                finally:
                    for one in probes:
                        one.close()
                during = probe.between(began, ended)
                return Drained(readings, ended - began, probe.between(quiet, began), during, own.between(began, ended))
            finally:
                live.end()
                back.end()


def told(cloud: Cloud) -> int:
    """Readings of the backlog that are stored."""
    lanes = cloud.api.get("/v1/gateways/back/account")["lanes"]
    return sum(int(lane["delivered"]) for lane in lanes if lane["lane"] == "bulk")


def _spread(took: list[float]) -> str:
    return f"p50 {took[len(took) // 2]:.0f}, p99 {took[min(len(took) - 1, int(len(took) * 0.99))]:.0f} ms ({len(took)})"


def rows(hours: float = HOURS) -> list[Row]:
    """The rows of `make bench`."""
    found = measure(hours)
    times = found.readings / found.seconds / LIVE_RATE
    note = f"{found.readings:,} readings ({hours:g} h) in {found.seconds:.0f} s, the agent's start in it; live readings of another gateway:"
    note += f" {_spread(found.quiet)} in quiet, {_spread(found.during)} meanwhile; its own: {_spread(found.own)}"
    return [Row("edge.drain", round(times), "x the live rate", target=f">= {TARGET}", met=times >= TARGET, note=note)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=HOURS)
    options = parser.parse_args()
    for row in rows(options.hours):
        print(json.dumps(row.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
