"""Firmware over the air (alink.md par. 7): a device informs, is offered, downloads with Range, starts the new image, says how it went."""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

import httpx
import msgspec

from firmware_sim.firmware.bootloader import (
    CHUNK,
    Boot,
    Cause,
    Fetch,
    Idle,
    Memory,
    Put,
    Reboot,
    boot,
    confirm,
    due,
    failed_download,
    offered,
    received,
    told,
)
from firmware_sim.firmware.flash import SLOTS, Flash, Offer, Outcome, Write, read_record
from firmware_sim.process import say
from firmware_sim.wire.alink_device import Restart
from protocols.alink.messages import decode_reply
from protocols.alink.ota import DEFAULT_MODULE
from protocols.alink.topics import Kind, Topic
from protocols.errors import Broken, Reason, Refused

TRIES = 8  # attempts in a row that bring no byte, before the download has failed
AGAIN_S = 0.5
READ_S = 10.0
PROGRESS_EVERY = 10  # percent
NEVER_STARTS = b"fwsim-image boots=no\n"
"""An image that begins so does not start: the watchdog resets it. Every other one starts."""


class Storage(Protocol):
    """Where the flash is kept."""

    flash: Flash

    def write(self, write: Write) -> None:
        """Carry out a write, durably."""


class NothingToStart(Broken):
    """Both slots are damaged."""


class _Offered(msgspec.Struct):
    """`data` of an offer; what is missing makes it none."""

    version: str
    size: int
    url: str
    sign: str
    signMethod: str  # noqa: N815  # the wire's own spelling
    module: str = DEFAULT_MODULE


