"""A real house: two appliances talk to the cloud, two to the gateway's front door, while `access` and the agent are killed."""

from collections.abc import Mapping
from pathlib import Path

from tests.e2e.platform import Cloud, Process, wait_until
from tests.e2e.scenes import Site, appliance_replay, chance_of_this_run, rows_logged, settled, tsl_of, wait_rows

ROWS = 1500
RATE = 100.0
HOUSE = "nilm/train/REFIT_House2_2013-10.csv.gz"
POWER = {"PowerW": "double"}
DIRECT = {"kettle": "Kettle", "dishwasher": "Dishwasher"}
LOCAL = {"washing_machine": "WashingMachine", "microwave": "Microwave"}


def test_appliances_that_wait_for_puback_lose_nothing(data_dir: Path, tmp_path: Path) -> None:
    chance = chance_of_this_run()
    file = data_dir / HOUSE
    with Cloud(tmp_path) as cloud:
        site = Site.build(cloud, tmp_path / "edge", "house2", appliances={name: tsl_of(POWER) for name in LOCAL})
        simulators: dict[str, Process] = {}
        try:
            site.gateway.start()
            keys: Mapping[str, tuple[str, str]] = {name: direct_device(cloud, name) for name in DIRECT} | {
                name: (site.keys[name], site.secrets[name]) for name in LOCAL
            }
            for name, column in (DIRECT | LOCAL).items():
                port = cloud.mqtt_port if name in DIRECT else site.front_port
                simulators[name] = appliance_replay(
                    tmp_path / "logs", name, file, {column: "PowerW"}, keys=keys[name], port=port, rate=RATE, rows=ROWS
                )
                simulators[name].start()
            logs = {name: tmp_path / "logs" / f"{name}.jsonl" for name in simulators}
            wait_rows(logs["kettle"], ROWS // 3 + chance.randrange(200))
            cloud.kill_role("access")
            wait_rows(logs["microwave"], ROWS * 2 // 3 + chance.randrange(200))
            site.gateway.kill()
            site.gateway.start()
            for name, process in simulators.items():
                assert process.wait(120) == 0, f"{name}: {process.tail()}"
                assert rows_logged(logs[name]) == ROWS
            wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 60, "an empty buffer")
            for name in simulators:
                # A gateway's frames are stored once even where a PUBACK was lost; a direct post with its time is *visible* once.
                account = settled(cloud, keys[name][0], name, logs[name], raw=name in LOCAL)
                print(name, account)
                assert account.balanced, (name, account)
                assert account.produced == account.stored == ROWS
            assert site.gateway.stop() == 0
        finally:
            for process in simulators.values():
                process.end()
            site.end()


def direct_device(cloud: Cloud, name: str) -> tuple[str, str]:
    """(product key, secret) of an appliance that talks to the cloud itself."""
    product_key = cloud.product(name, tsl_of(POWER))
    return product_key, cloud.device(product_key, name, site="house2-direct")
