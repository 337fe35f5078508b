"""How long a session waits: for a CONNECT, the rest of a packet, a sign of life, a client that reads. Monotonic seconds are passed in."""

from protocols.errors import Reason, Refused
from protocols.mqtt.events import Limits


class Patience:
    """Of one session. `heard` is when its last packet was complete, or when it began."""

    __slots__ = ("_begun", "_limits", "_unread", "_unread_since", "heard")

    def __init__(self, now: float, limits: Limits) -> None:
        self.heard = now
        self._limits = limits
        self._begun = 0.0  # since when a packet is incomplete, as far as `passes` has seen; 0.0 = none is
        self._unread = 0  # of what was sent, as `passes` last saw it
        self._unread_since = 0.0

    def deadline(self, accepted: bool, keepalive_s: int) -> float | None:
        """When `over` will say so if no packet is completed; None = never."""
        if not accepted:
            return self.heard + self._limits.connect_s
        silent = self.heard + 1.5 * keepalive_s if keepalive_s else None
        if not self._begun or self._begun < self.heard:  # that packet is complete
            return silent
        late = self._begun + self._limits.packet_s
        return late if silent is None else min(silent, late)

    def passes(self, now: float, pending: int, paused: bool, unread: int) -> Refused | None:
        """Time has passed, with so many bytes of a packet `pending` and so many `unread`; why a client that does not read has to go."""
        if paused:
            self.heard = now
        if not pending or paused:
            self._begun = 0.0
        elif self._begun <= self.heard:
            self._begun = max(now, self.heard)
        if unread != self._unread or not unread:
            self._unread, self._unread_since = unread, now
        elif now - self._unread_since > self._limits.unread_s:
            why = f"nothing of what was sent was read for {self._limits.unread_s:g} s: the client or its link is too slow"
            return Refused(Reason.SLOW_READER, why)
        return None

    def over(self, now: float, accepted: bool, keepalive_s: int, pending: int) -> Refused | None:
        """Why nobody waits any longer: no CONNECT in time, 1.5 keepalives of silence (par. 3.1.2.10), or half a packet for too long."""
        deadline = self.deadline(accepted, keepalive_s)
        if deadline is None or now <= deadline:
            return None
        if not accepted:
            what = f"{pending} bytes of one" if pending else "not a byte"
            return Refused(Reason.CONNECT_TIMEOUT, f"no CONNECT in {self._limits.connect_s:g} s, {what} came")
        if keepalive_s and now > self.heard + 1.5 * keepalive_s:
            why = f"no packet for 1.5 times the keepalive of {keepalive_s} s: ping in time, or look at the link"
            return Refused(Reason.KEEPALIVE_TIMEOUT, why)
        return Refused(Reason.SLOW_WRITER, f"{pending} bytes of a packet came and not the rest within {self._limits.packet_s:g} s")
