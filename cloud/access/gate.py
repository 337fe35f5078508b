"""Frames of gateways enter the stream no faster than ingest takes them out: nobody else waits behind a backlog of theirs (ADR 16).

A hundred gateways that come back with a day each would fill the stream within a second, and what an appliance posts then would wait for
all of it. Frames that have to wait are held here, without their PUBACKs, so that their gateways send no more than their windows.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from cloud.access.group import GroupCommit, Owner
from cloud.access.model import is_of_gateway
from protocols.edgelink.lanes import Lane
from protocols.mqtt.run import PublishRun

AIM_S: Final = 0.3  # from the stream's disk to ingest's commit
FEWEST: Final = 40  # frames; a group of the stream
MOST: Final = 20_000
BEGIN: Final = 80
HELD_BYTES: Final = 64 << 20  # of all connections: any that holds some is read no further


class FrameWindow:
    """How many frames may be in the stream that ingest has not committed: as many as it commits in `AIM_S`. Pure."""

    def __init__(self) -> None:
        self.size = BEGIN
        self.ahead = 0
        self._stored: deque[tuple[int, int, float]] = deque()  # sequence, frames, when it was on disk
        self._pressed = False

    @property
    def full(self) -> bool:
        return self.ahead >= self.size

    def enter(self, frames: int) -> None:
        """So many are on their way into the stream."""
        self.ahead += frames
        self._pressed |= self.full

    def stored(self, sequence: int, frames: int, now: float) -> None:
        """They are on its disk."""
        self._stored.append((sequence, frames, now))

    def committed(self, sequence: int, now: float) -> None:
        """Ingest has committed everything up to there; the window follows how long that took. A sequence may come again."""
        oldest = None
        while self._stored and self._stored[0][0] <= sequence:
            _, frames, at = self._stored.popleft()
            self.ahead -= frames
            oldest = at if oldest is None else oldest
        if oldest is None:
            return
        if now - oldest > AIM_S:
            self.size = max(FEWEST, self.size * 3 // 4)
        elif self._pressed and now - oldest < AIM_S / 2:
            self.size = min(MOST, self.size + max(FEWEST, self.size // 4))
        self._pressed = self.full


@dataclass(slots=True)
class _Held:
    owner: Owner
    session: bytes
    run: PublishRun | None  # None: only acknowledgements, in their turn
    acks: bytes
    received_ms: int


class FrameGate:
    """In front of group commit. What a connection sends behind a frame that waits keeps its place in the order of PUBACKs.

    Alarms, replies and questions of gateways do not wait, only their PUBACKs do. A connection holds no more than it may have in flight.
    """

    def __init__(self, commit: GroupCommit) -> None:
        self._commit = commit
        self.window = FrameWindow()
        self._line: deque[_Held] = deque()
        self._urgent: deque[_Held] = deque()  # live frames, before everything in the line
        self._of_owner: Counter[Owner] = Counter()
        commit.stored = self.window.stored
        self.held_bytes = 0

    @property
    def held(self) -> int:
        """Frames that wait."""
        return len(self._line) + len(self._urgent)

    def holds_too_much(self, owner: Owner) -> bool:
        """Whether nothing more should be read of this connection, for all that waits of all connections."""
        return self.held_bytes >= HELD_BYTES and owner in self._of_owner

    def gather(self, owner: Owner, session: bytes, run: PublishRun, acks: bytes, received_ms: int, lane: Lane | None) -> None:
        """A run of a connection, which may have to wait if it is a frame with readings; live ones before those of backlogs."""
        if lane is Lane.BULK and (self.window.full or owner in self._of_owner):
            self._hold(_Held(owner, session, run, acks, received_ms))
        elif lane is Lane.LIVE and (self.window.full or self._urgent):
            behind = owner in self._of_owner  # of a backlog: only the PUBACK waits with it
            self._hold(_Held(owner, session, run, b"" if behind else acks, received_ms), urgent=True)
            if behind:
                self._hold(_Held(owner, session, None, acks, received_ms))
        elif owner in self._of_owner:
            self._pass(owner, session, run, b"", received_ms)
            self._hold(_Held(owner, session, None, acks, received_ms))
        else:
            self._pass(owner, session, run, acks, received_ms)

    def replay(self, session: bytes, topic: str, received_ms: int, payload: bytes, entry: int) -> None:
        """A message out of the quarantine does not wait, and counts."""
        self.window.enter(int(is_of_gateway(topic)))
        self._commit.replay(session, topic, received_ms, payload, entry)

    def acknowledge_in_turn(self, owner: Owner, acks: bytes) -> None:
        """Send `acks` after everything of `owner` that waits here or for the disk."""
        if owner in self._of_owner:
            self._hold(_Held(owner, b"", None, acks, 0))
        else:
            self._commit.acknowledge_in_turn(owner, acks)

    def committed(self, sequence: int, now: float) -> None:
        """Ingest has committed up to there: frames that waited may follow, in the order in which they came."""
        self.window.committed(sequence, now)
        while self._urgent and not self.window.full:
            self._release(self._urgent.popleft())
        # Not even PUBACKs pass a live frame that waits: it may be theirs.
        while self._line and not self._urgent and (self._line[0].run is None or not self.window.full):
            self._release(self._line.popleft())

    def _release(self, held: _Held) -> None:
        self._of_owner[held.owner] -= 1
        if not self._of_owner[held.owner]:
            del self._of_owner[held.owner]
        if held.run is None:
            self._commit.acknowledge_in_turn(held.owner, held.acks)
        else:
            self.held_bytes -= len(held.run.data)
            self._pass(held.owner, held.session, held.run, held.acks, held.received_ms)

    def _hold(self, held: _Held, *, urgent: bool = False) -> None:
        (self._urgent if urgent else self._line).append(held)
        self._of_owner[held.owner] += 1
        if held.run is not None:
            self.held_bytes += len(held.run.data)

    def _pass(self, owner: Owner, session: bytes, run: PublishRun, acks: bytes, received_ms: int) -> None:
        if is_of_gateway(run.topic):
            self.window.enter(run.count)
        self._commit.gather(owner, session, run, acks, received_ms)
