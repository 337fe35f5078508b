"""From messages of the stream to effects. Evaluation is pure: the same messages on the same memory give the same effects again."""

import contextlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloud.access.model import Kind as RowKind
from cloud.access.model import RefusalNote, SessionRow, UplinkBatch, decode_presence, decode_refusal, is_of_gateway
from cloud.devices.model import PresenceChange
from cloud.ingest.frames import BadFrame, Frames, devices_of, open_frame, put_aside
from cloud.ingest.model import (
    MOST_DETAIL,
    MOST_PAYLOAD,
    UNEXPECTED,
    Effects,
    LaneKey,
    Mark,
    Quarantined,
    Reset,
    Rows,
    SeriesBook,
    Unreadable,
)
from cloud.ingest.posts import Harvest, Posts, Route, property_route
from cloud.ingest.registry import DeviceKey, Registry
from cloud.ingest.trail import DEATHS, NOBODY, WHOLE, Accused, Spot
from cloud.telemetry.model import Append, Gap, Position
from protocols.alink.history import history_kind, read_history
from protocols.edgelink.frame import Frame
from protocols.edgelink.lanes import GapReason
from protocols.edgelink.topics import EdgeChannel, EdgeTopic
from protocols.errors import Reason, Refused

MOST_ROUTES: Final = 50_000

_PUBLISH, _OPENED, _STARTED, _REFUSED, _REPLAYED = (
    int(kind) for kind in (RowKind.PUBLISH, RowKind.OPENED, RowKind.ACCESS_STARTED, RowKind.REFUSED, RowKind.REPLAYED)
)


POISON: Final = f"ingest died {DEATHS} times of this message, and has put it aside unseen"

At = Callable[[int, int, int], None]
"""Told what comes next: sequence, row, piece (see `Trail`)."""


def nowhere(_sequence: int, _row: int, _piece: int) -> None:
    """Nobody follows."""


@dataclass(slots=True)
class Opened:
    """A message of the stream, opened but not yet judged: frames are decoded, so that what they name can be looked up."""

    sequence: int
    payload: bytes
    batch: UplinkBatch | None = None
    fault: str = ""
    frames: dict[int, list[Frame | BadFrame]] = field(default_factory=dict)  # by row
    products: set[str] = field(default_factory=set)
    devices: set[DeviceKey] = field(default_factory=set)


def open_message(sequence: int, payload: bytes, at: At = nowhere, accused: Accused = NOBODY) -> Opened:
    """Open a message of the stream, telling `at` what comes next. Never raises: one that cannot be opened says why in `fault`."""
    opened = Opened(sequence, payload)
    if accused.condemned(Spot(sequence, WHOLE, WHOLE)):
        opened.fault = POISON
        return opened
    try:
        at(sequence, WHOLE, WHOLE)
        batch = opened.batch = UplinkBatch.from_bytes(payload)
        opened.products = {session.product_key for session in batch.sessions if session.product_key}
        lanes = [_lane_topic(topic) for topic in batch.topics]
        if any(lanes):
            for place, (kind, session, topic, offset, stride, size, count, _, _) in enumerate(batch.rows):
                if kind in (_PUBLISH, _REPLAYED) and lanes[topic]:
                    starts = (offset,) if count == 1 else range(offset, offset + count * stride, stride)
                    frames = opened.frames[place] = []
                    for piece, start in enumerate(starts):
                        at(sequence, place, piece)
                        payload = batch.blob[start : start + size]
                        condemned = accused.condemned(Spot(sequence, place, piece))
                        frames.append(put_aside(payload, POISON) if condemned else open_frame(payload))
                    opened.devices.add((batch.sessions[session].product_key, batch.sessions[session].device_name))
                    opened.devices.update(*(devices_of(frame) for frame in frames))
        opened.devices |= _named_in_histories(batch)
        opened.products |= {product_key for product_key, _ in opened.devices}
    except Refused as error:
        opened.fault = str(error)
    except Exception:  # noqa: BLE001 - a message that trips over a bug of ours must not stop those behind it
        opened.batch, opened.fault = None, traceback.format_exc()
    return opened


