"""Raw messages of devices (alink.md par. 5), read by the table of their product's thing model into what they would say in JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocols.alink.codes import Code
from protocols.alink.envelope import NO_ID
from protocols.alink.messages import EventPost, Reply
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import Value
from protocols.thing.model import ThingModel
from protocols.thing.raw_bytes import decode


@dataclass(frozen=True, slots=True)
class RawOutcome:
    """What raw bytes bring in: values, an event, or a reply to a command; what was refused of it; bytes to send back, if any."""

    values: Mapping[str, Value] = field(default_factory=dict)
    event: EventPost | None = None
    reply: Reply | None = None
    refused: Mapping[str, Refused] = field(default_factory=dict)
    answer: bytes = b""


def read_raw(model: ThingModel, payload: bytes) -> RawOutcome:
    """Raises `Refused`: NO_RAW_TABLE, BAD_RAW. A value that its data type does not take is in `refused` instead."""
    if model.raw_table is None:
        raise Refused(Reason.NO_RAW_TABLE, "the thing model has no rawTable: give it one, then replay this message")
    found = decode(model.raw_table, payload)
    if found.kind == "reply":
        return RawOutcome(reply=Reply(str(found.command_id), Code.DONE if found.code == 200 else found.code), answer=found.answer)
    types = model.events[found.event].output if found.kind == "event" else {name: one.data_type for name, one in model.properties.items()}
    values: dict[str, Value] = {}
    refused: dict[str, Refused] = {}
    for name, value in found.values.items():
        try:
            values[name] = types[name].coerce(value, name)
        except Refused as error:
            refused[name] = error.settled()
    if found.kind == "event":
        event = EventPost(NO_ID, False, found.event, values, None, refused)
        return RawOutcome(event=event, answer=found.answer)
    return RawOutcome(values, refused=refused, answer=found.answer)
