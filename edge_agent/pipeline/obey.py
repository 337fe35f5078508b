"""Commands from the cloud to attached devices, and their answers back. Each command ends in one reply: the device's, or why not."""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress

import msgspec

from edge_agent.domain.clock import Clock
from edge_agent.ports import DeviceKey, Intake, Route
from protocols.alink.codes import Code, code_of
from protocols.alink.messages import Reply
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Command
from protocols.edgelink.records import ReplyRecord
from protocols.errors import Refused
from protocols.thing.model import ThingModel

log = logging.getLogger("edge.obey")

OFFLINE = 9201  # alink.md par. 11: the application API's word for it
NO_ANSWER = 100_000  # device side timeout
NO_METHOD = 460
PROPERTY_SET = "thing.service.property.set"
REMEMBERED = 1_024  # answered commands; a repeat of one is answered again, not carried out again
WAITING = 1_024  # commands under way; more are refused
MARK_PREFIX = "command/"
_json = msgspec.json.Encoder()


class Obey:
    """Matches commands (ids of the cloud's) with messages to devices (ids of ours: decimal digits, alink.md par. 1)."""

    def __init__(
        self,
        models: Mapping[DeviceKey, ThingModel],
        routes: Mapping[DeviceKey, Route],
        intake: Intake,
        clock: Clock,
        stored: Mapping[str, bytes],
    ) -> None:
        """`stored` are the marks of answered commands."""
        self._models, self._routes, self._intake, self._clock = models, routes, intake, clock
        self._waiting: dict[str, tuple[DeviceKey, Command]] = {}
        self._by_command: dict[str, str] = {}
        self._done: OrderedDict[str, ReplyRecord] = OrderedDict()
        self._slot = 0
        for slot, key, record in sorted(_known(stored), key=lambda known: known[0]):
            self._slot = slot + 1
            self._done[key] = record
        self._next_id = clock.now_ms() % 1_000_000_000  # so that an answer to the run before is not taken for one of ours
        self.obeyed = 0

    def handle(self, command: Command) -> None:
        """Carry a command out, or answer why not; never raises."""
        if _key(command) in self._by_command:
            return  # sent again while it is under way
        done = self._done.get(_key(command))
        if done is not None:
            self._intake.record(Lane.REPLY, done)
            return
        key = DeviceKey(command.product_key, command.device_name)
        try:
            self._start(key, command)
        except Refused as refused:
            self._finish(command, int(code_of(refused)), {"message": str(refused)})

    def _start(self, key: DeviceKey, command: Command) -> None:
        model = self._models.get(key)
        if model is None:
            return self._finish(command, int(Code.DEVICE_UNKNOWN), {"message": f"{key} is not configured at this gateway"})
        if command.expires_ms <= self._clock.now_ms():
            return self._finish(command, OFFLINE, {"message": "the command expired before it reached the device"})
        if command.method != PROPERTY_SET:
            return self._finish(command, NO_METHOD, {"message": f"this gateway does not carry {command.method[:80]!r}"})
        route = self._routes.get(key)
        if route is None:
            return self._finish(command, OFFLINE, {"message": f"{key} is not attached to this gateway"})
        if len(self._waiting) >= WAITING:
            return self._finish(command, int(Code.TOO_MANY_REQUESTS), {"message": "too many commands under way"})
        params = model.coerce_set(command.params)
        self._next_id = self._next_id % 4_294_967_295 + 1
        message_id = str(self._next_id)
        route.set_properties(message_id, params)
        self._waiting[message_id] = (key, command)
        self._by_command[_key(command)] = message_id
        return None

    def answered(self, device: DeviceKey, reply: Reply) -> None:
        """A device answered a message; answers to what was not asked are dropped."""
        found = self._waiting.get(reply.id)
        if found is None or found[0] != device:
            log.info("reply.unexpected", extra={"device": str(device), "id": reply.id[:32]})
            return
        del self._waiting[reply.id]
        del self._by_command[_key(found[1])]
        self.obeyed += 1
        data = reply.data if isinstance(reply.data, dict) else {} if reply.data is None else {"data": reply.data}
        self._finish(found[1], reply.code, data)

    def expire(self) -> None:
        """Answer for devices that did not, once their time is over; call every second or so."""
        now_ms = self._clock.now_ms()
        late = [(message_id, command) for message_id, (_, command) in self._waiting.items() if command.expires_ms <= now_ms]
        for message_id, command in late:
            del self._waiting[message_id]
            del self._by_command[_key(command)]
            self._finish(command, NO_ANSWER, {"message": "the device did not answer in time"})

    def _finish(self, command: Command, code: int, data: Mapping[str, object]) -> None:
        record = ReplyRecord(command.command_id, code, _json.encode(data).decode())
        self._done[_key(command)] = record
        while len(self._done) > REMEMBERED:
            self._done.popitem(last=False)
        self._intake.record(Lane.REPLY, record)
        self._intake.mark(f"{MARK_PREFIX}{self._slot % REMEMBERED:04d}", _ENCODER.encode((self._slot, _key(command), record)), Lane.REPLY)
        self._slot += 1


def _key(command: Command) -> str:
    """What makes a command one command: a cloud that was set up anew counts its ids from the start."""
    return f"{command.command_id}@{command.expires_ms}"


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[int, str, ReplyRecord])


def _known(stored: Mapping[str, bytes]) -> Iterator[tuple[int, str, ReplyRecord]]:
    """The readable marks; what another version wrote is left out."""
    for mark in stored.values():
        with suppress(msgspec.MsgspecError):
            yield _DECODER.decode(mark)
