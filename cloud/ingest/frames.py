"""Frames of gateways: watermark first, then whose series they are, then columns and records into the batch."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from cloud.access.model import Downlink, SessionRow
from cloud.devices.model import CommandReply, DeviceFacts, PresenceChange
from cloud.ingest.model import LATEST_AHEAD_MS, UNEXPECTED, LaneKey, Mark, Reset, Rows, SeriesBook, positions
from cloud.ingest.posts import WHOLE, Refuse
from cloud.ingest.registry import DeviceKey
from cloud.telemetry.model import Gap, Ints32, Ints64, Numbers, SeriesKey, Text
from cloud.telemetry.model import Kind as SeriesKind
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import Frame, FrameHeader, decode_frame, decode_header
from protocols.edgelink.lanes import Gap as EdgeGap
from protocols.edgelink.lanes import GapReason, Lane, Verdict, Watermark
from protocols.edgelink.messages import Committed, Exchange, ExchangeReply, decode_message, encode_message
from protocols.edgelink.records import EventRecord, GapRecord, PresenceRecord, Record, ReplyRecord
from protocols.edgelink.topics import EdgeChannel, EdgeTopic
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import (
    EXACT_INTEGER,
    LATEST_MS,
    BoolType,
    DataType,
    DateType,
    EnumType,
    FloatType,
    IntType,
    is_numeric,
)
from protocols.thing.model import ThingModel

MOST_DICTIONARIES = 4096
Floats = npt.NDArray[np.float64]


class BadFrame(msgspec.Struct, frozen=True):
    """A frame that does not decode; `header` is there when at least that was whole."""

    header: FrameHeader | None
    reason: str
    detail: str


@dataclass(slots=True)
class Resolved:
    """What a frame's dictionary means here: by entry the series for numbers and that for texts (-1: none), and the device."""

    numbers: Ints32
    texts: tuple[int, ...]
    device_ids: tuple[int, ...]
    plain: bool  # every entry is a number that may be stored
    lowest: Floats  # by entry: numbers between these (whole ones, where `whole`) fit their type for sure
    highest: Floats
    whole: npt.NDArray[np.bool_]
    types: tuple[DataType | None, ...]
    faults: tuple[tuple[Reason, str], ...] = ()


def open_frame(payload: bytes) -> Frame | BadFrame:
    """Decode a frame before it is judged; asks nobody. Never raises."""
    try:
        return decode_frame(payload)
    except Refused as error:
        return BadFrame(_header(payload), error.reason, str(error))
    except Exception:  # noqa: BLE001 - one frame that trips over a bug of ours must not stop those behind it
        return BadFrame(_header(payload), UNEXPECTED, traceback.format_exc())


def _header(payload: bytes) -> FrameHeader | None:
    try:
        return decode_header(payload)
    except Refused:
        return None


def devices_of(frame: Frame | BadFrame) -> set[DeviceKey]:
    """Every device the frame speaks of: what has to be known before it is evaluated."""
    if isinstance(frame, BadFrame):
        return set()
    devices = {(product_key, device_name) for product_key, device_name, _ in frame.columns.dictionary}
    for record in frame.records:
        if isinstance(record, GapRecord):
            devices.add((record.gap.product_key, record.gap.device_name))
        elif not isinstance(record, ReplyRecord):
            devices.add((record.product_key, record.device_name))
    return devices


