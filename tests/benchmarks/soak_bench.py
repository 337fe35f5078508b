"""`edge.soak`: an agent with a hundred appliances and 1,000 readings/s for twenty minutes, the platform there: does its memory grow?"""

import argparse
import json
import sys
import time

import numpy as np

from tests.benchmarks.peer.contestant import Appliances, rss_mb
from tests.benchmarks.peer.hearthline import Hearthline
from tests.benchmarks.peer_bench import MANY, PER_SECOND, running
from tests.benchmarks.row import Row

MINUTES = 20.0
WARM_S = 300.0  # caches are full by then, SQLite's (4 MiB) among them
EVERY_S = 2.0
TARGET = 0.05


def measure(minutes: float) -> tuple[float, list[float], int]:
    """(slope of the RSS as a share of its mean, per hour; the samples in MB; messages acknowledged)."""
    times, seen = [], []
    with running(Hearthline, MANY) as contestant:
        appliances = Appliances(contestant, MANY, PER_SECOND)
        time.sleep(WARM_S)
        began = time.monotonic()
        while (at := time.monotonic() - began) < 60 * minutes:
            times.append(at / 3600)
            seen.append(rss_mb(contestant.pid))
            time.sleep(EVERY_S)
        appliances.end()
        promised = len(appliances.promised())
    slope = float(np.polyfit(times, seen, 1)[0])
    return slope / (sum(seen) / len(seen)), seen, promised


def rows(minutes: float = MINUTES) -> list[Row]:
    """The rows of `make bench`."""
    slope, seen, promised = measure(minutes)
    quarters = ", ".join(f"{seen[min(len(seen) - 1, len(seen) * quarter // 4)]:.1f}" for quarter in range(5))
    note = f"{minutes:g} min after {WARM_S / 60:g} of warm-up, {promised:,} messages of four readings; RSS by quarters: {quarters} MB"
    return [Row("edge.soak", round(100 * slope, 2), "% an hour", target=f"<= {TARGET:.0%} an hour", met=slope <= TARGET, note=note)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    options = parser.parse_args()
    for row in rows(options.minutes):
        print(json.dumps(row.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
