"""What becomes of a gateway's frames."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.access.model import BatchWriter, session_key
from cloud.devices.model import CommandReply, PresenceChange
from cloud.ingest.evaluation import Evaluator
from cloud.ingest.model import Booking, Effects, Mark
from cloud.telemetry.model import Gap, Sending
from protocols.edgelink.frame import FrameHeader, encode_frame, sent, stamp
from protocols.edgelink.lanes import Gap as EdgeGap
from protocols.edgelink.lanes import GapReason, Lane
from protocols.edgelink.messages import Committed, Exchange, ExchangeReply, LaneSpan, decode_message, encode_message
from protocols.edgelink.records import EventRecord, GapRecord, PresenceRecord, ReplyRecord, TallyRecord
from protocols.edgelink.stretches import STRETCH_MS, stretch_of
from tests.unit.cloud.ingest.scene import BUFFER, GATEWAY, LIVE, LIVE_KEY, NOW, batch, columns, evaluate, evaluator, frame, rows, up


def committed(effects: Effects) -> list[tuple[str, dict[Lane, int]]]:
    """What the gateway hears: the last level of the topic, and the watermarks."""
    return [
        (d.topic.rpartition("/")[2], msgspec.json.decode(d.payload, type=Committed).committed)
        for d in effects.downlinks
        if (d.product_key, d.device_name) == ("gateway", "g1")
    ]


def reasons(effects: Effects) -> list[str]:
    return [entry.reason for entry in effects.quarantined]


def test_a_frame_becomes_rows_shadow_and_a_watermark() -> None:
    readings = columns(("s1", "power", NOW - 2, 1.5), ("s1", "level", NOW - 1, 4.0))
    effects = evaluate(evaluator(), up(frame(1, readings)))
    assert sorted(rows(effects)) == [("s1", "level", NOW - 1, 4.0), ("s1", "power", NOW - 2, 1.5)]
    assert effects.reported == {11: {"power": (1.5, NOW - 2), "level": (4, NOW - 1)}}
    assert effects.marks == {LIVE_KEY: Mark(1, NOW + 1, readings=2)}
    assert committed(effects) == [("committed", {Lane.LIVE: 1})]


def test_the_account_counts_readings_once_and_what_the_buffer_gave_up_but_no_other_gap() -> None:
    gaps = [
        EdgeGap("pk", "s1", ("power",), NOW, NOW + 9, count, reason)
        for count, reason in ((7, GapReason.OVERFLOW), (5, GapReason.MISSED_POLL))
    ]
    on = evaluator()
    evaluate(on, up(frame(1), frame(1)))
    effects = evaluate(on, up(frame(2, None, *(GapRecord(gap) for gap in gaps))))
    mark = effects.marks[LIVE_KEY]
    assert (mark.sequence, mark.in_gaps) == (2, 7)
    assert mark.readings == 2


def test_readings_are_booked_under_the_time_their_frame_was_made_or_would_have_been() -> None:
    at = stretch_of(NOW)
    lost = TallyRecord(((at // STRETCH_MS - 3, 4), (at // STRETCH_MS, 2)))
    gap = GapRecord(EdgeGap("stove", "s1", ("power",), NOW - 9, NOW, 6, GapReason.OVERFLOW))
    on = evaluator()
    effects = evaluate(on, up(frame(1), frame(4, columns(), gap, lost, floor=4, covers=2), frame(1)))
    assert effects.booking.entries == {(*LIVE_KEY, at): (1, 2), (*LIVE_KEY, at - 3 * STRETCH_MS): (0, 4)}
    assert effects.marks[LIVE_KEY] == Mark(4, NOW + 4, readings=1, in_gaps=6)
    assert effects.booking.new_day == {LIVE_KEY}
    assert evaluate(on, up(frame(4), frame(5))).booking == Booking({(*LIVE_KEY, at): (1, 0)})


@pytest.mark.parametrize("created_ms", [-(2**63), 2**63 - 1])
def test_absurd_times_and_counts_fit_what_is_kept_of_them(created_ms: int) -> None:
    """A gateway with a bug must not stop everybody's ingest at the database."""
    on = evaluator()
    for seq in (1, 2, 3):
        gap = GapRecord(EdgeGap("stove", "s1", ("power",), NOW - 9, NOW, 2**62, GapReason.OVERFLOW))
        header = FrameHeader(BUFFER, 1, Lane.LIVE, seq, 1, created_ms, sent_ms=created_ms + 5)
        effects = evaluate(on, up(encode_frame(header, columns(), (gap,))))
        numbers = [number for key, counts in effects.booking.entries.items() for number in (key[3], *counts)]
        numbers += [effects.marks[LIVE_KEY].in_gaps, *(one.delay_ms for one in effects.append.sendings)]
        assert len(numbers) >= 4
        assert all(-(2**62) <= number <= 2**62 for number in numbers)