class Frames:
    """Evaluates frames and exchanges against the watermarks. Pure but for what it fills."""

    def __init__(self, book: SeriesBook, refuse: Refuse, marks: Mapping[LaneKey, Mark]) -> None:
        self._book = book
        self._refuse = refuse
        self._marks = dict(marks)
        self._resolved: dict[tuple[int, bytes], Resolved] = {}
        self.moved: dict[LaneKey, Mark] = {}
        self.answers: dict[tuple[str, str, str], dict[Lane, int]] = {}  # gateway and buffer -> watermarks to tell
        self.resend: set[tuple[str, str, str]] = set()  # gateways that are ahead of us: they have to look back

    def forget(self) -> None:
        """The registry changed: resolve dictionaries anew."""
        self._resolved.clear()

    def frame(
        self,
        session: SessionRow,
        topic: str,
        payload: bytes,
        frame: Frame | BadFrame,
        received_ms: int,
        sequence: int,
        registry: Mapping[DeviceKey, DeviceFacts],
        models: Mapping[str, ThingModel],
        rows: Rows,
        presence: list[PresenceChange | Reset],
        commands: list[CommandReply],
    ) -> None:
        """One frame: applied, or known already, or too early, or refused; its lane's watermark says which and moves on."""
        header = frame.header
        if header is None:  # unreadable altogether: the edge still holds it and will send it again
            assert isinstance(frame, BadFrame)
            self._refuse(session, topic, payload, received_ms, frame.reason, frame.detail)
            return
        key = (session.device_id, header.buffer_id.hex(), header.lane)
        mark = self._marks.get(key, Mark())
        decision = Watermark(mark.sequence).advance(header.seq, header.floor, header.first)
        address = (session.product_key, session.device_name, key[1])
        self.answers.setdefault(address, {})[header.lane] = decision.committed
        if decision.verdict is not Verdict.APPEND:
            if decision.verdict is Verdict.WAIT:
                self.resend.add(address)
            return
        self._marks[key] = self.moved[key] = Mark(header.seq, header.created_ms)
        gateway = registry.get((session.product_key, session.device_name))
        try:
            if isinstance(frame, BadFrame):
                raise Refused(Reason.BAD_FRAME, frame.detail)
            if gateway is None:
                raise Refused(Reason.UNKNOWN_DEVICE, f"{session.device_name} of {session.product_key} is no gateway any more")
            if decision.lost is not None:
                self._lost(session, frame, mark, decision.lost, registry, gateway, rows)
            self._columns(session, topic, payload, frame.columns, received_ms, sequence, registry, models, gateway, rows)
            for record in frame.records:
                self._record(session, topic, payload, record, received_ms, sequence, registry, models, gateway, rows, presence, commands)
        except Refused as error:
            reason = frame.reason if isinstance(frame, BadFrame) else error.reason
            self._refuse(session, topic, payload, received_ms, reason, str(error))
            rows.gaps.append(_gap(session, mark, header, GapReason.REFUSED_FRAME))
        except Exception:  # noqa: BLE001 - as above: the frame counts as committed, it lies in the quarantine
            self._refuse(session, topic, payload, received_ms, UNEXPECTED, traceback.format_exc())
            rows.gaps.append(_gap(session, mark, header, GapReason.REFUSED_FRAME))

    def replayed(
        self,
        session: SessionRow,
        topic: str,
        payload: bytes,
        frame: Frame | BadFrame,
        received_ms: int,
        sequence: int,
        registry: Mapping[DeviceKey, DeviceFacts],
        models: Mapping[str, ThingModel],
        rows: Rows,
    ) -> None:
        """A frame out of the quarantine. Its lane has passed it long ago: no watermark is asked or moved. Raises Refused."""
        if isinstance(frame, BadFrame):
            self._refuse(session, topic, payload, received_ms, frame.reason, frame.detail)
            return
        gateway = registry.get((session.product_key, session.device_name))
        if gateway is None:
            raise Refused(Reason.UNKNOWN_DEVICE, f"{session.device_name} of {session.product_key} is no gateway any more")
        self._columns(session, topic, payload, frame.columns, received_ms, sequence, registry, models, gateway, rows)
        for record in frame.records:
            if isinstance(record, EventRecord | GapRecord):
                self._record(session, topic, payload, record, received_ms, sequence, registry, models, gateway, rows, [], [])

    def _lost(
        self,
        session: SessionRow,
        frame: Frame,
        mark: Mark,
        lost: tuple[int, int],
        registry: Mapping[DeviceKey, DeviceFacts],
        gateway: DeviceFacts,
        rows: Rows,
    ) -> None:
        """Frames that the buffer no longer holds and that no gap record names: nobody knows whose readings were in them."""
        devices = {(session.product_key, session.device_name)}
        devices |= {key for key in devices_of(frame) if _bound(registry.get(key), gateway)}
        for product_key, device_name in sorted(devices):
            gap = Gap(product_key, device_name, "", mark.created_ms, frame.header.created_ms, None, GapReason.BUFFER_RESET)
            rows.gaps.append(gap)

    # --- columns -----------------------------------------------------------------------------------------------------------

    def _columns(
        self,
        session: SessionRow,
        topic: str,
        payload: bytes,
        columns: Columns,
        received_ms: int,
        sequence: int,
        registry: Mapping[DeviceKey, DeviceFacts],
        models: Mapping[str, ThingModel],
        gateway: DeviceFacts,
        rows: Rows,
    ) -> None:
        if not columns.dictionary:
            return
        resolved = self._resolve(columns, registry, models, gateway)
        for reason, detail in resolved.faults:
            self._refuse(session, topic, payload, received_ms, reason, detail)
        latest = received_ms + LATEST_AHEAD_MS
        if len(columns.values):
            self._numbers(session, topic, payload, columns, resolved, received_ms, sequence, rows)
        for place, ts_ms, text in columns.texts:
            identifier, number = columns.dictionary[place][2], resolved.texts[place]
            try:
                if number < 0:
                    if resolved.numbers[place] < 0:
                        continue  # refused already
                    raise Refused(Reason.WRONG_TYPE, f"{identifier}: a text where a number belongs")
                if ts_ms > latest:
                    raise Refused(Reason.BAD_TIME, f"{identifier}: the time {ts_ms} is more than 24 h ahead")
                rows.add_text(Text(number, ts_ms, text, sequence), resolved.device_ids[place], identifier, _json(text))
            except Refused as error:
                self._refuse(session, topic, payload, received_ms, error.reason, str(error))

    def _numbers(
        self,
        session: SessionRow,
        topic: str,
        payload: bytes,
        columns: Columns,
        resolved: Resolved,
        received_ms: int,
        sequence: int,
        rows: Rows,
    ) -> None:
        """Numbers go on as whole columns; what does not fit is looked at one by one, named, and leaves its gap."""
        places, ts, values = columns.series, columns.times, columns.values

        def keep(kept: npt.NDArray[np.bool_]) -> None:
            nonlocal places, ts, values
            places, ts, values = places[kept], ts[kept], values[kept]

        if not resolved.plain:
            known = resolved.numbers[places] >= 0
            for place in np.unique(places[~known]).tolist():
                if resolved.texts[place] >= 0:
                    detail = f"{columns.dictionary[place][2]}: a number where a text belongs"
                    self._refuse(session, topic, payload, received_ms, Reason.WRONG_TYPE, detail)
            keep(known)
        if len(ts) and ts.max() > received_ms + LATEST_AHEAD_MS:
            timely = ts <= received_ms + LATEST_AHEAD_MS
            detail = f"{len(ts) - int(timely.sum())} readings are stamped more than 24 h ahead"
            self._refuse(session, topic, payload, received_ms, Reason.BAD_TIME, detail)
            keep(timely)
        fits = (values >= resolved.lowest[places]) & (values <= resolved.highest[places])  # (nothing is true of NaN)
        if resolved.whole.any():
            fits &= ~resolved.whole[places] | (values == np.floor(values))
        if not fits.all():
            refused = self._misfits(
                session, topic, payload, columns, resolved, received_ms, places, ts, values, np.flatnonzero(~fits), rows
            )
            keep(~refused)
        if len(ts):
            rows.add(Numbers(resolved.numbers[places], ts, values, positions(len(ts), sequence)), sequence)

    def _misfits(
        self,
        session: SessionRow,
        topic: str,
        payload: bytes,
        columns: Columns,
        resolved: Resolved,
        received_ms: int,
        places: npt.NDArray[np.uint32],
        ts: Ints64,
        values: Floats,
        suspects: Ints64,
        rows: Rows,
    ) -> npt.NDArray[np.bool_]:
        """Which of the suspects the thing model refuses, by its own rule: one entry a property and reason, one gap a reading."""
        refused = np.zeros(len(values), np.bool_)
        found: dict[tuple[int, Reason], tuple[str, int]] = {}
        for at in suspects.tolist():
            place = int(places[at])
            data_type, (product_key, device_name, identifier) = resolved.types[place], columns.dictionary[place]
            assert data_type is not None
            try:
                data_type.coerce(float(values[at]), identifier)
            except Refused as error:
                refused[at] = True
                first, count = found.get((place, error.reason), (str(error), 0))
                found[place, error.reason] = (first, count + 1)
                time_ms = int(ts[at])
                rows.gaps.append(Gap(product_key, device_name, identifier, time_ms - 1, time_ms + 1, 1, GapReason.REFUSED_VALUE))
        for (_, reason), (detail, count) in found.items():
            self._refuse(session, topic, payload, received_ms, reason, detail if count == 1 else f"{count} readings, the first: {detail}")
        return refused

    def _resolve(
        self, columns: Columns, registry: Mapping[DeviceKey, DeviceFacts], models: Mapping[str, ThingModel], gateway: DeviceFacts
    ) -> Resolved:
        cached = self._resolved.get((gateway.device_id, columns.dictionary_key))
        if cached is not None:
            return cached
        numbers, texts, device_ids = np.full(len(columns.dictionary), -1, np.int32), [-1] * len(columns.dictionary), []
        lowest, highest = np.full(len(columns.dictionary), -np.inf), np.full(len(columns.dictionary), np.inf)
        whole = np.zeros(len(columns.dictionary), np.bool_)
        types: list[DataType | None] = [None] * len(columns.dictionary)
        faults: dict[tuple[Reason, str], None] = {}
        for place, (product_key, device_name, identifier) in enumerate(columns.dictionary):
            facts = registry.get((product_key, device_name))
            device_ids.append(0 if facts is None else facts.device_id)
            try:
                facts = _checked(facts, gateway, product_key, device_name)
                data_type = _data_type(models.get(product_key), product_key, identifier)
            except Refused as error:
                faults[error.reason, str(error)] = None
                continue
            kind = SeriesKind.NUMBER if is_numeric(data_type) else SeriesKind.TEXT
            series = self._book.number(SeriesKey(product_key, device_name, identifier, kind), facts.device_id, isinstance(data_type, WHOLE))
            if kind is SeriesKind.NUMBER:
                numbers[place] = series
                lowest[place], highest[place] = _bounds(data_type)
                whole[place], types[place] = isinstance(data_type, WHOLE), data_type
            else:
                texts[place] = series
        plain = bool((numbers >= 0).all())
        resolved = Resolved(numbers, tuple(texts), tuple(device_ids), plain, lowest, highest, whole, tuple(types), tuple(faults))
        if not faults and columns.dictionary_key:
            if len(self._resolved) >= MOST_DICTIONARIES:
                self._resolved.clear()
            self._resolved[gateway.device_id, columns.dictionary_key] = resolved
        return resolved

    # --- records -----------------------------------------------------------------------------------------------------------

    def _record(
        self,
        session: SessionRow,
        topic: str,
        payload: bytes,
        record: Record,
        received_ms: int,
        sequence: int,
        registry: Mapping[DeviceKey, DeviceFacts],
        models: Mapping[str, ThingModel],
        gateway: DeviceFacts,
        rows: Rows,
        presence: list[PresenceChange | Reset],
        commands: list[CommandReply],
    ) -> None:
        try:
            if isinstance(record, ReplyRecord):
                commands.append(CommandReply(record.command_id, gateway.device_id, record.code, _json(record.data), received_ms))
                return
            named = record.gap if isinstance(record, GapRecord) else record
            facts = _checked(registry.get((named.product_key, named.device_name)), gateway, named.product_key, named.device_name)
            match record:
                case GapRecord(gap=gap):
                    rows.gaps += _gaps(gap)
                case PresenceRecord():
                    presence.append(PresenceChange(facts.device_id, record.online, record.time_ms, record.time_ms, gateway.device_id))
                case EventRecord():
                    model = models.get(record.product_key)
                    if model is None or record.identifier not in model.events:
                        raise Refused(Reason.UNKNOWN_EVENT, f"{record.identifier[:64]}: no such event of {record.product_key}")
                    if record.time_ms > received_ms + LATEST_AHEAD_MS:
                        raise Refused(Reason.BAD_TIME, f"{record.identifier}: the time {record.time_ms} is more than 24 h ahead")
                    _json(record.output)
                    key = SeriesKey(record.product_key, record.device_name, record.identifier, SeriesKind.EVENT)
                    series = self._book.number(key, facts.device_id, False)
                    rows.put(Text(series, record.time_ms, record.output, sequence))
        except Refused as error:
            self._refuse(session, topic, payload, received_ms, error.reason, str(error))

    # --- exchanges and answers ---------------------------------------------------------------------------------------------

    def exchange(self, session: SessionRow, payload: bytes) -> Downlink:
        """The answer to a gateway that connected: how far each of its lanes is committed. Raises Refused."""
        message = decode_message(Exchange, payload)
        committed = {lane: self._marks.get((session.device_id, message.buffer_id, lane), Mark()).sequence for lane in Lane}
        return self._exchange_reply(session.product_key, session.device_name, message.buffer_id, committed)

    def _exchange_reply(self, product_key: str, device_name: str, buffer_id: str, committed: dict[Lane, int]) -> Downlink:
        topic = str(EdgeTopic(product_key, device_name, EdgeChannel.DOWN_EXCHANGE))
        return Downlink(product_key, device_name, topic, encode_message(ExchangeReply(buffer_id, committed)))

    def take_answers(self) -> list[Downlink]:
        """What the gateways of this batch have to hear once it is committed: the newest watermarks, each once."""
        downlinks = []
        for (product_key, device_name, buffer_id), committed in self.answers.items():
            if (product_key, device_name, buffer_id) in self.resend:
                downlinks.append(self._exchange_reply(product_key, device_name, buffer_id, committed))
            else:
                topic = str(EdgeTopic(product_key, device_name, EdgeChannel.DOWN_COMMITTED))
                downlinks.append(Downlink(product_key, device_name, topic, encode_message(Committed(buffer_id, committed))))
        self.answers, self.resend = {}, set()
        return downlinks

    def take_moved(self) -> dict[LaneKey, Mark]:
        moved, self.moved = self.moved, {}
        return moved


