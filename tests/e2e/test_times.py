"""The three times of a reading: when it was made, when its gateway sent it, and when it came."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import Cloud, wait_until
from tests.e2e.scenes import Site
from tests.faults.appliance import TSL, TestAppliance

AWAY_S = 6.0
UNSURE_MS = 3_000  # how exactly they are kept (docs/guarantees.md)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform")) as running:
        yield running


def test_a_reading_that_waited_in_the_buffer_says_when_it_was_made_and_when_it_was_sent(cloud: Cloud, tmp_path: Path) -> None:
    site = Site.build(cloud, tmp_path / "edge", "gw-times", appliances={"one": TSL})
    try:
        site.gateway.start()
        wait_until(lambda: site.gateway.at_work and site.gateway.edgectl("status")["uplink"]["connected"], 30, "the agent and its link")
        one = TestAppliance(site.front_port, site.keys["one"], "one", site.secrets["one"])

        def post(count: int) -> list[int]:
            made = []
            for _ in range(count):
                made.append(int(time.time() * 1000))
                one.number(made[-1])
                time.sleep(0.005)
            return made

        at_once = post(20)
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 20, "all of it is there")
        site.uplink.cut()
        waiting = post(20)
        time.sleep(AWAY_S)
        restored_ms = int(time.time() * 1000)
        site.uplink.restore()
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 30, "all of it is there")
        for _ in range(2):  # when something came is known once more came a second later
            time.sleep(1.2)
            post(1)
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 20, "all of it is there")
        one.close()
        times = {ts: (received, sent) for ts, _, _, received, sent in cloud.api.points(site.keys["one"], "one", "N", raw=True)}
        for made_ms in at_once:
            received_ms, sent_ms = times[made_ms]
            assert made_ms - UNSURE_MS <= sent_ms <= made_ms + UNSURE_MS + 1_000
            assert abs(received_ms - sent_ms) <= UNSURE_MS
        for made_ms in waiting:
            received_ms, sent_ms = times[made_ms]
            assert sent_ms >= restored_ms - UNSURE_MS > made_ms, "made long before it was sent"
            assert abs(received_ms - sent_ms) <= UNSURE_MS
    finally:
        site.end()
