"""Routes of jobs: work for devices, and what became of it."""

import asyncio
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.ports import Downlink
from cloud.foundation.audit import record
from cloud.foundation.db import Database
from cloud.foundation.idempotency import Once
from cloud.foundation.logs import get_logger
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import not_found
from cloud.products.service import own_product
from cloud.rollouts.job_states import Job, JobTask
from cloud.rollouts.jobs import LONGEST_TIMEOUT_S, MOST_AT_ONCE, cancel_job, create_job, find_job, handed_over, list_jobs, list_tasks
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from protocols.alink.jobs import JobStatus, job_task
from protocols.alink.messages import encode_command
from protocols.alink.topics import Kind, Topic
from protocols.errors import TryAgain

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobId = Annotated[int, Path(ge=1, lt=1 << 63)]


class NewJob(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=128)]
    product_key: str
    device_names: Annotated[list[str], Field(min_length=1, max_length=MOST_AT_ONCE)]
    document: Annotated[dict[str, Any], Field(description="What the devices are to do, in the words of their firmware; up to 64 KiB.")]
    timeout_s: Annotated[int, Field(ge=1, le=LONGEST_TIMEOUT_S, description="Past it a job that has not ended is TIMED_OUT.")] = 604_800


class TaskView(BaseModel):
    task_id: Annotated[int, Field(description="The `taskId` that the device knows it by.")]
    device_name: str
    status: Annotated[str, Field(description="QUEUED, SENT, IN_PROGRESS; ended: SUCCEEDED, FAILED, REJECTED, TIMED_OUT, CANCELLED.")]
    progress: int
    details: Annotated[dict[str, Any], Field(description="In the device's words.")]
    due: int
    updated: int


class JobView(BaseModel):
    job_id: int
    name: str
    product_key: str
    document: dict[str, Any]
    timeout_s: int
    created: int
    created_by: str
    counts: Annotated[dict[str, int], Field(description="Devices by status.")]


class CreatedJob(JobView):
    unknown: Annotated[list[str], Field(description="Names that are no devices of the product.")]


class JobPage(BaseModel):
    items: list[JobView]
    next: str | None


class TaskPage(BaseModel):
    items: list[TaskView]
    next: str | None


def _view(job: Job) -> JobView:
    return JobView(
        job_id=job.job_id,
        name=job.name,
        product_key=job.product_key,
        document=job.document,
        timeout_s=job.timeout_s,
        created=job.created_ms,
        created_by=job.created_by,
        counts=job.counts,
    )


def _task_view(task: JobTask) -> TaskView:
    return TaskView(
        task_id=task.task_id,
        device_name=task.device_name,
        status=task.status,
        progress=task.progress,
        details=task.details,
        due=task.due_ms,
        updated=task.updated_ms,
    )


@router.post("", status_code=201, operation_id="create_job", response_model=CreatedJob)
async def create(request: Request, caller: Caller, body: NewJob, once: Once) -> Response:
    """Give devices of a product something to do. One that is connected is told at once; any other fetches it when it asks."""
    answer, tasks = await asyncio.to_thread(_create, request, caller, body, once)
    for task in tasks:
        await _tell(request, caller, body, task)
    return answer


def _create(request: Request, caller: Principal, body: NewJob, once: Once) -> tuple[Response, list[JobTask]]:
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        if (known := once.known(work)) is not None:
            return known, []
        own_product(work, body.product_key)
        names = list(dict.fromkeys(body.device_names))
        job, tasks, unknown = create_job(work, body.name, body.product_key, names, body.document, body.timeout_s, caller.key_name)
        record(work.session, caller.tenant_id, caller.key_name, "create_job", f"job/{job.job_id}", {"devices": len(tasks)})
        return once.commit(work, CreatedJob(**dict(_view(job)), unknown=unknown), 201), tasks


async def _tell(request: Request, caller: Principal, body: NewJob, task: JobTask) -> None:
    database: Database = request.app.state.database

    def note() -> None:
        with database.unit_of_work(caller.tenant_id) as work:
            handed_over(work, task.task_id)
            work.commit()

    if await _pushed(request, body.product_key, task, JobStatus.SENT, body.document):
        await asyncio.to_thread(note)


async def _pushed(request: Request, product_key: str, task: JobTask, status: JobStatus, document: dict[str, Any]) -> bool:
    """Whether a device was told where its job stands; one that was not asks when it comes."""
    downlink: Downlink = request.app.state.downlink
    key = (product_key, task.device_name)
    push = encode_command(secrets.randbelow(1 << 32), "thing.job.notify", {"task": job_task(str(task.task_id), status, document)})
    try:
        return await downlink.deliver_message(key, str(Topic(Kind.JOB_NOTIFY, *key)), push)
    except TryAgain as error:
        get_logger().warning("job.not_told", device="/".join(key), error=str(error))
        return False


@router.get("", operation_id="list_jobs")
def list_all(request: Request, caller: Caller, limit: Limit = 100, cursor: Cursor = None) -> JobPage:
    """The tenant's jobs, newest first."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = list_jobs(work, read_cursor(cursor), limit + 1)
    return JobPage(items=[_view(one) for one in found[:limit]], next=next_page(found, limit, lambda one: one.job_id))


@router.get("/{job_id}", operation_id="get_job")
def get(request: Request, caller: Caller, job_id: JobId) -> JobView:
    """One job, and how many devices are how far."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_job(work, job_id)
    if found is None:
        raise not_found(f"Job {job_id}")
    return _view(found)


@router.get("/{job_id}/tasks", operation_id="list_job_tasks")
def tasks(request: Request, caller: Caller, job_id: JobId, limit: Limit = 100, cursor: Cursor = None) -> TaskPage:
    """What became of a job, device by device."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        if find_job(work, job_id) is None:
            raise not_found(f"Job {job_id}")
        found = list_tasks(work, job_id, read_cursor(cursor), limit + 1)
    return TaskPage(items=[_task_view(one) for one in found[:limit]], next=next_page(found, limit, lambda one: one.task_id))


@router.post("/{job_id}/cancel", operation_id="cancel_job")
async def cancel(request: Request, caller: Caller, job_id: JobId) -> JobView:
    """Cancel a job for all devices that have not ended it, and tell those that know of it and are connected.

    A device that goes on all the same is refused when it says so.
    """
    job, tasks = await asyncio.to_thread(_cancel, request, caller, job_id)
    for task in tasks:
        await _pushed(request, job.product_key, task, JobStatus.CANCELLED, job.document)
    return _view(job)


def _cancel(request: Request, caller: Principal, job_id: int) -> tuple[Job, list[JobTask]]:
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        count, tasks = cancel_job(work, job_id)
        job = find_job(work, job_id)
        if job is None:
            raise not_found(f"Job {job_id}")
        record(work.session, caller.tenant_id, caller.key_name, "cancel_job", f"job/{job_id}", {"devices": count})
        work.commit()
        return job, tasks
