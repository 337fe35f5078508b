"""Lanes of an edge buffer, watermarks and floors as arithmetic on sequence numbers, and gaps with one enum of reasons (design.md §3.5)."""

import enum
from dataclasses import dataclass

import msgspec


class Lane(enum.StrEnum):
    """What a frame is for. Members stand in order of priority: a forwarder sends the first lane that has something."""

    ALARM = "alarm"
    REPLY = "reply"
    LIVE = "live"
    BULK = "bulk"

    @property
    def code(self) -> int:
        """The lane's byte on the wire and in the buffer file: 0 is the most urgent."""
        return _CODES[self]


_CODES = {lane: code for code, lane in enumerate(Lane)}
LANES = tuple(Lane)


class GapReason(enum.StrEnum):
    """Why readings are missing. Values are stored and counted: stable, never reworded."""

    AGENT_DOWN = "agent_down"
    DEVICE_UNREACHABLE = "device_unreachable"
    MISSED_POLL = "missed_poll"
    OVERRUN = "overrun"
    OVERFLOW = "overflow"
    THINNED = "thinned"
    EXPIRED = "expired"
    REFUSED_FRAME = "refused_frame"
    REFUSED_VALUE = "refused_value"
    BUFFER_RESET = "buffer_reset"
    BUFFER_DAMAGED = "buffer_damaged"
    STREAM_LOST = "stream_lost"
    NOT_SCORED = "not_scored"

    @property
    def english(self) -> str:
        return _TEXTS[self][0]

    @property
    def chinese(self) -> str:
        return _TEXTS[self][1]


_TEXTS = {
    GapReason.AGENT_DOWN: ("the edge agent was not running", "边缘代理未运行"),
    GapReason.DEVICE_UNREACHABLE: ("the device did not answer", "设备无应答"),
    GapReason.MISSED_POLL: ("the device moved on between two polls", "两次轮询之间数据已更新"),
    GapReason.OVERRUN: ("the device's own memory was full", "设备自身存储已满"),
    GapReason.OVERFLOW: ("the edge buffer was full", "边缘缓冲区已满"),
    GapReason.THINNED: ("the edge buffer was full and kept fewer readings", "边缘缓冲区已满，仅保留部分数据"),
    GapReason.EXPIRED: ("too old to be worth sending", "数据超过保存时限，未再上传"),
    GapReason.REFUSED_FRAME: ("the cloud refused the frame", "云端拒收该数据帧"),
    GapReason.REFUSED_VALUE: ("the value does not fit the thing model", "数值不符合物模型"),
    GapReason.BUFFER_RESET: ("the edge buffer was replaced or restored", "边缘缓冲区被更换或恢复"),
    GapReason.BUFFER_DAMAGED: ("a frame in the edge buffer was damaged", "边缘缓冲区中的数据帧已损坏"),
    GapReason.NOT_SCORED: ("the model did not score these readings", "模型未对这些数据评分"),
    GapReason.STREAM_LOST: ("the cloud's message stream was lost", "云端消息流丢失"),
}


class Gap(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Readings that will never come: those of a device with `from_ms` < time < `to_ms` (both bounds exclusive).

    No `identifiers` means every property of the device; `count` is in readings, None where nobody can know.
    """

    product_key: str
    device_name: str
    identifiers: tuple[str, ...]
    from_ms: int
    to_ms: int
    count: int | None
    reason: GapReason


class Verdict(enum.Enum):
    """What to do with an arrived frame."""

    APPEND = "append"
    DUPLICATE = "duplicate"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Decision:
    """`committed` is the watermark once the verdict is carried out.

    `lost` are the first and last seq that no frame will ever fill and that this frame does not account for (APPEND only);
    `resend_from` is the first seq still wanted.
    """

    verdict: Verdict
    committed: int
    lost: tuple[int, int] | None = None

    @property
    def resend_from(self) -> int:
        return self.committed + 1


@dataclass(frozen=True, slots=True)
class Watermark:
    """The cloud's side of one lane of one buffer: everything up to `committed` is stored, quarantined or named as lost."""

    committed: int = 0

    def advance(self, seq: int, floor: int, covers: int | None = None) -> Decision:
        """Judge a frame: in order, seen before, or ahead of one the buffer still holds. Changes nothing itself.

        `floor` is the lowest seq the lane held when the frame was sent; `covers` the first seq the frame accounts for
        (lower than `seq` when it took the place of dropped frames).
        """
        expected = self.committed + 1
        if seq < expected:
            return Decision(Verdict.DUPLICATE, self.committed)
        covers = seq if covers is None else covers
        if covers <= expected:
            return Decision(Verdict.APPEND, seq)
        if floor >= seq:  # the buffer holds nothing older, so nothing older can come
            return Decision(Verdict.APPEND, seq, lost=(expected, covers - 1))
        return Decision(Verdict.WAIT, self.committed)


class Standing(enum.Enum):
    """How a buffer's lane stands to the cloud's watermark when both meet again."""

    IN_STEP = "in_step"
    CLOUD_WENT_BACK = "cloud_went_back"
    BUFFER_WENT_BACK = "buffer_went_back"


def compare(floor: int, next_seq: int, committed: int) -> Standing:
    """Judge an exchange: a lane holds [`floor`, `next_seq`), the cloud has committed up to `committed`.

    >>> compare(floor=4, next_seq=9, committed=6)
    <Standing.IN_STEP: 'in_step'>
    >>> compare(floor=4, next_seq=9, committed=2)  # 3 is gone here and missing there
    <Standing.CLOUD_WENT_BACK: 'cloud_went_back'>
    >>> compare(floor=4, next_seq=9, committed=9)  # the cloud has a frame this buffer never made
    <Standing.BUFFER_WENT_BACK: 'buffer_went_back'>
    """
    if committed >= next_seq:
        return Standing.BUFFER_WENT_BACK
    if committed + 1 < floor:
        return Standing.CLOUD_WENT_BACK
    return Standing.IN_STEP
