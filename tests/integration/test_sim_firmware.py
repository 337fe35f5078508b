"""A simulated device's firmware on real files, with a real HTTP server that behaves badly, killed at every one of its writes."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from firmware_sim.firmware.flash import Area, Flash, Write, read_record
from firmware_sim.wire.alink_device import Restart
from firmware_sim.wire.firmware_client import NEVER_STARTS, Firmware, NothingToStart
from firmware_sim.wire.flash_files import FlashFiles
from protocols.alink.ota import Image, SignMethod, upgrade_push
from protocols.alink.topics import Kind, Topic
from protocols.errors import Refused

KEY = ("pk", "dn")
GOOD = Random(1).randbytes(200_000)
BAD = NEVER_STARTS + Random(2).randbytes(100_000)


class Downloads:
    """Serves `data`: `most` bytes of it a request, from `Range` on where `ranges`; answers `status` when that is set."""

    def __init__(self, data: bytes) -> None:
        self.data, self.most, self.ranges, self.status = data, len(data), True, 0
        self.starts: list[int] = []
        self.port = 0

    async def run(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        start = int(request.partition("range: bytes=")[2].partition("-")[0]) if self.ranges and "range: bytes=" in request else 0
        self.starts.append(start)
        if self.status:
            writer.write(f"HTTP/1.1 {self.status} no\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            line = "206 Partial Content" if start else "200 OK"
            writer.write(f"HTTP/1.1 {line}\r\nContent-Length: {len(self.data) - start}\r\n\r\n".encode())
            writer.write(self.data[start : start + self.most])
        await writer.drain()
        writer.close()


@pytest.fixture
async def downloads() -> AsyncIterator[Downloads]:
    found = Downloads(GOOD)
    server = await found.run()
    yield found
    server.close()


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """Flash files of a process that is killed at its `lives`th write, half of which gets to the file."""

    def __init__(self, folder: Path, lives: int) -> None:
        self._files, self._lives = FlashFiles(folder, "1.0.0", b"own" * 1_000), lives

    @property
    def flash(self) -> Flash:
        return self._files.flash

    @flash.setter
    def flash(self, _flash: Flash) -> None:
        raise AssertionError("only writes change the flash")

    def write(self, write: Write) -> None:
        self._lives -= 1
        if self._lives == 0:
            self._files.write(Write(write.area, write.offset, write.data[: len(write.data) // 2], write.erase))
            raise Killed
        self._files.write(write)


class Device:
    """A device that is started again whenever it was killed; what it sent has its PUBACK at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent = folder, list[tuple[Kind, dict[str, str]]]()
        self.offer = b""

    def offered(self, data: bytes, port: int, version: str = "2.0.0", sign: str = "") -> None:
        sha, md5 = sign or hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()
        image = Image(version, "default", len(data), f"http://127.0.0.1:{port}/firmware/token", md5, sha, SignMethod.SHA256)
        self.offer = upgrade_push(1, image)

    def _send(self, topic: str, payload: bytes, acked: object) -> None:
        self.sent.append((Topic.parse(topic).kind, json.loads(payload)["params"]))
        if callable(acked):
            acked()

    async def run(self, lives: int = 0) -> str:
        """One process, to the end of its update; the version that it runs then. Raises Killed."""
        storage = Mortal(self.folder, lives)
        firmware = Firmware(KEY, storage, self._send, watchdog_s=0.01)
        await firmware.start()
        while True:
            firmware.receive(Topic(Kind.OTA_UPGRADE, *KEY), self.offer)
            work = asyncio.create_task(firmware.work())
            async with asyncio.timeout(20):
                while read_record(storage.flash).job is not None and not work.done():
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.01)  # it says how it went
            work.cancel()
            try:
                await work
            except Restart:
                await firmware.start()
            except asyncio.CancelledError:
                return firmware.version

    def steps(self) -> list[str]:
        return [params["step"] for kind, params in self.sent if kind is Kind.OTA_PROGRESS]


async def test_a_device_that_is_killed_at_any_write_comes_to_run_the_image(downloads: Downloads, tmp_path: Path) -> None:
    killed = 0
    for lives in range(1, 30):
        device = Device(tmp_path / str(lives))
        FlashFiles(device.folder, "1.0.0", b"own" * 1_000)
        device.offered(GOOD, downloads.port)
        try:
            await device.run(lives)
        except Killed:
            killed += 1
        assert await device.run() == "2.0.0"
        assert (device.folder / Area.SLOT_B).read_bytes() == GOOD
    assert killed >= 10


async def test_a_download_that_breaks_again_and_again_goes_on_where_it_was(downloads: Downloads, tmp_path: Path) -> None:
    downloads.most = 70_000
    device = Device(tmp_path)
    device.offered(GOOD, downloads.port)
    assert await device.run() == "2.0.0"
    assert downloads.starts == [0, 65_536, 131_072]


async def test_a_server_without_ranges_sends_all_of_it_again(downloads: Downloads, tmp_path: Path) -> None:
    device = Device(tmp_path)
    FlashFiles(tmp_path, "1.0.0", b"own" * 1_000)
    device.offered(GOOD, downloads.port)
    with pytest.raises(Killed):
        await device.run(lives=5)  # at the third piece of the download
    downloads.ranges = False
    assert await device.run() == "2.0.0"
    assert downloads.starts == [0, 0]


async def test_an_image_that_the_server_does_not_have_ends_with_2(downloads: Downloads, tmp_path: Path) -> None:
    downloads.status = 404
    device = Device(tmp_path)
    device.offered(GOOD, downloads.port)
    assert await device.run() == "1.0.0"
    assert device.steps()[-1] == "-2"
    informed = [params["version"] for kind, params in device.sent if kind is Kind.OTA_INFORM]
    assert set(informed) == {"1.0.0"}


async def test_a_wrong_digest_ends_with_3_after_a_second_download(downloads: Downloads, tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.offered(GOOD, downloads.port, sign="ab" * 32)
    assert await device.run() == "1.0.0"
    assert (device.steps()[-1], downloads.starts) == ("-3", [0, 0])


async def test_an_image_that_does_not_start_ends_with_1_and_is_not_even_fetched_again(downloads: Downloads, tmp_path: Path) -> None:
    downloads.data, downloads.most = BAD, len(BAD)
    device = Device(tmp_path)
    device.offered(BAD, downloads.port)
    assert await device.run() == "1.0.0"
    assert await device.run() == "1.0.0"
    assert device.steps()[-1] == "-1"
    assert downloads.starts == [0]


@pytest.mark.parametrize("payload", [b"{", b"[]", b'{"data":{"version":"2.0.0"}}', b"\xff"])
async def test_an_offer_that_cannot_be_read_is_refused_and_changes_nothing(tmp_path: Path, payload: bytes) -> None:
    firmware = Firmware(KEY, FlashFiles(tmp_path, "1.0.0", b"own" * 1_000), lambda *_: None)
    await firmware.start()
    with pytest.raises(Refused):
        firmware.receive(Topic(Kind.OTA_UPGRADE, *KEY), payload)
    assert firmware.version == "1.0.0"


async def test_a_device_without_a_whole_image_says_so(tmp_path: Path) -> None:
    FlashFiles(tmp_path, "1.0.0", b"own" * 1_000)
    (tmp_path / Area.SLOT_A).write_bytes(b"worn")
    with pytest.raises(NothingToStart, match="no slot holds a whole image"):
        await Device(tmp_path).run()
