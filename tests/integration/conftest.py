"""What most tests here run on: the API in this process, or a front door with its NATS as processes."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.access_rig import Door, Nats, kill_all
from tests.integration.api_rig import Rig, api_rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with api_rig(tmp_path) as running:
        yield running


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path)
    yield server
    kill_all([server.process])


@pytest.fixture
def start_door(nats: Nats, tmp_path: Path) -> Iterator[Callable[..., Door]]:
    """Starts doors with the bounds it is given, and ends them all."""
    doors: list[Door] = []

    def start(**bounds: float) -> Door:
        doors.append(Door(nats, tmp_path, **bounds))
        return doors[-1]

    yield start
    kill_all([door.process for door in doors])


@pytest.fixture
def door(start_door: Callable[..., Door]) -> Door:
    return start_door()
