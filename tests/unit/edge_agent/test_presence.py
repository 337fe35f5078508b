"""Presence: changes while the cloud is there, the whole picture when it comes, nothing queued while it is away."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge_agent.pipeline import presence
from edge_agent.pipeline.presence import Presence
from edge_agent.ports import DeviceKey
from protocols.edgelink.records import PresenceRecord
from tests.fakes.edge import FakeClock, FakeIntake

ONE, TWO = DeviceKey("pk", "one"), DeviceKey("pk", "two")


class Rig:
    def __init__(self) -> None:
        self.intake, self.clock, self.kept = FakeIntake(), FakeClock(), 0
        self.refusals = 0
        self.board = Presence({ONE: "line", TWO: "front_door"}, self.intake, self.clock, self.keep, note_again_s=0.05)

    def keep(self, board: Presence) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, "no space left on device")
        self.kept += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.board.run())
        yield
        task.cancel()

    async def said(self) -> list[tuple[str, bool, int]]:
        await asyncio.sleep(presence.SETTLE_S + 0.1)
        records = [record for _, record in self.intake.records if isinstance(record, PresenceRecord)]
        self.intake.records.clear()
        return [(record.device_name, record.online, record.time_ms) for record in records]


async def test_nothing_is_queued_while_the_cloud_is_away_and_all_is_said_when_it_comes() -> None:
    rig = Rig()
    start = rig.clock.ms
    async with rig.running():
        rig.clock.forward(1)
        for online in (True, False, True):
            rig.board.changed(ONE, online, "line")
        assert await rig.said() == []
        assert rig.kept == 1
        rig.board.linked(True)
        assert await rig.said() == [("one", True, start + 1000), ("two", False, start)]


async def test_a_disk_that_refuses_a_note_ends_nothing_and_is_tried_again() -> None:
    rig = Rig()
    rig.refusals = 2
    async with rig.running():
        rig.board.linked(True)
        assert len(await rig.said()) == 2
        async with asyncio.timeout(5):
            while rig.kept == 0:
                await asyncio.sleep(0.05)


async def test_a_change_is_said_once_and_what_did_not_change_is_not_said() -> None:
    rig = Rig()
    async with rig.running():
        rig.board.linked(True)
        await rig.said()
        rig.board.changed(TWO, True, "front_door")
        rig.board.changed(TWO, True, "front_door")
        assert [name for name, *_ in await rig.said()] == ["two"]
        rig.board.changed(TWO, True, "front_door")
        assert await rig.said() == []
