"""Jobs (`thing/job`): work that a device fetches, reports on, and is told of."""

import enum

import msgspec

NEXT = "$next"  # asks for the oldest job that is not ended


class JobStatus(enum.StrEnum):
    """Where a job stands for one device. The last five end it."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.SENT, JobStatus.IN_PROGRESS)


class JobQuestion(msgspec.Struct, frozen=True, gc=False):
    """Which job a device asks for."""

    taskId: str = NEXT  # noqa: N815  # the wire's own spelling


class JobUpdate(msgspec.Struct, frozen=True, gc=False):
    """What a device says about a job."""

    taskId: str  # noqa: N815
    status: str
    progress: int = 0
    statusDetails: dict[str, object] = {}  # noqa: N815


REPORTED = (JobStatus.IN_PROGRESS, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.REJECTED)
"""What a device may say; the rest is the server's to decide."""


def job_task(task_id: str, status: str, document: object) -> dict[str, object]:
    """A job as a device is shown it."""
    return {"taskId": task_id, "status": status, "jobDocument": document}