def test_when_a_frame_was_sent_is_told_once_and_again_when_the_way_takes_another_time() -> None:
    def sent_before(seq: int, ms: int) -> bytes:
        return sent(frame(seq), NOW - ms)

    on = evaluator()
    first = evaluate(on, up(frame(1), sent_before(2, -200), sent_before(3, -900), received_ms=NOW))
    assert first.append.sendings == [Sending("gateway", "g1", first.append.end.sequence, -200)]
    assert evaluate(on, up(sent_before(4, -300), frame(5), received_ms=NOW)).append.sendings == []
    late = evaluate(on, up(sent_before(6, -100), received_ms=NOW + 60_000))
    assert late.append.sendings == [Sending("gateway", "g1", late.append.end.sequence, 59_900)]


def test_another_buffer_leaves_a_gap_of_the_gateway_from_where_the_last_one_was_committed() -> None:
    old = (LIVE_KEY[0], "0" * 32)
    of_another_gateway = {(999, "f" * 32, Lane.LIVE): Mark(1, NOW)}
    on = evaluator({(*old, Lane.LIVE): Mark(9, NOW - 500), (*old, Lane.ALARM): Mark(4, NOW - 90_000), **of_another_gateway})
    effects = evaluate(on, up(frame(1), frame(2)))
    gaps = [(gap.product_key, gap.identifier, gap.from_ms, gap.to_ms, gap.count, gap.reason) for gap in effects.append.gaps]
    assert gaps == [("gateway", "", NOW - 500, NOW + 1, None, GapReason.BUFFER_RESET)]
    effects = evaluate(on, up(frame(1, lane=Lane.ALARM), topic=LIVE.replace("live", "alarm")))
    assert [(gap.from_ms, gap.to_ms) for gap in effects.append.gaps] == [(NOW - 500, NOW + 1)], "the last that was heard of it"
    assert evaluate(on, up(frame(3))).append.gaps == []


def reset_gaps(effects: Effects) -> list[tuple[int, int]]:
    return [(gap.from_ms, gap.to_ms) for gap in effects.append.gaps if gap.reason is GapReason.BUFFER_RESET]


def outage(on: Evaluator, buffer_id: str, held: int) -> Effects:
    """The gateway connects with so many frames of an outage."""
    spans = {lane: LaneSpan(1, 1) for lane in Lane} | {Lane.BULK: LaneSpan(1, held + 1)}
    message = encode_message(Exchange(buffer_id, 1, spans))
    return evaluate(on, batch(message, session=GATEWAY, topic="/edge/gateway/g1/up/exchange"))


def test_a_buffer_lost_in_the_middle_of_its_backlog_leaves_a_gap_from_where_the_outage_began() -> None:
    """Live readings from after the outage came before the backlog; they do not make what is missing any newer."""
    old = (LIVE_KEY[0], "0" * 32)
    on = evaluator({(*old, Lane.LIVE): Mark(9, NOW - 5_000)})  # the last before the outage
    memory = outage(on, "0" * 32, held=100).marks
    assert memory == {(*old, Lane.BULK): Mark(0, NOW - 5_000, announced=100)}
    on = evaluator({(*old, Lane.LIVE): Mark(20, NOW - 100), **memory})  # after the outage, and after a restart of ours
    assert reset_gaps(evaluate(on, up(frame(1)))) == [(NOW - 5_000, NOW + 1)]
    assert reset_gaps(evaluate(on, up(frame(1, lane=Lane.BULK), topic=LIVE.replace("live", "bulk")))) == [], "said once"


