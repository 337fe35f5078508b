"""Finds the card in an ONNX file without an ONNX library: a gateway checks its configuration before it starts a runtime.

An ONNX file is a protobuf `ModelProto`; its field 14, `metadata_props`, repeats pairs of key (1) and value (2) (onnx.proto, IR version 10).
Only the top level is walked: nothing is decoded that is not asked for.
"""

from collections.abc import Iterator
from typing import Final

from protocols.errors import Reason, Refused
from protocols.inference.card import CARD_KEY, ModelCard

MOST_BYTES: Final = 64 * 1024 * 1024
_METADATA, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def card_of(model: bytes) -> ModelCard:
    """The card inside a model file; raises Refused(BAD_MODEL) for anything that is no anomaly model of ours."""
    if len(model) > MOST_BYTES:
        raise Refused(Reason.BAD_MODEL, f"the file has {len(model)} bytes; a model may have {MOST_BYTES}")
    view = memoryview(model)
    for field, value in _fields(view):
        if field == _METADATA:
            entry = dict(_fields(value))
            if bytes(entry.get(_KEY, b"")) == CARD_KEY.encode():
                return ModelCard.from_json(bytes(entry.get(_VALUE, b"")))
    raise Refused(Reason.BAD_MODEL, "the file holds no model card; it has to come from `hearthline train`")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each length-delimited field; the others are stepped over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise _damaged()
            yield tag >> 3, message[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _damaged()


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _damaged()
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _damaged()


def _damaged() -> Refused:
    return Refused(Reason.BAD_MODEL, "the file is no ONNX model, or it is damaged; copy it again")
