"""Faults as data: what is injected, how often, and what its oracle saw. Run by `make faults` whole and by `make test` in part.

Every oracle stands outside what it judges. A run is named by its seed; results are appended as they come, so that a run can be resumed.
"""

import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.e2e.account import Account
from tests.e2e.mutant import mutant
from tests.e2e.platform import ROOT, Cloud


class NotHere(Exception):
    """What the fault needs is not on this machine; the text says what."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of a fault. `acked`: promised to whoever produced it; `lost`: neither delivered nor in a named gap; `false_acks`: both."""

    produced: int = 0
    acked: int = 0
    lost: int = 0
    duplicates: int = 0
    false_acks: int = 0
    runs: int = 1
    outcome: str = ""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.produced + other.produced,
            self.acked + other.acked,
            self.lost + other.lost,
            self.duplicates + other.duplicates,
            self.false_acks + other.false_acks,
            self.runs + other.runs,
            other.outcome or self.outcome,
        )

    @property
    def ok(self) -> bool:
        """Something happened, and nothing went wrong."""
        return self.produced > 0 and self.acked > 0 and not (self.lost or self.duplicates or self.false_acks)

    @classmethod
    def total(cls, tallies: Iterable["Tally"]) -> "Tally":
        found = cls(runs=0)
        for tally in tallies:
            found += tally
        return found

    @classmethod
    def of_accounts(cls, accounts: Mapping[str, Account], *, polled: str = "machine", runs: int = 1, outcome: str = "") -> "Tally":
        """Of simulators' accounts. Devices that push were acknowledged whatever they produced; `polled` are never acknowledged."""
        pushed = [account for name, account in accounts.items() if name != polled]
        every = list(accounts.values())
        in_gaps = sum(account.in_gaps for account in every)
        return cls(
            sum(account.produced for account in every),
            sum(account.produced for account in pushed),
            sum(len(account.lost) for account in every),
            sum(account.duplicates + len(account.invented) + len(account.both) + len(account.wrong) for account in every),
            sum(len(account.lost) for account in pushed),
            runs,
            outcome or f"{sum(account.stored for account in every)} stored once, {in_gaps} in named gaps",
        )


@dataclass(slots=True)
class Stage:
    """What a fault is played on: chance, a folder of its own, how often, whose code, and a platform that it may share."""

    chance: random.Random
    folder: Path
    runs: int
    code: Path = ROOT
    _clouds: "Clouds | None" = None
    _own: ExitStack = field(default_factory=ExitStack)

    def cloud(self) -> Cloud:
        """A running platform: shared by faults that leave it sound, its own for a mutant's code."""
        if self._clouds is not None and self.code == ROOT:
            return self._clouds.shared()
        return self.own_cloud()

    def own_cloud(self, **options: object) -> Cloud:
        """A platform for this fault alone."""
        return self._own.enter_context(Cloud(self.folder / "platform", code=self.code, **options))  # type: ignore[arg-type]

    def close(self) -> None:
        self._own.close()


class Clouds:
    """One platform for many faults; started when the first asks, started anew when one has left it dead."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="faults-platform-"))
        self._cloud: Cloud | None = None

    def shared(self) -> Cloud:
        if self._cloud is None or not self._cloud.running:
            self._cloud = Cloud(self._folder)
            self._cloud.start()
        return self._cloud

    def close(self) -> None:
        if self._cloud is not None:
            self._cloud.end()
        shutil.rmtree(self._folder, ignore_errors=True)


Play = Callable[[Stage], Tally]


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the matrix (reliability.md), or one of several that show it. `runs` in `make faults`, `few` in `make test` (0: not there).

    Each of `mutants` must make the oracle fail within `mutant_runs`.
    """

    row: int
    name: str
    play: Play
    runs: int = 1
    few: int = 0
    mutants: tuple[str, ...] = ()
    mutant_runs: int = 5
    how: str = ""

    @property
    def id(self) -> str:
        return f"{self.row}: {self.name}"


FAULTS: list[Fault] = []


def fault(
    row: int,
    name: str,
    *,
    runs: int = 1,
    few: int = 0,
    mutants: tuple[str, ...] = (),
    mutant_runs: int = 5,
    how: str = "",
) -> Callable[[Play], Play]:
    """Enter a fault in the list."""

    def enter(play: Play) -> Play:
        FAULTS.append(Fault(row, name, play, runs, few, mutants, mutant_runs, how))
        return play

    return enter


def play(one: Fault, seed: int, runs: int, folder: Path, clouds: Clouds | None, code: Path = ROOT) -> Tally:
    """Play a fault; the same seed plays the same moments. Raises NotHere, and what the oracle raises when it cannot even count."""
    stage = Stage(random.Random(f"{seed} {one.id}"), folder, runs, code, clouds)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return one.play(stage)
    finally:
        stage.close()


def caught(one: Fault, name: str, seed: int, folder: Path) -> str:
    """How the oracle sees that this mutant is broken; "" when it does not. Raises what keeps it from being played: that is no catch."""
    folder.mkdir(parents=True, exist_ok=True)
    code = mutant(name, folder)
    try:
        tally = play(one, seed, one.mutant_runs, folder / "play", None, code)
    except (AssertionError, TimeoutError, subprocess.TimeoutExpired) as seen:
        return f"{type(seen).__name__}: {str(seen).splitlines()[0][:200] if str(seen) else ''}"
    return "" if tally.ok else f"{tally.lost} lost, {tally.duplicates} twice, {tally.false_acks} false acknowledgements of {tally.produced}"


