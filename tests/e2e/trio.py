"""A machine and an appliance behind a gateway, and an appliance that talks to the cloud itself: what most faults are played on."""

import csv
import math
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.account import Account
from tests.e2e.platform import ROOT, Cloud, Process, wait_gone, wait_until
from tests.e2e.scenes import Machine, Site, appliance_replay, rows_logged, said, settled, tsl_of

CLOUD_POINTS = ("access.before_commit", "access.after_commit", "ingest.after_append", "ingest.after_commit", "core.after_append")
EDGE_POINTS = ("buffer.after_commit", "forward.after_send", "forward.before_watermark")
RATE = 50.0
DOWN_S = 1.5  # longer than a replay waits for somebody to poll it: the machine moves on meanwhile, and a gap has to say so
HEADERS = {"level": "double", "strokes": "int"}


def made_up(path: Path, rows: int) -> Path:
    """A machine's day in a CSV: a wave and a count."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *HEADERS])
        for n in range(rows):
            writer.writerow([1_700_000_000_000 + 1000 * n, round(10 + 5 * math.sin(n / 20), 1), n % 1000])
    return path


@dataclass(slots=True)
class Scene:
    """A machine and an appliance behind a gateway, and an appliance that talks to the cloud itself."""

    cloud: Cloud
    site: Site
    machine: Machine
    local: Process
    direct: Process
    direct_key: str
    folder: Path
    rows: int

    @property
    def logs(self) -> Mapping[str, Path]:
        return {"machine": self.machine.log, "local": self.folder / "local.jsonl", "direct": self.folder / "direct.jsonl"}

    def fire(self, point: str) -> None:
        """Arm a point, wait until a process died there, and start what nobody supervises again."""
        if point in EDGE_POINTS:
            armed = self.site.gateway.crash(point)
            wait_gone(armed)
            self.site.gateway.wait(10)
            time.sleep(DOWN_S)
            self.site.gateway.start()
            wait_until(lambda: self.site.gateway.at_work, 20, "the agent is at work again")
        else:
            wait_gone(self.cloud.crash(point))

    def connects(self) -> int:
        """How often the agent has connected to the cloud since it started."""
        return int(self.site.gateway.edgectl("status")["uplink"]["connects"])

    def resend_while_the_store_is_away(self) -> None:
        """Freeze `core`, let the gateway reconnect and send its frames again without an answer, then go on."""
        frozen = self.cloud.role_pid("core")
        assert frozen is not None
        os.kill(frozen, signal.SIGSTOP)
        try:
            time.sleep(0.5)  # frames reach the stream and their watermark does not come back
            before = self.connects()
            self.site.uplink.cut()
            time.sleep(0.1)
            self.site.uplink.restore()
            wait_until(lambda: self.connects() > before, 30, "the gateway connected again")
            time.sleep(4)  # it waits for the cloud's watermarks before it sends without them
        finally:
            os.kill(frozen, signal.SIGCONT)

    def accounts(self, timeout_s: float, raw: Collection[str]) -> dict[str, Account]:
        """When the simulators are through: what came of every row; of devices in `raw` before duplicates are removed."""
        said(self.machine.process, "done", 120)
        assert self.local.wait(60) == 0, self.local.tail()
        assert self.direct.wait(60) == 0, self.direct.tail()
        assert {name: rows_logged(log) for name, log in self.logs.items()} == dict.fromkeys(self.logs, self.rows)
        wait_until(lambda: self.site.gateway.edgectl("account")["buffered"] == 0, 60, "an empty buffer")
        self.site.agree()
        keys = self.site.keys | {"direct": self.direct_key}
        return {name: settled(self.cloud, keys[name], name, log, raw=name in raw, timeout_s=timeout_s) for name, log in self.logs.items()}


@contextmanager
def scene(cloud: Cloud, folder: Path, name: str, rows: int, code: Path = ROOT) -> Iterator[Scene]:
    file = made_up(folder / "day.csv", rows)
    logs = folder / "logs"
    machine = Machine.replay(logs, "machine", file, rate=RATE)
    site = Site.build(cloud, folder / "edge", name, [machine], {"local": tsl_of(HEADERS)}, code=code)
    direct_key = cloud.product(f"{name} direct", tsl_of(HEADERS))
    direct_secret = cloud.device(direct_key, "direct")
    columns = {header: header for header in HEADERS}
    keys = {"local": (site.keys["local"], site.secrets["local"]), "direct": (direct_key, direct_secret)}
    ports = {"local": site.front_port, "direct": cloud.mqtt_port}
    local, direct = (appliance_replay(logs, who, file, columns, keys=keys[who], port=ports[who], rate=RATE, rows=rows) for who in keys)
    try:
        site.gateway.start()
        for process in (local, direct):
            process.start()
        yield Scene(cloud, site, machine, local, direct, direct_key, logs, rows)
    finally:
        for process in (local, direct):
            process.end()
        site.end()
        machine.end()
