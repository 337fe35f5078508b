"""How a job goes on for one device, as a table of moves; jobs and their tasks as values. Pure. A move that has no row is refused."""

import enum
from dataclasses import dataclass
from typing import Any, Final

from protocols.alink.jobs import JobStatus
from protocols.errors import Reason, Refused


class JobMove(enum.StrEnum):
    """What can happen to a job for one device."""

    HAND_OVER = "hand over"  # the device was told of it, or fetched it
    BEGIN = "begin"
    SUCCEED = "succeed"
    FAIL = "fail"
    REJECT = "reject"
    TIME_OUT = "time out"
    CANCEL = "cancel"


SAID: Final = {
    JobStatus.IN_PROGRESS: JobMove.BEGIN,
    JobStatus.SUCCEEDED: JobMove.SUCCEED,
    JobStatus.FAILED: JobMove.FAIL,
    JobStatus.REJECTED: JobMove.REJECT,
}
"""What a device may say."""

_ENDS: Final = {
    JobMove.SUCCEED: JobStatus.SUCCEEDED,
    JobMove.FAIL: JobStatus.FAILED,
    JobMove.TIME_OUT: JobStatus.TIMED_OUT,
    JobMove.CANCEL: JobStatus.CANCELLED,
}
OPEN: Final = (JobStatus.QUEUED, JobStatus.SENT, JobStatus.IN_PROGRESS)

_MOVES: Final[dict[tuple[JobStatus, JobMove], JobStatus]] = {
    (JobStatus.QUEUED, JobMove.HAND_OVER): JobStatus.SENT,
    (JobStatus.SENT, JobMove.HAND_OVER): JobStatus.SENT,
    (JobStatus.IN_PROGRESS, JobMove.HAND_OVER): JobStatus.IN_PROGRESS,  # it lost its memory, and asks once more
    **{(status, JobMove.BEGIN): JobStatus.IN_PROGRESS for status in OPEN},
    (JobStatus.QUEUED, JobMove.REJECT): JobStatus.REJECTED,
    (JobStatus.SENT, JobMove.REJECT): JobStatus.REJECTED,
    **{(status, move): end for status in OPEN for move, end in _ENDS.items()},
}


def moved(status: JobStatus, move: JobMove) -> JobStatus:
    """Raises `Refused(NOT_ALLOWED)`.

    >>> moved(JobStatus.SENT, JobMove.BEGIN)
    <JobStatus.IN_PROGRESS: 'IN_PROGRESS'>
    """
    found = _MOVES.get((status, move))
    if found is None:
        why = "it has ended" if status.ended else "it was begun"
        raise Refused(Reason.NOT_ALLOWED, f"a job that is {status} cannot {move}: {why}")
    return found


def status_at(status: JobStatus, due_ms: int, now_ms: int) -> JobStatus:
    """An open job that is past its time has timed out.

    >>> status_at(JobStatus.SENT, due_ms=100, now_ms=101)
    <JobStatus.TIMED_OUT: 'TIMED_OUT'>
    """
    return status if status.ended or now_ms <= due_ms else moved(status, JobMove.TIME_OUT)


@dataclass(frozen=True, slots=True)
class Job:
    """Work for some devices of a product; `counts` by status. Times in epoch ms."""

    job_id: int
    name: str
    product_key: str
    document: dict[str, Any]
    timeout_s: int
    created_ms: int
    created_by: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class JobTask:
    """A job for one device; `progress` and `details` in the device's words."""

    task_id: int
    device_name: str
    status: JobStatus
    progress: int
    details: dict[str, Any]
    due_ms: int
    updated_ms: int
