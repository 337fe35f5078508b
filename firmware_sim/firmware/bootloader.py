"""An A/B bootloader and the update that it serves, as pure steps: each says what to write, and power may be lost within any write.

An update goes to the spare slot and gets `BOOTS` trial boots. What is not confirmed by then, or is reset by the watchdog before, is left
for good, and the device is back at the image it had. Only whole images that have their digest are ever started.
"""

import enum
import hashlib
from dataclasses import dataclass
from typing import Self

from msgspec.structs import replace

from firmware_sim.firmware.flash import (
    MOST_REJECTED,
    PAGE,
    SLOT_BYTES,
    SLOTS,
    Area,
    BootRecord,
    Flash,
    Image,
    Job,
    Offer,
    Outcome,
    Stage,
    Write,
    read_record,
    write_record,
)
from protocols.alink.ota import Failure, matches

BOOTS = 2
TRIES = 3
CHUNK = 16 * PAGE


class Cause(enum.Enum):
    """Why the processor starts; `POWER` also stands for what it does not know."""

    POWER = "power"
    REQUEST = "request"
    WATCHDOG = "watchdog"


@dataclass(frozen=True, slots=True)
class Boot:
    """What to write before the jump, and where to: None when no slot holds a whole image. On `trial` the watchdog is armed."""

    writes: tuple[Write, ...]
    slot: int | None
    trial: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What the firmware knows beside its flash; it goes with the power. Bytes of the download that are surely whole, bytes copied."""

    whole: int = 0
    copied: int = 0

    @classmethod
    def fresh(cls, flash: Flash) -> Self:
        """After a start: the page of the download that was written last may be torn, so it is fetched again."""
        return cls(max(0, len(flash.read(Area.DOWNLOAD)) - 1) // PAGE * PAGE)

    def after(self, write: Write) -> Self:
        end = write.offset + len(write.data)
        if write.area is Area.DOWNLOAD:
            return type(self)(end, self.copied)
        return type(self)(self.whole, end) if write.area in SLOTS else self


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The download is wanted from byte `start` on."""

    offer: Offer
    start: int


@dataclass(frozen=True, slots=True)
class Put:
    """These writes are due; then ask again."""

    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class Reboot:
    """A new image waits for its trial."""


Due = Idle | Fetch | Put | Reboot


def factory(version: str, image: bytes) -> Flash:
    """The flash of a device as it leaves the factory."""
    flash = Flash().after(Write(Area.SLOT_A, 0, image))
    return flash.after(write_record(flash, BootRecord(images=(_image(version, image), None))))


def _image(version: str, data: bytes) -> Image:
    return Image(version, len(data), hashlib.sha256(data).hexdigest())


def holds(flash: Flash, slot: int, image: Image | None) -> bool:
    """Whether a slot holds this image, whole."""
    if image is None:
        return False
    return hashlib.sha256(flash.read(SLOTS[slot])[: image.size]).hexdigest() == image.sha256


def boot(flash: Flash, cause: Cause) -> Boot:
    """What the bootloader does when the processor starts."""
    record = read_record(flash)
    job, writes = record.job, list[Write]()
    if job is not None and job.stage is Stage.TRIAL:
        image = record.images[record.spare]
        if job.boots and cause is Cause.WATCHDOG:
            record = _rejected(record, "the new image did not start: it was reset by the watchdog")
        elif job.boots >= BOOTS:
            record = _failed(record, Failure.UPGRADE, f"the new image was not confirmed in {BOOTS} boots")
        elif not holds(flash, record.spare, image):
            record = _failed(record, Failure.FLASH, "the new image is damaged in its slot")
        else:
            started = replace(record, job=replace(job, boots=job.boots + 1))
            return Boot((write_record(flash, started),), record.spare, trial=True)
        writes.append(write_record(flash, record))
    for slot in (record.active, record.spare):
        if holds(flash, slot, record.images[slot]):
            if slot != record.active:  # the active one is damaged
                writes = [write_record(flash, replace(record, active=slot, job=None))]
            return Boot(tuple(writes), slot)
    return Boot(tuple(writes), None)


def confirm(flash: Flash) -> tuple[Write, ...]:
    """The image on trial works: from now on it is the device's own."""
    record = read_record(flash)
    if record.job is None or record.job.stage is not Stage.TRIAL:
        return ()
    return (write_record(flash, replace(record, active=record.spare, job=None)),)


