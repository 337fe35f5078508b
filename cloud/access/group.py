"""Group commit: publishes of all connections gather while the previous group is being written; PUBACKs follow the stream's answer.

No timer: a group is as large as what arrived during one commit, bounded by 2,000 messages, 40 frames or 512 KiB. One group is in flight,
so the stream's order is the arrival order and a connection's PUBACKs leave in the order of its publishes, a refused one in its place.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from cloud.access.model import MAX_BYTES, MAX_MESSAGES, BatchWriter, Kind, PresenceNote, RefusalNote, weight_of
from cloud.access.ports import AnotherWriter, OutcomeUnknown, Stream, StreamAway, StreamFull, WrongSequence
from cloud.foundation.crashpoint import crash_point
from cloud.foundation.logs import get_logger
from protocols.mqtt.run import PublishRun

FULL_RETRY_S = 0.25
AWAY_RETRY_S = 0.05
STUCK_AFTER = 3  # tries of five seconds without an answer, on a connection that works


class Owner(Protocol):
    """A connection that waits for acknowledgements."""

    def committed(self, acks: bytes, messages: int, size: int) -> None:
        """`messages` of `size` bytes in all are on disk: send `acks`."""
        ...


class Share:
    """One connection's part of a group."""

    __slots__ = ("acks", "messages", "size")

    def __init__(self) -> None:
        self.acks: list[bytes] = []
        self.messages = 0
        self.size = 0


class Group:
    """What goes to the stream as one message, and who waits for it."""

    __slots__ = ("shares", "writer")

    def __init__(self) -> None:
        self.writer = BatchWriter()
        self.shares: dict[Owner, Share] = {}

    def release(self) -> None:
        """Tell every owner that its part is on disk."""
        for owner, share in self.shares.items():
            acks = share.acks
            owner.committed(acks[0] if len(acks) == 1 else b"".join(acks), share.messages, share.size)


class _Marker:
    """Stands in line like a connection."""

    def __init__(self) -> None:
        self.passed = asyncio.Event()

    def committed(self, acks: bytes, messages: int, size: int) -> None:
        self.passed.set()