def test_a_backlog_beyond_all_numbers_is_quarantined_and_remembered_nowhere() -> None:
    on = evaluator()
    effects = outage(on, "0" * 32, held=1 << 62)
    assert reasons(effects) == ["bad_envelope"]
    assert effects.marks == {}


def test_a_backlog_that_was_told_in_full_makes_no_gap_longer() -> None:
    old = (LIVE_KEY[0], "0" * 32)
    on = evaluator({(*old, Lane.LIVE): Mark(20, NOW - 100), (*old, Lane.BULK): Mark(100, NOW - 90_000, announced=100)})
    assert reset_gaps(evaluate(on, up(frame(1)))) == [(NOW - 100, NOW + 1)]


def test_a_second_outage_begins_where_live_readings_ended_and_not_with_the_first() -> None:
    old = (LIVE_KEY[0], "0" * 32)
    on = evaluator({(*old, Lane.LIVE): Mark(20, NOW - 700), (*old, Lane.BULK): Mark(100, NOW - 90_000, announced=100)})
    assert outage(on, "0" * 32, held=150).marks[(*old, Lane.BULK)] == Mark(100, NOW - 700, announced=150)
    assert (*old, Lane.BULK) not in outage(on, "0" * 32, held=150).marks, "the same again is nothing new"


def test_a_frame_that_comes_again_changes_nothing_and_is_acknowledged_again() -> None:
    on = evaluator()
    evaluate(on, up(frame(1), frame(2)))
    effects = evaluate(on, up(frame(1), frame(2), frame(3)))
    assert [value for *_, value in rows_of(effects)] == [3.0]
    assert effects.marks == {LIVE_KEY: Mark(3, NOW + 3, readings=3)}
    assert committed(effects) == [("committed", {Lane.LIVE: 3})]


def rows_of(effects: Effects) -> list[tuple[int, float]]:
    return list(zip(effects.append.numbers.ts.tolist(), effects.append.numbers.value.tolist(), strict=True))


def test_watermarks_outlive_a_restart() -> None:
    effects = evaluate(evaluator({LIVE_KEY: Mark(2, NOW)}), up(frame(1), frame(2)))
    assert rows(effects) == []
    assert effects.marks == {}
    assert committed(effects) == [("committed", {Lane.LIVE: 2})]


def test_a_frame_ahead_of_one_that_the_buffer_holds_waits_and_the_gateway_is_told_to_look_back() -> None:
    on = evaluator()
    effects = evaluate(on, up(frame(1), frame(3)))
    assert [value for *_, value in rows(effects)] == [1.0]
    assert committed(effects) == [("exchange", {Lane.LIVE: 1})]
    effects = evaluate(on, up(frame(2), frame(3)))
    assert [value for _, value in rows_of(effects)] == [2.0, 3.0]


def test_what_the_buffer_no_longer_holds_becomes_a_gap_and_never_a_wait() -> None:
    on = evaluator()
    evaluate(on, up(frame(1)))
    effects = evaluate(on, up(frame(5, floor=5)))
    assert [value for _, value in rows_of(effects)] == [5.0]
    assert effects.append.gaps == [
        Gap("gateway", "g1", "", NOW + 1, NOW + 5, None, "buffer_reset"),
        Gap("stove", "s1", "", NOW + 1, NOW + 5, None, "buffer_reset"),
    ]


def test_a_frame_that_names_what_was_dropped_before_it_needs_no_other_gap() -> None:
    on = evaluator()
    evaluate(on, up(frame(1)))
    gap = GapRecord(EdgeGap("stove", "s1", ("power",), NOW + 1, NOW + 5, 3, GapReason.OVERFLOW))
    effects = evaluate(on, up(frame(5, columns(), gap, floor=5, covers=2)))
    assert effects.append.gaps == [Gap("stove", "s1", "power", NOW + 1, NOW + 5, 3, "overflow")]