def code_now() -> str:
    """The commit that is played, with a mark when files differ from it: results of other code are not gone on with."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    rooms = ["protocols", "edge_agent", "cloud", "firmware_sim", "tests"]
    changed = subprocess.run([*git, "diff", "HEAD", "--", *rooms], capture_output=True).stdout
    return f"{head[:12]}+{zlib.crc32(changed):08x}" if changed else head[:12]


def need_root() -> None:
    if os.geteuid() != 0:
        raise NotHere("needs root")


def need(*programs: str) -> None:
    """Raises NotHere naming the first program that is missing."""
    for program in programs:
        if shutil.which(program) is None:
            raise NotHere(f"{program} is missing (make ci-deps)")


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the results file."""

    seed: int
    code: str
    row: int
    fault: str
    tally: dict[str, object]
    ok: bool
    seconds: float
    mutants: dict[str, str]
    skipped: str = ""
    trace: str = ""


def run_all(seed: int, file: Path, chosen: Iterable[Fault], *, with_mutants: bool, say: Callable[[str], None]) -> list[Result]:
    """Play every fault that the file has no good result of for this seed and this code; returns the results of all chosen.

    Two at a time, each on a platform of its own that its faults share; what is chosen first is begun first.
    """
    code = code_now()
    file.parent.mkdir(parents=True, exist_ok=True)
    lines_held = file.read_text().splitlines() if file.exists() else []
    known = {(entry["seed"], entry.get("code"), entry["fault"]): entry for entry in map(json.loads, lines_held)}
    one_writes = threading.Lock()

    def result_of(one: Fault, clouds: Clouds) -> Result:
        entry = known.get((seed, code, one.id))
        played = entry is None or not entry["ok"]
        if entry is None or not entry["ok"]:
            entry = asdict(_result(one, seed, code, clouds, with_mutants=with_mutants))
        result = Result(**entry)
        verdict = "skipped: " + result.skipped if result.skipped else "ok" if result.ok else "FAILED"
        with one_writes:
            if played:
                with file.open("a") as lines:
                    lines.write(json.dumps(entry) + "\n")
            say(f"{result.fault}: {verdict} {result.tally} in {result.seconds:.1f} s {result.mutants or ''}\n{result.trace}")
        return result

    left = iter(list(chosen))

    def play_some(clouds: Clouds) -> list[Result]:
        found: list[Result] = []
        while True:
            with one_writes:
                one = next(left, None)
            if one is None:
                return found
            found.append(result_of(one, clouds))

    both = Clouds(), Clouds()
    try:
        with ThreadPoolExecutor(2) as two:
            return [result for results in two.map(play_some, both) for result in results]
    finally:
        for clouds in both:
            clouds.close()


def _result(one: Fault, seed: int, code: str, clouds: Clouds, *, with_mutants: bool) -> Result:
    began = time.monotonic()
    tally, skipped, trace = Tally(runs=0), "", ""
    seen: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as folder:
        try:
            tally = play(one, seed, one.runs, Path(folder) / "play", clouds)
            for name in one.mutants if with_mutants else ():
                seen[name] = caught(one, name, seed, Path(folder) / name)
        except NotHere as missing:
            skipped = str(missing)
        except Exception:  # noqa: BLE001 - a fault that cannot be judged has failed, the others go on
            trace = traceback.format_exc()
    ok = tally.ok and all(seen.values()) and not trace
    return Result(seed, code, one.row, one.id, asdict(tally), ok, round(time.monotonic() - began, 1), seen, skipped, trace)


def write_json(results: Iterable[Result], file: Path) -> None:
    """The list that `make faults` promises."""
    keys = ("runs", "produced", "acked", "lost", "duplicates", "false_acks")
    rows = [
        {"row": result.row, "fault": result.fault.partition(": ")[2]} | {key: result.tally[key] for key in keys} | {"ok": result.ok}
        for result in results
        if not result.skipped
    ]
    file.write_text(json.dumps(rows, indent=1) + "\n")


def write_table(results: Iterable[Result], faults: Mapping[str, Fault], file: Path, head: str) -> None:
    """The table of docs/reference/faults.md, in the order of the matrix."""
    lines = [head, "| # | Fault | How | Times | Produced | Acknowledged | Outcome | Mutant |", "|---|---|---|---|---|---|---|---|"]
    for result in sorted(results, key=lambda result: (result.row, result.fault)):
        one, tally = faults[result.fault], result.tally
        if result.skipped:
            outcome = f"not run: {result.skipped}"
        else:
            bad = {key: tally[key] for key in ("lost", "duplicates", "false_acks") if tally[key]}
            outcome = (str(tally["outcome"]) or "0 lost, 0 twice") if result.ok else f"**failed** {bad}"
        caught_by = ", ".join(f"`{name}` caught" if seen else f"`{name}` **not caught**" for name, seen in result.mutants.items())
        cells = (result.row, one.name, one.how, tally["runs"], tally["produced"], tally["acked"], outcome, caught_by)
        lines.append("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |")
    file.write_text("\n".join(lines) + "\n")
