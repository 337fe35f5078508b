"""The A/B bootloader: whatever is offered and whenever power is lost, the device starts a whole image."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from firmware_sim.firmware.bootloader import (
    BOOTS,
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
    factory,
    failed_download,
    offered,
    received,
    told,
)
from firmware_sim.firmware.flash import PAGE, SLOTS, Area, BootRecord, Flash, Offer, Outcome, Write, read_record, write_record

OWN = b"own" * 500
GOOD = {f"2.{n}": bytes([n]) * (PAGE * n + 7 * n) for n in range(1, 4)}
BAD = {f"3.{n}": bytes([100 + n]) * (PAGE + n) for n in range(3)}
IMAGES = GOOD | BAD | {"1.0": OWN}
MOST_STEPS = 200


def offer_of(version: str, sign: str = "", method: str = "SHA256") -> Offer:
    data = IMAGES[version]
    digest = hashlib.sha256 if method == "SHA256" else hashlib.md5
    return Offer(version, len(data), f"http://cloud/{version}", sign or digest(data).hexdigest(), method)


class Device:
    """A processor with its flash. `cuts` counts writes until power is lost within one; `torn` is how much of that one gets written."""

    def __init__(self) -> None:
        self.flash = factory("1.0", OWN)
        self.memory = Memory.fresh(self.flash)
        self.started: bytes | None = None
        self.trial = False
        self.boots: Counter[bytes] = Counter()  # trial boots of this installation
        self.failed: set[bytes] = set()  # the bootloader saw them fail
        self.cuts: int | None = None
        self.torn = (0, 0)
        self.worn = False
        self.start(Cause.POWER)

    def write(self, *writes: Write) -> bool:
        """Carry out writes; False when power was lost within one."""
        for write in writes:
            if self.cuts == 0:
                kept, garbage = self.torn
                data = write.data[:kept] + bytes(byte ^ 0xA5 for byte in write.data[kept : kept + garbage])
                self.flash = self.flash.after(Write(write.area, write.offset, data, write.erase))
                self.cuts = None
                self.start(Cause.POWER)
                return False
            if self.cuts is not None:
                self.cuts -= 1
            if self.worn and write.area in SLOTS:
                write = Write(write.area, write.offset, b"\0" * len(write.data))
            self.flash = self.flash.after(write)
            self.memory = self.memory.after(write)
        return True

    def start(self, cause: Cause) -> None:
        found: Boot = boot(self.flash, cause)
        if not self.write(*found.writes):
            return  # it has started anew already
        assert found.slot is not None, "the device is dead"
        record = read_record(self.flash)
        image = record.images[found.slot]
        assert image is not None
        self.started, self.trial = self.flash.read(SLOTS[found.slot])[: image.size], found.trial
        assert self.started in IMAGES.values(), "something was started that nobody made"
        assert IMAGES[image.version] == self.started
        self.memory = Memory.fresh(self.flash)
        if cause is Cause.WATCHDOG and not self.trial:
            self.failed |= {data for data in BAD.values() if hashlib.sha256(data).hexdigest() in record.rejected}
        if self.trial:
            self.boots[self.started] += 1
            assert self.started not in self.failed, "an image was started again that had failed its trial"
            assert self.boots[self.started] <= BOOTS

    def step(self) -> bool:
        """One step of whatever runs; False when there is nothing to do."""
        if self.trial and self.started in BAD.values():
            self.start(Cause.WATCHDOG)
            return True
        if self.trial:
            if self.write(*confirm(self.flash)):
                self.trial = False
            return True
        match due(self.flash, self.memory):
            case Idle():
                return False
            case Fetch(offer, start):
                data = IMAGES[offer.version]
                self.write(received(start, data[start : start + CHUNK]))
            case Put(writes):
                self.write(*writes)
            case Reboot():
                self.start(Cause.REQUEST)
        return True

    def offer(self, offer: Offer) -> None:
        before = read_record(self.flash).job
        if self.write(*offered(self.flash, offer)) and read_record(self.flash).job != before:
            self.boots.clear()

    def settle(self) -> BootRecord:
        for _ in range(MOST_STEPS):
            if not self.step():
                return read_record(self.flash)
        raise AssertionError("the update does not come to an end")


class Updates(RuleBasedStateMachine):
    """Offers, steps and losses of power in any order."""

    @initialize()
    def made(self) -> None:
        self.device = Device()

    @rule(version=st.sampled_from(sorted(GOOD | BAD)), method=st.sampled_from(["SHA256", "Md5"]))
    def offer(self, version: str, method: str) -> None:
        self.device.offer(offer_of(version, method=method))

    @rule(version=st.sampled_from(sorted(GOOD)))
    def offer_with_a_wrong_digest(self, version: str) -> None:
        self.device.offer(offer_of(version, sign="0" * 64))

    @rule(steps=st.integers(1, 12))
    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.device.step()

    @rule(cuts=st.integers(0, 4), kept=st.integers(0, 2 * PAGE), garbage=st.integers(0, 50), steps=st.integers(1, 8))
    def lose_power_within_a_write(self, cuts: int, kept: int, garbage: int, steps: int) -> None:
        self.device.cuts, self.device.torn = cuts, (kept, garbage)
        self.work(steps)
        self.device.cuts = None

    @rule()
    def lose_power_between_writes(self) -> None:
        self.device.start(Cause.POWER)

    @rule()
    def the_server_hears_of_the_outcome(self) -> None:
        self.device.write(*told(self.device.flash))

    @rule()
    def the_server_has_no_image(self) -> None:
        self.device.write(*failed_download(self.device.flash, "404"))

    @rule(version=st.sampled_from(sorted(GOOD)))
    def undisturbed_a_good_image_runs(self, version: str) -> None:
        self.device.settle()
        self.device.offer(offer_of(version))
        assert self.device.settle().version == version
        assert self.device.started == GOOD[version]

    @rule(version=st.sampled_from(sorted(BAD)))
    def undisturbed_a_bad_image_ends_with_the_old_version(self, version: str) -> None:
        before = self.device.settle()
        self.device.offer(offer_of(version))
        after = self.device.settle()
        assert (after.version, after.outcome and after.outcome.step) == (before.version, -1)
        assert self.device.started == IMAGES[before.version]

    @invariant()
    def the_device_runs_a_whole_image(self) -> None:
        assert self.device.started in IMAGES.values()


def test_whenever_power_is_lost_a_whole_image_runs_and_a_good_one_that_is_offered_comes_to_run() -> None:
    run_state_machine_as_test(Updates, settings=settings(stateful_step_count=30, deadline=None))


def outcome(device: Device) -> tuple[str, int]:
    record = device.settle()
    assert record.outcome is not None
    assert device.started == OWN
    return record.version, record.outcome.step


def test_a_wrong_digest_ends_with_3() -> None:
    device = Device()
    device.offer(offer_of("2.1", sign="ab" * 32))
    assert outcome(device) == ("1.0", -3)


def test_an_image_that_cannot_be_had_ends_with_2() -> None:
    device = Device()
    device.offer(offer_of("2.1"))
    device.write(*failed_download(device.flash, "404"))
    assert outcome(device) == ("1.0", -2)


def test_a_slot_that_keeps_nothing_ends_with_4() -> None:
    device = Device()
    device.worn = True
    device.offer(offer_of("2.1"))
    assert outcome(device) == ("1.0", -4)


def test_an_image_that_does_not_fit_ends_with_4_before_anything_is_fetched() -> None:
    device = Device()
    device.offer(Offer("9.0", 1 << 30, "http://cloud/9.0", "0" * 64, "SHA256"))
    assert outcome(device) == ("1.0", -4)


def test_an_image_that_failed_its_trial_is_not_even_fetched_when_it_is_offered_again() -> None:
    device = Device()
    for _ in range(2):
        device.offer(offer_of("3.0"))
        assert outcome(device) == ("1.0", -1)
        device.write(*told(device.flash))
        assert read_record(device.flash).outcome is None
    assert device.boots[BAD["3.0"]] == 1


def test_a_good_image_whose_trial_is_cut_off_by_power_is_tried_once_more_and_then_left_until_it_is_offered_again() -> None:
    device = Device()
    device.offer(offer_of("2.2"))
    while not device.trial:
        device.step()
    device.start(Cause.POWER)
    assert device.trial
    device.start(Cause.POWER)
    assert outcome(device) == ("1.0", -1)
    device.offer(offer_of("2.2"))
    assert device.settle().version == "2.2"


def test_a_download_goes_on_at_the_page_that_may_be_torn() -> None:
    device = Device()
    device.offer(offer_of("2.3"))
    device.write(received(0, GOOD["2.3"][: 2 * PAGE + 9]))
    device.start(Cause.POWER)
    assert due(device.flash, device.memory) == Fetch(offer_of("2.3"), 2 * PAGE)


def test_another_offer_takes_the_place_of_a_download_and_the_same_one_does_not() -> None:
    device = Device()
    device.offer(offer_of("2.3"))
    device.write(received(0, b"x" * 100))
    device.offer(offer_of("2.3"))
    assert device.flash.read(Area.DOWNLOAD) == b"x" * 100
    device.offer(offer_of("2.1"))
    assert device.flash.read(Area.DOWNLOAD) == b""
    assert device.settle().version == "2.1"


@given(st.binary(max_size=400), st.integers(0, 300), st.integers(0, 50))
def test_a_torn_boot_record_leaves_the_one_before(text: bytes, kept: int, garbage: int) -> None:
    flash = factory("1.0", OWN)
    before = read_record(flash)
    write = write_record(flash, BootRecord(outcome=Outcome(-1, text.hex())))
    torn = write.data[:kept] + bytes(byte ^ 0xFF for byte in write.data[kept : kept + garbage])
    after = read_record(flash.after(Write(write.area, 0, torn)))
    assert after == before or (torn == write.data and after.outcome is not None)


@pytest.mark.parametrize("damaged", [0, 5_000])
def test_an_active_image_that_is_damaged_gives_way_to_the_other(damaged: int) -> None:
    device = Device()
    device.offer(offer_of("2.3"))
    assert device.settle().active == 1
    device.flash = device.flash.after(Write(Area.SLOT_B, damaged, b"\0"))
    device.start(Cause.POWER)
    assert device.started == OWN
    assert read_record(device.flash).version == "1.0"


def test_without_any_whole_image_nothing_is_started() -> None:
    assert boot(Flash(), Cause.POWER).slot is None
