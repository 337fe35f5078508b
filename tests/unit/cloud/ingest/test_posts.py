"""What becomes of the messages of devices that talk to the platform themselves."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.access.model import BatchWriter, SessionRow, session_key
from cloud.access.model import Kind as RowKind
from cloud.devices.model import CommandReply, PresenceChange
from cloud.ingest.evaluation import Evaluator
from cloud.ingest.model import Effects, Reset, SeriesBook
from cloud.telemetry.model import Kind, Position, Series, SeriesKey
from protocols.errors import Reason
from tests.unit.cloud.ingest.scene import GATEWAY, NOW, POST, STOVE, batch, evaluate, evaluator, post, presence, registry, rows

TOPICS = (
    POST,
    "/sys/stove/s1/thing/event/boiled_over/post",
    "/sys/stove/s1/thing/service/property/set_reply",
    "/sys/stove/s1/nobody/knows",
    "/stove/s1/user/custom",
    "/edge/gateway/g1/up/live",
    "/edge/gateway/g1/up/exchange",
)


def replies(effects: Effects) -> list[dict[str, object]]:
    return [msgspec.json.decode(downlink.payload) for downlink in effects.downlinks]


def refused(effects: Effects) -> list[tuple[str, bytes]]:
    return [(entry.reason, entry.payload) for entry in effects.quarantined]


def test_a_post_becomes_rows_shadow_and_a_reply() -> None:
    effects = evaluate(evaluator(), batch(post({"power": {"value": 2000.5, "time": NOW - 9}, "level": {"value": 3, "time": NOW - 8}})))
    assert rows(effects) == [("s1", "power", NOW - 9, 2000.5), ("s1", "level", NOW - 8, 3.0)]
    assert effects.append.numbers.position.tolist() == [1, 1]
    assert (effects.append.start, effects.append.end) == (Position("s", 0), Position("s", 1))
    assert effects.reported == {11: {"power": (2000.5, NOW - 9), "level": (3, NOW - 8)}}
    assert type(effects.reported[11]["level"][0]) is int
    (downlink,) = effects.downlinks
    assert (downlink.product_key, downlink.device_name, downlink.topic) == ("stove", "s1", f"{POST}_reply")
    assert replies(effects) == [
        {"id": "1", "code": 200, "data": {}, "message": "success", "method": "thing.event.property.post", "version": "1.0"}
    ]


@pytest.mark.parametrize("message_id", ["1", 17, "1|exp-topic|/sys/x", "é"])
def test_a_reply_echoes_the_id_as_it_came(message_id: object) -> None:
    (reply,) = replies(evaluate(evaluator(), batch(post({"power": 1}, message_id))))
    assert reply["id"] == message_id


def test_no_reply_is_sent_to_who_wants_none() -> None:
    effects = evaluate(evaluator(), batch(post({"power": 1}, sys={"ack": 0})))
    assert effects.downlinks == []
    assert len(rows(effects)) == 1


def test_a_value_without_a_time_gets_the_time_it_was_received() -> None:
    effects = evaluate(evaluator(), batch(post({"power": 1, "level": {"value": 2, "time": NOW - 5}}), post({"power": 2})))
    assert [(name, ts) for _, name, ts, _ in rows(effects)] == [("power", NOW), ("level", NOW - 5), ("power", NOW)]


def test_a_value_that_does_not_fit_is_named_in_the_reply_and_quarantined_and_the_others_are_stored() -> None:
    payload = post({"power": 99999, "level": 3, "colour": 1})
    effects = evaluate(evaluator(), batch(payload))
    assert rows(effects) == [("s1", "level", NOW, 3.0)]
    assert refused(effects) in ([("out_of_range", payload)], [("unknown_identifier", payload)])
    (reply,) = replies(effects)
    assert reply["code"] == 200
    assert isinstance(reply["data"], dict)
    assert sorted(reply["data"]) == ["colour", "power"]


def test_a_value_more_than_a_day_ahead_is_refused_alone() -> None:
    day = 24 * 3600 * 1000
    effects = evaluate(evaluator(), batch(post({"power": {"value": 1, "time": NOW + day + 1}, "level": {"value": 2, "time": NOW + day}})))
    assert rows(effects) == [("s1", "level", NOW + day, 2.0)]
    assert [reason for reason, _ in refused(effects)] == ["bad_time"]


@pytest.mark.parametrize(
    ("poison", "reason", "code"), [(b"\xff\x00", "bad_json", 6207), (b"{", "bad_json", 6207), (b"[]", "bad_envelope", 460)]
)
def test_a_payload_that_cannot_be_read_is_quarantined_and_answered_and_blocks_nothing(poison: bytes, reason: str, code: int) -> None:
    effects = evaluate(evaluator(), batch(post({"power": 1}), poison, post({"power": 2})))
    assert [value for _, _, _, value in rows(effects)] == [1.0, 2.0]
    assert refused(effects) == [(reason, poison)]
    assert [reply["code"] for reply in replies(effects)] == [200, code, 200]


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_no_payload_stops_those_behind_it(payloads: list[bytes]) -> None:
    effects = evaluate(evaluator(), batch(*[payload for payload in payloads if payload], post({"power": 5})))
    assert rows(effects)[-1:] == [("s1", "power", NOW, 5.0)]
    assert effects.append.end == Position("s", 1)


def test_a_message_of_the_stream_that_is_no_batch_is_set_aside_and_the_next_is_taken() -> None:
    effects = evaluate(evaluator(), b"nonsense", batch(post({"power": 1})))
    assert [(entry.sequence, entry.payload) for entry in effects.unreadable] == [(1, b"nonsense")]
    assert rows(effects) == [("s1", "power", NOW, 1.0)]
    assert effects.append.end == Position("s", 2)


def test_texts_are_kept_as_json_and_feed_the_shadow() -> None:
    effects = evaluate(evaluator(), batch(post({"mode": {"value": "蒸", "time": NOW - 1}, "power": {"value": 1, "time": NOW - 2}})))
    (text,) = effects.append.texts
    assert (text.ts, text.json, text.position) == (NOW - 1, '"蒸"', 1)
    assert rows(effects) == [("s1", "power", NOW - 2, 1.0)]
    assert effects.reported == {11: {"mode": ("蒸", NOW - 1), "power": (1.0, NOW - 2)}}


def test_late_values_are_stored_and_never_replace_a_newer_one_in_the_shadow() -> None:
    late = [post({"power": {"value": value, "time": NOW - age}}) for value, age in ((1, 50), (2, 10), (3, 30))]
    effects = evaluate(evaluator(), batch(*late))
    assert len(rows(effects)) == 3
    assert effects.reported == {11: {"power": (2.0, NOW - 10)}}


def test_of_values_of_one_ms_the_last_stays_in_the_shadow() -> None:
    same = [post({"power": {"value": value, "time": NOW}}) for value in (1, 2, 3)]
    older = post({"power": {"value": 9, "time": NOW - 1}})
    assert evaluate(evaluator(), batch(*same)).reported == {11: {"power": (3.0, NOW)}}
    assert evaluate(evaluator(), batch(*same, older)).reported == {11: {"power": (3.0, NOW)}}


def test_an_event_is_stored_under_its_name_and_answered() -> None:
    payload = post({"value": {"zone": 2}, "time": NOW - 3})
    effects = evaluate(evaluator(), batch(payload, topic="/sys/stove/s1/thing/event/boiled_over/post"))
    (text,) = effects.append.texts
    assert (text.ts, text.json) == (NOW - 3, '{"zone":2}')
    assert effects.append.series[0].key == SeriesKey("stove", "s1", "boiled_over", Kind.EVENT)
    assert [reply["code"] for reply in replies(effects)] == [200]
    assert effects.reported == {}


def test_an_answer_to_a_command_completes_it() -> None:
    payload = b'{"id":"77","code":200,"data":{}}'
    effects = evaluate(evaluator(), batch(payload, topic="/sys/stove/s1/thing/service/property/set_reply"))
    assert effects.commands == [CommandReply("77", 11, 200, {}, NOW)]
    assert effects.downlinks == []


def test_custom_topics_are_taken_and_unknown_ones_quarantined() -> None:
    assert evaluate(evaluator(), batch(b"\x00\x01", topic="/stove/s1/user/update")).quarantined == []
    effects = evaluate(evaluator(), batch(b"{}", topic="/sys/stove/s1/thing/never/heard/of"))
    assert [entry.reason for entry in effects.quarantined] == ["unknown_topic"]


def test_a_device_cannot_speak_on_the_topic_of_another() -> None:
    effects = evaluate(evaluator(), batch(post({"power": 1}), topic="/sys/stove/s2/thing/event/property/post"))
    assert rows(effects) == []
    assert [entry.reason for entry in effects.quarantined] == ["foreign_topic"]


@pytest.mark.refusal(Reason.UNKNOWN_PRODUCT)
def test_messages_of_a_product_that_is_gone_are_quarantined() -> None:
    gone = SessionRow(1, 99, "gone", "x", 1)
    effects = evaluate(evaluator(), batch(post({"power": 1}), session=gone, topic="/sys/gone/x/thing/event/property/post"))
    assert [entry.reason for entry in effects.quarantined] == ["unknown_product"]


@pytest.mark.refusal(Reason.UNEXPECTED_ERROR)
def test_a_message_that_trips_over_a_bug_of_ours_is_kept_with_its_trace_and_its_neighbours_are_stored() -> None:
    known = registry()
    known.learn({"broken": object()}, {})  # type: ignore[dict-item]  # a thing model that is none: our bug
    on = Evaluator(Position("s", 0), SeriesBook(()), {}, known)
    unlucky = SessionRow(1, 98, "broken", "b1", 1)
    bad = batch(post({"power": 1}), session=unlucky, topic="/sys/broken/b1/thing/event/property/post")
    effects = evaluate(on, batch(post({"power": 1})), bad, batch(post({"power": 2})))
    assert [value for *_, value in rows(effects)] == [1.0, 2.0]
    (entry,) = effects.quarantined
    assert entry.reason == "unexpected_error"
    assert "Traceback" in entry.detail
    assert entry.payload == post({"power": 1})


def test_messages_on_custom_topics_are_counted() -> None:
    on = evaluator()
    assert evaluate(on, batch(b"x", b"y", topic="/stove/s1/user/anything")).unheard == 2
    assert evaluate(on, batch(post({"power": 1}))).unheard == 0


@given(st.binary(max_size=80), st.sampled_from(TOPICS))
def test_no_payload_on_any_topic_stops_its_neighbours(payload: bytes, topic: str) -> None:
    edge = topic.startswith("/edge/")
    bad = batch(payload, topic=topic, session=GATEWAY if edge else STOVE)
    effects = evaluate(evaluator(), batch(post({"power": 1})), bad, batch(post({"power": 2})))
    assert [value for device, identifier, _, value in rows(effects) if (device, identifier) == ("s1", "power")][:1] == [1.0]
    assert rows(effects)[-1][3] == 2.0
    assert effects.append.end == Position("s", 3)
    assert "unexpected_error" not in [entry.reason for entry in effects.quarantined]


def test_a_replayed_post_is_stored_at_its_own_time_and_does_nothing_else() -> None:
    writer = BatchWriter()
    writer.add_replay(session_key(STOVE), POST, NOW - 5_000, post({"power": 7, "level": 99}), entry=41)
    on = evaluator()
    effects = evaluate(on, batch(post({"power": 1})), writer.to_bytes())
    assert ("s1", "power", NOW - 5_000, 7.0) in rows(effects)
    assert len(replies(effects)) == 1  # that of the first post
    (entry,) = effects.quarantined
    assert (entry.reason, entry.replay_of, entry.received_ms) == ("out_of_range", 41, NOW - 5_000)
    assert effects.received_ms == NOW  # no lag of five seconds
    assert effects.reported[11]["power"] == (1.0, NOW)


def test_sessions_that_open_and_close_become_presence_in_order() -> None:
    effects = evaluate(
        evaluator(),
        presence(RowKind.OPENED, STOVE, NOW),
        presence(RowKind.ACCESS_STARTED, SessionRow(0, 0, "", "", 9), NOW + 1),
        presence(RowKind.CLOSED, GATEWAY, NOW + 2),
    )
    assert effects.presence == [PresenceChange(11, True, NOW, 5), Reset(NOW + 1, 9), PresenceChange(20, False, NOW + 2, 6)]


def test_series_known_to_the_store_keep_their_number_and_new_ones_count_on() -> None:
    known = [Series(1, SeriesKey("stove", "s9", "power")), Series(2, SeriesKey("stove", "s1", "power"))]
    effects = evaluate(evaluator(series=known), batch(post({"power": 1, "level": 2})))
    assert effects.append.numbers.series.tolist() == [2, 3]
    assert effects.append.series == [Series(3, SeriesKey("stove", "s1", "level"))]


def test_the_same_messages_on_the_same_memory_have_the_same_effects() -> None:
    messages = [
        batch(post({"power": {"value": n, "time": NOW - n}, "level": n % 12, "mode": "x", "nope": 1}), b"{", received_ms=NOW + n)
        for n in range(5)
    ]
    one, two = evaluate(evaluator(), *messages), evaluate(evaluator(), *messages)
    for part in ("received_ms", "marks", "reported", "presence", "commands", "quarantined", "unreadable", "downlinks", "messages"):
        assert getattr(one, part) == getattr(two, part)
    assert rows(one) == rows(two)
    assert one.append.texts == two.append.texts
    assert len({(entry.sequence, entry.number) for entry in one.quarantined}) == len(one.quarantined) == 10


def test_each_cut_begins_where_the_last_one_ended() -> None:
    on = evaluator()
    first = evaluate(on, batch(post({"power": 1})))
    assert not on.moved
    second = evaluate(on, batch(post({"power": 2})), batch(post({"power": 3})))
    assert first.append.end == second.append.start == Position("s", 1)
    assert second.append.end == Position("s", 3)
    assert second.append.series == []
    assert second.append.numbers.value.tolist() == [2.0, 3.0]
    assert second.append.numbers.position.tolist() == [2, 3]


def test_a_changed_thing_model_counts_from_the_next_message_on() -> None:
    on = evaluator()
    evaluate(on, batch(post({"power": 1})))
    on.forget()
    assert evaluate(on, batch(post({"power": 1}))).append.numbers.series.tolist() == [1]
