"""`hearthline device import`: a CSV file of devices, in portions, safe to run again.

A device without a secret in the file gets one here, and it is in the `--out` file before it is sent: no secret is lost with an answer. A
run that was cut short is run again with the same files; what is there already is no error.
"""

import csv
import io
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call
from cloud.cli.output import fail

if TYPE_CHECKING:
    from cloud.devices.importing import NewRow

TOGETHER: Final = 500
MOST_ROWS: Final = 1_000_000
SHOWN: Final = 20


class Advance(Protocol):
    def __call__(self, rows: int) -> None: ...


class Secrets:
    """The `--out` file: device_name, device_secret; for its owner only."""

    def __init__(self, path: Path) -> None:
        """Raises Refused when the file is there and is something else."""
        from protocols.errors import Reason, Refused

        self._path = path
        self.held: dict[str, str] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                if next(reader, ["device_name", "device_secret"]) != ["device_name", "device_secret"]:
                    raise Refused(Reason.BAD_CONFIGURATION, f"{path} is no file of secrets: name another with --out")
                self.held = {row[0]: row[1] for row in reader if len(row) == 2}
        self.write()

    def add(self, fresh: dict[str, str]) -> None:
        """Put these behind the others, on the disk."""
        self.held |= fresh
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(fresh.items())
            file.flush()
            os.fsync(file.fileno())

    def write(self) -> None:
        """The file anew with what is held: whole, or as it was."""
        draft = self._path.with_name(self._path.name + ".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["device_name", "device_secret"])
            writer.writerows(self.held.items())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


@dataclass(slots=True)
class Tally:
    """What became of the rows."""

    created: int = 0
    exists: int = 0
    faults: list[tuple[int, str, str, str]] = field(default_factory=list)
    try_again: bool = False


def import_devices(
    product_key: str,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV with a header: device_name[,device_secret][,site].")],
    key: KeyOption,
    out: Annotated[Path, typer.Option(help="Secrets of the devices, as CSV; what it holds already is used again.")],
    report: Annotated[Path | None, typer.Option(help="Rows that failed, as CSV: row, device_name, fault, detail.")] = None,
    api_url: UrlOption = URL,
) -> None:
    """Enter the devices of a CSV file. Secrets in it are kept, so a fleet can move; exit code 1 if a row failed."""
    from cloud.devices.importing import read_rows

    try:
        rows = read_rows(file.read_text(encoding="utf-8"), MOST_ROWS)
    except UnicodeDecodeError as error:
        fail(f"{file} is not UTF-8 at byte {error.start}: save it as UTF-8", 1)
    kept, tally = Secrets(out), Tally()
    good = list(_sendable(rows, tally))
    try:
        with _progress(len(good)) as advance:
            for start in range(0, len(good), TOGETHER):
                portion = good[start : start + TOGETHER]
                given = {row.device_name: row.device_secret for row in portion if row.device_secret}
                named = [row.device_name for row in portion if row.device_name not in given]
                fresh = {name: secrets.token_hex(16) for name in named if name not in kept.held}
                kept.add(fresh)
                lines = [(row.device_name, row.device_secret or kept.held.get(row.device_name, ""), row.site) for row in portion]
                answer = call("POST", api_url, key, f"/v1/products/{product_key}/devices/import", csv=_csv(lines))
                _book(tally, kept, [row.row for row in portion], given, fresh, answer["rows"])
                advance(len(portion))
    finally:
        kept.write()
        if report is not None:
            report.write_text(_csv(sorted(tally.faults), ("row", "device_name", "fault", "detail")), encoding="utf-8")
    print(f"{tally.created} created, {tally.exists} there already, {len(tally.faults)} failed", file=sys.stderr)
    _end(tally, report)


def _sendable(rows: Sequence["NewRow"], tally: Tally) -> Iterator["NewRow"]:
    """The rows that name a device for the first time; the platform sees one portion at a time and cannot tell."""
    names: set[str] = set()
    for row in rows:
        if not row.device_name:
            tally.faults.append((row.row, "", "bad_name", "the row names no device, or has another number of cells than the header"))
        elif row.device_name in names:
            tally.faults.append((row.row, row.device_name, "twice", "the file names this device more than once: keep one row"))
        else:
            names.add(row.device_name)
            yield row


def _book(
    tally: Tally, kept: Secrets, numbers: Sequence[int], given: dict[str, str], fresh: dict[str, str], results: Sequence[dict[str, Any]]
) -> None:
    """Count the results of a portion; a secret that is not the device's does not stay in the file."""
    for number, result in zip(numbers, results, strict=True):
        name, fault = result["device_name"], result["fault"]
        if result["outcome"] != "error":
            tally.created += result["outcome"] == "created"
            tally.exists += result["outcome"] == "exists"
            if name in given:
                kept.held[name] = given[name]
        elif fault == "other_secret" and name in fresh:
            tally.exists += 1  # the file gave it none, and it has one that we do not know
            kept.held.pop(name, None)
        else:
            tally.faults.append((number, name, fault, result["detail"]))
            tally.try_again = tally.try_again or fault == "not_tried"
            if fault != "not_tried" and name in fresh:
                kept.held.pop(name, None)


def _end(tally: Tally, report: Path | None) -> None:
    if not tally.faults:
        return
    for row, name, fault, detail in sorted(tally.faults)[: 0 if report is not None else SHOWN]:
        print(f"row {row}, {name}: {fault}: {detail}", file=sys.stderr)
    if report is not None:
        print(f"{report} says what is wrong with each row", file=sys.stderr)
    elif len(tally.faults) > SHOWN:
        print(f"and {len(tally.faults) - SHOWN} more; --report FILE takes them all", file=sys.stderr)
    raise SystemExit(3 if tally.try_again else 1)


def _csv(rows: Sequence[Sequence[object]], header: Sequence[str] = ("device_name", "device_secret", "site")) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A bar on stderr where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("devices"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("devices", total=total)
        yield lambda rows: bar.advance(task, rows)
