"""Rows 26, 33, 36, 43, 44 and 66: what the cloud keeps, when it is wiped, away, full, or put back from a backup."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.platform import Cloud, wait_until
from tests.e2e.scenes import Site
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import Stage, Tally, fault
from tests.faults.rows_agent import called


def hearthline(cloud: Cloud, *words: str) -> Any:
    """The JSON answer of one `hearthline` call on the platform's directory."""
    command = [sys.executable, "-m", "cloud", *words, "--data", str(cloud.data), "-o", "json"]
    environment = os.environ | {"PYTHONPATH": str(cloud._code)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if done.returncode:
        raise RuntimeError(f"hearthline {' '.join(words)}: exit {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


@dataclass(slots=True)
class Home:
    """Two appliances that post the time it is: one behind a gateway, one that talks to the cloud itself."""

    cloud: Cloud
    site: Site
    local: TestAppliance
    direct: TestAppliance
    _stop: threading.Event
    _posting: list[threading.Thread]

    def settle(self, runs: int, outcome: str = "") -> Tally:
        """No more posts, and what came of each."""
        self._stop.set()
        for thread in self._posting:
            thread.join()
        wait_until(lambda: self.site.gateway.edgectl("account")["buffered"] == 0, 60, "an empty buffer")
        accounts = {"local": self.local.judge(self.cloud.api, raw=True), "direct": self.direct.judge(self.cloud.api, raw=False)}
        for name, account in accounts.items():
            print(name, account)
        return Tally.of_accounts(accounts, runs=runs, outcome=outcome)


@contextmanager
def home(stage: Stage, cloud: Cloud, what: str, *, every_s: float = 0.03, more: str = "") -> Iterator[Home]:
    name = called(stage, what)
    site = Site.build(cloud, stage.folder / "edge", name, appliances={"local": TSL}, code=stage.code, more=more)
    key = cloud.product(f"{name} direct", TSL)
    secret = cloud.device(key, "direct")
    stop = threading.Event()
    with ExitStack() as stack:
        stack.callback(site.end)
        site.gateway.start()
        wait_until(lambda: site.gateway.at_work, 20, "the agent")
        local = TestAppliance(site.front_port, site.keys["local"], "local", site.secrets["local"])
        stack.callback(local.close)
        direct = TestAppliance(cloud.mqtt_port, key, "direct", secret)
        stack.callback(direct.close)
        stack.callback(stop.set)
        posting = [one.keep_posting_now(every_s, stop) for one in (local, direct)]
        yield Home(cloud, site, local, direct, stop, posting)


@fault(66, "the platform is lost and put back from a backup", runs=3, few=1, how="SIGKILL, its directory deleted, 1 to 3 s after the backup")
def restored(stage: Stage) -> Tally:
    cloud = stage.own_cloud()
    back_s: list[float] = []
    held_ms: list[int] = []
    with home(stage, cloud, "restored") as played:
        for number in range(stage.runs):
            time.sleep(1 + stage.chance.random())
            backup = stage.folder / f"backup-{number}"
            held_ms.append(hearthline(cloud, "backup", "create", str(backup))["held_ms"])
            time.sleep(1 + 2 * stage.chance.random())
            began = time.monotonic()
            cloud.kill()
            shutil.rmtree(cloud.data)
            hearthline(cloud, "backup", "restore", str(backup))
            cloud.start()
            back_s.append(time.monotonic() - began)
            before = len(played.direct.acknowledged)
            wait_until(lambda count=before: len(played.direct.acknowledged) > count + 20, 30, "the appliance is back")  # type: ignore[misc]
        return played.settle(stage.runs, f"at work again after at most {max(back_s):.1f} s; appends held for {max(held_ms)} ms at most")
