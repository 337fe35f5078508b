"""Raw bytes of devices: read by the product's table into rows, events and answers, or kept whole until there is one."""

from typing import Any

import pytest

from cloud.access.model import BatchWriter, session_key
from cloud.ingest.evaluation import Evaluator
from cloud.ingest.model import SeriesBook
from cloud.telemetry.model import Position
from protocols.errors import Reason
from protocols.thing.model import ThingModel, parse_thing_model
from tests.unit.cloud.ingest.scene import MODEL, NOW, STOVE, batch, evaluate, registry, rows

UP, REPLY = "/sys/stove/s1/thing/model/up_raw", "/sys/stove/s1/thing/model/down_raw_reply"
TABLE: dict[str, Any] = {
    "up": [
        {
            "kind": "post",
            "match": [{"hex": "01"}],
            "fields": [{"identifier": "power", "offset": 1, "type": "u16"}, {"identifier": "level", "offset": 3, "type": "u8"}],
            "answer": "0100",
        },
        {"kind": "event", "event": "boiled_over", "match": [{"hex": "02"}], "fields": [{"identifier": "zone", "offset": 1, "type": "u8"}]},
        {"kind": "reply", "match": [{"hex": "03"}], "id": {"offset": 1}},
    ]
}
WITH_TABLE = parse_thing_model({**MODEL.to_dict(), "rawTable": TABLE})


def evaluator(model: ThingModel) -> Evaluator:
    known = registry()
    known.learn({"stove": model}, {})
    return Evaluator(Position("s", 0), SeriesBook(()), {}, known)


def test_bytes_become_rows_and_are_answered_as_the_table_says() -> None:
    effects = evaluate(evaluator(WITH_TABLE), batch(bytes.fromhex("0104d203"), topic=UP))
    assert rows(effects) == [("s1", "power", NOW, 1234.0), ("s1", "level", NOW, 3.0)]
    assert [(one.topic, one.payload) for one in effects.downlinks] == [(UP + "_reply", b"\x01\x00")]
    assert effects.reported == {11: {"power": (1234.0, NOW), "level": (3, NOW)}}


def test_an_event_is_kept_and_an_answer_ends_its_command() -> None:
    effects = evaluate(evaluator(WITH_TABLE), batch(bytes.fromhex("0204"), topic=UP), batch(bytes.fromhex("030000004d"), topic=REPLY))
    assert [text.json for text in effects.append.texts] == ['{"zone":4}']
    assert [(one.command_id, one.from_device, one.code) for one in effects.commands] == [("77", STOVE.device_id, 200)]
    assert effects.downlinks == []
    assert effects.quarantined == []


def test_a_value_beyond_its_range_is_put_aside_and_the_rest_is_stored() -> None:
    effects = evaluate(evaluator(WITH_TABLE), batch(bytes.fromhex("0104d20a"), topic=UP))
    assert rows(effects) == [("s1", "power", NOW, 1234.0)]
    assert [(entry.reason, entry.payload) for entry in effects.quarantined] == [("out_of_range", bytes.fromhex("0104d20a"))]


@pytest.mark.refusal(Reason.NO_RAW_TABLE)
def test_without_a_table_the_bytes_are_kept_whole_and_read_once_there_is_one() -> None:
    (entry,) = evaluate(evaluator(MODEL), batch(bytes.fromhex("0104d203"), topic=UP)).quarantined
    assert (entry.reason, entry.payload, entry.replayable) == ("no_raw_table", bytes.fromhex("0104d203"), True)
    writer = BatchWriter()
    writer.add_replay(session_key(STOVE), entry.topic, NOW, entry.payload, 7)
    effects = evaluate(evaluator(WITH_TABLE), writer.to_bytes())
    assert rows(effects) == [("s1", "power", NOW, 1234.0), ("s1", "level", NOW, 3.0)]
    assert (effects.downlinks, effects.quarantined) == ([], [])


@pytest.mark.refusal(Reason.BAD_RAW)
def test_bytes_that_the_table_does_not_know_are_put_aside() -> None:
    (entry,) = evaluate(evaluator(WITH_TABLE), batch(b"\xff", topic=UP)).quarantined
    assert (entry.reason, entry.payload) == ("bad_raw", b"\xff")
