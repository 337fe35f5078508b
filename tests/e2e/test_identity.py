"""A gateway and the platform meet again after one of them has lost its memory: what is gone has a name, nothing comes twice."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import Cloud, wait_until
from tests.e2e.scenes import Site
from tests.faults.appliance import TSL, TestAppliance


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("cloud"), crash_points=False) as running:
        yield running


def numbers(appliance: TestAppliance, count: int) -> None:
    """Posts with the time it is."""
    for _ in range(count):
        appliance.number(int(time.time() * 1000))
        time.sleep(0.005)


@pytest.mark.parametrize("lost", ["the disk", "the buffer file"])
def test_what_a_lost_buffer_held_lies_in_a_gap_of_every_device_behind_it(cloud: Cloud, tmp_path: Path, lost: str) -> None:
    site = Site.build(cloud, tmp_path / "edge", f"gw {lost}".replace(" ", "-"), appliances={"one": TSL, "two": TSL})
    edge = tmp_path / "edge" / "edge"
    try:
        site.gateway.start()
        wait_until(lambda: site.gateway.at_work, 20, "the agent")
        one, two = (TestAppliance(site.front_port, site.keys[name], name, site.secrets[name]) for name in ("one", "two"))
        numbers(one, 20)
        numbers(two, 20)
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 20, "all of it is there")
        site.uplink.cut()
        time.sleep(0.5)
        numbers(one, 20)
        numbers(two, 20)
        site.gateway.kill()
        if lost == "the disk":
            shutil.rmtree(edge)
        else:
            for file in edge.glob("buffer.db*"):
                file.unlink()
        site.uplink.restore()
        site.gateway.start()
        wait_until(lambda: site.gateway.at_work, 20, "the agent")
        numbers(one, 20)  # and nothing of the other one: its gap must not wait for it
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 20, "all of it is there")
        accounts = [appliance.judge(cloud.api, raw=True, timeout_s=10) for appliance in (one, two)]
        for appliance in (one, two):
            appliance.close()
        for account in accounts:
            assert account.balanced, account
            assert account.reasons["buffer_reset"] >= 15, account
        assert accounts[0].stored >= 40
        theirs = cloud.api.get(f"/v1/gateways/{site.name}/account")
        assert len({lane["buffer_id"] for lane in theirs["lanes"]}) == 2
        assert theirs["delivered"] == accounts[0].stored + accounts[1].stored
    finally:
        site.end()