def _bound(facts: DeviceFacts | None, gateway: DeviceFacts) -> bool:
    """Whether this gateway may speak for the device: itself, or one of its own site and tenant."""
    if facts is None or facts.tenant_id != gateway.tenant_id:
        return False
    return facts.device_id == gateway.device_id or (facts.site_id is not None and facts.site_id == gateway.site_id)


def _checked(facts: DeviceFacts | None, gateway: DeviceFacts, product_key: str, device_name: str) -> DeviceFacts:
    if facts is None or not _bound(facts, gateway):
        # (the same words whether it does not exist or belongs to somebody else)
        message = f"{device_name[:64]} of {product_key[:64]} is not bound to the site of gateway {gateway.device_name}"
        raise Refused(Reason.FOREIGN_DEVICE, message)
    if not facts.enabled:
        raise Refused(Reason.NOT_AUTHORISED, f"{device_name[:64]} of {product_key[:64]} is disabled")
    return facts


def _bounds(data_type: DataType) -> tuple[float, float]:
    """Between which numbers nothing has to be asked; an enum with holes is asked for each."""
    match data_type:
        case IntType(minimum=low, maximum=high):
            return -EXACT_INTEGER if low is None else low, EXACT_INTEGER if high is None else high
        case FloatType(minimum=low, maximum=high):
            return -np.finfo(np.float64).max if low is None else low, np.finfo(np.float64).max if high is None else high
        case BoolType():
            return 0, 1
        case EnumType(labels=labels) if labels and len(labels) == max(labels) - min(labels) + 1:
            return min(labels), max(labels)
        case DateType():
            return 0, LATEST_MS
        case _:
            return np.inf, -np.inf


