"""The API's process is killed between the commit of an effect and its answer: the request that is sent again hears the answer."""

from pathlib import Path

import httpx
import pytest

from tests.e2e.platform import Cloud, wait_gone, wait_until

TSL = {"properties": [{"identifier": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {}}}]}
AFTER_COMMIT = "core.after_effect_commit"


def test_a_request_whose_process_died_behind_the_commit_is_answered_when_it_is_sent_again(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        product_key = cloud.product("Stove", TSL)
        path, body = f"/v1/products/{product_key}/devices", {"device_name": "stove-1"}
        headers = {"Authorization": f"Bearer {cloud.admin_key}", "Idempotency-Key": "enter-stove-1"}
        core = cloud.role_pid("core")
        with httpx.Client(base_url=cloud.api_url, headers=headers, timeout=30) as api:
            armed = cloud.crash(AFTER_COMMIT)
            with pytest.raises(httpx.TransportError):
                api.post(path, json=body)
            wait_gone(armed)
            wait_until(lambda: cloud.role_pid("core") not in (None, core), 20, "core started again")
            answer = api.post(path, json=body)
            assert (answer.status_code, answer.headers["idempotency-replayed"]) == (201, "true")
            assert len(answer.json()["device_secret"]) == 32
            assert [device["device_name"] for device in api.get(path).json()["items"]] == ["stove-1"]
            unnamed = api.post(path, json=body, headers={"Idempotency-Key": "another"})
            assert unnamed.json()["type"].endswith("device-exists"), "without the stored answer the secret would be lost"
