"""QoS 1 as a device with memory keeps it."""

from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.wire.held import Held, HeldMessages


def held_messages(count: int, window: int = 20) -> HeldMessages:
    messages = HeldMessages(window)
    for number in range(1, count + 1):
        messages.add("t", str(number).encode())
    return messages


def take_all(messages: HeldMessages) -> list[Held]:
    taken = []
    while (held := messages.take()) is not None:
        taken.append(held)
    return taken


def test_no_more_than_the_window_is_sent_ahead_of_pubacks() -> None:
    messages = held_messages(5, window=2)
    first, second = take_all(messages)
    assert (first.payload, second.payload) == (b"1", b"2")
    messages.acked(first)
    assert [held.payload for held in take_all(messages)] == [b"3"]


def test_after_a_lost_connection_everything_unacknowledged_goes_out_again_in_order() -> None:
    messages = held_messages(5, window=3)
    taken = take_all(messages)
    messages.acked(taken[1])
    messages.lost()
    assert [held.payload for held in take_all(messages)] == [b"1", b"3", b"4"]
    assert messages.resent == 2


def test_a_full_memory_says_so() -> None:
    messages = HeldMessages(window=1, limit=1)
    assert not messages.full
    messages.add("t", b"1")
    assert messages.full


@given(st.lists(st.sampled_from(["send", "ack", "lose"]), max_size=200))
def test_every_message_is_acknowledged_once_whatever_the_network_does(story: list[str]) -> None:
    messages, in_flight, done = held_messages(10, window=3), [], []
    for what in [*story, "lose", *["send", "ack"] * 20]:
        if what == "send":
            in_flight += take_all(messages)
        elif what == "lose":
            messages.lost()
            in_flight = []
        elif in_flight:
            messages.acked(held := in_flight.pop(0))
            done.append(held.number)
    assert done == list(range(1, 11))
    assert len(messages) == 0