@given(st.lists(st.integers(1, 6), max_size=12))
def test_whatever_order_frames_come_in_each_is_stored_at_most_once_and_in_order(order: list[int]) -> None:
    on = evaluator()
    stored = [value for seq in order for _, value in rows_of(evaluate(on, up(frame(seq))))]
    assert stored == [float(seq) for seq in range(1, len(stored) + 1)]


def test_lanes_and_buffers_are_counted_apart() -> None:
    effects = evaluate(evaluator(), up(frame(1)), up(frame(1, lane=Lane.ALARM), topic="/edge/gateway/g1/up/alarm"))
    assert {key[2]: mark.sequence for key, mark in effects.marks.items()} == {Lane.LIVE: 1, Lane.ALARM: 1}
    assert committed(effects) == [("committed", {Lane.LIVE: 1, Lane.ALARM: 1})]


def test_a_gateway_writes_only_for_devices_of_its_own_site_and_tenant() -> None:
    readings = columns(*((device, "power", NOW, 1.0) for device in ("s1", "s2", "s3", "s4", "nobody")))
    effects = evaluate(evaluator(), up(frame(1, readings)))
    assert rows(effects) == [("s1", "power", NOW, 1.0)]
    assert sorted(reasons(effects)) == ["foreign_device", "foreign_device", "foreign_device", "not_authorised"]
    assert all(entry.tenant_id == 1 for entry in effects.quarantined)
    assert effects.marks == {LIVE_KEY: Mark(1, NOW + 1, readings=5)}  # a quarantined frame counts as committed
    assert list(effects.reported) == [11]


def test_a_foreign_device_looks_the_same_as_one_that_does_not_exist() -> None:
    foreign = evaluate(evaluator(), up(frame(1, columns(("s3", "power", NOW, 1.0))))).quarantined[0]
    nobody = evaluate(evaluator(), up(frame(1, columns(("s0", "power", NOW, 1.0))))).quarantined[0]
    assert foreign.detail.replace("s3", "s0") == nobody.detail


def test_properties_that_do_not_exist_or_have_another_type_are_refused_alone() -> None:
    readings = columns(("s1", "colour", NOW, 1.0), ("s1", "mode", NOW, 2.0), ("s1", "power", NOW, 3.0), texts=[("s1", "level", NOW, '"x"')])
    effects = evaluate(evaluator(), up(frame(1, readings)))
    assert rows(effects) == [("s1", "power", NOW, 3.0)]
    assert effects.append.texts == []
    assert sorted(reasons(effects)) == ["unknown_identifier", "wrong_type", "wrong_type"]


def test_readings_more_than_a_day_ahead_are_refused_alone() -> None:
    late = NOW + 24 * 3600 * 1000 + 1
    readings = columns(("s1", "power", NOW, 1.0), ("s1", "power", late, 2.0), texts=[("s1", "mode", late, '"x"')])
    effects = evaluate(evaluator(), up(frame(1, readings)))
    assert rows(effects) == [("s1", "power", NOW, 1.0)]
    assert reasons(effects) == ["bad_time", "bad_time"]


def test_texts_of_a_frame_are_kept_and_feed_the_shadow_and_must_be_json() -> None:
    texts = [("s1", "mode", NOW - 1, '"grill"'), ("s1", "mode", NOW, "grill")]
    effects = evaluate(evaluator(), up(frame(1, columns(texts=texts))))
    assert [(text.ts, text.json) for text in effects.append.texts] == [(NOW - 1, '"grill"')]
    assert effects.reported == {11: {"mode": ("grill", NOW - 1)}}
    assert reasons(effects) == ["bad_json"]


