"""A quarantined payload as a person can read it: JSON laid out, a frame's header in words, anything else as a hex dump."""

import msgspec

from cloud.access.model import is_of_gateway
from protocols.edgelink.frame import decode_frame, decode_header
from protocols.edgelink.topics import EdgeTopic
from protocols.errors import Refused

MOST: int = 4_096
MOST_HEX: int = 512


def preview(topic: str, payload: bytes) -> str:
    """At most a few thousand characters. Never raises."""
    if is_of_gateway(topic) and _is_lane(topic):
        return _frame(payload)
    try:
        msgspec.json.decode(payload)
        return msgspec.json.format(payload.decode(), indent=2)[:MOST]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _hex(payload)


def _is_lane(topic: str) -> bool:
    try:
        return EdgeTopic.parse(topic).channel.lane is not None
    except Refused:
        return False


def _frame(payload: bytes) -> str:
    try:
        header = decode_header(payload)
    except Refused as refused:
        return f"no frame: {refused}\n{_hex(payload)}"
    lines = [
        f"frame {header.seq} of lane {header.lane}, boot {header.boot}, buffer {header.buffer_id.hex()}",
        f"made {header.created_ms} ms, sent {header.sent_ms or '?'} ms, lowest frame still held {header.floor}",
    ]
    try:
        frame = decode_frame(payload)
    except Refused as refused:
        return "\n".join([*lines, f"its content does not decode: {refused}"])
    columns = frame.columns
    lines.append(f"{len(columns.values)} numbers, {len(columns.texts)} texts, {len(frame.records)} records of:")
    lines += [f"  {product_key}/{device_name} {identifier}" for product_key, device_name, identifier in columns.dictionary]
    return "\n".join(lines)[:MOST]


def _hex(payload: bytes) -> str:
    """Offset, bytes, and what of them is printable."""
    rows = []
    for at in range(0, min(len(payload), MOST_HEX), 16):
        piece = payload[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        rows.append(f"{at:06x}  {piece.hex(' '):<47}  {shown}")
    if len(payload) > MOST_HEX:
        rows.append(f"... {len(payload) - MOST_HEX} more bytes")
    return "\n".join(rows) or "empty"
