"""How a job goes on for one device: only as the table has it, and an end is an end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cloud.rollouts.job_states import OPEN, SAID, JobMove, moved, status_at
from protocols.alink.jobs import REPORTED, JobStatus
from protocols.errors import Reason, Refused


@given(st.lists(st.sampled_from(JobMove), max_size=12))
def test_whatever_happens_a_job_that_has_ended_stays_as_it_is(moves: list[JobMove]) -> None:
    status = JobStatus.QUEUED
    for move in moves:
        try:
            after = moved(status, move)
        except Refused as error:
            after, reason = status, error.reason
        else:
            reason = Reason.NOT_ALLOWED
            assert not status.ended
        assert reason is Reason.NOT_ALLOWED
        assert not status.ended or after is status
        status = after


@pytest.mark.parametrize("status", OPEN)
@pytest.mark.parametrize("move", [JobMove.SUCCEED, JobMove.FAIL, JobMove.TIME_OUT, JobMove.CANCEL])
def test_an_open_job_can_end_in_every_way(status: JobStatus, move: JobMove) -> None:
    assert moved(status, move).ended


def test_a_job_that_was_begun_is_not_rejected_and_not_handed_back() -> None:
    assert moved(JobStatus.IN_PROGRESS, JobMove.HAND_OVER) is JobStatus.IN_PROGRESS
    with pytest.raises(Refused, match="it was begun"):
        moved(JobStatus.IN_PROGRESS, JobMove.REJECT)


@given(st.sampled_from(JobStatus), st.integers(0, 10), st.integers(0, 10))
def test_only_an_open_job_times_out_and_only_past_its_time(status: JobStatus, due_ms: int, now_ms: int) -> None:
    late = not status.ended and now_ms > due_ms
    assert status_at(status, due_ms, now_ms) is (JobStatus.TIMED_OUT if late else status)


def test_a_device_may_say_what_the_wire_lets_it_say() -> None:
    assert set(SAID) == set(REPORTED)
