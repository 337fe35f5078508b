"""Use cases of the quarantine: look, replay, discard. Everything here blocks: asyncio code runs it in a thread.

An entry is `held` until somebody decides: `replayed` (its message is in the stream again, behind all that came since) or `discarded`.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select, update

from cloud.devices.model import DeviceFacts
from cloud.devices.service import device_facts
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.problems import Problem, not_found
from cloud.ingest.tables import Quarantine, UnreadableMessage

REPLAY_LASTS_MS: Final = 60_000  # a replay that was begun and never ended, since core died meanwhile, may be begun again after this
RESOLVED_KEPT: Final = 10_000  # resolved entries kept of a tenant; the oldest go first


class State(enum.StrEnum):
    """What became of an entry."""

    HELD = "held"
    REPLAYING = "replaying"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: every condition that is set has to hold."""

    state: State | None = State.HELD
    reason: str | None = None
    product_key: str | None = None
    device_name: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        for column, wanted in (
            (Quarantine.state, self.state),
            (Quarantine.reason, self.reason),
            (Quarantine.product_key, self.product_key),
            (Quarantine.device_name, self.device_name),
        ):
            if wanted is not None:
                found.append(column == str(wanted))
        if self.from_ms is not None:
            found.append(Quarantine.received_ms >= self.from_ms)
        if self.to_ms is not None:
            found.append(Quarantine.received_ms < self.to_ms)
        return found


def list_entries(work: UnitOfWork, wanted: Wanted, after: int, limit: int) -> Sequence[Quarantine]:
    """The tenant's entries, oldest first."""
    query = select(Quarantine).where(Quarantine.id > after, *wanted.conditions()).order_by(Quarantine.id).limit(limit)
    return work.session.scalars(query).all()


def newest_entries(work: UnitOfWork, limit: int) -> Sequence[Quarantine]:
    """The tenant's held entries, newest first."""
    query = select(Quarantine).where(Quarantine.state == State.HELD).order_by(Quarantine.id.desc()).limit(limit)
    return work.session.scalars(query).all()


def find_entry(work: UnitOfWork, number: int) -> Quarantine:
    """Raises Problem 404."""
    found = work.session.scalars(select(Quarantine).where(Quarantine.id == number)).one_or_none()
    if found is None:
        raise not_found(f"Quarantine entry {number}")
    return found


def count_held(work: UnitOfWork, wanted: Wanted = Wanted()) -> dict[str, int]:
    """What the tenant's entries stand for, by reason: an entry may count for many."""
    query = select(Quarantine.reason, func.sum(Quarantine.count)).where(*wanted.conditions())
    return {row[0]: int(row[1]) for row in work.session.execute(query.group_by(Quarantine.reason).order_by(Quarantine.reason))}


def discard(work: UnitOfWork, wanted: Wanted, by: str, number: int | None = None) -> int:
    """Discard what is held of these, or the one entry; how many that were. Raises Problem 409 for one that is not held."""
    if number is not None:
        entry = find_entry(work, number)
        if entry.state != State.HELD:
            raise _not_held(entry)
    only = [] if number is None else [Quarantine.id == number]
    change = update(Quarantine).where(Quarantine.state == State.HELD, *wanted.conditions(), *only)
    done = work.session.execute(change.values(state=str(State.DISCARDED), resolved_ms=now_ms(), resolved_by=by))
    _forget_old(work)
    return int(done.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def _forget_old(work: UnitOfWork) -> None:
    """Resolved entries beyond what is kept, oldest first."""
    resolved = Quarantine.state.in_((State.REPLAYED, State.DISCARDED))
    beyond = work.session.scalar(select(Quarantine.id).where(resolved).order_by(Quarantine.id.desc()).offset(RESOLVED_KEPT).limit(1))
    if beyond is not None:
        work.session.execute(delete(Quarantine).where(resolved, Quarantine.id <= beyond))


@dataclass(frozen=True, slots=True)
class Replay:
    """A message to send again, as its device sent it, at the time it came."""

    entry: int
    sender: DeviceFacts
    topic: str
    payload: bytes
    received_ms: int


def begin_replay(database: Database, tenant_id: int, number: int, by: str) -> Replay:
    """Take an entry for replay; whoever comes second gets Problem 409. Raises Problem 404, 409."""
    now = now_ms()
    with database.unit_of_work(tenant_id) as work:
        entry = find_entry(work, number)
        abandoned = entry.state == State.REPLAYING and (entry.resolved_ms or 0) < now - REPLAY_LASTS_MS
        if entry.state != State.HELD and not abandoned:
            raise _not_held(entry)
        if not entry.replayable or entry.size > len(entry.payload):
            detail = f"Entry {number} is no whole message of a device, so there is nothing to replay; mend the cause and discard it."
            raise Problem(409, "not-replayable", detail)
        took = update(Quarantine).where(Quarantine.id == number, Quarantine.state == entry.state)
        if not work.session.execute(took.values(state=str(State.REPLAYING), resolved_ms=now, resolved_by=by)).rowcount:  # type: ignore[attr-defined]
            raise _not_held(entry)
        replay = (entry.product_key, entry.device_name), entry.topic, entry.payload, entry.received_ms
        work.commit()
    key, topic, payload, received_ms = replay
    sender = device_facts(database, [key]).get(key)
    if sender is None or sender.tenant_id != tenant_id:
        end_replay(database, tenant_id, number, done=False)
        detail = f"Device {key[1]} of product {key[0]} does not exist any more; enter it again, or discard the entry."
        raise Problem(409, "device-gone", detail)
    return Replay(number, sender, topic, payload, received_ms)


def end_replay(database: Database, tenant_id: int, number: int, *, done: bool) -> None:
    """The message is in the stream, or it did not get there and the entry is held as before."""
    values: dict[str, Any] = {"state": str(State.REPLAYED), "resolved_ms": now_ms()}
    if not done:
        values = {"state": str(State.HELD), "resolved_ms": None, "resolved_by": None}
    with database.unit_of_work(tenant_id) as work:
        work.session.execute(update(Quarantine).where(Quarantine.id == number, Quarantine.state == State.REPLAYING).values(values))
        _forget_old(work)
        work.commit()


def unreadable_messages(database: Database, limit: int) -> Sequence[UnreadableMessage]:
    """Whole messages of the stream that did not decode, newest first: for whoever runs the platform."""
    with database.system_reading() as work:
        query = select(UnreadableMessage).order_by(UnreadableMessage.sequence.desc()).limit(limit)
        return work.session.scalars(query).all()


def _not_held(entry: Quarantine) -> Problem:
    detail = f"Entry {entry.id} is {entry.state}; only one that is held can be replayed or discarded."
    return Problem(409, "not-held", detail)