def test_records_become_events_gaps_presence_and_answers() -> None:
    records = (
        EventRecord("stove", "s1", "boiled_over", NOW - 5, '{"zone":1}'),
        GapRecord(EdgeGap("stove", "s1", ("power", "level"), NOW - 9, NOW - 5, 5, GapReason.AGENT_DOWN)),
        GapRecord(EdgeGap("stove", "s1", (), NOW - 9, NOW - 5, None, GapReason.AGENT_DOWN)),
        PresenceRecord("stove", "s1", True, NOW - 3),
        ReplyRecord("42", 200, '{"ok":1}'),
    )
    effects = evaluate(evaluator(), up(frame(1, columns(), *records)))
    assert [(text.ts, text.json) for text in effects.append.texts] == [(NOW - 5, '{"zone":1}')]
    assert effects.append.gaps == [
        Gap("stove", "s1", "power", NOW - 9, NOW - 5, 3, "agent_down"),
        Gap("stove", "s1", "level", NOW - 9, NOW - 5, 2, "agent_down"),
        Gap("stove", "s1", "", NOW - 9, NOW - 5, None, "agent_down"),
    ]
    assert effects.presence == [PresenceChange(11, True, NOW - 3, NOW - 3, 20)]
    assert effects.commands == [CommandReply("42", 20, 200, {"ok": 1}, NOW)]
    assert effects.quarantined == []


def test_records_of_foreign_devices_are_refused_one_by_one() -> None:
    records = (
        EventRecord("stove", "s2", "boiled_over", NOW, "{}"),
        EventRecord("stove", "s1", "never", NOW, "{}"),
        EventRecord("stove", "s1", "boiled_over", NOW, "{"),
        GapRecord(EdgeGap("stove", "s3", (), NOW - 9, NOW, None, GapReason.AGENT_DOWN)),
        PresenceRecord("stove", "nobody", True, NOW),
        PresenceRecord("stove", "s1", True, NOW),
    )
    effects = evaluate(evaluator(), up(frame(1, columns(), *records)))
    assert reasons(effects) == ["foreign_device", "unknown_event", "bad_json", "foreign_device", "foreign_device"]
    assert len(effects.presence) == 1
    assert effects.append.gaps == []


def test_a_body_that_does_not_decode_is_quarantined_named_as_a_gap_and_counts_as_committed() -> None:
    good = frame(2)
    bad = stamp(b"\x09\x00\x00\x00\x05\x00\x00\x00rubbish", FrameHeader(BUFFER, 1, Lane.LIVE, 1, 1, NOW + 1))
    effects = evaluate(evaluator(), up(bad, good))
    assert [value for *_, value in rows(effects)] == [2.0]
    assert reasons(effects) == ["bad_frame"]
    assert effects.quarantined[0].payload == bad
    assert effects.append.gaps == [Gap("gateway", "g1", "", 0, NOW + 2, None, "refused_frame")]
    assert committed(effects) == [("committed", {Lane.LIVE: 2})]


@pytest.mark.parametrize("place", [0, 4, 20, -1])
def test_a_damaged_frame_moves_no_watermark_and_blocks_nothing(place: int) -> None:
    damaged = bytearray(frame(1))
    damaged[place] ^= 1
    effects = evaluate(evaluator(), up(bytes(damaged), frame(1)))
    assert [value for *_, value in rows(effects)] == [1.0]
    assert len(effects.quarantined) == 1
    assert effects.quarantined[0].reason in ("bad_checksum", "bad_frame")


def exchange(on: Evaluator, message: Exchange) -> list[ExchangeReply]:
    effects = evaluate(on, batch(encode_message(message), session=GATEWAY, topic="/edge/gateway/g1/up/exchange"))
    answers = [decode_message(ExchangeReply, d.payload) for d in effects.downlinks if d.topic == "/edge/gateway/g1/down/exchange"]
    assert all(answer.time_ms == effects.received_ms > 0 for answer in answers)  # a gateway without a clock takes its time from here
    return [ExchangeReply(answer.buffer_id, answer.committed) for answer in answers]


