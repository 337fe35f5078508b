"""A frame stamped before the clock was known: its times move together, what was known before stays, and a record says so."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import decode_body, encode_body
from protocols.edgelink.lanes import Gap, GapReason
from protocols.edgelink.records import ClockRecord, EventRecord, GapRecord, PresenceRecord, ReplyRecord
from protocols.edgelink.retiming import retimed

BEGIN = 1_764_547_200_000


def body(*times: int) -> bytes:
    columns = Columns(
        (("pk", "dn", "A"),), np.zeros(len(times), np.uint32), np.array(times, np.int64), np.arange(len(times), dtype=np.float64)
    )
    return encode_body(columns)


@given(st.lists(st.integers(BEGIN, BEGIN + 10**9), min_size=1), st.integers(-(10**9), 10**12))
def test_every_time_of_the_period_moves_by_the_shift_and_the_note_leads_back(times: list[int], shift: int) -> None:
    columns, records = decode_body(retimed(body(*times), BEGIN, shift))
    assert sorted(columns.times.tolist()) == sorted(time + shift for time in times)
    assert records == (ClockRecord("pk", "dn", min(times) + shift - 1, max(times) + shift + 1, shift),)


def test_an_unknown_shift_moves_nothing_and_is_noted() -> None:
    columns, records = decode_body(retimed(body(BEGIN, BEGIN + 5), BEGIN, None))
    assert columns.times.tolist() == [BEGIN, BEGIN + 5]
    assert records == (ClockRecord("pk", "dn", BEGIN - 1, BEGIN + 6, None),)


def test_a_gap_reaches_from_a_known_time_to_a_moved_one_and_texts_and_events_move_along() -> None:
    text = Columns((("pk", "dn", "Mode"),), np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0), texts=((0, BEGIN + 1, '"a"'),))
    gap = Gap("pk", "dn", ("A",), BEGIN - 500, BEGIN + 7, 3, GapReason.AGENT_DOWN)
    event, presence, reply = (
        EventRecord("pk", "e1", "E", BEGIN + 2, "{}"),
        PresenceRecord("pk", "dn", True, BEGIN),
        ReplyRecord("c", 200, "{}"),
    )
    columns, records = decode_body(retimed(encode_body(text, (GapRecord(gap), event, presence, reply)), BEGIN, 1_000))
    assert columns.texts == ((0, BEGIN + 1_001, '"a"'),)
    assert records == (
        GapRecord(Gap("pk", "dn", ("A",), BEGIN - 500, BEGIN + 1_007, 3, GapReason.AGENT_DOWN)),
        EventRecord("pk", "e1", "E", BEGIN + 1_002, "{}"),
        PresenceRecord("pk", "dn", True, BEGIN + 1_000),
        reply,
        ClockRecord("pk", "dn", BEGIN + 1_000, BEGIN + 1_002, 1_000),
        ClockRecord("pk", "e1", BEGIN + 1_001, BEGIN + 1_003, 1_000),
    )
