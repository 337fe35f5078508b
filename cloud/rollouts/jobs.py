"""Use cases of jobs: work that devices fetch, report on and are told of. Everything here blocks: asyncio code runs it in a thread."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import and_, case, func, select, update
from sqlalchemy.orm import Session

from cloud.devices.registry import device_ids
from cloud.devices.service import device_keys
from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork
from cloud.rollouts.job_states import OPEN, SAID, Job, JobMove, JobTask, moved, status_at
from cloud.rollouts.tables import JobRow, JobTaskRow
from protocols.alink.jobs import NEXT, JobStatus, JobUpdate
from protocols.errors import Reason, Refused

MOST_AT_ONCE: Final = 1_000
"""Devices of one job; more are several jobs."""
LONGEST_DOCUMENT: Final = 65_536
LONGEST_TIMEOUT_S: Final = 90 * 86_400
_LONGEST_DETAILS: Final = 4_000  # of what a device says, as JSON text; more is left out


def create_job(
    work: UnitOfWork, name: str, product_key: str, device_names: Sequence[str], document: dict[str, Any], timeout_s: int, by: str
) -> tuple[Job, list[JobTask], list[str]]:
    """(the job, its tasks, the names that are no devices of the product). Raises Refused(TOO_MANY): the document."""
    text = msgspec.json.encode(document).decode()
    if len(text) > LONGEST_DOCUMENT:
        raise Refused(Reason.TOO_MANY, f"document: {len(text)} characters, at most {LONGEST_DOCUMENT} allowed")
    ids = device_ids(work, product_key, device_names)
    now = now_ms()
    job = JobRow(name=name, product_key=product_key, document=text, timeout_s=timeout_s, created_ms=now, created_by=by[:64])
    work.session.add(job)
    work.session.flush()
    rows = [
        JobTaskRow(
            job_id=job.id,
            device_id=device_id,
            status=str(JobStatus.QUEUED),
            progress=0,
            details="{}",
            due_ms=now + 1000 * timeout_s,
            updated_ms=now,
        )
        for device_id in ids.values()
    ]
    work.session.add_all(rows)
    work.session.flush()
    tasks = [_task(row, device_name, now) for row, device_name in zip(rows, ids, strict=True)]
    return _job(job, {str(JobStatus.QUEUED): len(rows)}), tasks, [name for name in device_names if name not in ids]


def find_job(work: UnitOfWork, job_id: int) -> Job | None:
    row = work.session.scalars(select(JobRow).where(JobRow.id == job_id)).one_or_none()
    return None if row is None else _job(row, _counts(work, [job_id]).get(job_id, {}))


def list_jobs(work: UnitOfWork, before: int, limit: int) -> list[Job]:
    """The newest first; `before` is an id, 0 for the newest."""
    query = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
    if before:
        query = query.where(JobRow.id < before)
    rows = work.session.scalars(query).all()
    counts = _counts(work, [row.id for row in rows])
    return [_job(row, counts.get(row.id, {})) for row in rows]


def _counts(work: UnitOfWork, job_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """How many tasks of each job are in which status now."""
    late = and_(JobTaskRow.status.in_(OPEN), JobTaskRow.due_ms < now_ms())
    status = case((late, str(JobStatus.TIMED_OUT)), else_=JobTaskRow.status).label("now")
    counted = select(JobTaskRow.job_id, status, func.count()).join(JobRow, JobRow.id == JobTaskRow.job_id)
    found: dict[int, dict[str, int]] = {}
    for job_id, name, count in work.session.execute(counted.where(JobTaskRow.job_id.in_(job_ids)).group_by(JobTaskRow.job_id, status)):
        found.setdefault(job_id, {})[name] = count
    return found


def list_tasks(work: UnitOfWork, job_id: int, after: int, limit: int) -> list[JobTask]:
    """What became of a job, device by device, in the order in which they were named."""
    query = select(JobTaskRow).join(JobRow, JobRow.id == JobTaskRow.job_id).where(JobTaskRow.job_id == job_id, JobTaskRow.id > after)
    rows = work.session.scalars(query.order_by(JobTaskRow.id).limit(limit)).all()
    keys, now = device_keys(work.session, [row.device_id for row in rows]), now_ms()
    return [_task(row, keys[row.device_id][1], now) for row in rows]


def cancel_job(work: UnitOfWork, job_id: int) -> tuple[int, list[JobTask]]:
    """Cancel it for every device that has not ended it: (how many those are, the tasks that their devices know of)."""
    now = now_ms()
    query = select(JobTaskRow).join(JobRow, JobRow.id == JobTaskRow.job_id).where(JobTaskRow.job_id == job_id)
    query = query.where(JobTaskRow.status.in_(OPEN), JobTaskRow.due_ms >= now)
    rows = work.session.scalars(query.order_by(JobTaskRow.id).with_for_update(of=JobTaskRow)).all()
    known = [row for row in rows if row.status != JobStatus.QUEUED]
    for row in rows:
        row.status, row.updated_ms = str(moved(JobStatus(row.status), JobMove.CANCEL)), now
    work.session.flush()
    keys = device_keys(work.session, [row.device_id for row in known])
    return len(rows), [_task(row, keys[row.device_id][1], now) for row in known]


def handed_over(work: UnitOfWork, task_id: int) -> None:
    """The device was told of the job."""
    change = update(JobTaskRow).where(JobTaskRow.id == task_id, JobTaskRow.status == JobStatus.QUEUED)
    work.session.execute(change.values(status=str(moved(JobStatus.QUEUED, JobMove.HAND_OVER)), updated_ms=now_ms()))


def _job(row: JobRow, counts: dict[str, int]) -> Job:
    return Job(row.id, row.name, row.product_key, msgspec.json.decode(row.document), row.timeout_s, row.created_ms, row.created_by, counts)


def _task(row: JobTaskRow, device_name: str, now: int) -> JobTask:
    status = status_at(JobStatus(row.status), row.due_ms, now)
    details = msgspec.json.decode(row.details)
    updated_ms = row.due_ms if status is JobStatus.TIMED_OUT else row.updated_ms
    return JobTask(row.id, device_name, status, row.progress, details, row.due_ms, updated_ms)


# What devices say: `session` is of the whole system, the caller commits.


def fetch_task(session: Session, device_id: int, asked: str, time_ms: int) -> tuple[str, JobStatus, Any] | None:
    """(task id, status, document) of the oldest open job of a device (`$next`), or of the one it names; None: there is none."""
    query = (
        select(JobTaskRow, JobRow.document)
        .join(JobRow, JobRow.id == JobTaskRow.job_id)
        .where(JobTaskRow.device_id == device_id)
        .order_by(JobTaskRow.id)
        .limit(1)
        .with_for_update(of=JobTaskRow)
    )
    if asked == NEXT:
        query = query.where(JobTaskRow.status.in_(OPEN), JobTaskRow.due_ms >= time_ms)
    elif (task_id := _number(asked)) is not None:
        query = query.where(JobTaskRow.id == task_id)
    else:
        return None
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    row, document = found
    status = status_at(JobStatus(row.status), row.due_ms, time_ms)
    if not status.ended:
        status = moved(status, JobMove.HAND_OVER)
        if status != row.status:
            row.status, row.updated_ms = str(status), time_ms
            session.flush()
    return str(row.id), status, msgspec.json.decode(document)


def update_task(session: Session, device_id: int, told: JobUpdate, time_ms: int) -> None:
    """A device said how far it is. Raises Refused: UNKNOWN_IDENTIFIER (no such job of it), OUT_OF_RANGE (what it says), NOT_ALLOWED."""
    task_id = _number(told.taskId)
    row = None if task_id is None else session.get(JobTaskRow, task_id, with_for_update=True)
    if row is None or row.device_id != device_id:
        raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{told.taskId[:40]}: no such job of this device")
    said = next((status for status in SAID if status == told.status), None)
    if said is None or not 0 <= told.progress <= 100:
        allowed = ", ".join(SAID)
        raise Refused(Reason.OUT_OF_RANGE, f"a device may say {allowed}, and a progress of 0 to 100")
    status = status_at(JobStatus(row.status), row.due_ms, time_ms)
    if status == said and status.ended:  # it did not hear our answer, and says it again
        return
    row.status = str(moved(status, SAID[said]))
    details = msgspec.json.encode(told.statusDetails).decode().replace("\\u0000", "")
    row.progress, row.updated_ms = told.progress, time_ms
    row.details = details if len(details) <= _LONGEST_DETAILS else "{}"
    session.flush()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