def test_an_exchange_is_answered_with_every_lane_of_that_buffer() -> None:
    on = evaluator()
    evaluate(on, up(frame(1), frame(2)))
    spans = {lane: LaneSpan(1, 9) for lane in Lane}
    assert exchange(on, Exchange(BUFFER.hex(), 1, spans)) == [
        ExchangeReply(BUFFER.hex(), {Lane.ALARM: 0, Lane.REPLY: 0, Lane.LIVE: 2, Lane.BULK: 0})
    ]
    assert exchange(on, Exchange("00" * 16, 1, spans)) == [ExchangeReply("00" * 16, dict.fromkeys(Lane, 0))]


def test_a_bad_exchange_is_quarantined() -> None:
    effects = evaluate(evaluator(), batch(b"{}", session=GATEWAY, topic="/edge/gateway/g1/up/exchange"))
    assert reasons(effects) == ["bad_envelope"]
    assert effects.downlinks == []


def test_a_dictionary_seen_before_means_the_same_until_the_registry_changes() -> None:
    on = evaluator()
    first = evaluate(on, up(frame(1)))
    again = evaluate(on, up(frame(2)))
    on.forget()
    after = evaluate(on, up(frame(3)))
    assert [e.append.numbers.series.tolist() for e in (first, again, after)] == [[1], [1], [1]]


def test_values_of_a_frame_that_the_thing_model_refuses_are_left_out_and_named() -> None:
    readings = columns(
        ("s1", "power", NOW, 1.0), ("s1", "power", NOW + 1, 9_000.5), ("s1", "level", NOW, 3.0), ("s1", "level", NOW + 1, 2.5),
        ("s1", "level", NOW + 2, 10.0),
    )  # fmt: skip
    effects = evaluate(evaluator(), up(frame(1, readings)))
    assert sorted(rows(effects)) == [("s1", "level", NOW, 3.0), ("s1", "power", NOW, 1.0)]
    assert sorted(reasons(effects)) == ["out_of_range", "out_of_range", "wrong_type"]
    refused = [(gap.identifier, gap.from_ms, gap.to_ms, gap.count) for gap in effects.append.gaps if gap.reason == GapReason.REFUSED_VALUE]
    assert refused == [("power", NOW, NOW + 2, 1), ("level", NOW, NOW + 2, 1), ("level", NOW + 1, NOW + 3, 1)]


@given(st.lists(st.tuples(st.sampled_from(["power", "level"]), st.floats(-1e4, 1e4) | st.sampled_from([0.0, 9.0, 9_000.0])), max_size=40))
def test_a_frame_keeps_exactly_what_the_thing_model_takes(values: list[tuple[str, float]]) -> None:
    readings = [("s1", identifier, NOW + n, value) for n, (identifier, value) in enumerate(values)]
    effects = evaluate(evaluator(), up(frame(1, columns(*readings))))
    fits = {"power": lambda v: 0 <= v <= 9_000, "level": lambda v: 0 <= v <= 9 and v == int(v)}
    assert sorted(rows(effects)) == sorted(row for row in readings if fits[row[1]](row[3]))
    assert len(effects.append.gaps) == len(readings) - len(rows(effects))


def test_a_replayed_frame_is_stored_and_neither_asks_nor_moves_its_lane() -> None:
    on = evaluator({LIVE_KEY: Mark(9, NOW)})
    writer = BatchWriter()
    gap = GapRecord(EdgeGap("stove", "s1", ("power",), NOW, NOW + 9, 3, GapReason.OVERFLOW))
    records = (gap, PresenceRecord("stove", "s1", True, NOW), ReplyRecord("5", 200, "{}"))
    writer.add_replay(session_key(GATEWAY), LIVE, NOW, frame(3, columns(("s1", "power", NOW, 4.5)), *records), entry=7)
    effects = evaluate(on, writer.to_bytes())
    assert rows(effects) == [("s1", "power", NOW, 4.5)]
    assert [gap.reason for gap in effects.append.gaps] == [GapReason.OVERFLOW]
    assert (effects.marks, effects.downlinks, effects.presence, effects.commands) == ({}, [], [], [])
