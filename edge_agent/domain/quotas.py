"""How the buffer's bytes are shared between its lanes, and what becomes of what does not fit."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocols.edgelink.lanes import LANES, Lane


class Overflow(enum.StrEnum):
    """What a lane does when there is no room for its next frame. Whatever is given up leaves a gap record."""

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    THIN = "thin"
    """Of the oldest frames only every `keep_every`-th reading of a series stays; when nothing can be thinned, the oldest go."""
    BLOCK = "block"
    """The producer waits: nothing is given up, and what it reads from waits with it."""


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """One lane's share. `quota_bytes` is the most it may hold (None: no bound of its own); `reserve_bytes` is kept free for it.

    `max_age_s` counts the agent's running time since the frame was made, on the monotonic clock: no change of the wall clock
    expires anything (None: frames do not age).
    """

    overflow: Overflow
    quota_bytes: int | None = None
    reserve_bytes: int = 0
    keep_every: int = 10
    max_age_s: int | None = None

    @property
    def gives_way(self) -> bool:
        """Whether frames of this lane may be given up for a more urgent one."""
        return self.overflow in (Overflow.DROP_OLDEST, Overflow.THIN)


@dataclass(frozen=True, slots=True)
class Quotas:
    """The bytes of the whole buffer and the policy of every lane. Raises ValueError when the reserves do not fit."""

    total_bytes: int
    lanes: Mapping[Lane, LanePolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {lane: self.lanes.get(lane) or default_policy(lane, self.total_bytes) for lane in LANES}
        object.__setattr__(self, "lanes", given)
        if sum(policy.reserve_bytes for policy in given.values()) > self.total_bytes:
            raise ValueError("the reserves of all lanes are more than the whole buffer")
        for lane, policy in given.items():
            if policy.quota_bytes is not None and policy.reserve_bytes > policy.quota_bytes:
                raise ValueError(f"{lane.value}: the reserve is more than the lane's own quota")

    def shortage(self, lane: Lane, size: int, used: Mapping[Lane, int]) -> int:
        """Bytes that must go from the whole buffer before `lane` can take `size` more; 0 or less: it has room.

        What other lanes have in reserve and do not use is not free.
        """
        held_free = sum(max(0, policy.reserve_bytes - used[other]) for other, policy in self.lanes.items() if other is not lane)
        return sum(used.values()) + size + held_free - self.total_bytes

    def own_shortage(self, lane: Lane, size: int, used: Mapping[Lane, int]) -> int:
        """Bytes that must go from `lane` itself before it can take `size` more; 0 or less: it has room."""
        quota = self.lanes[lane].quota_bytes
        return 0 if quota is None else used[lane] + size - quota

    def giving_way(self, lane: Lane, used: Mapping[Lane, int]) -> list[Lane]:
        """Less urgent lanes that can be asked for bytes, the least urgent first: those that hold more than their reserve."""
        less_urgent = LANES[lane.code + 1 :]
        return [other for other in reversed(less_urgent) if self.lanes[other].gives_way and used[other] > self.lanes[other].reserve_bytes]


def default_policy(lane: Lane, total_bytes: int) -> LanePolicy:
    """Readings go, oldest first; alarms and replies wait, and have a thirty-second each that readings cannot fill.

    >>> default_policy(Lane.LIVE, 1 << 20).overflow.value, default_policy(Lane.ALARM, 1 << 20).reserve_bytes
    ('drop_oldest', 32768)
    """
    if lane in (Lane.LIVE, Lane.BULK):
        return LanePolicy(Overflow.DROP_OLDEST)
    return LanePolicy(Overflow.BLOCK, reserve_bytes=total_bytes // 32)
