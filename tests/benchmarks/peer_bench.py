"""Side by side with thingsboard-gateway (PyPI, an environment of its own, Mosquitto, its storages): the same appliances and messages.

`peer.throughput`: 100 appliances send 25,000 messages of four readings; readings/s from the first publish until the platform has the last.
`peer.rss`, `peer.cpu`: the gateway's processes at 250 messages/s. `peer.kill`, `peer.power_cut`, `peer.disk_full`: the platform is away,
ten appliances send 250 messages/s; messages that were acknowledged to an appliance and never reach the platform.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.ingest_bench import stream_of
from tests.benchmarks.peer.contestant import VALUES, WINDOW, Appliances, Contestant, cpu_s, fill_up, rss_mb, settle
from tests.benchmarks.peer.hearthline import Hearthline
from tests.benchmarks.peer.thingsboard import STORAGES, TUNED, VERSION, ThingsBoardGateway
from tests.benchmarks.row import Row
from tests.faults.rows_buffer import power_cut_disk

ROOT = Path(__file__).parent.parent.parent
MANY, FEW = 100, 10  # appliances
MESSAGES = 25_000
FIRST = 1_001  # their first number: those before it are for the acquaintance
PER_SECOND = 250.0
STEADY_S = 20.0
MET = 500  # messages that got through before the platform goes away
BEFORE = 2_000  # messages acknowledged before the fault
PATIENCE_S = 120.0
FLOOD_S = 60.0  # what a flood has not brought by then does not count
STILL_S = 40.0  # nothing came for so long: nothing more will
OURS = "hearthline"

Make = Callable[[Path, int], Contestant]


def contestants() -> Mapping[str, Make]:
    """By name; ours is the first."""
    made: dict[str, Make] = {OURS: Hearthline}
    for storage in STORAGES:
        made[storage] = lambda folder, devices, storage=storage: ThingsBoardGateway(folder, storage)  # type: ignore[misc]
    return made


@contextmanager
def running(make: Make, devices: int, *, started: bool = True) -> Iterator[Contestant]:
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="peer-bench-", ignore_cleanup_errors=True) as name:
        contestant = make(Path(name), devices)
        try:
            if started:
                contestant.start()
            yield contestant
        finally:
            contestant.close()


def throughput(make: Make, messages: int) -> tuple[float, float]:
    """(readings/s, share of the messages that arrived in time)."""
    each = messages // MANY
    with running(make, MANY) as contestant, tempfile.TemporaryDirectory() as folder:
        streams = [
            stream_of(contestant.client(device), [contestant.payload(device, n) for n in range(FIRST, FIRST + each)], WINDOW)
            for device in range(MANY)
        ]
        warm = Appliances(contestant, MANY, 100.0)  # the platform has met every appliance before the clock runs
        warm.wait_for(3 * MANY)
        warm.end()
        settle(contestant, len(warm.promised()), still_s=30, most_s=90)
        base = contestant.delivered()
        plan = Path(folder) / "plan.pickle"
        plan.write_bytes(pickle.dumps(("flood", contestant.front_port, streams, None)))
        load = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.uplink", str(plan)], stdout=subprocess.PIPE, cwd=ROOT)
        last, count, deadline = time.time(), base, time.monotonic() + FLOOD_S
        while count < base + each * MANY and time.monotonic() < deadline and time.time() - last < STILL_S:
            now = contestant.delivered()
            if now != count:
                count, last = now, time.time()
            time.sleep(0.02)
        assert load.stdout is not None
        first = json.loads(load.stdout.read())["first"]
        load.wait()
        arrived = len({one for one in contestant.found() if one[1] >= FIRST})
        return arrived * len(VALUES) / (last - first), arrived / (each * MANY)


def steady(make: Make) -> tuple[float, float]:
    """(RSS in MB at the end, share of a processor) at 250 messages/s with the platform there."""
    with running(make, MANY) as contestant:
        appliances = Appliances(contestant, MANY, PER_SECOND)
        appliances.wait_for(500)
        before, began = cpu_s(contestant.pid), time.monotonic()
        seen: list[float] = []
        while time.monotonic() < began + STEADY_S:
            time.sleep(1)
            seen.append(rss_mb(contestant.pid))
        share = (cpu_s(contestant.pid) - before) / (time.monotonic() - began)
        appliances.end()
        return max(seen), share


def killed(make: Make) -> tuple[int, int]:
    """(promised, lost of it) after SIGKILL."""
    with running(make, FEW) as contestant:
        appliances = promised_while_away(contestant)
        promised = appliances.promised()
        contestant.kill()
        appliances.end()
        return len(promised), lost(contestant, promised)


def power_cut(make: Make) -> tuple[int, int]:
    """The same when the power of its data's file system is cut: what was not fsynced is gone."""
    with power_cut_disk(256) as disk, running(make, FEW, started=False) as contestant:
        put_on(contestant, disk.path)
        contestant.start()
        appliances = promised_while_away(contestant)
        promised = appliances.promised()
        disk.cut()
        contestant.kill()
        appliances.end()
        disk.restore()
        found = len(promised), lost(contestant, promised)
        contestant.close()  # before its disk goes
        return found


