"""The ledger: every refusal is counted in exactly one note, and a flood of them gives few notes."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.access.model import RefusalNote
from cloud.access.refusals import MOST_CLAIM, MOST_NAME, OTHERS, REPEAT_S, Client, RefusalLedger, claimed
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Connect

WRONG = Refused(Reason.BAD_CREDENTIALS, "wrong secret")


def notes(ledger: RefusalLedger, now: float) -> list[RefusalNote]:
    return [ledger.note(entry, now) for entry in ledger.due(now)]


def test_the_first_is_noted_at_once_and_then_counts() -> None:
    ledger, client = RefusalLedger(), Client("10.0.0.1:5000", "pk", "dn")
    assert ledger.refuse(client, WRONG, 1_000)
    (first,) = notes(ledger, 1.0)
    assert (first.count, first.first_ms, first.last_ms, first.address) == (1, 1_000, 1_000, "10.0.0.1:5000")
    for at in range(2, 50):
        assert not ledger.refuse(Client(f"10.0.0.1:{5000 + at}", "pk", "dn"), WRONG, 1_000 * at)
        assert notes(ledger, float(at)) == []
    (second,) = notes(ledger, 1.0 + REPEAT_S)
    assert (second.count, second.first_ms, second.last_ms, second.address) == (48, 2_000, 49_000, "10.0.0.1:5049")
    assert notes(ledger, 1.0 + 2 * REPEAT_S) == []
    assert ledger.totals == {"bad_credentials": 49}


def test_kinds_are_who_it_claims_to_be_where_from_and_why() -> None:
    ledger = RefusalLedger()
    for client, reason in (
        (Client("10.0.0.1:1", "pk", "dn"), Reason.BAD_CREDENTIALS),
        (Client("10.0.0.1:2", "pk", "dn"), Reason.BAD_CREDENTIALS),
        (Client("10.0.0.2:1", "pk", "dn"), Reason.BAD_CREDENTIALS),
        (Client("10.0.0.1:1", "pk", "dn2"), Reason.BAD_CREDENTIALS),
        (Client("10.0.0.1:1", "pk", "dn"), Reason.MALFORMED_PACKET),
        (Client("10.0.0.1:1", "pk", "dn", tenant_id=3), Reason.BAD_CREDENTIALS),
    ):
        ledger.refuse(client, Refused(reason, "no"), 5)
    assert [note.count for note in notes(ledger, 1.0)] == [2, 1, 1, 1, 1]


def test_beyond_its_kinds_the_ledger_counts_together_and_says_so() -> None:
    ledger = RefusalLedger(kinds=2)
    for n in range(10):
        ledger.refuse(Client(f"10.0.0.{n}:1", "pk", f"d{n}"), WRONG, n, sample=b"x")
    found = notes(ledger, 1.0)
    assert [(note.device_name, note.count) for note in found] == [("d0", 1), ("d1", 1), ("", 8)]
    assert found[2].detail == OTHERS + "wrong secret"
    assert (found[2].address, found[2].first_ms, found[2].last_ms) == ("", 2, 9)


def test_what_a_client_claims_is_bounded() -> None:
    client = claimed("10.0.0.1:1", Connect("c" * 9_000, "d" * 9_000 + "&" + "p" * 9_000, b"p"))
    assert (len(client.product_key), len(client.device_name)) == (MOST_NAME, MOST_NAME)
    assert (len(client.username), len(client.client_id)) == (MOST_CLAIM, MOST_CLAIM)
    assert claimed("10.0.0.1:1", Connect("c")) == Client("10.0.0.1:1", client_id="c")
    ledger = RefusalLedger()
    ledger.refuse(client, Refused(Reason.FOREIGN_TOPIC, "x" * 9_000), 1, topic="t" * 9_000)
    (note,) = notes(ledger, 1.0)
    assert (len(note.detail), len(note.topic)) == (500, 256)


KINDS = 5
refused = st.tuples(
    st.integers(0, 20), st.sampled_from([Reason.BAD_CREDENTIALS, Reason.CONNECT_TIMEOUT, Reason.FOREIGN_TOPIC]), st.integers(1, 9)
)


@settings(max_examples=300)
@given(st.lists(st.one_of(refused, st.floats(0, 40, allow_nan=False)), max_size=120))
def test_counts_add_up_exactly_and_notes_are_bounded_whatever_comes(events: list[tuple[int, Reason, int] | float]) -> None:
    ledger, now = RefusalLedger(kinds=KINDS), 0.0
    counted: Counter[str] = Counter()
    written: list[tuple[float, RefusalNote]] = []
    for event in events:
        if isinstance(event, float):
            now += event
            written += [(now, note) for note in notes(ledger, now)]
        else:
            who, reason, count = event
            ledger.refuse(Client(f"10.0.0.{who}:{count}"), Refused(reason, "no"), int(now * 1000), count=count)
            counted[reason] += count
    written += [(now, ledger.note(entry, now)) for entry in ledger.unnoted()]
    noted: Counter[str] = Counter()
    for _, note in written:
        assert note.count > 0
        assert note.first_ms <= note.last_ms
        noted[note.reason] += note.count
    assert noted == ledger.totals == counted
    last = now  # (what is left at the end is noted without waiting)
    for start, _ in written:
        within = [at for at, _ in written if start <= at < start + REPEAT_S and at != last]
        assert len(within) <= KINDS + 3
