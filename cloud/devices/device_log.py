"""Use cases of devices' own logs: what a device writes about itself, the newest lines of it. Everything here blocks."""

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cloud.devices.model import LogEntry
from cloud.devices.tables import DeviceLogRow, LogSwitchRow
from protocols.alink.deviceinfo import LEVELS, Diagnosis, LogLine, TemplateLog

KEPT_LINES: Final = 1_000
"""Of one device; the oldest go first."""
_LONGEST: Final = 4_000  # of a line's text; the rest is cut


def add_log(session: Session, device_id: int, found: Sequence[LogLine] | TemplateLog, received_ms: int) -> None:
    """Lines as they came, or the older form as one text."""
    if isinstance(found, TemplateLog):
        text = msgspec.json.encode({"template": found.template, "contents": found.contents}).decode()
        lines: Sequence[LogLine] = [LogLine(module="template", logContent=text)]
    else:
        lines = found
    for line in lines:
        level = line.logLevel.upper()
        row = DeviceLogRow(
            device_id=device_id,
            received_ms=received_ms,
            time=_clean(line.utcTime, 40),
            level=level if level in LEVELS else "OTHER",
            module=_clean(line.module, 64),
            code=_clean(str(line.code), 64),
            trace=_clean(str(line.traceContext), 128),
            content=_clean(line.logContent, _LONGEST),
        )
        session.add(row)
    session.flush()
    of_device = DeviceLogRow.device_id == device_id
    last_kept = select(DeviceLogRow.id).where(of_device).order_by(DeviceLogRow.id.desc()).offset(KEPT_LINES - 1).limit(1).scalar_subquery()
    session.execute(delete(DeviceLogRow).where(of_device, DeviceLogRow.id < last_kept))


def add_diagnosis(session: Session, device_id: int, diagnosis: Diagnosis, received_ms: int) -> None:
    """Measurements of the link, as a line of the log."""
    text = msgspec.json.encode(diagnosis.p).decode()
    add_log(session, device_id, [LogLine(logLevel="INFO", module="diag", traceContext=diagnosis.model, logContent=text)], received_ms)


def _clean(text: str, longest: int) -> str:
    return text.replace("\0", "")[:longest]


def log_of(session: Session, device_id: int, before: int, limit: int) -> list[LogEntry]:
    """The newest lines first; `before` is a line's number, 0 for the newest."""
    query = select(DeviceLogRow).where(DeviceLogRow.device_id == device_id).order_by(DeviceLogRow.id.desc()).limit(limit)
    if before:
        query = query.where(DeviceLogRow.id < before)
    return [
        LogEntry(row.id, row.received_ms, row.time, row.level, row.module, row.code, row.trace, row.content)
        for row in session.scalars(query)
    ]


def log_mode(session: Session, device_id: int) -> int:
    """Whether the device is to post its log: 1 yes, 0 no, which is how it begins."""
    return session.scalar(select(LogSwitchRow.mode).where(LogSwitchRow.device_id == device_id)) or 0


def set_log_mode(session: Session, device_id: int, mode: int, now_ms: int) -> None:
    """Say whether it is to. A device that is away asks when it comes."""
    row = session.get(LogSwitchRow, device_id)
    if row is None:
        session.add(LogSwitchRow(device_id=device_id, mode=mode, time_ms=now_ms))
    else:
        row.mode, row.time_ms = mode, now_ms
    session.flush()