def _data_type(model: ThingModel | None, product_key: str, identifier: str) -> DataType:
    found = None if model is None else model.properties.get(identifier)
    if found is None:
        raise Refused(Reason.UNKNOWN_IDENTIFIER, f"{identifier[:64]}: no such property of {product_key[:64]}")
    return found.data_type


def _gap(session: SessionRow, mark: Mark, header: FrameHeader, reason: GapReason) -> Gap:
    """A gap of the gateway itself: whose readings were in the frame is not known."""
    return Gap(session.product_key, session.device_name, "", mark.created_ms, header.created_ms + 1, None, reason)


def _gaps(gap: EdgeGap) -> list[Gap]:
    """A gap of several properties as the store keeps it: one each, the count shared out."""
    if not gap.identifiers:
        return [Gap(gap.product_key, gap.device_name, "", gap.from_ms, gap.to_ms, gap.count, gap.reason)]
    share, rest = divmod(gap.count or 0, len(gap.identifiers))
    return [
        Gap(
            gap.product_key,
            gap.device_name,
            name,
            gap.from_ms,
            gap.to_ms,
            None if gap.count is None else share + (place < rest),
            gap.reason,
        )
        for place, name in enumerate(gap.identifiers)
    ]


def _json(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(Reason.BAD_JSON, f"not JSON: {error}") from error
