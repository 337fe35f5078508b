"""What a full or ageing buffer gives up, lane by lane, each with the gap record that takes its place.

Frames at the head of a lane may have been sent without an answer yet: they are given up last, and do not expire.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from edge_agent.buffer.lane_rows import MASK, ROW_OVERHEAD_BYTES, Head, LaneRows
from edge_agent.domain.quotas import Overflow, Quotas
from protocols.edgelink.columns import NO_COLUMNS, Columns
from protocols.edgelink.frame import decode_body, encode_body
from protocols.edgelink.lanes import Gap, GapReason, Lane
from protocols.edgelink.losses import Losses
from protocols.edgelink.records import GapRecord
from protocols.edgelink.stretches import given_up, stretch_of, tally
from protocols.errors import Refused

_HEADS = 1_024
"""Rows looked at in one turn."""
_THINNABLE = 100
"""`thinned` of a frame that has nothing left to thin."""


@dataclass(slots=True)
class _Thinning:
    """How far a lane was thinned: frames up to `after` had their turn in this round; `dry`: nothing behind it gave a byte."""

    turn: int = 1
    after: int = 0
    dry: bool = False


@dataclass(slots=True)
class _GivenUp:
    """What a gap frame says: which readings are lost, and how many of each stretch of time."""

    losses: Losses
    counts: Counter[int] = field(default_factory=Counter)

    def body(self) -> bytes:
        of_stretches = tally(self.counts)
        try:
            return encode_body(NO_COLUMNS, (*(GapRecord(gap) for gap in self.losses.gaps()), *of_stretches))
        except Refused:  # more gaps than a frame takes
            return encode_body(NO_COLUMNS, (*(GapRecord(gap) for gap in self.losses.coarse()), *of_stretches))


class Shedding:
    """Works on the rows of an open file, inside the caller's transaction. `in_doubt` frames of a lane may be under way."""

    def __init__(self, rows: LaneRows, quotas: Quotas, *, gateway: tuple[str, str], in_doubt: int, boot: int) -> None:
        self._rows, self._quotas, self._gateway, self._in_doubt, self._boot = rows, quotas, gateway, in_doubt, boot
        self._thinning: dict[Lane, _Thinning] = {}

    def make_room(self, lane: Lane, size: int, *, of_its_own: bool) -> bool:
        """Give up frames of less urgent lanes, then `of_its_own`, until `lane` can take `size` more bytes; False when it cannot."""
        slack = self._quotas.total_bytes // 256  # so that a full buffer does not pay for this with every append
        while True:
            used = self._rows.used()
            whole, own = self._quotas.shortage(lane, size, used), self._quotas.own_shortage(lane, size, used)
            if whole <= 0 and own <= 0:
                return True
            if whole > 0 and any(
                self._give_up(other, min(whole + slack, used[other] - self._quotas.lanes[other].reserve_bytes))
                for other in self._quotas.giving_way(lane, used)
            ):
                continue
            if not of_its_own or not self._give_up(lane, max(whole, own) + slack):
                return False

    def put_as_gap(self, lane: Lane, seq: int, body: bytes, readings: int, *, created_ms: int, age_s: int, period: int) -> None:
        """`drop_newest`: instead of the frame its gap; the gap just before it melts in where nobody can have seen it yet."""
        gone = _GivenUp(Losses(GapReason.OVERFLOW))
        gone.losses.lose(*decode_body(body))
        gone.counts[stretch_of(created_ms)] += readings
        covers = seq
        last = self._rows.last(lane)
        if last is not None and last.is_gap and last.period == period and self._rows.lanes[lane].frames > self._in_doubt:
            self._lose(gone, last)
            covers = last.covers
            self._rows.delete(lane, [(last.row, last.size, last.readings)])
        self._rows.insert(
            lane, seq, covers, gone.body(), 0, boot=self._boot, created_ms=created_ms, age_s=age_s, is_gap=True, period=period
        )
        self._rows.count(lane, created_ms, in_gaps=readings)
        self._rows.find_floor(lane)

    def expire(self, age_s: int) -> None:
        """Give up what is older than its lane's `max_age_s`; `age_s` is the clock of ages now."""
        for lane, policy in self._quotas.lanes.items():
            if policy.max_age_s is None:
                continue
            heads = self._rows.heads(lane, limit=self._in_doubt + _HEADS)[self._in_doubt :]
            old = [head for head in heads if head.age_s + policy.max_age_s < age_s]
            for _, alike in groupby(old, lambda head: head.period):
                together = list(alike)
                if any(not head.is_gap for head in together):
                    self._merge(lane, together, GapReason.EXPIRED)

    def unreadable(self, created_ms: int, readings: int) -> Gap:
        """Nobody can say what a damaged frame held: the gap names the gateway and the minute before the frame was closed."""
        return Gap(*self._gateway, (), created_ms - 60_000, created_ms + 1, readings, GapReason.BUFFER_DAMAGED)

    # --- giving up

    def _give_up(self, lane: Lane, wanted: int) -> bool:
        if self._quotas.lanes[lane].overflow is Overflow.THIN and self._thin(lane, wanted):
            return True
        return self._drop_oldest(lane, wanted)

    def _drop_oldest(self, lane: Lane, wanted: int) -> bool:
        """Merge the oldest frames of a lane into one gap frame in their place; False when that frees nothing."""
        heads = self._rows.heads(lane, limit=2 * self._in_doubt + _HEADS)
        if len(heads) > 2 * self._in_doubt:
            heads = heads[self._in_doubt :]
        for _, alike in groupby(heads, lambda head: head.period):  # a gap frame has its times from one period of the clock
            chosen, freed = [], 0
            for head in alike:
                chosen.append(head)
                freed += head.size + ROW_OVERHEAD_BYTES
                if freed >= wanted and not head.is_gap:
                    break
            if len(chosen) > 1 or not chosen[0].is_gap:
                self._merge(lane, chosen, GapReason.OVERFLOW)
                return True
        return False

    def _merge(self, lane: Lane, chosen: list[Head], reason: GapReason) -> None:
        gone = _GivenUp(Losses(reason))
        for head in chosen:
            self._lose(gone, head)
        first, last = chosen[0], chosen[-1]
        self._rows.delete(lane, [(head.row, head.size, head.readings) for head in chosen])
        for head in chosen:
            if head.readings:
                self._rows.count(lane, head.created_ms, in_gaps=head.readings)
        self._rows.insert(
            lane,
            last.row & MASK,
            first.covers,
            gone.body(),
            0,
            boot=self._boot,
            created_ms=last.created_ms,
            age_s=last.age_s,
            is_gap=True,
            period=last.period,
        )
        self._rows.find_floor(lane)

    def _lose(self, gone: _GivenUp, head: Head) -> None:
        gone.counts[stretch_of(head.created_ms)] += head.readings
        body = self._rows.body(head.row)
        try:
            if body is not None:
                columns, records = decode_body(body)
                gone.losses.lose(columns, records)
                gone.counts.update(given_up(head.created_ms, records))
                return
        except Refused:
            pass  # as good as damaged
        gone.losses.add(self.unreadable(head.created_ms, head.readings))

    # --- thinning

    def _thin(self, lane: Lane, wanted: int) -> bool:
        """Thin the oldest frames that were thinned least until `wanted` bytes are free; False when there is nothing left to thin."""
        at = self._thinning.setdefault(lane, _Thinning())
        under_way = self._rows.heads(lane, limit=self._in_doubt)
        if not under_way:
            return False
        first = under_way[-1].row & MASK
        freed, begun_anew = 0, False
        while freed < wanted:
            heads = self._rows.heads(lane, max(at.after, first), limit=_HEADS)
            if not heads:
                if at.dry or begun_anew:
                    at.dry = True
                    break
                at.turn, at.after, begun_anew = at.turn + 1, 0, True
                continue
            for head in heads:
                at.after = head.row & MASK
                if not head.is_gap and head.thinned < min(at.turn, _THINNABLE):
                    saved = self._thin_frame(lane, head, at.turn)
                    freed += saved
                    at.dry = at.dry and not saved
                if freed >= wanted:
                    break
        return freed > 0

    def _thin_frame(self, lane: Lane, head: Head, turn: int) -> int:
        """The bytes saved; a frame that gives none is marked, and is not looked at again."""
        keep_every = self._quotas.lanes[lane].keep_every
        body, lost, saved, mark = self._rows.body(head.row), 0, 0, _THINNABLE
        if body is not None:
            try:
                thinner, lost = thinned(body, keep_every)
            except Refused:  # damaged, or with more gaps than a frame takes
                thinner = body
            if len(thinner) < len(body):
                saved, mark, body = len(body) - len(thinner), turn, thinner
            else:
                lost = 0
            self._rows.rewrite(lane, head, body, lost, mark)
        return saved


