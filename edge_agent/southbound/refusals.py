"""What the gateway's front door turned away, by reason: how often, and the newest of each, for `edgectl status`."""

import logging
from collections import Counter
from dataclasses import dataclass

from protocols.errors import Reason, Refused

log = logging.getLogger("edge.front_door")

MOST_TEXT = 200


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest refusal of a reason. `who` is what it claimed to be, unless it was let in."""

    who: str
    address: str
    detail: str
    time_ms: int


class Refusals:
    """One entry a reason, so it is bounded whatever comes."""

    def __init__(self) -> None:
        self.counts: Counter[Reason] = Counter()
        self._newest: dict[Reason, Newest] = {}

    def count(self, refused: Refused, time_ms: int, *, who: str = "", address: str = "", times: int = 1) -> None:
        """Count, and say so in the log the first time for each reason."""
        first = refused.reason not in self.counts
        self.counts[refused.reason] += times
        newest = self._newest[refused.reason] = Newest(who[:MOST_TEXT], address, str(refused)[:MOST_TEXT], time_ms)
        if first:
            extra = {"reason": refused.reason.value, "device": newest.who, "address": address, "problem": newest.detail}
            log.warning("front_door.refused", extra=extra)

    def summary(self) -> list[dict[str, object]]:
        """The commonest first."""
        return [
            {"reason": reason.value, "count": count, "who": at.who, "address": at.address, "detail": at.detail, "last_ms": at.time_ms}
            for reason, count in self.counts.most_common()
            for at in (self._newest[reason],)
        ]
