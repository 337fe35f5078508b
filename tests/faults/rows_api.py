"""Row 45: what goes wrong between an application and the API."""

import http.client
import json
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.platform import Cloud, wait_gone, wait_until
from tests.faults.appliance import TSL
from tests.faults.harness import Stage, Tally, fault
from tests.integration.access_rig import RawClient

APPLICATIONS = 4
ANSWER_S = 40.0
TRIED_SECRETS = 5


@dataclass(slots=True)
class Asked:
    """One request with its key: the body as sent each time, and what it was answered in the end."""

    path: str
    body: dict[str, Any]
    answer: dict[str, Any] | None = None
    status: int = 0
    tries: int = 0
    replayed: bool = False  # the answer was given before, and is given again


@dataclass(slots=True)
class Application:
    """Sends requests one after another, and each again with its key until it is answered."""

    cloud: Cloud
    product_key: str
    name: str
    stop: threading.Event
    asked: list[Asked] = field(default_factory=list)

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            if number % 2:
                one = Asked(f"/v1/products/{self.product_key}/devices", {"device_name": f"{self.name}-{number}"})
            else:
                one = Asked(f"/v1/devices/{self.product_key}/{self.name}/properties?expires_in_s=3600", {"Level": number})
            self.asked.append(one)
            self.ask(one, uuid.uuid4().hex)

    def ask(self, one: Asked, key: str) -> None:
        until = time.monotonic() + ANSWER_S
        headers: dict[str, str] = {
            "Authorization": f"Bearer {self.cloud.admin_key}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        while time.monotonic() < until:
            one.tries += 1
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.cloud.api_port, timeout=5)
                connection.request("POST", one.path, json.dumps(one.body), headers)
                answer = connection.getresponse()
                status, text = answer.status, answer.read()
                one.replayed = answer.getheader("Idempotency-Replayed") == "true"
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
                continue
            finally:
                connection.close()
            if status in (429, 503) or (status == 409 and b"idempotency-in-progress" in text):
                time.sleep(0.1)
                continue
            one.status, one.answer = status, json.loads(text)
            return


def effects(cloud: Cloud, product_key: str, names: list[str]) -> tuple[Counter[str], dict[str, Counter[int]], set[str]]:
    """Devices by name, commands by application and level, and the commands' ids: what the platform holds, whoever was answered what."""
    devices = Counter(str(item["device_name"]) for item in pages(cloud, f"/v1/products/{product_key}/devices"))
    levels: dict[str, Counter[int]] = {}
    ids: set[str] = set()
    for name in names:
        commands = pages(cloud, f"/v1/devices/{product_key}/{name}/commands")
        levels[name] = Counter(int(item["params"]["Level"]) for item in commands)
        ids |= {str(item["command_id"]) for item in commands}
    return devices, levels, ids


def pages(cloud: Cloud, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = cloud.api.get(f"{path}?limit=1000{cursor}")
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


@fault(
    45,
    "the API killed between effect and answer",
    runs=9,
    mutants=("no_idempotency",),
    mutant_runs=3,
    how="SIGKILL of `core`, every third time right after the commit; each request sent again with its Idempotency-Key",
)
def api_killed(stage: Stage) -> Tally:
    cloud = stage.cloud()
    product_key = cloud.product("api", TSL)
    stop = threading.Event()
    names = [f"app{n}" for n in range(APPLICATIONS)]
    for name in names:
        cloud.device(product_key, name)
    applications = [Application(cloud, product_key, name, stop) for name in names]
    threads = [threading.Thread(target=one.run) for one in applications]
    for thread in threads:
        thread.start()
    try:
        for run in range(stage.runs):
            time.sleep(0.3 + stage.chance.random())
            if run % 3 == 0:
                wait_gone(cloud.crash("core.after_effect_commit", stage.chance.randrange(8)))
            else:
                wait_until(lambda: cloud.role_pid("core") is not None, 30, "core is there")
                cloud.kill_role("core")
            time.sleep(1.0)
    finally:
        stop.set()
        for thread in threads:
            thread.join(2 * ANSWER_S)
    asked = [one for application in applications for one in application.asked]
    again = sum(one.tries > 1 for one in asked)
    replayed = sum(one.replayed for one in asked)
    assert again, "no request had to be sent again: nothing was shown"
    outcome = f"{again} of {len(asked)} requests were sent again, {replayed} had been answered before"
    return judged(cloud, product_key, applications, outcome)


def judged(cloud: Cloud, product_key: str, applications: list[Application], outcome: str) -> Tally:
    devices, levels, ids = effects(cloud, product_key, [one.name for one in applications])
    answered = lost = twice = false_answers = secrets_tried = 0
    total = 0
    for application in applications:
        for one in application.asked:
            total += 1
            made = "device_name" in one.body
            count = devices[one.body["device_name"]] if made else levels[application.name][one.body["Level"]]
            twice += max(0, count - 1)
            if one.answer is None:
                continue
            answered += 1
            if one.status not in (201, 202):
                false_answers += 1  # the first one took effect, and the second was told that it may not
            elif not count or (not made and one.answer["command_id"] not in ids):
                lost += 1
            elif made and secrets_tried < TRIED_SECRETS and one.replayed:
                secrets_tried += 1
                secret = one.answer["device_secret"].encode()
                with_it = RawClient(cloud.mqtt_port, one.body["device_name"], product_key=product_key, secret=secret).open()
                with_it.close()
    return Tally(total, answered, lost, twice, false_answers, outcome=f"{outcome}, {secrets_tried} secrets tried")
