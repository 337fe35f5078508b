"""What a frame carries beside readings: events, gaps, command replies and the presence of devices behind the gateway."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

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


MOST_STRETCHES: Final = 92 * 144
_Place = Annotated[int, Meta(ge=-(2**33), le=2**33)]
MOST_IN_A_STRETCH: Final = 1 << 32
"""Readings, seven million a second: what says more is wrong, and sums of it would be more than a database takes."""
_Count = Annotated[int, Meta(ge=0, le=MOST_IN_A_STRETCH)]


class TallyRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="tally"):
    """In a frame that takes the place of others: how many readings were given up of each stretch of time, as (begin / 600 s, count).

    With it the cloud's account says of every ten minutes what the gateway's own says (stretches.py).
    """

    stretches: Annotated[tuple[tuple[_Place, _Count], ...], Meta(max_length=MOST_STRETCHES)]


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


Record = EventRecord | GapRecord | TallyRecord | ReplyRecord | PresenceRecord | ClockRecord
