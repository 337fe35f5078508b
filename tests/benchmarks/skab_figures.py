"""`make models`: how the product's anomaly model does on SKAB by its own protocol, to stdout and build/models.json.

Per file: trained by the product on the first 400 rows without labels, scored on the rest as a gateway would. F1, FAR and MAR are pooled
over the files (the data's README). The data is GPL-3.0 and stays outside: no figure of it is kept in this repository.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cloud.models.anomaly import fit
from cloud.models.onnx_file import to_onnx
from cloud.models.readings import read_readings
from edge_agent.domain.scoring import Rows
from edge_agent.inference.onnx import AnomalyModel
from tests.e2e import skab

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "build" / "models.json"


def figures(file: Path, folder: Path) -> dict[str, Any]:
    """One file: intervals flagged (seconds from its start), and the counts of the confusion matrix."""
    bench = skab.read(file)
    table, path = folder / "rows.csv", folder / "model.onnx"
    skab.write_csv(bench, table, rows=skab.FITTED_ROWS)
    path.write_bytes(to_onnx(fit(read_readings([table]), name=file.name.partition(".")[0], made_by="make models")))
    model = AnomalyModel(path, machines=1)
    zeros = np.zeros(len(bench.times), np.int32)
    scores = model.score(Rows(0, zeros, bench.times, np.ascontiguousarray(bench.values)))
    flagged = scores.score > model.card.threshold  # NaN, a window that is not full, is no alarm
    truth = bench.anomaly > 0
    judged = slice(skab.FITTED_ROWS, None)
    hit, miss = flagged[judged], truth[judged]
    return {
        "file": file.name,
        "tp": int((hit & miss).sum()),
        "fp": int((hit & ~miss).sum()),
        "fn": int((~hit & miss).sum()),
        "tn": int((~hit & ~miss).sum()),
        "flagged": intervals(bench.times, flagged),
        "labelled": intervals(bench.times, truth),
    }


def intervals(times: Any, flags: Any) -> list[tuple[int, int]]:
    """Stretches of rows with the flag: seconds from the first row, both ends included."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(times[a] - times[0]) // 1000, int(times[b - 1] - times[0]) // 1000) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def pooled(found: list[dict[str, Any]]) -> dict[str, float]:
    """F1, FAR and MAR over all files."""
    tp, fp, fn, tn = (sum(entry[name] for entry in found) for name in ("tp", "fp", "fn", "tn"))
    return {"f1": tp / (tp + (fp + fn) / 2), "far": fp / (fp + tn), "mar": fn / (fn + tp)}


def main() -> int:
    data = Path(os.environ.get("HEARTHLINE_DATA") or ROOT.parent / "shared" / "data") / "skab"
    files = sorted(file for file in data.glob("*_*.csv.gz"))
    if not files:
        sys.stderr.write(f"{data} holds no SKAB files: set HEARTHLINE_DATA to the folder of the data sets\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        found = [figures(file, Path(folder)) for file in files]
    total = pooled(found)
    for entry in found:
        sys.stdout.write(f"{entry['file']}\n  labelled {_shown(entry['labelled'])}\n  flagged  {_shown(entry['flagged'])}\n")
    sys.stdout.write(f"{len(found)} files: F1 {total['f1']:.3f}, FAR {total['far']:.1%}, MAR {total['mar']:.1%}")
    sys.stdout.write(" (an alarm on every row would have F1 0.70 and FAR 100%)\n")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({**total, "files": found}, indent=1) + "\n", encoding="utf-8")
    return 0


def _shown(stretches: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{a}-{b} s" for a, b in stretches[:12])
    return shown + (f" and {len(stretches) - 12} more" if len(stretches) > 12 else "") or "none"


if __name__ == "__main__":
    raise SystemExit(main())
