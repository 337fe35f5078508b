"""`make demo` as a newcomer runs it: the real command, without a terminal, judged by what it leaves behind."""

import json
import sys
from pathlib import Path

from tests.e2e.platform import ROOT, Process


def test_the_demo_ends_with_an_account_that_balances(tmp_path: Path) -> None:
    with Process("demo", ["-m", "firmware_sim", "demo", "--dir", str(tmp_path / "demo")], tmp_path, code=ROOT) as demo:
        shown = demo.stdout.read()
        code = demo.wait(180)
    sys.stdout.write(shown)
    assert code == 0, shown + demo.tail()
    account = json.loads((tmp_path / "demo.json").read_text())
    assert account["produced"] == account["stored"] + account["in_gaps"]
    assert account["stored"] > 1000
    assert account["in_gaps"] > 0
    assert account["duplicates"] == 0
    assert account["drain_s"] >= 0
