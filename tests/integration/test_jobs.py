"""Jobs: what people ask for over the API, what devices fetch and say, and what becomes of it."""

import json
from typing import Any

from sqlalchemy import update

from cloud.rollouts.tables import JobTaskRow
from protocols.errors import TryAgain
from tests.integration.api_rig import Rig, problem
from tests.integration.device_talk import Talker

DOCUMENT = {"do": "descale", "minutes": 20}


async def job(rig: Rig, product_key: str, *names: str, **more: Any) -> dict[str, Any]:
    body = {"name": "descale", "product_key": product_key, "device_names": names, "document": DOCUMENT, **more}
    return rig.created(await rig.one.post("/v1/jobs", json=body))


async def tasks(rig: Rig, job_id: int) -> list[tuple[str, str, int]]:
    items = (await rig.one.get(f"/v1/jobs/{job_id}/tasks")).json()["items"]
    return [(item["device_name"], item["status"], item["progress"]) for item in items]


async def two_devices(rig: Rig) -> tuple[str, Talker]:
    product_key = await rig.product(rig.one)
    for name in ("s1", "s2"):
        await rig.device(rig.one, product_key, name)
    return product_key, Talker.of(rig, product_key, "s1")


async def test_a_device_fetches_its_job_says_how_far_it_is_and_ends_it(rig: Rig) -> None:
    product_key, device = await two_devices(rig)
    rig.downlink.takes = False
    made = await job(rig, product_key, "s1", "s2", "nobody", "s1")
    assert (made["counts"], made["unknown"]) == ({"QUEUED": 2}, ["nobody"])
    found = device.ask("thing/job/get")["data"]
    task_id = found["task"]["taskId"]
    assert found == {"taskId": "$next", "task": {"taskId": task_id, "status": "SENT", "jobDocument": DOCUMENT}}
    assert await tasks(rig, made["job_id"]) == [("s1", "SENT", 0), ("s2", "QUEUED", 0)]
    told = {"taskId": task_id, "status": "IN_PROGRESS", "progress": 40, "statusDetails": {"step": "heat"}}
    assert device.ask("thing/job/update", told)["data"] == {"taskId": task_id}
    assert device.ask("thing/job/get", {"taskId": task_id})["data"]["task"]["status"] == "IN_PROGRESS"
    done = {"taskId": task_id, "status": "SUCCEEDED", "progress": 100}
    assert device.ask("thing/job/update", done)["code"] == 200
    assert device.ask("thing/job/update", done)["code"] == 200, "it did not hear the answer"
    assert device.ask("thing/job/get")["data"] == {"taskId": "$next"}
    assert (await rig.one.get(f"/v1/jobs/{made['job_id']}")).json()["counts"] == {"SUCCEEDED": 1, "QUEUED": 1}
    assert await tasks(rig, made["job_id"]) == [("s1", "SUCCEEDED", 100), ("s2", "QUEUED", 0)]


async def test_a_connected_device_is_told_at_once_and_one_that_cannot_be_told_keeps_its_job(rig: Rig) -> None:
    product_key, _ = await two_devices(rig)
    made = await job(rig, product_key, "s1")
    ((key, topic, payload),) = rig.downlink.messages
    assert (key, topic) == ((product_key, "s1"), f"/sys/{product_key}/s1/thing/job/notify")
    assert json.loads(payload)["params"]["task"]["jobDocument"] == DOCUMENT
    assert await tasks(rig, made["job_id"]) == [("s1", "SENT", 0)]
    rig.downlink.error = TryAgain("no access")
    assert await tasks(rig, (await job(rig, product_key, "s2"))["job_id"]) == [("s2", "QUEUED", 0)]


async def test_what_a_device_may_not_say_is_refused_and_changes_nothing(rig: Rig) -> None:
    product_key, device = await two_devices(rig)
    made = await job(rig, product_key, "s1", "s2")
    task_ids = [str(item["task_id"]) for item in (await rig.one.get(f"/v1/jobs/{made['job_id']}/tasks")).json()["items"]]
    for told in (
        {"taskId": task_ids[1], "status": "SUCCEEDED"},  # of another device
        {"taskId": "99", "status": "SUCCEEDED"},
        {"taskId": "x", "status": "SUCCEEDED"},
        {"taskId": task_ids[0], "status": "CANCELLED"},
        {"taskId": task_ids[0], "status": "SUCCEEDED", "progress": 101},
    ):
        assert device.ask("thing/job/update", told)["code"] == 460
    assert device.ask("thing/job/update", {"status": "SUCCEEDED"})["code"] == 6302
    assert device.ask("thing/job/get", {"taskId": task_ids[1]})["data"] == {"taskId": task_ids[1]}
    assert [status for _, status, _ in await tasks(rig, made["job_id"])] == ["SENT", "SENT"]