def offered(flash: Flash, offer: Offer) -> tuple[Write, ...]:
    """A firmware was offered. The same again changes nothing; another one takes the place of what is not yet installed."""
    record = read_record(flash)
    job = record.job
    if offer.version == record.version or (job is not None and (job.stage is Stage.TRIAL or job.offer == offer)):
        return ()
    if offer.method.lower() == "sha256" and offer.sign.lower() in record.rejected:
        text = f"{offer.version} has failed its trial here: offer a mended image"
        return (write_record(flash, replace(record, outcome=Outcome(Failure.UPGRADE, text, offer.module))),)
    if not 0 < offer.size <= SLOT_BYTES:
        text = f"{offer.size} bytes: a slot holds 1 to {SLOT_BYTES}"
        return (write_record(flash, replace(record, outcome=Outcome(Failure.FLASH, text, offer.module))),)
    if job is not None and replace(job.offer, url=offer.url) == offer:  # the same image from another address
        return (write_record(flash, replace(record, job=replace(job, offer=offer))),)
    begun = replace(record, job=Job(offer), outcome=None)
    return Write(Area.DOWNLOAD, 0, b"", erase=True), write_record(flash, begun)


def received(at: int, data: bytes) -> Write:
    """A piece of the download that begins at byte `at`."""
    return Write(Area.DOWNLOAD, at, data, erase=True)


def failed_download(flash: Flash, text: str) -> tuple[Write, ...]:
    """The server does not have the image, or another one, or cannot be reached for too long."""
    record = read_record(flash)
    if record.job is None or record.job.stage is not Stage.DOWNLOAD:
        return ()
    return (write_record(flash, _failed(record, Failure.DOWNLOAD, text)),)


def told(flash: Flash) -> tuple[Write, ...]:
    """The server has the outcome."""
    record = read_record(flash)
    return () if record.outcome is None else (write_record(flash, replace(record, outcome=None)),)


def due(flash: Flash, memory: Memory) -> Due:
    """What an update wants next."""
    record = read_record(flash)
    job = record.job
    if job is None:
        return Idle()
    if job.stage is Stage.TRIAL:
        return Reboot()
    if job.stage is Stage.INSTALL:
        return _install(flash, memory, record, job)
    if memory.whole < job.offer.size:
        return Fetch(job.offer, memory.whole)
    if matches(flash.read(Area.DOWNLOAD), job.offer.sign, job.offer.method):
        return Put((write_record(flash, replace(record, job=replace(job, stage=Stage.INSTALL))),))
    if job.again:
        text = f"the {job.offer.method} of what was downloaded is not {job.offer.sign}"
        return Put((write_record(flash, _failed(record, Failure.DIGEST, text)),))
    once_more = replace(record, job=replace(job, again=True))  # the pieces may be of two images, or a page damaged
    return Put((Write(Area.DOWNLOAD, 0, b"", erase=True), write_record(flash, once_more)))


def _install(flash: Flash, memory: Memory, record: BootRecord, job: Job) -> Due:
    """Copy, read back, mark for trial; at most `TRIES` times, where a copy that a loss of power cut off is no try."""
    data = flash.read(Area.DOWNLOAD)
    if not matches(data, job.offer.sign, job.offer.method):  # nothing unverified is ever installed, whatever befell it
        return Put((write_record(flash, _failed(record, Failure.DIGEST, "the download has changed since it was verified")),))
    image = _image(job.offer.version, data)
    if image.sha256 in record.rejected:
        text = f"{image.version} has failed its trial here: offer a mended image"
        return Put((write_record(flash, _failed(record, Failure.UPGRADE, text)),))
    if holds(flash, record.spare, image):
        marked = replace(record, images=_with(record, image), job=replace(job, stage=Stage.TRIAL, boots=0))
        return Put((write_record(flash, marked),))
    tries = job.tries + (memory.copied >= len(data))
    if tries >= TRIES:
        return Put((write_record(flash, _failed(record, Failure.FLASH, f"the slot does not keep what is written, {TRIES} times")),))
    begun = write_record(flash, replace(record, images=_with(record, None), job=replace(job, tries=tries)))
    slot = SLOTS[record.spare]
    return Put((begun, *(Write(slot, at, data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))))


def _with(record: BootRecord, image: Image | None) -> tuple[Image | None, Image | None]:
    """The images with another one in the spare slot."""
    own = record.images[record.active]
    return (own, image) if record.active == 0 else (image, own)


def _failed(record: BootRecord, step: Failure, text: str) -> BootRecord:
    job = record.job
    images = record.images if job is None or job.stage is Stage.DOWNLOAD else _with(record, None)
    return replace(record, images=images, job=None, outcome=Outcome(step, text, "default" if job is None else job.offer.module))


def _rejected(record: BootRecord, text: str) -> BootRecord:
    """The image on trial has failed: its digest is kept, so that it is never started again."""
    image = record.images[record.spare]
    failed = _failed(record, Failure.UPGRADE, text)
    return failed if image is None else replace(failed, rejected=(*record.rejected, image.sha256)[-MOST_REJECTED:])
