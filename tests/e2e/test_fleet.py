"""Ten thousand devices are imported, activated and commanded: every command ends, and ends as the device knows it."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.e2e.fleet import Fleet, Heard, command_half, judge
from tests.e2e.mutant import mutant
from tests.e2e.platform import ROOT, Cloud

SIZE = 10_000
STOVE = json.loads((ROOT / "protocols" / "thing" / "library" / "integrated_stove.json").read_text(encoding="utf-8"))
SHARES = ("--refuse", "0.15", "--ignore", "0.15")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


def test_ten_thousand_devices_are_activated_and_every_command_to_half_of_them_ends_as_its_device_knows_it(
    cloud: Cloud, tmp_path: Path
) -> None:
    fleet = Fleet(cloud, tmp_path, SIZE, STOVE)
    assert fleet.import_all() == f"{SIZE} created, 0 there already, 0 failed"
    devices = list(fleet.devices())
    assert [one["device_name"] for one in devices] == fleet.names
    assert not any(one["activated"] for one in devices)
    with fleet.swarm(*SHARES) as swarm:
        assert swarm.hear()["online"] == SIZE
        activated = fleet.wait_for(SIZE, lambda one: one["activated"] and one["online"], "are activated")
        assert {one["state"] for one in activated} == {"activated"}
        verdict = command_half(fleet, swarm, Random(4711), waits_s=40, expires_in_s=20)
        print(verdict.ends)
        assert not verdict.wrong, verdict.wrong[:20]
        assert sum(verdict.ends.values()) == len(fleet.asked) == SIZE // 2
        assert min(verdict.ends[state] for state in ("completed", "failed", "expired")) > 0
        heard = fleet.heard()
        assert {line.carrier for line in heard} == {"property_set", "service", "rrpc_service", "rrpc_request"}
        count = swarm.tell("count")
        assert (count["commands"], count["repeated"], count["refused"], count["again"]) == (len(heard), 0, 0, 0)
        assert swarm.stop() == 0


def test_the_oracle_finds_a_build_that_hands_queued_commands_over_twice(tmp_path: Path) -> None:
    with Cloud(tmp_path / "platform", code=mutant("hand_over_twice", tmp_path), crash_points=False) as broken:
        fleet = Fleet(broken, tmp_path, 120, STOVE)
        fleet.import_all()
        with fleet.swarm() as swarm:
            assert swarm.hear()["online"] == fleet.size
            fleet.wait_for(fleet.size, lambda one: one["online"], "are online")
            verdict = command_half(fleet, swarm, Random(1), waits_s=10, expires_in_s=3)
    assert any("handed over 2 times" in line for line in verdict.wrong), verdict


def test_the_oracle_names_what_is_wrong() -> None:
    asked = {str(n): ("d", "m") for n in range(5)}
    found = {str(n): {"state": state, "expires": 100_000} for n, state in enumerate(("completed", "failed", "expired", "sent"))}
    lines = [Heard("d", "0", "m", "", "ignore", 1, 1), Heard("d", "2", "m", "", "obey", 1, 1), Heard("e", "9", "m", "", "obey", 1, 1)]
    assert sorted(line.partition(":")[0] for line in judge(asked, found, lines).wrong) == ["0", "1", "2", "3", "4", "9"]
