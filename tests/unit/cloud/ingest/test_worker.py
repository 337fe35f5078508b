import pytest

from cloud.access.model import Downlink, decode_downlinks
from cloud.ingest.model import Memory
from cloud.ingest.worker import in_messages, where_to_begin
from cloud.telemetry.model import Position

NEVER = Position()


def at(sequence: int, stream_id: str = "s") -> Position:
    return Position(stream_id, sequence)


@pytest.mark.parametrize(
    ("store", "metadata", "start", "end", "first_cut", "lost"),
    [
        (NEVER, None, NEVER, at(0), 0, False),  # the very first start
        (at(9), at(9), at(9), at(9), 0, False),  # stopped in peace
        (at(9), at(7), at(7), at(7), 9, False),  # crashed between the two steps
        (at(0), None, at(0), at(0), 0, False),  # crashed after the very first append
        (at(4), None, at(0), at(0), 4, False),  # the metadata were lost
        (at(5), at(7), at(5), at(7), 0, True),  # the store was restored from a copy
        (at(9, "old"), at(9, "old"), at(9, "old"), at(0), 0, True),  # NATS lost its data
        (at(0), at(9, "old"), at(0), at(0), 0, False),  # ... and we crashed after telling the store
        (NEVER, at(7), NEVER, at(7), 0, True),  # the store was lost
    ],
)
def test_ingest_goes_on_where_store_and_metadata_say(
    store: Position, metadata: Position | None, start: Position, end: Position, first_cut: int, lost: bool
) -> None:
    assert where_to_begin(store, Memory(metadata), "s") == (start, end, first_cut, lost)


def test_replies_travel_in_messages_that_fit_the_bus() -> None:
    downlinks = [Downlink("p", f"d{n}", "topic", b"x" * (400_000 if n % 1000 == 7 else 90)) for n in range(6_000)]
    messages = in_messages(downlinks)
    assert max(map(len, messages)) < 2_000_000
    assert [downlink for message in messages for downlink in decode_downlinks(message)] == downlinks
    assert in_messages([]) == []
