"""A fleet that is imported, activated and commanded, and the oracle: what the API says of each command against what the devices logged.

The oracle imports nothing of ours. Its witness is the swarm's own log: a line is there before a device's answer leaves.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import httpx

from tests.e2e.platform import ROOT, Cloud, Process, simulator, wait_until

T = TypeVar("T")
R = TypeVar("R")
THREADS = 6
EDGE_MS = 10_000  # an answer that left so shortly before the expiry may have come behind it
ASKED = ("thing.service.property.set", "thing.service.StartOven", "thing.service.CloseGas")
OVEN = {"Mode": 2, "Temperature": 180, "Duration": 600}
ANSWERS = {"completed": "obey", "failed": "refuse"}
ENDS = (*ANSWERS, "expired")


@dataclass(frozen=True, slots=True)
class Heard:
    """One line of the swarm's log."""

    device: str
    id: str
    method: str
    carrier: str
    response: str
    n: int
    time_ms: int


@dataclass(slots=True)
class Verdict:
    """What the oracle found: how commands ended, and what is wrong, a line each."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def judge(asked: Mapping[str, tuple[str, str]], found: Mapping[str, Mapping[str, Any]], heard: Iterable[Heard]) -> Verdict:
    """`asked` is (device, method) by command id, `found` what the API says of each at the end."""
    verdict = Verdict()
    by_id: dict[str, list[Heard]] = defaultdict(list)
    for line in heard:
        by_id[line.id].append(line)
    verdict.wrong += [f"{one}: a device was told what nobody asked for" for one in by_id.keys() - asked.keys()]
    for one, (device, method) in asked.items():
        lines, view = by_id.get(one, []), found.get(one)
        if view is None:
            verdict.wrong.append(f"{one}: the command is lost")
            continue
        state = view["state"]
        verdict.ends[state] += 1
        if len(lines) > 1:
            verdict.wrong.append(f"{one}: handed over {len(lines)} times")
        if any((line.device, line.method) != (device, method) for line in lines):
            verdict.wrong.append(f"{one}: something else was asked, or of somebody else: {lines}")
        if state in ANSWERS:
            if [line.response for line in lines[:1]] != [ANSWERS[state]]:
                verdict.wrong.append(f"{one}: {state}, and the device did {[line.response for line in lines]}")
        elif state != "expired":
            verdict.wrong.append(f"{one}: ended as {state}")
        elif any(line.response != "ignore" and line.time_ms + EDGE_MS < view["expires"] for line in lines):
            verdict.wrong.append(f"{one}: expired, though the device answered in time")
    return verdict


class Fleet:
    """`size` devices of one product on a platform."""

    def __init__(self, cloud: Cloud, folder: Path, size: int, thing_model: Any) -> None:
        self.cloud, self.folder, self.size = cloud, folder, size
        self.product_key = cloud.product("stoves", thing_model)
        self.names = [f"stove-{n:05}" for n in range(size)]
        self.asked: dict[str, tuple[str, str]] = {}
        self.log = folder / "fleet.jsonl"
        headers = {"Authorization": f"Bearer {cloud.admin_key}"}
        self.api = httpx.Client(base_url=cloud.api_url, headers=headers, timeout=60, limits=httpx.Limits(max_connections=THREADS))

    def import_all(self) -> str:
        """`hearthline device import` on a CSV of the names; what it says at its end."""
        (self.folder / "fleet.csv").write_text("device_name\n" + "\n".join(self.names) + "\n")
        command = [sys.executable, "-m", "cloud", "device", "import", self.product_key, "fleet.csv", "--out", "secrets.csv"]
        environment = os.environ | {"HEARTHLINE_API_URL": self.cloud.api_url, "HEARTHLINE_API_KEY": self.cloud.admin_key}
        done = subprocess.run(
            command, cwd=self.folder, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stderr.strip().splitlines()[-1]

    def swarm(self, *more: str) -> Process:
        """The simulators of all of them."""
        secrets = ["--devices", str(self.folder / "secrets.csv"), "--product-key", self.product_key]
        arguments = ["swarm", "--as", "fleet", "--port", str(self.cloud.mqtt_port), "--log", str(self.log), *secrets, *more]
        process = simulator("swarm", arguments, self.folder)
        process.stdin = subprocess.PIPE
        return process

    def devices(self) -> Iterator[dict[str, Any]]:
        """All of them as the API lists them, page by page."""
        cursor: str | None = None
        while True:
            page = self.api.get(
                f"/v1/products/{self.product_key}/devices", params={"limit": 1000} | ({"cursor": cursor} if cursor else {})
            ).json()
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def wait_for(self, count: int, holds: Callable[[dict[str, Any]], object], what: str) -> list[dict[str, Any]]:
        """The devices once it holds for exactly `count` of them."""
        found: list[dict[str, Any]] = []

        def counted() -> bool:
            found[:] = list(self.devices())
            return sum(bool(holds(one)) for one in found) == count

        wait_until(counted, 60, f"{count} devices {what}", every_s=0.5)
        return found

    def ask(self, names: Sequence[str], expires_in_s: int, chance: Random) -> None:
        """One command to each of them, of a kind that chance chooses."""
        self._in_threads(lambda pair: self._ask(*pair, expires_in_s), [(name, chance.choice(ASKED)) for name in names])

    def _ask(self, name: str, method: str, expires_in_s: int) -> None:
        path, body = f"/v1/devices/{self.product_key}/{name}", dict[str, int]()
        if method == ASKED[0]:
            path, body = f"{path}/properties", {"HoodLevel": 2}
        else:
            service = method.rpartition(".")[2]
            path, body = f"{path}/services/{service}", OVEN if service == "StartOven" else {}
        answer = self.api.post(path, json=body, params={"expires_in_s": expires_in_s})
        assert answer.status_code == 202, answer.text
        self.asked[answer.json()["command_id"]] = (name, method)

    def ends(self, until_s: float) -> dict[str, dict[str, Any]]:
        """What became of every command: those that go on are read again once they have expired (`until_s`, epoch)."""
        found = self._read(list(self.asked))
        time.sleep(max(0.0, until_s - time.time()))
        return found | self._read([one for one in self.asked if found.get(one, {}).get("state") not in ENDS])

    def _read(self, commands: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = self._in_threads(lambda one: self.api.get(f"/v1/commands/{one}"), commands)
        return {one: answer.json() for one, answer in zip(commands, found, strict=True) if answer.status_code == 200}

    def heard(self) -> list[Heard]:
        """The swarm's log."""
        return [Heard(**json.loads(line)) for line in self.log.read_text().splitlines()]

    @staticmethod
    def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(work, items))


def command_half(fleet: Fleet, swarm: Process, chance: Random, *, waits_s: int, expires_in_s: int) -> Verdict:
    """A command to each of a random half while a third of all is offline; half of those come back before the expiry, half never do.

    Those to devices that are offline expire after `waits_s`, the others after `expires_in_s`.
    """
    third = fleet.size // 3
    assert swarm.tell(f"offline {third}")["online"] == fleet.size - third
    offline = {one["device_name"] for one in fleet.wait_for(third, lambda one: not one["online"], "are offline") if not one["online"]}
    half = chance.sample(fleet.names, fleet.size // 2)
    fleet.ask([name for name in half if name in offline], waits_s, chance)
    first_s = time.time() + waits_s
    assert swarm.tell(f"online {third // 2}")["online"] == fleet.size - third + third // 2
    fleet.ask([name for name in half if name not in offline], expires_in_s, chance)
    found = fleet.ends(max(first_s, time.time() + expires_in_s) + 1)
    return judge(fleet.asked, found, fleet.heard())
