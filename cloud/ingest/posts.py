"""Messages of devices that talk to the platform themselves: Alink payloads in, rows, replies and refusals out."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from cloud.access.model import Downlink, SessionRow
from cloud.devices.model import CommandReply, DeviceFacts
from cloud.ingest.model import LATEST_AHEAD_MS, UNEXPECTED, Asked, Rows, SeriesBook
from cloud.ingest.registry import DeviceKey, Registry
from cloud.telemetry.model import Kind as SeriesKind
from cloud.telemetry.model import SeriesKey, Text
from protocols.alink.dialogue import Dialogue, Outcome, refusal, refused_data
from protocols.alink.history import Checked, HistoryPost, Sample, check_part, refused_names
from protocols.alink.messages import EventPost, MessageRefused, Post, check_times, post_decoder, reply
from protocols.alink.raw import read_raw
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import BoolType, DateType, EnumType, IntType, is_numeric
from protocols.thing.model import ThingModel

WHOLE = (IntType, BoolType, EnumType, DateType)
MOST_SHAPES = 1024  # of one device: one that invents subsets of its properties must not fill memory


@dataclass(slots=True)
class Harvest:
    """What one message, or many, bring in: rows, answers for devices, answers of devices, and requests that need the metadata."""

    rows: Rows
    downlinks: list[Downlink] = field(default_factory=list)
    commands: list[CommandReply] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)

    def asked(self, sequence: int, session: SessionRow, topic: str, outcome: Outcome, model: ThingModel, received_ms: int) -> None:
        assert outcome.request is not None
        self.requests.append(
            Asked(
                sequence,
                len(self.requests),
                session,
                topic,
                outcome.request,
                outcome.method,
                outcome.answer_topic,
                model,
                received_ms,
            )
        )


Refuse = Callable[[SessionRow, str, bytes, int, str, str], None]
"""(session, topic, payload, received_ms, reason, detail)"""


@dataclass(slots=True)
class Shape:
    """Where the values of a post of one shape go: all of them are numbers, or `numeric` and `texts` tell places and series."""

    series: tuple[int, ...]
    plain: bool
    numeric: tuple[int, ...] = ()
    texts: tuple[tuple[int, int, str], ...] = ()  # place, series, identifier


@dataclass(slots=True)
class Route:
    """Everything about one topic of one device that stays the same from post to post."""

    session: SessionRow
    topic: str
    model: ThingModel
    decode: Callable[[bytes], Post]
    reply_topic: str
    method: str
    head: bytes  # a reply that refuses nothing is head + id + tail
    tail: bytes
    shapes: dict[tuple[str, ...], Shape] = field(default_factory=dict)


def property_route(session: SessionRow, topic: str, model: ThingModel) -> Route | None:
    """The fast way for property posts; None for every other topic."""
    try:
        parsed = Topic.parse(topic)
    except Refused:
        return None
    if parsed.kind is not Kind.PROPERTY_POST or (parsed.product_key, parsed.device_name) != (session.product_key, session.device_name):
        return None
    head, tail = reply(b"\0", parsed.method).split(b"\0")
    return Route(session, topic, model, post_decoder(model).decode, str(parsed.reply), parsed.method, head, tail)


class Posts:
    """Evaluates direct messages into `rows`, `downlinks` and `commands` of the batch at hand. Pure but for what it fills."""

    def __init__(self, book: SeriesBook, refuse: Refuse) -> None:
        self._book = book
        self._refuse = refuse
        self.unheard = 0  # messages on custom topics since the last cut

    def shape(self, route: Route, identifiers: tuple[str, ...]) -> Shape:
        """The shape of these identifiers for this device, made when first seen."""
        session, series, numeric, texts = route.session, [], [], []
        for place, identifier in enumerate(identifiers):
            data_type = route.model.properties[identifier].data_type
            kind = SeriesKind.NUMBER if is_numeric(data_type) else SeriesKind.TEXT
            key = SeriesKey(session.product_key, session.device_name, identifier, kind)
            number = self._book.number(key, session.device_id, isinstance(data_type, WHOLE))
            if kind is SeriesKind.NUMBER:
                series.append(number)
                numeric.append(place)
            else:
                texts.append((place, number, identifier))
        if len(route.shapes) >= MOST_SHAPES:
            route.shapes.clear()
        shape = route.shapes[identifiers] = Shape(tuple(series), not texts, tuple(numeric), tuple(texts))
        return shape

    def properties(
        self, route: Route, payloads: Sequence[bytes], received_ms: int, sequence: int, rows: Rows, downlinks: list[Downlink]
    ) -> None:
        """Property posts of one device that came together. What cannot be taken is refused alone."""
        session, decode, shapes = route.session, route.decode, route.shapes
        product_key, device_name, reply_topic, head, tail = (
            session.product_key,
            session.device_name,
            route.reply_topic,
            route.head,
            route.tail,
        )
        add_series, add_ts, add_values = rows.series.extend, rows.ts.extend, rows.values.extend
        latest = received_ms + LATEST_AHEAD_MS
        for payload in payloads:
            try:
                post = decode(payload)
                times = post.times
                if times is None:
                    times = (received_ms,) * len(post.identifiers)
                else:
                    if None in times:
                        times = _filled(times, received_ms)
                    if times and max(times) > latest:  # type: ignore[type-var, operator]
                        post = check_times(post, received_ms)
                        times = _filled(post.times or (None,) * len(post.identifiers), received_ms)
                shape = shapes.get(post.identifiers) or self.shape(route, post.identifiers)
                if shape.plain:
                    add_values(post.values)  # type: ignore[arg-type]
                    add_series(shape.series)
                    add_ts(times)  # type: ignore[arg-type]
                else:
                    self._mixed(session, shape, post, times, sequence, rows)  # type: ignore[arg-type]
                if post.refused:
                    self._refused_values(route, payload, received_ms, post.refused)
                    if post.wants_reply:
                        answer = reply(post.id, route.method, data=refused_data(post.refused))
                        downlinks.append(Downlink(product_key, device_name, reply_topic, answer))
                elif post.wants_reply:
                    downlinks.append(Downlink(product_key, device_name, reply_topic, head + post.id + tail))
            except MessageRefused as error:
                self._refuse(session, route.topic, payload, received_ms, error.reason, str(error))
                refused = refusal(error, route.method)
                if refused is not None:
                    downlinks.append(Downlink(product_key, device_name, reply_topic, refused))
            except Exception:  # noqa: BLE001 - a payload that trips over a bug of ours must not stop those behind it
                self._refuse(session, route.topic, payload, received_ms, UNEXPECTED, traceback.format_exc())

    def _mixed(self, session: SessionRow, shape: Shape, post: Post, times: Sequence[int], sequence: int, rows: Rows) -> None:
        for place, series, identifier in shape.texts:
            text = msgspec.json.encode(post.values[place]).decode()
            rows.add_text(Text(series, times[place], text, sequence), session.device_id, identifier, post.values[place])
        rows.values.extend([post.values[place] for place in shape.numeric])  # type: ignore[misc]
        rows.series.extend(shape.series)
        rows.ts.extend([times[place] for place in shape.numeric])

    def _refused_values(self, route: Route, payload: bytes, received_ms: int, refused: Mapping[str, Refused]) -> None:
        first = next(iter(refused.values()))
        self._refuse(route.session, route.topic, payload, received_ms, first.reason, "; ".join(str(error) for error in refused.values()))

    def other(
        self, session: SessionRow, topic: str, known: Registry, payload: bytes, received_ms: int, sequence: int, harvest: "Harvest"
    ) -> None:
        """Any other message of a device: events, histories, requests, answers to commands, custom topics (nobody listens to those yet)."""
        model = known.models[session.product_key]
        outcome = Dialogue(session.product_key, session.device_name, model).handle(topic, payload, received_ms)
        answer_topic, answer = outcome.answer_topic, outcome.answer
        if outcome.custom is not None:
            self.unheard += 1
        if outcome.event is not None:
            self._event(session, topic, payload, outcome.event, received_ms, sequence, harvest.rows)
        if outcome.history is not None:
            refused = self._history(session, topic, known, payload, outcome.history, received_ms, sequence, harvest.rows)
            answer = reply(outcome.history.id, outcome.method, data=refused_data(refused))
        if outcome.raw is not None:
            answer = self._raw(session, topic, model, payload, received_ms, sequence, harvest)
        if outcome.request is not None:
            harvest.asked(sequence, session, topic, outcome, model, received_ms)
        if outcome.reply is not None:
            told = outcome.reply
            harvest.commands.append(CommandReply(told.id, session.device_id, told.code, told.data, received_ms))
        if outcome.refused is not None:
            self._refuse(session, topic, payload, received_ms, outcome.refused.reason, str(outcome.refused))
        if answer is not None and answer_topic is not None:
            harvest.downlinks.append(Downlink(session.product_key, session.device_name, answer_topic, answer))

    def _raw(
        self, session: SessionRow, topic: str, model: ThingModel, payload: bytes, received_ms: int, sequence: int, harvest: "Harvest"
    ) -> bytes | None:
        """Bytes that the product's table reads; without one they are kept whole. What to send back, if the table says so."""
        try:
            told = read_raw(model, payload)
        except Refused as error:
            self._refuse(session, topic, payload, received_ms, error.reason, str(error))
            return None
        owner = DeviceFacts(session.tenant_id, session.device_id, session.product_key, session.device_name, None, False, True)
        for identifier, value in told.values.items():
            self._sample(owner, model, Sample(identifier, value, received_ms), sequence, harvest.rows)
        if told.event is not None:
            self._event(session, topic, payload, told.event, received_ms, sequence, harvest.rows)
        if told.reply is not None:
            harvest.commands.append(CommandReply(told.reply.id, session.device_id, told.reply.code, None, received_ms))
        if told.refused:
            first = next(iter(told.refused.values()))
            self._refuse(session, topic, payload, received_ms, first.reason, "; ".join(str(error) for error in told.refused.values()))
        return told.answer or None

    def _history(
        self,
        session: SessionRow,
        topic: str,
        known: Registry,
        payload: bytes,
        post: HistoryPost,
        received_ms: int,
        sequence: int,
        rows: Rows,
    ) -> Mapping[str, Refused]:
        """Many values of one or several devices: each with its own time, each held against its own thing model. What was refused."""
        checked: dict[DeviceKey | None, Checked] = {}
        for part in post.parts:
            try:
                device, model = _owner(session, known, part.identity)
            except Refused as error:
                owner = "" if part.identity is None else part.identity[1]
                checked.setdefault(part.identity, Checked()).refused[owner[:64]] = error
                continue
            found = check_part(model, part, received_ms, received_ms + LATEST_AHEAD_MS)
            checked.setdefault(part.identity, Checked()).refused.update(found.refused)  # a history names a device again and again
            for sample in found.properties:
                self._sample(device, model, sample, sequence, rows)
            for sample in found.events:
                key = SeriesKey(device.product_key, device.device_name, sample.identifier, SeriesKind.EVENT)
                series = self._book.number(key, device.device_id, False)
                rows.put(Text(series, sample.time, msgspec.json.encode(sample.value).decode(), sequence))
        refused = refused_names(checked)
        if refused:
            first = next(iter(refused.values()))
            detail = "; ".join(f"{name}: {error}" for name, error in refused.items())
            self._refuse(session, topic, payload, received_ms, first.reason, detail)
        return refused

    def _sample(self, device: DeviceFacts, model: ThingModel, sample: Sample, sequence: int, rows: Rows) -> None:
        data_type = model.properties[sample.identifier].data_type
        kind = SeriesKind.NUMBER if is_numeric(data_type) else SeriesKind.TEXT
        key = SeriesKey(device.product_key, device.device_name, sample.identifier, kind)
        series = self._book.number(key, device.device_id, isinstance(data_type, WHOLE))
        if kind is SeriesKind.NUMBER:
            rows.series.append(series)
            rows.ts.append(sample.time)
            rows.values.append(sample.value)  # type: ignore[arg-type]
        else:
            text = msgspec.json.encode(sample.value).decode()
            rows.add_text(Text(series, sample.time, text, sequence), device.device_id, sample.identifier, sample.value)

    def _event(
        self, session: SessionRow, topic: str, payload: bytes, event: EventPost, received_ms: int, sequence: int, rows: Rows
    ) -> None:
        key = SeriesKey(session.product_key, session.device_name, event.identifier, SeriesKind.EVENT)
        series = self._book.number(key, session.device_id, False)
        ts = received_ms if event.time is None else event.time
        rows.put(Text(series, ts, msgspec.json.encode(event.output).decode(), sequence))
        if event.refused:
            first = next(iter(event.refused.values()))
            detail = "; ".join(str(error) for error in event.refused.values())
            self._refuse(session, topic, payload, received_ms, first.reason, detail)


def _owner(session: SessionRow, known: Registry, identity: DeviceKey | None) -> tuple[DeviceFacts, ThingModel]:
    """Whose values a part of a history holds: the sender's own, or those of a sub-device in its topology. Raises Refused."""
    own = (session.product_key, session.device_name)
    if identity is None or identity == own:
        facts = DeviceFacts(session.tenant_id, session.device_id, *own, None, False, True)
        return facts, known.models[session.product_key]
    found = known.facts.get(identity)
    name = f"{identity[0][:40]}/{identity[1][:64]}"
    if found is None or found.tenant_id != session.tenant_id:
        raise Refused(Reason.UNKNOWN_DEVICE, f"{name}: no such device: enter it on the platform, or correct its name")
    if found.topology != session.device_id:
        raise Refused(Reason.FOREIGN_DEVICE, f"{name}: it is not in the topology of {session.device_name}: add it first")
    model = known.models.get(found.product_key)
    if model is None:
        raise Refused(Reason.UNKNOWN_PRODUCT, f"product {found.product_key} does not exist any more")
    return found, model


def _filled(times: Sequence[int | None], received_ms: int) -> tuple[int, ...]:
    return tuple([received_ms if time is None else time for time in times])
