"""Frames of gateways: watermark first, then whose series they are, then columns and records into the batch."""

import traceback
from collections.abc import Mapping

import msgspec

from cloud.access.model import Downlink, SessionRow
from cloud.devices.model import CommandReply, DeviceFacts, PresenceChange
from cloud.ingest.columns import FrameColumns, bound, checked, read_json
from cloud.ingest.model import LATEST_AHEAD_MS, UNEXPECTED, Booking, LaneKey, Mark, Reset, Rows, SeriesBook
from cloud.ingest.posts import Refuse
from cloud.ingest.registry import DeviceKey
from cloud.telemetry.model import DAY_MS, LATEST_MS, ClockNote, Gap, Sending, SeriesKey, Text
from cloud.telemetry.model import Kind as SeriesKind
from protocols.edgelink.frame import Frame, FrameHeader, decode_frame, decode_header
from protocols.edgelink.lanes import Gap as EdgeGap
from protocols.edgelink.lanes import GapReason, Lane, Verdict, Watermark
from protocols.edgelink.messages import Committed, Exchange, ExchangeReply, decode_message, encode_message
from protocols.edgelink.records import ClockRecord, EventRecord, GapRecord, PresenceRecord, Record, ReplyRecord, TallyRecord
from protocols.edgelink.stretches import given_up, stretch_of
from protocols.edgelink.topics import EdgeChannel, EdgeTopic
from protocols.errors import Reason, Refused
from protocols.thing.model import ThingModel

READINGS = (Lane.LIVE, Lane.BULK)
DELAY_MS = 1_000  # how exactly it is kept when a gateway sent its frames
MOST_COUNTED = 1 << 62  # what a gateway says may be absurd, and must fit a database
MOST_SEQ = 1 << 56  # a frame's header has no more


class BadFrame(msgspec.Struct, frozen=True):
    """A frame that does not decode; `header` is there when at least that was whole."""

    header: FrameHeader | None
    reason: str
    detail: str


def open_frame(payload: bytes) -> Frame | BadFrame:
    """Decode a frame before it is judged; asks nobody. Never raises."""
    try:
        return decode_frame(payload)
    except Refused as error:
        return BadFrame(_header(payload), error.reason, str(error))
    except Exception:  # noqa: BLE001 - one frame that trips over a bug of ours must not stop those behind it
        return BadFrame(_header(payload), UNEXPECTED, traceback.format_exc())


def put_aside(payload: bytes, detail: str) -> BadFrame:
    """A frame that must not be opened any more."""
    return BadFrame(_header(payload), Reason.POISON, detail)


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
        elif not isinstance(record, ReplyRecord | TallyRecord):
            devices.add((record.product_key, record.device_name))
    return devices