class GroupCommit:
    """Gathers, publishes one group at a time, releases. `waiting_bytes` counts what is gathered or in flight."""

    def __init__(self, stream: Stream, *, last_sequence: int, instance: str, stuck: Callable[[], None] = lambda: None) -> None:
        """`stuck` is called after `STUCK_AFTER` tries that nobody answered, and again as long as it is so."""
        self._stream = stream
        self._stuck = stuck
        self.stored: Callable[[int, int, float], None] = lambda sequence, frames, now: None
        """Told of each message that is on the stream's disk: its sequence, how many frames are in it, monotonic seconds."""
        self._expected = last_sequence
        self._instance = instance
        self._groups: deque[Group] = deque((Group(),))
        self._gathered = asyncio.Event()
        self._busy = False
        self.waiting_bytes = 0
        self.commits = 0
        self.messages = 0
        self.stalled = False

    def gather(self, owner: Owner, session: bytes, run: PublishRun, acks: bytes, received_ms: int) -> None:
        """Put a run in line; `acks` are its PUBACKs back to back (empty for QoS 0)."""
        writer = self._groups[-1].writer
        if writer.weight + run.count * weight_of(run.topic) > MAX_MESSAGES or writer.size + len(run.data) > MAX_BYTES:
            self._gather_in_parts(owner, session, run, acks, received_ms)
        else:
            self._add(owner, session, run, acks, received_ms)
        self.waiting_bytes += len(run.data)
        if not self._busy:
            self._gathered.set()

    def _gather_in_parts(self, owner: Owner, session: bytes, run: PublishRun, acks: bytes, received_ms: int) -> None:
        ack_size, done, weight = len(acks) // run.count, 0, weight_of(run.topic)
        while done < run.count:
            writer = self._groups[-1].writer
            room = min((MAX_MESSAGES - writer.weight) // weight, (MAX_BYTES - writer.size) // run.stride)
            if room <= 0 and len(writer):
                self._groups.append(Group())
                continue
            until = min(done + max(room, 1), run.count)  # a packet larger than a group is a group of its own
            self._add(owner, session, run.part(done, until), acks[done * ack_size : until * ack_size], received_ms)
            done = until

    def _add(self, owner: Owner, session: bytes, run: PublishRun, acks: bytes, received_ms: int) -> None:
        group = self._groups[-1]
        group.writer.add_run(session, run.topic, received_ms, run.data, run.first, run.stride, run.size, run.count)
        share = group.shares.get(owner)
        if share is None:
            share = group.shares[owner] = Share()
        if acks:
            share.acks.append(acks)
        share.messages += run.count
        share.size += len(run.data)

    def note(self, kind: Kind, session: bytes, received_ms: int, note: PresenceNote | RefusalNote) -> None:
        """Put the begin or end of a session, or a refusal, in the same line as the publishes."""
        writer = self._groups[-1].writer
        if writer.weight >= MAX_MESSAGES or writer.size >= MAX_BYTES:
            self._groups.append(Group())
        self._groups[-1].writer.add_note(kind, session, received_ms, note)
        self._gathered.set()

    def replay(self, session: bytes, topic: str, received_ms: int, payload: bytes, entry: int) -> None:
        """Put a message out of the quarantine in the same line; `settled` says when it is on disk."""
        writer = self._groups[-1].writer
        if writer.weight + weight_of(topic) > MAX_MESSAGES or writer.size + len(payload) > MAX_BYTES:
            self._groups.append(Group())
        self._groups[-1].writer.add_replay(session, topic, received_ms, payload, entry)
        self._gathered.set()

    def acknowledge_in_turn(self, owner: Owner, acks: bytes) -> None:
        """Send `acks` after everything of `owner` that waits: a refused publish keeps its place."""
        self._groups[-1].shares.setdefault(owner, Share()).acks.append(acks)
        self._gathered.set()

    async def settled(self) -> None:
        """Return when everything gathered so far is on disk."""
        marker = _Marker()
        self.acknowledge_in_turn(marker, b"")
        await marker.passed.wait()

    async def run(self) -> None:
        """Commit for ever; raises AnotherWriter."""
        groups, gathered, loop = self._groups, self._gathered, asyncio.get_running_loop()
        while True:
            if len(groups) == 1 and not groups[0].shares and not len(groups[0].writer):
                self._busy = False
                await gathered.wait()
            gathered.clear()
            self._busy = True
            group = groups.popleft()
            if not groups:
                groups.append(Group())
            if len(group.writer):
                crash_point("access.before_commit")
                await self._commit(group.writer.to_bytes())
                crash_point("access.after_commit")
                self.stored(self._expected, group.writer.frames, loop.time())
            self.messages += group.writer.messages
            self.waiting_bytes -= sum(share.size for share in group.shares.values())
            # Two rounds of the loop later: NATS gets the next group first, and works on it while we write the PUBACKs of this one.
            loop.call_soon(loop.call_soon, group.release)

    async def _commit(self, payload: bytes) -> None:
        """Write one group exactly once, whatever happens to the connection; raises AnotherWriter."""
        message_id = f"{self._instance}-{self._expected + 1}"
        unanswered = 0
        while True:
            try:
                sequence = await self._stream.publish(payload, message_id, self._expected)
            except OutcomeUnknown:
                self._log_stall("unknown outcome")
                unanswered += 1
                if unanswered % STUCK_AFTER == 0:
                    self._stuck()
                await self._stream.usable()
            except WrongSequence:
                if await self._landed(message_id):
                    sequence = self._expected + 1
                    break
                raise AnotherWriter(f"message {self._expected + 1} of our partition is not ours") from None
            except StreamFull:
                self._log_stall("stream full")
                await asyncio.sleep(FULL_RETRY_S)
            except StreamAway:
                self._log_stall("stream away")
                await asyncio.sleep(AWAY_RETRY_S)
            else:
                break
        if sequence != self._expected + 1:
            raise AnotherWriter(f"expected sequence {self._expected + 1}, the stream says {sequence}")
        self._expected = sequence
        self.commits += 1
        if self.stalled:
            self.stalled = False
            get_logger().info("commits.resumed")

    async def _landed(self, message_id: str) -> bool:
        while True:
            try:
                return await self._stream.message_id_at(self._expected + 1) == message_id
            except OutcomeUnknown:
                await self._stream.usable()
            except StreamAway:
                await asyncio.sleep(AWAY_RETRY_S)

    def _log_stall(self, why: str) -> None:
        if not self.stalled:
            self.stalled = True
            get_logger().warning("commits.stalled", why=why)
