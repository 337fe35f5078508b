"""Devices from a CSV file: each row is checked and entered by itself, and its outcome told. Blocks: asyncio code runs it in a thread.

A row may bring the secret that the device has at an old cloud. A row that is there already with the same secret, or without one given, is
no error: a file may be sent again.
"""

import csv
import enum
import hmac
import io
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from cloud.devices.model import check_device_name, secret_context
from cloud.devices.registry import site_id
from cloud.devices.tables import DeviceRow
from cloud.foundation.audit import record
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, DatabaseAway, UnitOfWork, is_duplicate
from cloud.foundation.vault import Vault
from protocols.errors import Reason, Refused

MOST_ROWS: Final = 10_000
COLUMNS: Final = ("device_name", "device_secret", "site")
TOGETHER: Final = 500
"""Rows of one transaction: others may write between two."""
_SECRET = re.compile(r"[!-~]{16,64}")


class Outcome(enum.StrEnum):
    CREATED = "created"
    EXISTS = "exists"
    ERROR = "error"


class Fault(enum.StrEnum):
    """What is wrong with a row, for programs."""

    BAD_NAME = "bad_name"
    BAD_SECRET = "bad_secret"  # noqa: S105 - a word
    BAD_SITE = "bad_site"
    TWICE = "twice"
    OTHER_SECRET = "other_secret"  # noqa: S105 - a word
    NAME_TAKEN = "name_taken"
    NOT_TRIED = "not_tried"


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row of the file; `row` counts from 1, the header is not counted."""

    row: int
    device_name: str
    device_secret: str
    site: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row; the secret is that of a device that was created."""

    row: int
    device_name: str
    outcome: Outcome
    fault: Fault | None = None
    detail: str = ""
    device_secret: str | None = None


