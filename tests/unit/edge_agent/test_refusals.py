"""What `edgectl status` says of refusals: bounded whatever comes, the commonest first."""

from edge_agent.southbound.refusals import MOST_TEXT, Refusals
from protocols.errors import Reason, Refused


def test_a_reason_is_counted_with_the_newest_of_it() -> None:
    refusals = Refusals()
    refusals.count(Refused(Reason.MALFORMED_PACKET, "no MQTT"), 1, address="10.0.0.1")
    for n in range(3):
        refusals.count(Refused(Reason.BAD_CREDENTIALS, f"wrong {n}"), n, who=f"d{n}&pk", address="10.0.0.2", times=2)
    assert refusals.summary() == [
        {"reason": "bad_credentials", "count": 6, "who": "d2&pk", "address": "10.0.0.2", "detail": "wrong 2", "last_ms": 2},
        {"reason": "malformed_packet", "count": 1, "who": "", "address": "10.0.0.1", "detail": "no MQTT", "last_ms": 1},
    ]


def test_what_strangers_claim_is_kept_short() -> None:
    refusals = Refusals()
    for n in range(10_000):
        refusals.count(Refused(Reason.BAD_CREDENTIALS, "x" * 9_000), n, who="y" * 9_000)
    (entry,) = refusals.summary()
    assert entry["count"] == 10_000
    assert len(str(entry["who"])) == len(str(entry["detail"])) == MOST_TEXT
