"""A lone module: the agent beside an appliance's controller, on a serial line that is spoilt, with processes that die on both sides."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lone_module import lone_module
from tests.e2e.platform import Cloud, wait_until
from tests.e2e.scenes import chance_of_this_run, rows_logged, said, settled, wait_rows


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("serial")) as running:
        yield running


def test_every_row_of_a_controller_is_stored_once_over_noise_kills_and_a_pulled_cable(cloud: Cloud, tmp_path: Path) -> None:
    with lone_module(cloud, tmp_path, "lone", rows=420, rate=40, noise=0.002) as (site, controller, cable):
        chance = chance_of_this_run()
        for turn in range(3):
            time.sleep(1 + chance.random())
            if turn % 2:
                cable.pull()
                time.sleep(2)
                cable.plug()
            else:
                site.gateway.kill()
                time.sleep(chance.random())
                site.gateway.start()
        said(controller, "done", 60)
        assert controller.wait(60) == 0, "every row was acknowledged"
        wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 30, "an empty buffer")
        account = settled(cloud, site.keys["oven"], "oven", tmp_path / "oven.jsonl", raw=True)
        print(account, f"{cable.spoilt} bytes spoilt")
        assert cable.spoilt > 20
        assert account.produced == 420 * 2
        assert (account.stored, account.in_gaps, account.duplicates, account.lost) == (account.produced, 0, 0, [])
        assert not account.wrong
        site.agree()


def test_what_a_controller_could_not_hold_lies_in_a_named_gap(cloud: Cloud, tmp_path: Path) -> None:
    """Its memory holds 40 rows; the agent is away for more, and then its supply dips."""
    with lone_module(cloud, tmp_path, "short", "--memory", "40", rows=1_400, rate=50) as (site, controller, cable):
        log = tmp_path / "oven.jsonl"

        def taken() -> int:
            return int(site.gateway.edgectl("status")["connectors"][0]["rows"]) if site.gateway.at_work else 0

        wait_until(lambda: taken() > 20, 20, "rows")
        site.gateway.kill()
        wait_rows(log, rows_logged(log) + 100)
        site.gateway.start()
        wait_until(lambda: taken() > 50, 30, "rows again")
        cable.pull()
        time.sleep(0.3)
        os.kill(controller.pid, signal.SIGUSR1)
        cable.plug()
        said(controller, "done", 60)
        assert controller.wait(60) == 0
        account = settled(cloud, site.keys["oven"], "oven", tmp_path / "oven.jsonl", raw=True)
        print(account)
        assert account.produced == 1_400 * 2
        assert 0 < account.in_gaps < 1_400
        assert (account.stored + account.in_gaps, account.duplicates, account.lost) == (account.produced, 0, [])
        reasons = {gap.reason for gap in cloud.api.gaps(site.keys["oven"], "oven", "level")}
        assert {"agent_down", "device_unreachable"} <= reasons <= {"agent_down", "device_unreachable", "overrun"}


def test_a_set_reaches_the_controller_and_its_answer_the_caller(cloud: Cloud, tmp_path: Path) -> None:
    with lone_module(cloud, tmp_path, "told", "--no-own-time", rows=400, rate=20, noise=0.002) as (site, controller, _):
        path = f"/v1/devices/{site.keys['oven']}/oven"
        wait_until(lambda: cloud.api.get(path)["online"], 20, "it is online", every_s=0.2)
        command = cloud.post(f"{path}/properties?expires_in_s=20", {"level": 21.5})["command_id"]
        assert said(controller, "set", 20)["values"] == {"level": 21.5}
        wait_until(lambda: cloud.api.get(f"/v1/commands/{command}")["state"] == "completed", 20, "it is answered", every_s=0.2)
        wait_until(
            lambda: len(list(cloud.api.points(site.keys["oven"], "oven", "level", raw=False))) > 20, 20, "rows with the agent's time"
        )
        newest = cloud.api.get(f"/v1/telemetry/{site.keys['oven']}/oven")["level"]["time"]
        assert abs(newest - time.time() * 1000) < 5_000
