"""`make bench`: every row of every benchmark, one after the other, into build/bench.json and as a table on stdout."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import (
    access_bench,
    buffer_bench,
    console_bench,
    drain_bench,
    edge_bench,
    edge_line_bench,
    fleet_bench,
    ingest_bench,
    models_bench,
    peer_bench,
    soak_bench,
    store_bench,
)
from tests.benchmarks.row import Row

OUT = Path(__file__).parent.parent.parent / "build" / "bench.json"
SUITES: dict[str, Callable[[], list[Row]]] = {
    "access": access_bench.rows,
    "ingest": ingest_bench.rows,
    "fleet": fleet_bench.rows,
    "store": store_bench.rows,
    "edge": lambda: edge_bench.rows(edge_bench.measure()),
    "buffer": buffer_bench.rows,
    "drain": drain_bench.rows,
    "line": edge_line_bench.rows,
    "models": models_bench.rows,
    "console": console_bench.rows,
    "peer": peer_bench.rows,
    "soak": soak_bench.rows,
}


def table(rows: list[Row]) -> str:
    """The rows as Markdown, as docs/benchmarks.md holds them."""
    lines = ["| row | value | peer | ratio | target | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        peer = f"{row.peer}: {row.peer_value:,.0f}" if row.peer and row.peer_value else ""
        ratio = f"{row.ratio:.2f}" if row.ratio else ""
        met = {True: "yes", False: "no", None: ""}[row.met]
        lines.append(f"| `{row.name}` | {row.value:,.1f} {row.unit} | {peer} | {ratio} | {row.target or ''} | {met} |")
    return "\n".join(lines)


def main() -> int:
    rows: list[Row] = []
    for name in sys.argv[1:] or SUITES:
        started = time.monotonic()
        rows += SUITES[name]()
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(rows) + "\n\n" + "".join(f"{row.name}: {row.note}\n" for row in rows if row.note))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