def read_rows(text: str, most: int = MOST_ROWS) -> list[NewRow]:
    """The rows of a CSV text with a header, at most so many. Raises Refused when the text as a whole cannot be taken."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if "device_name" not in header or len(set(header)) != len(header) or set(header) - set(COLUMNS):
            message = (
                f"the first line has to name the columns: device_name, and if you like {' and '.join(COLUMNS[1:])}; it is {header[:8]}"
            )
            raise Refused(Reason.BAD_ENVELOPE, message)
        rows: list[NewRow] = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(rows) == most:
                raise Refused(Reason.TOO_MANY, f"send at most {most:,} rows at once")
            given = dict(zip(header, (cell.strip() for cell in cells), strict=False)) if len(cells) == len(header) else {}
            rows.append(NewRow(len(rows) + 1, given.get("device_name", ""), given.get("device_secret", ""), given.get("site", "")))
    except csv.Error as error:
        raise Refused(
            Reason.BAD_ENVELOPE, f"line {reader.line_num} is no CSV: {error}; quote the field, or leave the character out"
        ) from error
    return rows


def import_devices(
    database: Database, vault: Vault, tenant_id: int, product_key: str, rows: Sequence[NewRow], actor: str
) -> Iterator[Result]:
    """Enter the devices, `TOGETHER` at a time; a result for each row, in order. Once the database is away the rest is not tried."""
    names: set[str] = set()
    for start in range(0, len(rows), TOGETHER):
        chunk = rows[start : start + TOGETHER]
        checked = [_check(row, names) for row in chunk]
        try:
            with database.unit_of_work(tenant_id) as work:
                results = _enter(work, vault, product_key, chunk, checked)
                for result in results:
                    if result.outcome is Outcome.CREATED:
                        record(work.session, tenant_id, actor, "import", f"{product_key}/{result.device_name}")
                work.commit()
        except DatabaseAway:
            detail = "the database did not answer: send this row again"
            for row in rows[start:]:
                yield Result(row.row, row.device_name, Outcome.ERROR, Fault.NOT_TRIED, detail)
            return
        yield from results


def _check(row: NewRow, names: set[str]) -> Result | None:
    """What is wrong with a row as it stands, None if nothing is; `names` are those of the rows before."""

    def wrong(fault: Fault, detail: str) -> Result:
        return Result(row.row, row.device_name, Outcome.ERROR, fault, detail)

    if not row.device_name:
        return wrong(Fault.BAD_NAME, "the row names no device, or has another number of cells than the header")
    try:
        check_device_name(row.device_name)
    except Refused as refused:
        return wrong(Fault.BAD_NAME, str(refused))
    if row.device_secret and not _SECRET.fullmatch(row.device_secret):
        return wrong(Fault.BAD_SECRET, "device_secret must have 16 to 64 printable ASCII characters without spaces, or be empty")
    if len(row.site) > 128 or not row.site.isprintable():
        return wrong(Fault.BAD_SITE, "site must have at most 128 printable characters")
    if row.device_name in names:
        return wrong(Fault.TWICE, "the file names this device more than once: keep one row")
    names.add(row.device_name)
    return None


def _enter(work: UnitOfWork, vault: Vault, product_key: str, rows: Sequence[NewRow], checked: Sequence[Result | None]) -> list[Result]:
    good = [row.device_name for row, wrong in zip(rows, checked, strict=True) if wrong is None]
    query = select(DeviceRow.device_name, DeviceRow.sealed_secret)
    there = work.session.execute(query.where(DeviceRow.product_key == product_key, DeviceRow.device_name.in_(good)))
    known = {row.device_name: row.sealed_secret for row in there}
    results: list[Result] = []
    made: list[tuple[int, DeviceRow]] = []
    sites: dict[str, int] = {}
    for row, wrong in zip(rows, checked, strict=True):
        if wrong is not None:
            results.append(wrong)
        elif row.device_name in known:
            results.append(_known(vault, product_key, row, known[row.device_name]))
        else:
            if row.site and row.site not in sites:
                sites[row.site] = site_id(work, row.site)
            secret = row.device_secret or secrets.token_hex(16)
            device = DeviceRow(
                product_key=product_key,
                device_name=row.device_name,
                site_id=sites.get(row.site),
                sealed_secret=vault.seal(secret.encode(), secret_context(product_key, row.device_name)),
                enabled=True,
                created_ms=now_ms(),
            )
            made.append((len(results), device))
            results.append(Result(row.row, row.device_name, Outcome.CREATED, device_secret=secret))
    try:
        with work.session.begin_nested():
            work.session.add_all(device for _, device in made)
    except IntegrityError as error:
        if not is_duplicate(error):
            raise
        _enter_one_by_one(work, made, results)
    return results


def _enter_one_by_one(work: UnitOfWork, made: Sequence[tuple[int, DeviceRow]], results: list[Result]) -> None:
    """One of them is there since a moment ago, or belongs to another tenant (gateways' names are one space)."""
    for place, device in made:
        fresh = DeviceRow(
            product_key=device.product_key,
            device_name=device.device_name,
            site_id=device.site_id,
            sealed_secret=device.sealed_secret,
            enabled=True,
            created_ms=device.created_ms,
        )
        try:
            with work.session.begin_nested():
                work.session.add(fresh)
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            detail = "the name is taken, since a moment ago or by another tenant: send the row again, or choose another name"
            results[place] = replace(results[place], outcome=Outcome.ERROR, fault=Fault.NAME_TAKEN, detail=detail, device_secret=None)


def _known(vault: Vault, product_key: str, row: NewRow, sealed: bytes) -> Result:
    if row.device_secret:
        secret = vault.open(sealed, secret_context(product_key, row.device_name))
        if not hmac.compare_digest(secret, row.device_secret.encode()):
            detail = "the device is there with another secret, which it keeps: leave the row out, or rotate the secret"
            return Result(row.row, row.device_name, Outcome.ERROR, Fault.OTHER_SECRET, detail)
    return Result(row.row, row.device_name, Outcome.EXISTS)
