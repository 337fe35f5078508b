"""`make faults`: every fault of the matrix, its mutants, `build/faults.json`, and the table of docs/reference/faults.md.

    python -m tests.faults [--seed N] [--only TEXT] [--no-mutants] [--table]

A run with a seed goes on where it was stopped: what passed is not played again.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from tests.faults import rows_agent, rows_api, rows_buffer, rows_cloud, rows_limits, rows_link, rows_scale, rows_store  # noqa: F401 - they enter their faults
from tests.faults.harness import FAULTS, run_all, write_json, write_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "faults.jsonl"
HEAD = """# Faults

What `make faults` injected on a machine with 2 cores, and what an oracle outside the faulted processes saw. Numbers are those of the
fault matrix of our reliability reference. *Acknowledged* counts what was promised to its producer (a PUBACK, a commit); a machine that is
polled is promised nothing. Each record ended as delivered once or inside a named gap; a fault fails with one record that did not, one
that was visible twice, or one that was acknowledged and is gone. *Mutant* names a deliberately broken build that the same oracle caught.

Written by `python -m tests.faults --table`: seed {seed}, code {code}, {date}, {seconds:.0f} s with the mutants, of which two
were played at a time.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the moments of all faults (default: by chance)")
    parser.add_argument("--only", default="", help="faults with this text in `row: name`")
    parser.add_argument("--no-mutants", action="store_true", help="do not show that each oracle can fail")
    parser.add_argument("--table", action="store_true", help="write docs/reference/faults.md from this run")
    options = parser.parse_args()
    print(f"seed {options.seed}: `python -m tests.faults --seed {options.seed}` plays it again, or goes on", flush=True)
    in_order = sorted(FAULTS, key=lambda one: (one.row < 60, one.row))  # long ones are not the last: two are played at a time
    chosen = [one for one in in_order if options.only in one.id]
    began = time.monotonic()
    results = run_all(options.seed, RESULTS, chosen, with_mutants=not options.no_mutants, say=lambda text: print(text, flush=True))
    write_json(results, ROOT / "build" / "faults.json")
    if options.table:
        took_s = sum(result.seconds for result in results)
        code = results[0].code if results else "none"
        head = HEAD.format(seed=options.seed, code=code, date=time.strftime("%Y-%m-%d"), seconds=took_s)
        write_table(results, {one.id: one for one in FAULTS}, ROOT / "docs" / "reference" / "faults.md", head)
    failed = [result for result in results if not result.ok and not result.skipped]
    print(f"{len(results)} faults, {len(failed)} failed, {time.monotonic() - began:.0f} s; build/faults.json", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
