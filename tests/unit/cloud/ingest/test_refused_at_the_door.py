"""What the front door turned away becomes an entry of the quarantine, and stops nothing."""

from cloud.access.model import BatchWriter, Kind, PresenceNote, RefusalNote, SessionRow, session_key
from cloud.ingest.evaluation import open_message
from protocols.errors import Reason
from tests.unit.cloud.ingest.scene import NOW, POST, STOVE, evaluator, post

NOBODY = session_key(SessionRow(7, 0, "", "", 0))
NOTE = RefusalNote(
    Reason.BAD_CREDENTIALS,
    "the signature does not fit",
    "10.0.0.9:4711",
    "stove",
    "s9",
    "s9&stove",
    "s9|x|",
    "",
    12,
    NOW - 9,
    NOW - 1,
    b"\x10\x20",
)


def test_a_refusal_at_the_door_lies_in_the_quarantine_with_what_an_operator_needs() -> None:
    writer = BatchWriter()
    writer.add_note(Kind.REFUSED, NOBODY, NOW, NOTE)
    evaluation = evaluator()
    evaluation.evaluate(open_message(1, writer.to_bytes()))
    effects = evaluation.cut()
    (entry,) = effects.quarantined
    assert (entry.sequence, entry.number, entry.tenant_id) == (1, 0, 7)
    assert (entry.product_key, entry.device_name, entry.address) == ("stove", "s9", "10.0.0.9:4711")
    assert (entry.reason, entry.count, entry.received_ms, entry.last_ms) == ("bad_credentials", 12, NOW - 9, NOW - 1)
    assert entry.detail == "the signature does not fit [user name 's9&stove', client id 's9|x|']"
    assert (entry.payload, entry.size) == (b"\x10\x20", 2)
    assert not entry.replayable
    assert effects.presence == []
    assert effects.messages == 0


def test_a_message_behind_refusals_is_stored_also_when_a_note_cannot_be_read() -> None:
    writer = BatchWriter()
    writer.add_note(Kind.REFUSED, NOBODY, NOW, NOTE)
    writer.add_note(Kind.REFUSED, NOBODY, NOW, PresenceNote("no", "refusal note"))
    payload = post({"power": {"value": 5.0, "time": NOW}})
    writer.add_run(session_key(STOVE), POST, NOW, payload, 0, len(payload), len(payload), 1)
    evaluation = evaluator()
    evaluation.evaluate(open_message(1, writer.to_bytes()))
    effects = evaluation.cut()
    assert [(entry.number, entry.reason) for entry in effects.quarantined] == [(0, "bad_credentials"), (1, "bad_frame")]
    assert effects.append.numbers.value.tolist() == [5.0]
    assert effects.messages == 1


def test_a_refusal_asks_the_registry_for_nobody() -> None:
    """What a stranger claims to be must cost no query."""
    writer = BatchWriter()
    writer.add_note(Kind.REFUSED, NOBODY, NOW, NOTE)
    opened = open_message(1, writer.to_bytes())
    assert (opened.products, opened.devices) == (set(), set())
