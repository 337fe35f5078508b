"""Posts that carry many values, of a device or of what is behind it: each value is stored as its own device's, at its own time."""

from typing import Any

import msgspec
import pytest

from cloud.access.model import SessionRow
from cloud.devices.model import DeviceFacts
from cloud.ingest.evaluation import Evaluator, open_message
from cloud.ingest.model import Effects, SeriesBook
from cloud.telemetry.model import Position
from protocols.errors import Reason
from tests.unit.cloud.ingest.scene import MODEL, NOW, STOVE, batch, evaluate, evaluator, post, registry, rows

CARRIER = SessionRow(1, 30, "stove", "carrier", 5)  # a gateway that speaks Alink, with s5 in its topology
BATCH, HISTORY, PACK = ("/sys/stove/{}/thing/event/property/" + kind + "/post" for kind in ("batch", "history", "pack"))


def with_topology() -> Evaluator:
    known = registry()
    facts = [DeviceFacts(1, 30, "stove", "carrier", None, False, True), DeviceFacts(1, 15, "stove", "s5", None, False, True, 30)]
    known.learn({"stove": MODEL}, {(fact.product_key, fact.device_name): fact for fact in facts})
    return Evaluator(Position("s", 0), SeriesBook(()), {}, known)


def answer(effects: Effects) -> Any:
    (message,) = effects.downlinks
    return msgspec.json.decode(message.payload)


def identity(name: str) -> dict[str, str]:
    return {"productKey": "stove", "deviceName": name}


def test_a_batch_is_stored_value_by_value_and_the_newest_is_in_the_shadow() -> None:
    values = [{"value": 1, "time": NOW - 3}, {"value": 2, "time": NOW - 1}, {"value": 3, "time": NOW - 2}]
    events = {"boiled_over": [{"value": {"zone": 1}, "time": NOW - 9}]}
    payload = post({"properties": {"power": values, "mode": [{"value": "grill", "time": NOW}]}, "events": events}, "55")
    effects = evaluate(evaluator(), batch(payload, topic=BATCH.format("s1")))
    assert rows(effects) == [("s1", "power", NOW - 3, 1.0), ("s1", "power", NOW - 1, 2.0), ("s1", "power", NOW - 2, 3.0)]
    assert [(text.ts, text.json) for text in effects.append.texts] == [(NOW, '"grill"'), (NOW - 9, '{"zone":1}')]
    assert effects.reported == {11: {"power": (2.0, NOW - 1), "mode": ("grill", NOW)}}
    assert (answer(effects)["id"], answer(effects)["code"], answer(effects)["data"]) == ("55", 200, {})
    assert effects.downlinks[0].topic == BATCH.format("s1") + "_reply"


@pytest.mark.parametrize(
    ("topic", "params"),
    [
        (HISTORY, [{"identity": identity("s5"), "properties": [{"power": {"value": 4, "time": NOW - 1}}]}]),
        (
            PACK,
            {
                "properties": {},
                "events": {},
                "subDevices": [{"identity": identity("s5"), "properties": {"power": {"value": 4, "time": NOW - 1}}}],
            },
        ),
    ],
    ids=["history", "pack"],
)
def test_a_gateway_brings_what_its_sub_devices_measured(topic: str, params: object) -> None:
    message = batch(post(params, "9"), session=CARRIER, topic=topic.format("carrier"))  # type: ignore[arg-type]
    assert open_message(1, message).devices >= {("stove", "s5")}, "it is looked up before it is judged"
    effects = evaluate(with_topology(), message)
    assert rows(effects) == [("s5", "power", NOW - 1, 4.0)]
    assert effects.reported == {15: {"power": (4.0, NOW - 1)}}
    assert answer(effects)["data"] == {}


@pytest.mark.refusal(Reason.FOREIGN_DEVICE)
def test_what_is_not_in_its_topology_is_named_put_aside_and_stops_nothing(  # of another tenant, of nobody, of another gateway
) -> None:
    params = [{"identity": identity(name), "properties": [{"power": {"value": 1, "time": NOW}}]} for name in ("s2", "s3", "nobody", "s5")]
    effects = evaluate(with_topology(), batch(post(params), session=CARRIER, topic=HISTORY.format("carrier")))  # type: ignore[arg-type]
    assert [row[0] for row in rows(effects)] == ["s5"]
    assert answer(effects)["code"] == 200
    assert len(answer(effects)["data"]) == 3
    (entry,) = effects.quarantined
    assert (entry.device_name, entry.reason, entry.replayable) == ("carrier", Reason.FOREIGN_DEVICE, True)
    assert "add it first" in entry.detail


def test_a_value_that_does_not_fit_is_named_and_the_others_are_kept() -> None:
    payload = post({"properties": {"power": [{"value": 99_999, "time": NOW}, {"value": 1, "time": NOW}], "nope": {"value": 1}}})
    effects = evaluate(evaluator(), batch(payload, topic=BATCH.format("s1")))
    assert rows(effects) == [("s1", "power", NOW, 1.0)]
    assert set(answer(effects)["data"]) == {"power", "nope"}
    assert len(effects.quarantined) == 1


def test_what_is_refused_in_each_entry_of_a_device_is_named() -> None:
    values = [{"power": {"value": 99_999, "time": NOW}}, {"nope": {"value": 1, "time": NOW}}, {"power": {"value": 1, "time": NOW}}]
    params = [{"identity": identity("s5"), "properties": [value]} for value in values]
    effects = evaluate(with_topology(), batch(post(params), session=CARRIER, topic=HISTORY.format("carrier")))  # type: ignore[arg-type]
    assert rows(effects) == [("s5", "power", NOW, 1.0)]
    assert len(answer(effects)["data"]) == 2
    assert len(effects.quarantined) == 1


def test_a_history_that_cannot_be_read_is_answered_and_put_aside() -> None:
    effects = evaluate(evaluator(), batch(post([{"identity": 7}]), session=STOVE, topic=HISTORY.format("s1")))  # type: ignore[arg-type]
    assert answer(effects)["code"] == 460
    assert effects.quarantined[0].reason == Reason.BAD_ENVELOPE


def test_who_wants_no_answer_gets_none() -> None:
    payload = msgspec.json.encode({"id": "1", "sys": {"ack": 0}, "params": {"properties": {"power": {"value": 1, "time": NOW}}}})
    effects = evaluate(evaluator(), batch(payload, topic=BATCH.format("s1")))
    assert (len(rows(effects)), effects.downlinks) == (1, [])
