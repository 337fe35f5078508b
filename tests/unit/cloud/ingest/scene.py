"""A small world for evaluation: a stove, a hood and a gateway of one site, a foreign device, and messages as the front door writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from cloud.access.model import BatchWriter, Kind, PresenceNote, SessionRow, encode_batch, session_key
from cloud.devices.model import DeviceFacts
from cloud.ingest.evaluation import Evaluator, open_message
from cloud.ingest.model import Effects, LaneKey, Mark, SeriesBook
from cloud.ingest.registry import Registry
from cloud.telemetry.model import Position, Series
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import FrameHeader, encode_frame
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import Record
from protocols.edgelink.topics import uplink_topic
from protocols.thing.model import parse_thing_model

NOW = 1_760_000_000_000
MODEL = parse_thing_model(
    {
        "properties": [
            {
                "identifier": "power",
                "name": "Power",
                "accessMode": "r",
                "dataType": {"type": "float", "specs": {"min": "0", "max": "9000"}},
            },
            {"identifier": "level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}},
            {"identifier": "mode", "name": "Mode", "accessMode": "rw", "dataType": {"type": "text", "specs": {"length": "100"}}},
        ],
        "events": [
            {
                "identifier": "boiled_over",
                "name": "Boiled over",
                "type": "alert",
                "outputData": [{"identifier": "zone", "name": "Zone", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}}],
            }
        ],
        "services": [],
    }
)

STOVE = SessionRow(1, 11, "stove", "s1", 5)
GATEWAY = SessionRow(1, 20, "gateway", "g1", 6)
BUFFER = b"B" * 16
POST = "/sys/stove/s1/thing/event/property/post"
LIVE = uplink_topic("gateway", "g1", Lane.LIVE)
LIVE_KEY: LaneKey = (20, BUFFER.hex(), Lane.LIVE)


def registry() -> Registry:
    known = Registry()
    facts = [
        DeviceFacts(1, 11, "stove", "s1", 7, False, True),
        DeviceFacts(1, 12, "stove", "s2", 8, False, True),  # of another site
        DeviceFacts(2, 13, "stove", "s3", 7, False, True),  # of another tenant
        DeviceFacts(1, 14, "stove", "s4", 7, False, False),  # disabled
        DeviceFacts(1, 20, "gateway", "g1", 7, True, True),
    ]
    known.learn({"stove": MODEL, "gateway": MODEL}, {(fact.product_key, fact.device_name): fact for fact in facts})
    return known


def evaluator(marks: Mapping[LaneKey, Mark] | None = None, series: Sequence[Series] = (), start: int = 0) -> Evaluator:
    return Evaluator(Position("s", start), SeriesBook(series), marks or {}, registry())


def evaluate(on: Evaluator, *messages: bytes) -> Effects:
    for sequence, message in enumerate(messages, on.position.sequence + 1):
        on.evaluate(open_message(sequence, message))
    return on.cut()


def post(params: Mapping[str, Any] | str, message_id: Any = "1", **more: Any) -> bytes:
    return msgspec.json.encode({"id": message_id, "version": "1.0", "params": params, **more})


def batch(*payloads: bytes, session: SessionRow = STOVE, topic: str = POST, received_ms: int = NOW) -> bytes:
    return encode_batch([(session, topic, received_ms, payloads)])


def presence(kind: Kind, session: SessionRow, time_ms: int) -> bytes:
    writer = BatchWriter()
    writer.add_note(kind, session_key(session), time_ms, PresenceNote("127.0.0.1", ""))
    return writer.to_bytes()


def columns(*readings: tuple[str, str, int, float], texts: Sequence[tuple[str, str, int, str]] = ()) -> Columns:
    """Readings of stoves as (device, identifier, ms, value)."""
    names = list(dict.fromkeys((device, identifier) for device, identifier, _, _ in (*readings, *texts)))
    return Columns(
        tuple(("stove", device, identifier) for device, identifier in names),
        np.array([names.index((device, identifier)) for device, identifier, _, _ in readings], np.uint32),
        np.array([ms for _, _, ms, _ in readings], np.int64),
        np.array([value for _, _, _, value in readings], np.float64),
        texts=tuple((names.index((device, identifier)), ms, text) for device, identifier, ms, text in texts),
    )


def frame(seq: int, content: Columns | None = None, *records: Record, floor: int = 1, covers: int = 0, lane: Lane = Lane.LIVE) -> bytes:
    header = FrameHeader(BUFFER, 1, lane, seq, floor, NOW + seq, covers)
    return encode_frame(header, columns(("s1", "power", NOW + seq, float(seq))) if content is None else content, records)


def up(*frames: bytes, received_ms: int = NOW, topic: str = LIVE) -> bytes:
    return batch(*frames, session=GATEWAY, topic=topic, received_ms=received_ms)


def rows(effects: Effects) -> list[tuple[str, str, int, float]]:
    """Numeric rows of an append that begins with an empty dictionary: (device, identifier, ms, value)."""
    names = {series.id: series.key for series in effects.append.series}
    numbers = effects.append.numbers
    return [
        (names[series].device_name, names[series].identifier, ts, value)
        for series, ts, value in zip(numbers.series.tolist(), numbers.ts.tolist(), numbers.value.tolist(), strict=True)
    ]