async def test_jobs_are_cancelled_and_time_out(rig: Rig) -> None:
    product_key, device = await two_devices(rig)
    made = await job(rig, product_key, "s1", "s2")
    task_id = device.ask("thing/job/get")["data"]["task"]["taskId"]
    assert device.ask("thing/job/update", {"taskId": task_id, "status": "REJECTED", "statusDetails": {"why": "cold"}})["code"] == 200
    assert (await rig.one.post(f"/v1/jobs/{made['job_id']}/cancel")).json()["counts"] == {"REJECTED": 1, "CANCELLED": 1}
    late = await job(rig, product_key, "s1", timeout_s=1)
    task_id = device.ask("thing/job/get")["data"]["task"]["taskId"]
    with rig.database.system() as work:
        work.session.execute(update(JobTaskRow).where(JobTaskRow.id == int(task_id)).values(due_ms=1))
        work.commit()
    assert (await rig.one.get(f"/v1/jobs/{late['job_id']}")).json()["counts"] == {"TIMED_OUT": 1}
    assert await tasks(rig, late["job_id"]) == [("s1", "TIMED_OUT", 0)]
    assert device.ask("thing/job/get")["data"] == {"taskId": "$next"}
    assert "TIMED_OUT" in device.ask("thing/job/update", {"taskId": task_id, "status": "SUCCEEDED"})["message"]
    assert [item["job_id"] for item in (await rig.one.get("/v1/jobs")).json()["items"]] == [late["job_id"], made["job_id"]]


async def test_devices_that_know_of_a_job_are_told_that_it_is_cancelled(rig: Rig) -> None:
    product_key, device = await two_devices(rig)
    rig.downlink.takes = False
    made = await job(rig, product_key, "s1", "s2")
    task_id = device.ask("thing/job/get")["data"]["task"]["taskId"]
    rig.downlink.messages.clear()
    await rig.one.post(f"/v1/jobs/{made['job_id']}/cancel")
    ((key, topic, payload),) = rig.downlink.messages
    assert (key, topic) == ((product_key, "s1"), f"/sys/{product_key}/s1/thing/job/notify")
    told = json.loads(payload)["params"]["task"]
    assert (told["taskId"], told["status"]) == (task_id, "CANCELLED")
    assert "CANCELLED" in device.ask("thing/job/update", {"taskId": task_id, "status": "SUCCEEDED"})["message"]
    rig.downlink.messages.clear()
    assert (await rig.one.post(f"/v1/jobs/{made['job_id']}/cancel")).json()["counts"] == {"CANCELLED": 2}
    assert rig.downlink.messages == [], "it was told already"
    problem(await rig.one.post("/v1/jobs/99/cancel"), 404, "not-found")


async def test_a_job_that_cannot_be_is_refused(rig: Rig) -> None:
    product_key, _ = await two_devices(rig)
    body = {"name": "x", "product_key": product_key, "device_names": ["s1"], "document": {"text": "x" * 70_000}}
    problem(await rig.one.post("/v1/jobs", json=body), 422, "too-many")
    problem(await rig.one.post("/v1/jobs", json={**body, "product_key": "nope"}), 404, "not-found")
    problem(await rig.one.post("/v1/jobs", json={**body, "device_names": []}), 422, "invalid-request")
    problem(await rig.one.get("/v1/jobs/99"), 404, "not-found")


async def test_a_job_sent_again_with_its_key_is_one_job(rig: Rig) -> None:
    product_key, _ = await two_devices(rig)
    body = {"name": "x", "product_key": product_key, "device_names": ["s1"], "document": {}}
    answers = [await rig.one.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len((await rig.one.get("/v1/jobs")).json()["items"]) == 1
    assert len(rig.downlink.messages) == 1
