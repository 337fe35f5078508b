"""Firmware over the air from end to end: an appliance with two slots takes good images whatever happens to it, and leaves bad ones."""

import hashlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.e2e.platform import ROOT, Cloud, Process, simulator, wait_until

HOOD = json.loads((ROOT / "protocols" / "thing" / "library" / "range_hood.json").read_text(encoding="utf-8"))
SIZE = 600_000
NEVER_STARTS = b"fwsim-image boots=no\n"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


def image(seed: int, head: bytes = b"") -> bytes:
    return head + Random(seed).randbytes(SIZE)


@dataclass(slots=True)
class Hood:
    """A simulated hood, what it said, and what the cloud says of it."""

    cloud: Cloud
    folder: Path
    product_key: str
    options: tuple[str, ...] = ()
    starts: int = 0
    process: Process | None = None
    said: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def made(cls, cloud: Cloud, folder: Path, *options: str) -> "Hood":
        product_key = cloud.product("hood", HOOD)
        who = {"kind": "range_hood", "product_key": product_key, "device_name": "hood", "device_secret": cloud.device(product_key, "hood")}
        (folder / "devices.json").write_text(json.dumps([who]))
        return cls(cloud, folder, product_key, options)

    def start(self) -> None:
        """Another process with the same flash files."""
        self.starts += 1
        logs = ["--log-dir", str(self.folder / f"logs-{self.starts}")]
        state = ["--state-dir", str(self.folder / "state"), "--devices", str(self.folder / "devices.json")]
        arguments = ["home", "--port", str(self.cloud.mqtt_port), *logs, *state, *self.options]
        self.process = simulator(f"hood-{self.starts}", arguments, self.folder)
        self.process.start()

    def hear(self, event: str, holds: Callable[[dict[str, Any]], object] = bool) -> dict[str, Any]:
        """What it says, up to an event."""
        assert self.process is not None
        while True:
            said: dict[str, Any] = self.process.hear()
            self.said.append(said)
            if said["event"] == event and holds(said):
                return said

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def end(self) -> None:
        if self.process is not None:
            self.process.end()

    def upload(self, version: str, data: bytes) -> int:
        request = urllib.request.Request(
            f"{self.cloud.api_url}/v1/firmware?product_key={self.product_key}&version={version}",
            data=data,
            headers={"Authorization": f"Bearer {self.cloud.admin_key}", "Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(json.load(answer)["firmware_id"])

    def offer(self, firmware: int) -> None:
        assert len(self.cloud.post(f"/v1/firmware/{firmware}/offers", {"device_names": ["hood"]})["offers"]) == 1

    def state(self, firmware: int) -> dict[str, Any]:
        found: dict[str, Any] = self.cloud.api.get(f"/v1/firmware/{firmware}/offers")["items"][0]
        return found

    def ended(self, firmware: int) -> dict[str, Any]:
        wait_until(lambda: self.state(firmware)["state"] in ("succeeded", "failed"), 60, "the offer has ended")
        return self.state(firmware)

    def runs(self) -> str:
        modules = self.cloud.api.get(f"/v1/devices/{self.product_key}/hood/modules")["modules"]
        return str(modules["default"]["version"]) if modules else ""


@pytest.fixture
def hoods(cloud: Cloud, tmp_path: Path) -> Iterator[Callable[..., Hood]]:
    made: list[Hood] = []

    def make(*options: str) -> Hood:
        hood = Hood.made(cloud, tmp_path, *options)
        made.append(hood)
        hood.start()
        wait_until(lambda: hood.runs() == "1.0.0", 30, "it has said what it runs")
        return hood

    yield make
    for hood in made:
        hood.end()


def test_a_good_image_is_downloaded_started_and_reported(hoods: Callable[..., Hood]) -> None:
    hood = hoods()
    firmware = hood.upload("2.0.0", image(1))
    hood.offer(firmware)
    assert hood.ended(firmware)["state"] == "succeeded"
    assert hood.runs() == "2.0.0"
    assert hood.hear("boot", lambda said: said["trial"])["cause"] == "request"
    state = hood.folder / "state" / "hood"
    assert hashlib.sha256((state / "slot-b.bin").read_bytes()).digest() == hashlib.sha256(image(1)).digest()


def test_a_process_that_is_killed_during_the_download_goes_on_where_it_was(hoods: Callable[..., Hood]) -> None:
    hood = hoods("--download-rate", "200000")
    firmware = hood.upload("2.0.0", image(2))
    hood.offer(firmware)
    assert hood.hear("download")["start"] == 0
    part = hood.folder / "state" / "hood" / "download.bin"
    wait_until(lambda: part.exists() and part.stat().st_size > SIZE // 3, 30, "a third is there")
    hood.kill()
    there = part.stat().st_size
    hood.start()
    again = hood.hear("download")
    assert (again["status"], there - 4_096 <= again["start"] <= there) == (206, True)
    assert hood.ended(firmware)["state"] == "succeeded"
    assert hood.runs() == "2.0.0"


def test_a_process_that_is_killed_when_the_new_image_starts_runs_it_in_the_end(hoods: Callable[..., Hood]) -> None:
    hood = hoods()
    firmware = hood.upload("2.0.0", image(3))
    hood.offer(firmware)
    hood.hear("boot", lambda said: said["trial"])
    hood.kill()
    hood.start()
    assert hood.hear("boot")["cause"] == "power"
    assert hood.ended(firmware)["state"] == "succeeded"
    assert hood.runs() == "2.0.0"


def test_an_image_that_is_not_what_was_offered_ends_with_3(cloud: Cloud, hoods: Callable[..., Hood]) -> None:
    hood = hoods()
    firmware = hood.upload("2.0.0", image(4))
    stored = next(
        path for path in cloud.data.rglob("*") if path.is_file() and path.stat().st_size == SIZE and path.read_bytes() == image(4)
    )
    stored.chmod(0o600)
    stored.write_bytes(image(5))
    hood.offer(firmware)
    ended = hood.ended(firmware)
    assert (ended["state"], ended["step"]) == ("failed", -3)
    assert hood.runs() == "1.0.0"


def test_an_image_that_does_not_start_is_left_and_the_old_version_reported(hoods: Callable[..., Hood]) -> None:
    hood = hoods("--watchdog-s", "0.2")
    firmware = hood.upload("2.0.0", image(6, NEVER_STARTS))
    hood.offer(firmware)
    ended = hood.ended(firmware)
    assert (ended["state"], ended["step"]) == ("failed", -1)
    assert "watchdog" in ended["detail"]
    assert hood.hear("boot", lambda said: said["cause"] == "watchdog")["slot"] == "slot-a.bin"
    told = hood.cloud.api.get(f"/v1/devices/{hood.product_key}/hood/modules")["modules"]["default"]
    wait_until(lambda: hood.cloud.api.get(f"/v1/devices/{hood.product_key}/hood")["online"], 20, "it is back")
    assert (told["version"], hood.runs()) == ("1.0.0", "1.0.0")
    good = hood.upload("2.0.1", image(7))
    hood.offer(good)
    assert hood.ended(good)["state"] == "succeeded"


def test_a_transfer_that_breaks_goes_on_with_range(cloud: Cloud, hoods: Callable[..., Hood]) -> None:
    hood = hoods("--download-rate", "1500000")
    data = image(8) * 8  # more than the kernels of both sides keep for a slow reader
    firmware = hood.upload("2.0.0", data)
    hood.offer(firmware)
    hood.hear("download")
    part = hood.folder / "state" / "hood" / "download.bin"
    wait_until(lambda: part.exists() and part.stat().st_size > len(data) // 8, 30, "an eighth is there")
    cloud.kill_role("core")
    again = hood.hear("download", lambda said: said["start"] > 0)
    assert again["status"] == 206
    assert again["start"] > len(data) // 8
    with httpx.Client(base_url=cloud.api_url, headers={"Authorization": f"Bearer {cloud.admin_key}"}) as api:
        wait_until(lambda: answers(api, f"/v1/firmware/{firmware}"), 30, "the API is back")
    assert hood.ended(firmware)["state"] == "succeeded"


def answers(api: httpx.Client, path: str) -> bool:
    try:
        return api.get(path).status_code == 200
    except httpx.TransportError:
        return False
