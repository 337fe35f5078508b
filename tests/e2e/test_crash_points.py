"""Every named crash point fires once on a running platform, and the account still balances; a broken build shows it could fail."""

from pathlib import Path

from tests.e2e.mutant import mutant
from tests.e2e.platform import Cloud, wait_gone
from tests.e2e.scenes import appliance_replay, settled, tsl_of, wait_rows
from tests.e2e.trio import CLOUD_POINTS, EDGE_POINTS, HEADERS, RATE, made_up, scene


def test_a_crash_at_any_named_point_loses_and_doubles_nothing(tmp_path: Path) -> None:
    points = [*CLOUD_POINTS, *EDGE_POINTS]
    with Cloud(tmp_path) as cloud, scene(cloud, tmp_path, "crashes", 1800) as played:
        for number, point in enumerate(points):
            wait_rows(played.logs["direct"], 60 + 40 * number)
            played.fire(point)
        played.resend_while_the_store_is_away()
        # What came by the gateway is stored once; what came directly with its time is visible once.
        accounts = played.accounts(60, raw=("machine", "local"))
        for name, account in accounts.items():
            print(name, account)
            assert account.balanced, (name, account)
        assert accounts["local"].in_gaps == accounts["direct"].in_gaps == 0
        assert accounts["machine"].rows_in_gaps > 0


def test_a_puback_before_the_commit_is_caught_by_a_kill(tmp_path: Path) -> None:
    """The crash point of the test above, and `direct` in its account, on a build that acknowledges too early."""
    code = mutant("puback_before_commit", tmp_path)
    file = made_up(tmp_path / "day.csv", 200)
    with Cloud(tmp_path, code=code) as cloud:
        product_key = cloud.product("direct", tsl_of(HEADERS))
        keys = (product_key, cloud.device(product_key, "direct"))
        columns = {header: header for header in HEADERS}
        with appliance_replay(tmp_path, "direct", file, columns, keys=keys, port=cloud.mqtt_port, rate=RATE, rows=200) as appliance:
            log = tmp_path / "direct.jsonl"
            wait_rows(log, 60)
            wait_gone(cloud.crash("access.before_commit"))
            assert appliance.wait(60) == 0, appliance.tail()
            account = settled(cloud, product_key, "direct", log, raw=False, timeout_s=5)
    print(account)
    assert not account.balanced
    assert account.lost