def disk_full(make: Make) -> tuple[int, int]:
    """The same when the disk is full for a while."""
    with tempfile.TemporaryDirectory(prefix="peer-full-") as name:
        place = Path(name)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
        try:
            with running(make, FEW, started=False) as contestant:
                put_on(contestant, place)
                contestant.start()
                appliances = promised_while_away(contestant)
                filler = fill_up(place)
                time.sleep(BEFORE / PER_SECOND)
                filler.unlink()
                time.sleep(5)
                appliances.end()
                promised = appliances.promised()
                contestant.uplink.restore()
                settle(contestant, len(promised), still_s=STILL_S, most_s=PATIENCE_S)
                found = len(promised), len(promised - contestant.found())
                contestant.close()
                return found
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)


def put_on(contestant: Contestant, place: Path) -> None:
    """Its data is stored on another file system."""
    (place / "data").mkdir()
    contestant.data.symlink_to(place / "data", target_is_directory=True)


def promised_while_away(contestant: Contestant) -> Appliances:
    """Appliances that were acknowledged BEFORE messages since the platform went away; it had come to know each of them before."""
    appliances = Appliances(contestant, FEW, PER_SECOND)
    settle(contestant, MET, still_s=60, most_s=60)
    contestant.uplink.cut()
    appliances.wait_for(BEFORE + sum(appliances.sent))
    return appliances


def lost(contestant: Contestant, promised: set[tuple[int, int]]) -> int:
    """Start it again with the platform there, and count what does not come."""
    contestant.uplink.restore()
    contestant.start()
    settle(contestant, len(promised), still_s=STILL_S, most_s=PATIENCE_S)
    return len(promised - contestant.found())


LOSSES: Mapping[str, Callable[[Make], tuple[int, int]]] = {"kill": killed, "power_cut": power_cut, "disk_full": disk_full}


def _throughput(every: Mapping[str, Make], messages: int) -> list[Row]:
    found = {name: throughput(make, messages) for name, make in every.items()}
    theirs = {name: rate for name, (rate, _) in found.items() if name != OURS}
    best = max(theirs, key=lambda name: theirs[name])
    note = "; ".join(f"{name}: {rate:,.0f} ({share:.1%} arrived)" for name, (rate, share) in found.items())
    ours = found[OURS][0]
    return [
        Row(
            "peer.throughput",
            round(ours),
            "readings/s",
            peer=f"thingsboard-gateway {VERSION}, {best}",
            peer_value=round(theirs[best]),
            target="ahead",
            met=ours > theirs[best],
            note=note,
        )
    ]


def _steady(every: Mapping[str, Make]) -> list[Row]:
    found = {name: steady(make) for name, make in every.items() if not name.endswith(TUNED)}
    rows = []
    for name, unit, place in (("peer.rss", "MB", 0), ("peer.cpu", "of a processor", 1)):
        values = {who: measured[place] for who, measured in found.items()}
        theirs = {who: value for who, value in values.items() if who != OURS}
        best = min(theirs, key=lambda who: theirs[who])
        rows.append(
            Row(
                name,
                round(values[OURS], 3),
                unit,
                peer=f"thingsboard-gateway {VERSION}, {best}",
                peer_value=round(theirs[best], 3),
                target="ahead (less)",
                met=values[OURS] < theirs[best],
                note="; ".join(f"{who}: {value:.3g}" for who, value in values.items()),
            )
        )
    return rows


def _losses(every: Mapping[str, Make], repeats: int) -> list[Row]:
    rows = []
    for fault, play in LOSSES.items():
        if fault != "kill" and os.geteuid():
            sys.stderr.write(f"peer.{fault} needs root: left out\n")
            continue
        found = {name: [play(make) for _ in range(repeats)] for name, make in every.items() if name in (OURS, "SQLite", "file")}
        values = {name: statistics.mean(gone for _, gone in runs) for name, runs in found.items()}
        theirs = {name: value for name, value in values.items() if name != OURS}
        best = min(theirs, key=lambda name: theirs[name])
        note = "; ".join(f"{name}: " + ", ".join(f"{gone} of {promised:,}" for promised, gone in runs) for name, runs in found.items())
        rows.append(
            Row(
                f"peer.{fault}",
                values[OURS],
                "messages lost",
                peer=f"thingsboard-gateway {VERSION}, {best}",
                peer_value=theirs[best],
                target="ahead (less), 0",
                met=values[OURS] == 0 and values[OURS] <= theirs[best],
                note=note,
            )
        )
    return rows


def rows(messages: int = MESSAGES, repeats: int = 2) -> list[Row]:
    """The rows of `make bench`."""
    every = contestants()
    return [*_throughput(every, messages), *_steady(every), *_losses(every, repeats)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("throughput", "steady", *LOSSES), help="one measurement, of one contestant")
    parser.add_argument("who", nargs="?", default=OURS, choices=[*contestants()])
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    make = contestants()[options.who]
    if options.what == "throughput":
        print(throughput(make, options.messages))
    elif options.what == "steady":
        print(steady(make))
    elif options.what:
        print(LOSSES[options.what](make))
    else:
        for row in rows(options.messages, options.repeats):
            print(json.dumps(row.as_dict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
