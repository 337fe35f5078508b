"""What a frame carries beside readings: events, gaps, command replies and the presence of devices behind the gateway."""

import msgspec

from protocols.edgelink.lanes import Gap


class EventRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="event"):
    """A thing-model event of a device; `output` is JSON text of an object."""

    product_key: str
    device_name: str
    identifier: str
    time_ms: int
    output: str


class GapRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="gap"):
    """A gap travels like data."""

    gap: Gap


class ReplyRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="reply"):
    """The answer to a command; `code` is the device's own, `data` JSON text of an object."""

    command_id: str
    code: int
    data: str


class PresenceRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="presence"):
    """A device behind the gateway came or went."""

    product_key: str
    device_name: str
    online: bool
    time_ms: int


class ClockRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="clock"):
    """Times of a device between two bounds (exclusive) were stamped by a clock that nobody had confirmed.

    They were moved by `shift_ms` when the time became known: a reading's first time is its time minus the shift. None: it never became
    known, and they are as they were stamped.
    """

    product_key: str
    device_name: str
    from_ms: int
    to_ms: int
    shift_ms: int | None


Record = EventRecord | GapRecord | ReplyRecord | PresenceRecord | ClockRecord