class _Push(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Firmware:
    """A part of a device (see `Part`). `watchdog_s` is how long an image on trial has to start, `rate` bytes/s bound the download."""

    def __init__(
        self,
        key: tuple[str, str],
        storage: Storage,
        send: Callable[[str, bytes, Callable[[], None] | None], None],
        *,
        watchdog_s: float = 1.0,
        rate: float | None = None,
    ) -> None:
        self._key, self._storage, self._send = key, storage, send
        self._watchdog_s, self._rate = watchdog_s, rate
        self._cause: Cause | None = Cause.POWER
        self._memory = Memory()
        self._asked = asyncio.Event()
        self._percent = -1
        self._telling: Outcome | None = None
        self.fetched = 0

    @property
    def version(self) -> str:
        """What it runs."""
        return read_record(self._storage.flash).version

    async def start(self) -> None:
        """Start the processor, unless only the connection was lost. Raises NothingToStart."""
        while self._cause is not None:
            found = boot(self._storage.flash, self._cause)
            self._write(*found.writes)
            self._cause = None if await self._runs(found) else Cause.WATCHDOG
        self._memory = Memory.fresh(self._storage.flash)

    async def _runs(self, found: Boot) -> bool:
        """Jump into an image; whether it starts."""
        if found.slot is None:
            raise NothingToStart(f"{self._key[1]}: no slot holds a whole image; empty its folder in --state-dir")
        say("boot", device=self._key[1], slot=SLOTS[found.slot], trial=found.trial, cause=str(self._cause and self._cause.value))
        starts = not self._storage.flash.read(SLOTS[found.slot]).startswith(NEVER_STARTS)
        if found.trial and not starts:
            await asyncio.sleep(self._watchdog_s)
            return False
        if found.trial:
            self._write(*confirm(self._storage.flash))
            say("firmware", device=self._key[1], version=self.version)
        return True

    def receive(self, topic: Topic, payload: bytes) -> bool:
        if (topic.product_key, topic.device_name) != self._key:
            return False
        if topic.kind is Kind.OTA_UPGRADE:
            try:
                self._on_offer(bytes(msgspec.json.decode(payload, type=_Push).data))
            except msgspec.DecodeError as error:
                raise Refused(Reason.BAD_JSON, f"not an offer: {error}") from error
        elif topic.kind is Kind.OTA_FIRMWARE_GET_REPLY:
            self._on_offer(msgspec.json.encode(decode_reply(payload).data or {}))
        else:
            return False
        return True

    def _on_offer(self, data: bytes) -> None:
        if data == b"{}":
            return
        try:
            found = msgspec.json.decode(data, type=_Offered)
        except msgspec.ValidationError as error:
            raise Refused(Reason.MISSING_PARAMETER, f"an offer without all that the SDKs need: {error}") from error
        if found.module != DEFAULT_MODULE:
            self._post_progress(-1, f"this device has no module {found.module}", found.module)
            return
        self._write(*offered(self._storage.flash, Offer(found.version, found.size, found.url, found.sign, found.signMethod)))
        self._asked.set()

    async def work(self) -> None:
        """Say what runs and how the last update went, ask for another, and carry on with one. Raises Restart to start a new image."""
        self._percent = -1
        self._tell_outcome()
        self._inform()
        while True:
            match due(self._storage.flash, self._memory):
                case Idle():
                    self._tell_outcome()
                    self._asked.clear()
                    await self._asked.wait()
                case Put(writes):
                    for write in writes:
                        self._write(write)
                        if write.area in SLOTS:  # long, and no boot record follows that an offer could come between
                            await asyncio.sleep(0)
                case Fetch(offer, _):
                    await self._download(offer)
                case Reboot():
                    self._post_progress(100, "the new image is started")
                    self._cause = Cause.REQUEST
                    raise Restart

    async def _download(self, offer: Offer) -> None:
        """Until all of it is there, another offer takes its place, or the server says no; a broken transfer goes on where it was."""
        idle = 0
        options = None if self._rate is None else [(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)]  # slow ones have little memory
        async with httpx.AsyncClient(timeout=READ_S, transport=httpx.AsyncHTTPTransport(socket_options=options)) as client:
            while self._wants(offer):
                before = self._memory.whole
                try:
                    await self._transfer(client, offer)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    idle = idle + 1 if self._memory.whole <= before else 0
                    refused = isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error
                    if idle >= TRIES or refused or isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
                        self._write(*failed_download(self._storage.flash, f"the download does not come: {type(error).__name__} {error}"))
                        return
                    await asyncio.sleep(AGAIN_S)

    def _wants(self, offer: Offer) -> bool:
        wanted = due(self._storage.flash, self._memory)
        return isinstance(wanted, Fetch) and wanted.offer == offer

    async def _transfer(self, client: httpx.AsyncClient, offer: Offer) -> None:
        start = self._memory.whole
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with client.stream("GET", offer.url, headers=headers) as answer:
            answer.raise_for_status()
            at = start if answer.status_code == 206 else 0  # a server without Range sends all of it again
            say("download", device=self._key[1], start=at, status=answer.status_code, size=offer.size)
            began, now = asyncio.get_running_loop().time(), asyncio.get_running_loop().time
            async for data in answer.aiter_raw(CHUNK):
                if not self._wants(offer):
                    return
                piece = data[: offer.size - at]
                self._write(received(at, piece))
                at += len(piece)
                self.fetched += len(piece)
                self._post_percent(offer, at)
                if self._rate is not None:
                    await asyncio.sleep(max(0.0, began + (at - start) / self._rate - now()))
        if at < offer.size:
            raise httpx.ReadError(f"the server sent {at} of {offer.size} bytes")

    def _post_percent(self, offer: Offer, at: int) -> None:
        percent = min(99, at * 100 // offer.size)
        if percent // PROGRESS_EVERY != self._percent // PROGRESS_EVERY:
            self._percent = percent
            self._post_progress(percent, "downloading", offer.module)

    def _tell_outcome(self) -> None:
        """How an update failed is said until the server has it. It goes before the inform, so that the offer has ended by then."""
        outcome = read_record(self._storage.flash).outcome
        if outcome is None or outcome == self._telling:
            return
        self._telling = outcome

        def heard() -> None:
            self._telling = None
            if read_record(self._storage.flash).outcome == outcome:
                self._write(*told(self._storage.flash))

        say("failed", device=self._key[1], step=outcome.step, text=outcome.text)
        self._post_progress(outcome.step, outcome.text, outcome.module, heard)

    def _post_progress(self, step: int, text: str, module: str = DEFAULT_MODULE, acked: Callable[[], None] | None = None) -> None:
        body = {"id": "1", "version": "1.0", "params": {"step": str(step), "desc": text, "module": module}}
        self._send(str(Topic(Kind.OTA_PROGRESS, *self._key)), msgspec.json.encode(body), acked)

    def _inform(self) -> None:
        body = {"id": "1", "version": "1.0", "params": {"version": self.version, "module": DEFAULT_MODULE}}
        self._send(str(Topic(Kind.OTA_INFORM, *self._key)), msgspec.json.encode(body), None)
        asked = {"id": "2", "version": "1.0", "params": {"module": DEFAULT_MODULE}, "method": "thing.ota.firmware.get"}
        self._send(str(Topic(Kind.OTA_FIRMWARE_GET, *self._key)), msgspec.json.encode(asked), None)

    def _write(self, *writes: Write) -> None:
        for write in writes:
            self._storage.write(write)
            self._memory = self._memory.after(write)