def _named_in_histories(batch: UplinkBatch) -> set[DeviceKey]:
    """The sub-devices whose values gateways bring in packs and histories: they have to be looked up before those are judged."""
    kinds = {place: kind for place, topic in enumerate(batch.topics) if (kind := history_kind(topic)) is not None}
    found: set[DeviceKey] = set()
    for row_kind, _, topic, offset, stride, size, count, _, _ in batch.rows if kinds else ():
        if row_kind in (_PUBLISH, _REPLAYED) and topic in kinds:
            for start in (offset,) if count == 1 else range(offset, offset + count * stride, stride):
                with contextlib.suppress(Refused):  # it is refused where it is judged
                    found |= read_history(kinds[topic], batch.blob[start : start + size]).identities
    return found


def _lane_topic(topic: str) -> bool:
    if not is_of_gateway(topic):
        return False
    try:
        return EdgeTopic.parse(topic).channel.lane is not None
    except Refused:
        return False


class Evaluator:
    """Turns opened messages into the effects of a batch that grows until it is cut; its knowledge runs ahead of what is committed."""

    def __init__(
        self,
        position: Position,
        book: SeriesBook,
        marks: Mapping[LaneKey, Mark],
        registry: Registry,
        received_ms: int = 0,
        at: At = nowhere,
        accused: Accused = NOBODY,
    ) -> None:
        """`at` is told what comes next; what is `accused` is taken payload by payload, and put aside once condemned."""
        self.position = position
        self._start = position
        self._book = book
        self._registry = registry
        self._posts = Posts(book, self._refuse)
        self._frames = Frames(book, self._refuse, marks)
        self._routes: dict[tuple[int, str], Route | None] = {}
        self._received_ms = received_ms
        self._replay_of: int | None = None
        self._at, self._accused = at, accused
        self._clear()

    def _clear(self) -> None:
        self._harvest = Harvest(Rows())
        self._rows = self._harvest.rows
        self._downlinks, self._commands = self._harvest.downlinks, self._harvest.commands
        self._presence: list[PresenceChange | Reset] = []
        self._quarantined: list[Quarantined] = []
        self._unreadable: list[Unreadable] = []
        self._messages = 0
        self._sequence, self._number = 0, 0

    @property
    def rows(self) -> int:
        """Rows the batch holds so far."""
        return len(self._rows)

    @property
    def moved(self) -> bool:
        """Whether there is anything to cut."""
        return self.position != self._start

    @property
    def received_ms(self) -> int:
        """When the newest message evaluated came."""
        return self._received_ms

    def forget(self) -> None:
        """The registry changed: what was derived from it is made anew."""
        self._routes.clear()
        self._frames.forget()

    def move(self, position: Position, gap: Gap | None) -> None:
        """Go on at another position: messages between are lost, as the gap says."""
        self.position = position
        if gap is not None:
            self._rows.gaps.append(gap)

    def evaluate(self, opened: Opened) -> None:
        """The next message of the stream; what its sessions and frames name has to be in the registry. Never raises."""
        self._sequence, self._number = opened.sequence, 0
        if opened.batch is None:
            self._unreadable.append(Unreadable(opened.sequence, opened.fault[:MOST_DETAIL], opened.payload[:MOST_PAYLOAD]))
        else:
            self._batch(opened, opened.batch)
            self._rows.close(opened.sequence)
        self.position = Position(self.position.stream_id, opened.sequence)

    def _batch(self, opened: Opened, batch: UplinkBatch) -> None:
        sessions, topics, blob, at, sequence = batch.sessions, batch.topics, batch.blob, self._at, opened.sequence
        accused = self._accused.rows(sequence)
        for place, (kind, session_index, topic_index, offset, stride, size, count, entry, received_ms) in enumerate(batch.rows):
            session, topic = sessions[session_index], topics[topic_index]
            if kind not in (_PUBLISH, _REPLAYED, _REFUSED):
                self._received_ms = received_ms
                self._presence.append(_presence(kind, session, received_ms, blob[offset : offset + size]))
                continue
            at(sequence, place, WHOLE if count > 1 else 0)
            if count == 1:
                payloads = [blob[offset : offset + size]]
            else:
                payloads = [blob[start : start + size] for start in range(offset, offset + count * stride, stride)]
            frames = opened.frames.get(place)
            if place not in accused:
                self._row(kind, session, topic, payloads, frames, received_ms, entry)
                continue
            for piece, payload in enumerate(payloads):
                at(sequence, place, piece)
                if frames is None and self._accused.condemned(Spot(sequence, place, piece)):
                    self._refuse(session, topic, payload, received_ms, Reason.POISON, POISON)
                else:
                    self._row(kind, session, topic, [payload], None if frames is None else [frames[piece]], received_ms, entry)

    def _row(
        self,
        kind: int,
        session: SessionRow,
        topic: str,
        payloads: Sequence[bytes],
        frames: Sequence[Frame | BadFrame] | None,
        received_ms: int,
        entry: int,
    ) -> None:
        if kind == _REPLAYED:
            self._replayed(session, topic, payloads[0], frames, received_ms, entry)
            return
        self._received_ms = received_ms
        if kind == _REFUSED:
            self._refused_at_the_door(session, payloads[0], received_ms)
            return
        self._messages += len(payloads)
        try:
            if is_of_gateway(topic):
                self._edge(session, topic, payloads, frames, received_ms)
                return
            key = (session.device_id, topic)
            route = self._routes.get(key) or self._route(key, session, topic)
            if route is None:
                self._others(session, topic, payloads, received_ms)
            else:
                self._posts.properties(route, payloads, received_ms, self._sequence, self._rows, self._downlinks)
        except Refused as error:
            for payload in payloads:
                self._refuse(session, topic, payload, received_ms, error.reason, str(error))
        except Exception:  # noqa: BLE001 - a run that trips over a bug of ours must not stop those behind it
            for payload in payloads:
                self._refuse(session, topic, payload, received_ms, UNEXPECTED, traceback.format_exc())

    def _route(self, key: tuple[int, str], session: SessionRow, topic: str) -> Route | None:
        if key in self._routes:
            return None
        if len(self._routes) >= MOST_ROUTES:
            self._routes.clear()
        model = self._registry.models.get(session.product_key)
        if model is None:
            raise Refused(Reason.UNKNOWN_PRODUCT, f"product {session.product_key} does not exist any more")
        route = self._routes[key] = property_route(session, topic, model)
        return route

    def _others(self, session: SessionRow, topic: str, payloads: Sequence[bytes], received_ms: int) -> None:
        if session.product_key not in self._registry.models:
            raise Refused(Reason.UNKNOWN_PRODUCT, f"product {session.product_key} does not exist any more")
        for payload in payloads:
            try:
                self._posts.other(session, topic, self._registry, payload, received_ms, self._sequence, self._harvest)
            except Exception:  # noqa: BLE001 - as above
                self._refuse(session, topic, payload, received_ms, UNEXPECTED, traceback.format_exc())

    def _edge(
        self, session: SessionRow, topic: str, payloads: Sequence[bytes], frames: Sequence[Frame | BadFrame] | None, received_ms: int
    ) -> None:
        if frames is not None:
            for payload, frame in zip(payloads, frames, strict=True):
                self._frames.frame(
                    session,
                    topic,
                    payload,
                    frame,
                    received_ms,
                    self._sequence,
                    self._registry.facts,
                    self._registry.models,
                    self._rows,
                    self._presence,
                    self._commands,
                )
        elif EdgeTopic.parse(topic).channel is EdgeChannel.UP_EXCHANGE:
            for payload in payloads:
                try:
                    self._downlinks.append(self._frames.exchange(session, payload, received_ms))
                except Refused as error:
                    self._refuse(session, topic, payload, received_ms, error.reason, str(error))
        else:
            raise Refused(Reason.UNKNOWN_TOPIC, f"nothing is taken on {topic[:128]}")

    def _refuse(self, session: SessionRow, topic: str, payload: bytes, received_ms: int, reason: str, detail: str) -> None:
        self._quarantined.append(
            Quarantined(
                self._sequence,
                self._number,
                session.tenant_id,
                session.product_key,
                session.device_name,
                topic[:512],
                str(reason),
                detail.replace("\0", "")[-MOST_DETAIL:],
                received_ms,
                len(payload),
                payload[:MOST_PAYLOAD],
                replay_of=self._replay_of,
            )
        )
        self._number += 1

    def _replayed(
        self, session: SessionRow, topic: str, payload: bytes, frames: Sequence[Frame | BadFrame] | None, received_ms: int, entry: int
    ) -> None:
        """A message out of the quarantine: its values and events are stored, and it does nothing else. Nobody is answered."""
        self._replay_of = entry
        nobody = Harvest(self._rows)
        try:
            if frames is not None:
                known = self._registry
                self._frames.replayed(
                    session, topic, payload, frames[0], received_ms, self._sequence, known.facts, known.models, self._rows
                )
                return
            model = self._registry.models.get(session.product_key)
            if model is None:
                raise Refused(Reason.UNKNOWN_PRODUCT, f"product {session.product_key} does not exist any more")
            route = property_route(session, topic, model)
            if route is not None:
                self._posts.properties(route, [payload], received_ms, self._sequence, self._rows, nobody.downlinks)
            else:
                self._posts.other(session, topic, self._registry, payload, received_ms, self._sequence, nobody)
        except Refused as error:
            self._refuse(session, topic, payload, received_ms, error.reason, str(error))
        except Exception:  # noqa: BLE001 - as above
            self._refuse(session, topic, payload, received_ms, UNEXPECTED, traceback.format_exc())
        finally:
            self._replay_of = None

    def _refused_at_the_door(self, session: SessionRow, data: bytes, received_ms: int) -> None:
        try:
            note = decode_refusal(data)
        except Refused as error:
            self._refuse(session, "", data, received_ms, error.reason, str(error))
            return
        self._quarantined.append(
            Quarantined(
                self._sequence,
                self._number,
                session.tenant_id,
                note.product_key,
                note.device_name,
                note.topic,
                str(note.reason),
                _for_people(note)[:MOST_DETAIL],
                note.first_ms,
                len(note.sample),
                note.sample,
                count=note.count,
                last_ms=note.last_ms,
                address=note.address,
                replayable=False,
            )
        )
        self._number += 1

    def cut(self) -> Effects:
        """The effects of everything since the last cut."""
        numbers = self._rows.numbers()
        reported = self._book.latest(numbers)
        for device_id, values in self._rows.reported.items():
            reported.setdefault(device_id, {}).update(values)
        effects = Effects(
            append=Append(
                self._start,
                self.position,
                self._book.take_new(),
                numbers,
                self._rows.texts,
                self._rows.gaps,
                self._rows.notes,
                self._received_ms,
                self._rows.sendings,
            ),
            received_ms=self._received_ms,
            marks=self._frames.take_moved(),
            reported=reported,
            presence=self._presence,
            commands=self._commands,
            quarantined=self._quarantined,
            unreadable=self._unreadable,
            downlinks=[*self._downlinks, *self._frames.take_answers()],
            messages=self._messages,
            booking=self._frames.take_booking(),
            unheard=self._posts.unheard,
            requests=self._harvest.requests,
        )
        self._start, self._posts.unheard = self.position, 0
        self._clear()
        return effects


def _presence(kind: int, session: SessionRow, time_ms: int, note: bytes) -> PresenceChange | Reset:
    if kind == _STARTED:
        return Reset(time_ms, session.epoch)
    via = 0
    with contextlib.suppress(Refused):  # who came and went is known without it
        via = decode_presence(note).via
    return PresenceChange(session.device_id, kind == _OPENED, time_ms, session.epoch, via)


def _for_people(note: RefusalNote) -> str:
    claims = [f"{name} {claim!r}" for name, claim in (("user name", note.username), ("client id", note.client_id)) if claim]
    return note.detail + (f" [{', '.join(claims)}]" if claims else "")


def stream_lost(from_ms: int, to_ms: int) -> Gap:
    """Messages of everybody are gone: those that came between these times."""
    return Gap("", "", "", from_ms, to_ms, None, GapReason.STREAM_LOST)