class Frames:
    """Evaluates frames and exchanges against the watermarks. Pure but for what it fills."""

    def __init__(self, book: SeriesBook, refuse: Refuse, marks: Mapping[LaneKey, Mark]) -> None:
        self._book = book
        self._refuse = refuse
        self._marks = dict(marks)
        self._columns = FrameColumns(book, refuse)
        self.moved: dict[LaneKey, Mark] = {}
        self._booking = Booking()
        self._delays: dict[int, int] = {}  # of gateways, as the store was last told
        self.answers: dict[tuple[str, str, str], dict[Lane, int]] = {}  # gateway and buffer -> watermarks to tell
        self.resend: set[tuple[str, str, str]] = set()  # gateways that are ahead of us: they have to look back

    def forget(self) -> None:
        """The registry changed: resolve dictionaries anew."""
        self._columns.forget()

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
        if not mark.sequence:
            self._replaced(session, key, header.created_ms, rows)
        readings, in_gaps = self._count(key, mark, header, frame)
        in_gaps = min(mark.in_gaps + in_gaps, MOST_COUNTED)
        moved = Mark(header.seq, header.created_ms, mark.readings + readings, in_gaps, mark.announced)
        self._marks[key] = self.moved[key] = moved
        self._travelled(session, header, received_ms, sequence, rows)
        gateway = registry.get((session.product_key, session.device_name))
        try:
            if isinstance(frame, BadFrame):
                raise Refused(Reason.BAD_FRAME, frame.detail)
            if gateway is None:
                raise Refused(Reason.UNKNOWN_DEVICE, f"{session.device_name} of {session.product_key} is no gateway any more")
            if decision.lost is not None:
                self._lost(session, frame, mark, decision.lost, registry, gateway, rows)
            self._columns.into(session, topic, payload, frame.columns, received_ms, sequence, registry, models, gateway, rows)
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
        self._columns.into(session, topic, payload, frame.columns, received_ms, sequence, registry, models, gateway, rows)
        for record in frame.records:
            if isinstance(record, EventRecord | GapRecord | ClockRecord):
                self._record(session, topic, payload, record, received_ms, sequence, registry, models, gateway, rows, [], [])

    def _replaced(self, session: SessionRow, key: LaneKey, now_ms: int, rows: Rows) -> None:
        """The first frame of a buffer in this lane: what another buffer still held is gone, and nobody knows whose it was."""
        gateway_id, buffer_id, lane = key
        others = {held: mark for held, mark in self._marks.items() if held[0] == gateway_id and held[1] != buffer_id and mark.created_ms}
        if lane is Lane.REPLY or not others:
            return
        begin_ms = max(mark.created_ms for mark in others.values())  # of alarms, which are rare: what was heard last of the buffer
        if lane in READINGS:
            if any(self._marks.get((gateway_id, buffer_id, other), Mark()).sequence for other in READINGS):
                return  # it was said when the other lane spoke first
            newest = max(others, key=lambda held: others[held].created_ms)[1]
            known = {held[2]: mark for held, mark in others.items() if held[1] == newest}
            live, bulk = known.get(Lane.LIVE), known.get(Lane.BULK)
            if live is None and (bulk is None or not bulk.pending):
                return
            begin_ms = min(mark.created_ms for mark in (live, bulk) if mark is not None and (mark is live or mark.pending))
        if begin_ms < now_ms:
            rows.gaps.append(Gap(session.product_key, session.device_name, "", begin_ms, now_ms, None, GapReason.BUFFER_RESET))

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
        devices |= {key for key in devices_of(frame) if bound(registry.get(key), gateway)}
        for product_key, device_name in sorted(devices):
            gap = Gap(product_key, device_name, "", mark.created_ms, frame.header.created_ms, None, GapReason.BUFFER_RESET)
            rows.gaps.append(gap)

    # --- columns -----------------------------------------------------------------------------------------------------------

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
            if isinstance(record, TallyRecord):
                return  # it was counted with its frame
            if isinstance(record, ReplyRecord):
                commands.append(CommandReply(record.command_id, gateway.device_id, record.code, read_json(record.data), received_ms))
                return
            named = record.gap if isinstance(record, GapRecord) else record
            facts = checked(registry.get((named.product_key, named.device_name)), gateway, named.product_key, named.device_name)
            match record:
                case GapRecord(gap=gap):
                    rows.gaps += _gaps(gap)
                case ClockRecord():
                    rows.notes.append(ClockNote(record.product_key, record.device_name, record.from_ms, record.to_ms, record.shift_ms))
                case PresenceRecord():
                    presence.append(PresenceChange(facts.device_id, record.online, record.time_ms, record.time_ms, gateway.device_id))
                case EventRecord():
                    model = models.get(record.product_key)
                    if model is None or record.identifier not in model.events:
                        raise Refused(Reason.UNKNOWN_EVENT, f"{record.identifier[:64]}: no such event of {record.product_key}")
                    if record.time_ms > received_ms + LATEST_AHEAD_MS:
                        raise Refused(Reason.BAD_TIME, f"{record.identifier}: the time {record.time_ms} is more than 24 h ahead")
                    read_json(record.output)
                    key = SeriesKey(record.product_key, record.device_name, record.identifier, SeriesKind.EVENT)
                    series = self._book.number(key, facts.device_id, False)
                    rows.put(Text(series, record.time_ms, record.output, sequence))
        except Refused as error:
            self._refuse(session, topic, payload, received_ms, error.reason, str(error))

    # --- exchanges and answers ---------------------------------------------------------------------------------------------

    def exchange(self, session: SessionRow, payload: bytes, received_ms: int) -> Downlink:
        """The answer to a gateway that connected: how far each of its lanes is committed, and what time it was. Raises Refused."""
        message = decode_message(Exchange, payload)
        self._hold_to_account(session.device_id, message)
        committed = {lane: self._marks.get((session.device_id, message.buffer_id, lane), Mark()).sequence for lane in Lane}
        return self._exchange_reply(session.product_key, session.device_name, message.buffer_id, committed, received_ms, message.number)

    def _hold_to_account(self, gateway_id: int, message: Exchange) -> None:
        """Remember how much of an outage a buffer holds, and since when: should it be lost before it has told all, that is missing."""
        span = message.lanes.get(Lane.BULK)
        key = (gateway_id, message.buffer_id, Lane.BULK)
        mark = self._marks.get(key, Mark())
        if span is None or span.next - 1 <= max(mark.sequence, mark.announced):
            return
        if span.next > MOST_SEQ:  # it is kept: what no database takes would stop everybody behind it
            raise Refused(Reason.OUT_OF_RANGE, f"bulk: its next frame would be {span.next}, and no lane counts beyond {MOST_SEQ}")
        live = self._marks.get((gateway_id, message.buffer_id, Lane.LIVE), Mark())
        begin_ms = mark.created_ms if mark.pending else max(mark.created_ms, live.created_ms)
        self._marks[key] = self.moved[key] = msgspec.structs.replace(mark, created_ms=begin_ms, announced=span.next - 1)

    def _exchange_reply(
        self, product_key: str, device_name: str, buffer_id: str, committed: dict[Lane, int], received_ms: int = 0, number: int = 0
    ) -> Downlink:
        topic = str(EdgeTopic(product_key, device_name, EdgeChannel.DOWN_EXCHANGE))
        return Downlink(product_key, device_name, topic, encode_message(ExchangeReply(buffer_id, committed, received_ms, number)))

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

    def take_booking(self) -> Booking:
        booking, self._booking = self._booking, Booking()
        return booking

    def _travelled(self, session: SessionRow, header: FrameHeader, received_ms: int, sequence: int, rows: Rows) -> None:
        """How long a frame was under way, told the store when it is another time than before."""
        if header.sent_ms:
            delay_ms = received_ms - header.sent_ms
            known = self._delays.get(session.device_id)
            if abs(delay_ms) <= LATEST_MS and (known is None or abs(delay_ms - known) >= DELAY_MS):
                self._delays[session.device_id] = delay_ms
                rows.sendings.append(Sending(session.product_key, session.device_name, sequence, delay_ms))

    def _count(self, key: LaneKey, mark: Mark, header: FrameHeader, frame: Frame | BadFrame) -> tuple[int, int]:
        """Readings in a frame, and those that it says the buffer gave up; each is booked under the time of its own frame."""
        if header.created_ms // DAY_MS != mark.created_ms // DAY_MS:
            self._booking.new_day.add(key)
        if isinstance(frame, BadFrame):
            return 0, 0
        lost = given_up(header.created_ms, frame.records)
        self._booking.enter(key, stretch_of(header.created_ms), delivered=frame.columns.count)
        for from_ms, count in lost.items():
            self._booking.enter(key, from_ms, in_gaps=count)
        return frame.columns.count, sum(lost.values())


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
