"""Columns of a gateway's frame into rows of the batch: whose series they are, and whether the thing model takes each value."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from cloud.access.model import SessionRow
from cloud.devices.model import DeviceFacts
from cloud.ingest.model import LATEST_AHEAD_MS, Rows, SeriesBook, positions
from cloud.ingest.posts import WHOLE, Refuse
from cloud.ingest.registry import DeviceKey
from cloud.telemetry.model import Gap, Ints32, Ints64, Numbers, SeriesKey, Text
from cloud.telemetry.model import Kind as SeriesKind
from protocols.edgelink.columns import Columns
from protocols.edgelink.lanes import GapReason
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


class FrameColumns:
    """Remembers what the dictionaries of frames mean until the registry changes."""

    def __init__(self, book: SeriesBook, refuse: Refuse) -> None:
        self._book = book
        self._refuse = refuse
        self._resolved: dict[tuple[int, bytes], Resolved] = {}

    def forget(self) -> None:
        """The registry changed: resolve dictionaries anew."""
        self._resolved.clear()

    def into(
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
        """Put a frame's readings into `rows`; what is foreign, unknown or does not fit is refused alone."""
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
                rows.add_text(Text(number, ts_ms, text, sequence), resolved.device_ids[place], identifier, read_json(text))
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
                facts = checked(facts, gateway, product_key, device_name)
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


def bound(facts: DeviceFacts | None, gateway: DeviceFacts) -> bool:
    """Whether this gateway may speak for the device: itself, or one of its own site and tenant."""
    if facts is None or facts.tenant_id != gateway.tenant_id:
        return False
    return facts.device_id == gateway.device_id or (facts.site_id is not None and facts.site_id == gateway.site_id)


def checked(facts: DeviceFacts | None, gateway: DeviceFacts, product_key: str, device_name: str) -> DeviceFacts:
    """The device, if this gateway may speak for it and it is enabled. Raises Refused."""
    if facts is None or not bound(facts, gateway):
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


def read_json(text: str) -> object:
    """JSON text out of a frame. Raises Refused(BAD_JSON)."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(Reason.BAD_JSON, f"not JSON: {error}") from error
