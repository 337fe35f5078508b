"""What every test shares: replayable examples without deadlines, where the data lies, and no skip without evidence in CI."""

import os
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("hearthline", deadline=None, print_blob=True)
settings.load_profile("hearthline")

ROOT = Path(__file__).parent.parent
SKIPS = ROOT / "tests" / "skips.toml"


def _named(variable: str, below_shared: str) -> Path | None:
    path = Path(os.environ.get(variable) or ROOT.parent / "shared" / below_shared)
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets: `HEARTHLINE_DATA`, else `../shared/data` beside the project."""
    path = _named("HEARTHLINE_DATA", "data")
    if path is None:
        pytest.skip("the real data sets are not here: set HEARTHLINE_DATA to their folder")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]  # a pytest hook wrapper
    report = yield
    if report.skipped and os.environ.get("HEARTHLINE_CI") and not hasattr(report, "wasxfail"):
        listed = tomllib.loads(SKIPS.read_text(encoding="utf-8"))
        if not listed.get(item.nodeid, {}).get("evidence"):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI without evidence in tests/skips.toml: {item.nodeid}: {report.longrepr}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told at once: a run that is cut off must still say what failed."""
    if report.failed and not os.environ.get("PYTEST_XDIST_WORKER"):
        sys.__stderr__.write(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext[-4000:]}\n")  # type: ignore[union-attr]
