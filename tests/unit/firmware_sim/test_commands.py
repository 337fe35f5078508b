"""What simulated appliances do when they are asked: sets, gets and services on all their topics, values of the thing model's types."""

import json
from random import Random
from typing import Any

import pytest

from firmware_sim.appliances import hood, stove
from firmware_sim.conduct import Carrier, Conduct, Response
from firmware_sim.devices import DeviceSpec
from firmware_sim.home import appliance
from firmware_sim.wire.commands import Commands
from protocols.alink.messages import encode_command, property_set
from protocols.alink.topics import Topic
from protocols.errors import Refused
from protocols.thing import library

SERVICE = "/sys/pk/dn/thing/service/"
OVEN = {"Mode": 2, "Temperature": 180, "Duration": 600}


def commands(kind: str) -> Commands:
    machine = appliance(kind, "1")
    return Commands(library.load(kind), machine.obey, machine.serve, machine.readings)


def asked(found: Commands, topic: str, payload: bytes) -> tuple[str, dict[str, Any]]:
    where, answer = found.answer(Topic.parse(topic), payload)
    return where, json.loads(answer)


@pytest.mark.parametrize(
    ("topic", "answered"),
    [
        (SERVICE + "StartOven", SERVICE + "StartOven_reply"),
        ("/ext/rrpc/77/sys/pk/dn/thing/service/StartOven", "/ext/rrpc/77/sys/pk/dn/thing/service/StartOven"),
        ("/sys/pk/dn/rrpc/request/77", "/sys/pk/dn/rrpc/response/77"),
    ],
)
def test_a_service_is_answered_with_its_output_where_the_carrier_wants_it(topic: str, answered: str) -> None:
    where, answer = asked(commands("integrated_stove"), topic, encode_command(77, "thing.service.StartOven", OVEN))
    assert where == answered
    assert (answer["id"], answer["code"], answer["data"]) == ("77", 200, {"Accepted": 1})


def test_a_service_that_is_not_there_or_an_input_that_does_not_fit_is_answered_with_a_code() -> None:
    found = commands("integrated_stove")
    assert asked(found, SERVICE + "Dance", encode_command(1, "thing.service.Dance", {}))[1]["code"] == 5161
    assert asked(found, SERVICE + "StartOven", encode_command(1, "thing.service.StartOven", {"Mode": 2}))[1]["code"] == 6302
    wrong = OVEN | {"Temperature": 999}
    assert asked(found, SERVICE + "StartOven", encode_command(1, "thing.service.StartOven", wrong))[1]["code"] == 460
    assert asked(found, SERVICE + "StartOven", encode_command(1, "thing.service.StartOven", [1]))[1]["code"] == 460


def test_present_values_are_told_for_the_identifiers_that_were_asked_for() -> None:
    _, answer = asked(commands("range_hood"), SERVICE + "property/get", encode_command(5, "thing.service.property.get", ["FanLevel", "x"]))
    assert (answer["code"], answer["data"]) == (200, {"FanLevel": 1})


def test_a_device_without_an_appliance_refuses_sets_with_a_code() -> None:
    assert asked(Commands(), SERVICE + "property/set", property_set(1, {"Light": 1}))[1]["code"] != 200
    with pytest.raises(Refused):
        Commands().answer(Topic.parse(SERVICE + "property/set"), b"\xff")


def test_services_change_what_the_appliances_post() -> None:
    served = stove.serve(stove.Stove(left=stove.Burner(level=5)), "CloseGas", {})
    assert served is not None
    assert stove.readings(stove.step(served[0], 60.0, Random(1)))["LeftBurnerLevel"] == 0
    clean = hood.serve(hood.Hood(filter_life=3.0), "ResetFilter", {})
    assert clean is not None
    assert hood.readings(clean[0])["FilterLife"] == 100
    off = stove.serve(stove.Stove(on=0), "StartOven", OVEN)
    assert off is not None
    assert off[1] == {"Accepted": 0}


def test_every_service_of_a_simulated_appliance_is_served_with_outputs_of_its_types() -> None:
    for kind, module, state in (("integrated_stove", stove, stove.Stove()), ("range_hood", hood, hood.Hood())):
        for name, service in library.load(kind).services.items():
            served = module.serve(state, name, OVEN)  # each with its own state
            assert served is not None
            assert served[1].keys() == service.output.keys()


def test_a_fleet_is_the_same_for_the_same_seed_and_its_shares_are_kept() -> None:
    specs = [DeviceSpec("pk", f"d{n}", "s") for n in range(300)]
    conduct = Conduct(refuse=0.2, ignore=0.1, away=1 / 3, seed=7)
    home, away = conduct.at_home(specs)
    assert (len(home), len(away)) == (200, 100)
    assert conduct.at_home(specs) == (home, away)
    assert sorted(spec.device_name for spec in home + away) == sorted(spec.device_name for spec in specs)
    found = [conduct.response("d1", str(n)) for n in range(2_000)]
    assert found == [conduct.response("d1", str(n)) for n in range(2_000)]
    assert 300 < found.count(Response.REFUSE) < 500
    assert 120 < found.count(Response.IGNORE) < 280
    assert [Conduct(carrier=Carrier.BOTH).ext(n) for n in range(4)] == [0, 1, 0, 1]
    for refuse, ignore, absent in ((0.6, 0.5, 0.0), (0.0, 0.0, 1.1), (0.0, -0.1, 0.0)):
        with pytest.raises(Refused, match="shares"):
            Conduct(refuse, ignore, absent)
