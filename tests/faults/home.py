"""Two appliances at home, one behind a gateway and one that talks to the cloud itself: the scene of faults of the platform."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.platform import Cloud, wait_until
from tests.e2e.scenes import Site
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import Stage, Tally
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

    def settle(self, runs: int, outcome: str = "", *, went_back: bool = False, raw: bool = True) -> Tally:
        """No more posts, what came of each (`raw`: before duplicates are removed), and whether both ends count the same.

        A platform that `went_back` lacks what was delivered since its backup: exactly that lies in gaps.
        """
        self._stop.set()
        for thread in self._posting:
            thread.join()
        wait_until(lambda: self.site.gateway.edgectl("account")["buffered"] == 0, 60, "an empty buffer")
        accounts = {"local": self.local.judge(self.cloud.api, raw=raw), "direct": self.direct.judge(self.cloud.api, raw=False)}
        for name, account in accounts.items():
            print(name, account)
        if went_back:
            self.site.differ_by(accounts["local"].in_gaps)
        else:
            self.site.agree()
        return Tally.of_accounts(accounts, runs=runs, outcome=outcome)


@contextmanager
def home(
    stage: Stage, cloud: Cloud, what: str, *, every_s: float = 0.03, prefix: Sequence[str] = (), posting: bool = True
) -> Iterator[Home]:
    name = called(stage, what)
    site = Site.build(cloud, stage.folder / "edge", name, appliances={"local": TSL}, code=stage.code)
    key = cloud.product(f"{name} direct", TSL)
    secret = cloud.device(key, "direct")
    stop = threading.Event()
    with ExitStack() as stack:
        stack.callback(site.end)
        site.gateway.prefix = list(prefix)
        site.gateway.start()
        wait_until(lambda: site.gateway.at_work, 20, "the agent")
        local = TestAppliance(site.front_port, site.keys["local"], "local", site.secrets["local"])
        stack.callback(local.close)
        direct = TestAppliance(cloud.mqtt_port, key, "direct", secret)
        stack.callback(direct.close)
        stack.callback(stop.set)
        threads = [one.keep_posting_now(0.03, stop) for one in (local, direct)] if posting else []
        yield Home(cloud, site, local, direct, stop, threads)
