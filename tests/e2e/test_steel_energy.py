"""A real meter's year through Modbus, gateway and cloud, with everything killed once on the way."""

import json
import random
import time
from pathlib import Path

from tests.e2e.account import account_of
from tests.e2e.platform import Cloud, wait_until
from tests.e2e.scenes import CLOSE_AFTER_MS, POLL_MS, Machine, Site, chance_of_this_run, said, settled, wait_rows

ROWS = 1300
RATE = 80.0
ENERGY = {
    "Usage_kWh": "Import",
    "Lagging_Current_Reactive.Power_kVarh": "ReactiveImport",
    "Leading_Current_Reactive_Power_kVarh": "ReactiveExport",
}


def addresses(data_dir: Path) -> list[str]:
    """`--address` words that put energy where a real SDM630 has it."""
    meter = json.loads((data_dir / "modbus_maps" / "meters.json").read_text())["sdm"]
    assert "RTUIeee754ToFloat64" in meter["decoders"]
    at = {register["quantity"]: register["address"] for register in meter["registers"]}
    return [word for header, quantity in ENERGY.items() for word in ("--address", f"{header}=input:{at[quantity]}")]


def test_every_row_of_a_real_meter_is_stored_once_or_named_as_a_gap(data_dir: Path, tmp_path: Path) -> None:
    file = data_dir / "steel_energy" / "steel_2018_jan_oct.csv.gz"
    chance = chance_of_this_run()
    machine = Machine.replay(tmp_path / "machine", "meter", file, "--rows", str(ROWS), *addresses(data_dir), rate=RATE)
    try:
        with Cloud(tmp_path) as cloud:
            site = Site.build(cloud, tmp_path / "edge", "steel", [machine])
            try:
                down_s = run_with_faults(cloud, site, machine, chance)
                account = settled(cloud, site.keys["meter"], "meter", machine.log, raw=True)
                print(account)
                assert account.balanced, account
                identifiers = len(machine.tsl["properties"])
                assert account.produced == ROWS * identifiers
                assert account.rows_in_gaps > 0
                assert account.reasons["missed_poll"] == 0
                assert set(account.reasons) == {"agent_down"}
                allowed = sum((down + 2 * POLL_MS / 1000 + CLOSE_AFTER_MS / 1000) * RATE + 1 for down in down_s)
                assert account.rows_in_gaps <= allowed, (down_s, account)
                # The gateway says the same of itself as the oracle found from outside.
                wait_until(lambda: site.gateway.edgectl("account")["buffered"] == 0, 20, "an empty buffer")
                own = site.gateway.edgectl("account")
                assert own["collected"] == own["delivered"] + own["buffered"] + own["in_gaps"]
                assert own["collected"] >= account.stored
                shown = account_of(cloud.api, site.keys["meter"], "meter", machine.log, raw=False)
                assert shown.balanced
                assert site.gateway.stop() == 0
            finally:
                site.end()
    finally:
        machine.end()


def run_with_faults(cloud: Cloud, site: Site, machine: Machine, chance: random.Random) -> list[float]:
    """Two kills of the agent, one of `ingest`, one of NATS, one cut; the seconds of downtime after each agent kill."""
    agent, down_s = site.gateway, []
    agent.start()
    for rows in (ROWS // 8, ROWS * 5 // 8):
        wait_rows(machine.log, rows + chance.randrange(40))
        time.sleep(chance.random() * 0.1)
        killed = agent.kill()
        time.sleep(1.2 + chance.random())
        started = time.monotonic()  # what the killed agent had said may come through just behind its end
        agent.start()
        down_s.append(machine.link.first_word_after(started) - killed)
        if len(down_s) == 1:
            wait_rows(machine.log, ROWS * 2 // 8 + chance.randrange(40))
            cloud.kill_role("ingest")
            wait_rows(machine.log, ROWS * 3 // 8 + chance.randrange(40))
            site.uplink.cut()
            time.sleep(3)
            site.uplink.restore()
            wait_rows(machine.log, ROWS * 4 // 8 + chance.randrange(40))
            cloud.kill_role("nats")
    said(machine.process, "done", 120)
    return down_s