def thinned(body: bytes, keep_every: int) -> tuple[bytes, int]:
    """The body with every `keep_every`-th reading of each series and a gap for the others, and how many those are.

    Texts, events and all other records stay. Raises Refused when the body cannot be read, or its gaps have no room in a frame.
    """
    columns, records = decode_body(body)
    if not len(columns.values):
        return body, 0
    order = columns.series.argsort(kind="stable")
    series = columns.series[order]
    starts = np.flatnonzero(np.diff(series, prepend=np.int64(-1)))
    counts = np.diff(starts, append=len(series))
    keep = np.empty(len(series), np.bool_)
    keep[order] = (np.arange(len(series)) - np.repeat(starts, counts)) % keep_every == 0
    lost = int(len(keep) - keep.sum())
    if not lost:
        return body, 0
    losses = Losses(GapReason.THINNED)
    losses.lose(Columns(columns.dictionary, columns.series[~keep], columns.times[~keep], columns.values[~keep]))
    others = []
    for record in records:
        if isinstance(record, GapRecord):
            losses.add(record.gap)
        else:
            others.append(record)
    quality = None if columns.quality is None else columns.quality[keep]
    kept = Columns(columns.dictionary, columns.series[keep], columns.times[keep], columns.values[keep], quality, columns.texts)
    return encode_body(kept, (*others, *(GapRecord(gap) for gap in losses.gaps()))), lost
