"""Simulated machines: deterministic by seed, and never a value their own thing model refuses."""

from random import Random

import pytest

from firmware_sim.appliances import hood, stove
from firmware_sim.equipment import meter, press
from firmware_sim.row_log import Row, Value
from firmware_sim.wire.registers import RegisterBank
from protocols.thing import library


def meter_rows(seed: int, steps: int, dt_s: float) -> list[dict[str, Value]]:
    state, rng, rows = meter.Meter(load_w=30_000), Random(seed), []
    for _ in range(steps):
        state = meter.step(state, dt_s, rng)
        rows.append(meter.readings(state))
    return rows


def press_rows(seed: int, steps: int, dt_s: float) -> list[dict[str, Value]]:
    state, rng, rows = press.Press(), Random(seed), []
    for _ in range(steps):
        state = press.step(state, dt_s, rng)
        rows.append(press.readings(state))
    return rows


def stove_rows(seed: int, steps: int, dt_s: float) -> list[dict[str, Value]]:
    state, rng, rows = stove.Stove(), Random(seed), []
    for _ in range(steps):
        state = stove.step(state, dt_s, rng)
        rows.append(stove.readings(state))
    return rows


def hood_rows(seed: int, steps: int, dt_s: float) -> list[dict[str, Value]]:
    state, rng, rows = hood.Hood(), Random(seed), []
    for _ in range(steps):
        state = hood.step(state, dt_s, rng)
        rows.append(hood.readings(state))
    return rows


MACHINES = {"power_meter": meter_rows, "stamping_press": press_rows, "integrated_stove": stove_rows, "range_hood": hood_rows}


@pytest.mark.parametrize("name", MACHINES)
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(name: str) -> None:
    run = MACHINES[name]
    assert run(7, 50, 1.0) == run(7, 50, 1.0)
    assert run(7, 50, 1.0) != run(8, 50, 1.0)


@pytest.mark.parametrize("dt_s", [0.05, 1.0, 60.0])
@pytest.mark.parametrize("name", MACHINES)
def test_every_value_is_one_its_thing_model_takes(name: str, dt_s: float) -> None:
    properties = library.load(name).properties
    for row in MACHINES[name](3, 400, dt_s):
        for identifier, value in row.items():
            assert properties[identifier].data_type.coerce(value, identifier) == value


def test_energy_grows_by_power_times_time() -> None:
    rows = meter_rows(1, 3_600, 1.0)
    assert float(rows[-1]["EnergyImport"]) - float(rows[0]["EnergyImport"]) == pytest.approx(30.0 * 3_599 / 3_600, abs=0.01)


def test_the_press_strikes_as_often_as_its_rate_says() -> None:
    state, rng = press.Press(), Random(1)
    before = state.strokes
    for _ in range(60):
        state = press.step(state, 0.5, rng)
    if state.run_state is press.RunState.RUNNING:
        assert state.strokes - before == pytest.approx(21, abs=1)
    assert press.readings(state)["GoodCount"] == state.strokes - state.scrap


def test_every_row_fits_its_registers() -> None:
    for layout, rows in ((meter.points(), meter_rows(5, 200, 30.0)), (press.points(), press_rows(5, 200, 30.0))):
        bank = RegisterBank(layout)
        for n, values in enumerate(rows, 1):
            bank.show(bank.words_of(Row(n, n, values)))


def test_a_property_set_is_obeyed_and_the_cook_leaves_it_alone() -> None:
    rng, state = Random(2), stove.obey(stove.Stove(), {"LeftBurnerLevel": 4, "HoodLevel": 2, "OvenMode": 2})
    for _ in range(600):
        state = stove.step(state, 1.0, rng)
    values = stove.readings(state)
    assert (values["LeftBurnerLevel"], values["HoodLevel"], values["OvenMode"]) == (4, 2, 2)
    assert float(values["LeftPanTemperature"]) > 80
    assert float(values["OvenTemperature"]) > 120


def test_the_hood_keeps_a_level_that_was_set_until_auto_mode_takes_it_back() -> None:
    rng, state = Random(2), hood.obey(hood.Hood(), {"FanLevel": 4})
    for _ in range(300):
        state = hood.step(state, 1.0, rng)
    assert hood.readings(state)["FanLevel"] == 4
    state = hood.obey(state, {"AutoMode": 1})
    for _ in range(300):
        state = hood.step(state, 1.0, rng)
    assert hood.readings(state)["FanLevel"] != 4
