"""The forwarder: most urgent first, a bounded window, and nothing forgotten before the cloud has committed it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from edge_agent.domain.window import ALWAYS, Bandwidth, SendWindow
from edge_agent.pipeline.forward import Forwarder, refused_body
from edge_agent.ports import LinkDown
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import body_of, decode_body, decode_header, encode_body
from protocols.edgelink.lanes import GapReason, Lane
from protocols.edgelink.messages import Command, Committed, Exchange, ExchangeReply, decode_message
from protocols.edgelink.records import GapRecord, TallyRecord
from protocols.edgelink.stretches import STRETCH_MS
from protocols.edgelink.topics import EdgeChannel
from tests.fakes.edge import FakeClock, FakeCloud
from tests.fakes.outbox import FakeOutbox


def body(time_ms: int = 5) -> bytes:
    return encode_body(Columns((("pk", "dn", "A"),), np.zeros(1, np.uint32), np.array([time_ms]), np.array([1.5])))


class Rig:
    def __init__(self, window: int = 4, meet_s: float = 60.0) -> None:
        self.outbox, self.cloud, self.clock = FakeOutbox(), FakeCloud(), FakeClock()
        self.commands: list[Command] = []
        self.times: list[tuple[int, int]] = []
        self.linked: list[bool] = []
        self.forwarder = Forwarder(
            self.outbox,
            self.cloud,
            self.clock,
            gateway=("gateway", "gw1"),
            window=SendWindow(window),
            bandwidth=Bandwidth(0),
            bulk_hours=ALWAYS,
            obey=self.commands.append,
            linked=self.linked.append,
            told_time=self.told,
            meet_s=meet_s,
        )
        self.meets = True
        self.cloud.on_publish = self.published

    async def told(self, cloud_ms: int, give_or_take_ms: int) -> None:
        self.times.append((cloud_ms, give_or_take_ms))

    def published(self, channel: EdgeChannel, payload: bytes) -> None:
        if channel is EdgeChannel.UP_EXCHANGE and self.meets:
            self.cloud.say(ExchangeReply(self.outbox.buffer_id.hex(), {}))

    async def fill(self, lane: Lane, frames: int) -> None:
        for number in range(frames):
            await self.outbox.append(lane, body(number), 1)

    def commit(self, **lanes: int) -> None:
        self.cloud.say(Committed(self.outbox.buffer_id.hex(), {Lane(name): seq for name, seq in lanes.items()}))

    def sent(self) -> list[tuple[str, int]]:
        return [(channel.value, decode_header(frame).seq) for channel, frame in self.cloud.frames()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(self.forwarder.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


async def test_it_meets_the_cloud_first_and_then_sends_the_most_urgent_lane_first() -> None:
    rig = Rig()
    await rig.fill(Lane.LIVE, 2)
    await rig.fill(Lane.ALARM, 1)
    await rig.fill(Lane.REPLY, 1)
    async with rig.running():
        await settle()
        assert rig.cloud.published[0][0] is EdgeChannel.UP_EXCHANGE
        assert rig.sent() == [("up/alarm", 1), ("up/reply", 1), ("up/live", 1), ("up/live", 2)]
        assert rig.linked == [True]


async def test_no_more_than_the_window_is_in_flight_and_an_alarm_overtakes_what_waits() -> None:
    rig = Rig(window=2)
    await rig.fill(Lane.LIVE, 5)
    async with rig.running():
        await settle()
        rig.cloud.hold.clear()
        await rig.fill(Lane.LIVE, 5)
        await settle()
        sent = len(rig.sent())
        assert sent == 7
        await rig.fill(Lane.ALARM, 1)
        rig.cloud.hold.set()
        await settle()
        assert rig.sent()[sent] == ("up/alarm", 1)


async def test_a_frame_says_when_it_leaves_if_the_time_is_known() -> None:
    rig = Rig(window=1)
    await rig.fill(Lane.LIVE, 1)
    made_ms = rig.clock.ms
    rig.clock.forward(3_600)
    async with rig.running():
        await settle()
        rig.clock.period = 7  # nobody has confirmed the time any more
        await rig.fill(Lane.LIVE, 1)
        await settle()
    first, second = (decode_header(frame) for _, frame in rig.cloud.frames())
    assert (first.created_ms, first.sent_ms) == (made_ms, made_ms + 3_600_000)
    assert second.sent_ms == 0


async def test_a_puback_is_not_enough_to_forget() -> None:
    rig = Rig()
    await rig.fill(Lane.LIVE, 3)
    async with rig.running():
        await settle()
        assert rig.forwarder.sent == 3
        assert rig.outbox.state().lanes[Lane.LIVE].frames == 3
        rig.commit(live=2)
        await settle()
        assert rig.outbox.state().lanes[Lane.LIVE].floor == 3
        assert not rig.forwarder.idle
        rig.commit(live=3)
        await settle()
        assert rig.forwarder.idle


async def test_a_watermark_of_another_buffer_or_beyond_the_last_frame_forgets_nothing_wrong() -> None:
    rig = Rig()
    await rig.fill(Lane.LIVE, 2)
    async with rig.running():
        await settle()
        rig.cloud.say(Committed("0" * 32, {Lane.LIVE: 2}))
        await settle()
        assert rig.outbox.state().lanes[Lane.LIVE].frames == 2
        rig.commit(live=99)
        await settle()
        await rig.fill(Lane.LIVE, 1)
        assert rig.outbox.state().lanes[Lane.LIVE].frames == 1


async def test_a_new_connection_sends_again_what_was_not_committed() -> None:
    rig = Rig()
    await rig.fill(Lane.LIVE, 3)
    async with rig.running() as task:
        await settle()
        rig.commit(live=1)
        await settle()
        rig.cloud.say(None)
        with pytest.raises(LinkDown):
            await task
    assert rig.linked == [True, False]
    before = len(rig.sent())
    async with rig.running():
        await settle()
        assert rig.sent()[before:] == [("up/live", 2), ("up/live", 3)]


async def test_the_cloud_may_ask_for_frames_again_at_any_time() -> None:
    rig = Rig()
    await rig.fill(Lane.LIVE, 3)
    async with rig.running():
        await settle()
        rig.cloud.say(ExchangeReply(rig.outbox.buffer_id.hex(), {Lane.LIVE: 1}))
        await settle()
        assert rig.sent() == [("up/live", seq) for seq in (1, 2, 3, 2, 3)]


async def test_a_cloud_that_takes_frames_and_cannot_answer_gets_them_all_the_same() -> None:
    rig = Rig(meet_s=0.0)
    rig.meets = False
    await rig.fill(Lane.LIVE, 1)
    async with rig.running():
        while not rig.sent():
            await asyncio.sleep(0.001)


async def test_a_refused_frame_becomes_its_gap_and_does_not_stop_the_others() -> None:
    rig = Rig(window=1)
    await rig.fill(Lane.LIVE, 3)
    rig.cloud.reasons = {2: 0x99}  # the exchange, seq 1, seq 2
    async with rig.running():
        await settle()
        assert [seq for _, seq in rig.sent()] == [1, 2, 2, 3]
        _, again = rig.cloud.frames()[2]
        columns, records = decode_body(body_of(again))
        assert columns.count == 0
        record, tally = records
        assert isinstance(record, GapRecord)
        assert tally == TallyRecord(((rig.clock.ms // STRETCH_MS, 1),)), "its reading belongs to the ten minutes of its frame"
        assert (record.gap.device_name, record.gap.reason, record.gap.count) == ("dn", GapReason.REFUSED_FRAME, 1)
        assert record.gap.from_ms < 1 < record.gap.to_ms
        assert rig.forwarder.refused == 1


async def test_a_cloud_that_is_full_is_tried_again_later_and_nothing_is_given_up() -> None:
    rig = Rig()
    await rig.fill(Lane.LIVE, 1)
    rig.cloud.reasons = {1: 0x97}
    async with rig.running() as task:
        with pytest.raises(LinkDown, match="0x97"):
            await task
    assert rig.outbox.state().lanes[Lane.LIVE].frames == 1


def test_an_unreadable_refused_frame_names_the_gateway() -> None:
    _, records = decode_body(refused_body(b"rubbish", ("gateway", "gw1"), 99))
    (record,) = records
    assert isinstance(record, GapRecord)
    assert (record.gap.product_key, record.gap.device_name, record.gap.to_ms) == ("gateway", "gw1", 99)


async def test_commands_are_handed_on() -> None:
    rig = Rig()
    command = Command("c", "pk", "dn", "thing.service.property.set", {}, 5)
    async with rig.running():
        await settle()
        rig.cloud.say(command)
        await settle()
        assert rig.commands == [command]


async def test_the_cloud_s_time_is_taken_from_the_answer_to_our_last_exchange_and_from_no_other() -> None:
    rig = Rig()
    rig.meets = False
    async with asyncio.timeout(10), rig.running():
        while not rig.cloud.published:
            await asyncio.sleep(0)
        asked = decode_message(Exchange, rig.cloud.published[0][1])
        rig.clock.forward(4.0)  # it was under way for a while; the cloud's answer tells when it came there
        for number in (asked.number - 1, asked.number):
            rig.cloud.say(ExchangeReply(rig.outbox.buffer_id.hex(), {}, 1_790_000_000_000 + number - asked.number, number))
        while not rig.times:
            await asyncio.sleep(0)
    assert rig.times == [(1_790_000_004_000, 0)]
