"""Commands from the cloud to attached devices, and their answers back. Each command ends in one reply: the device's, or why not."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress

import msgspec

from edge_agent.domain.clock import Clock
from edge_agent.domain.crashpoint import crash_point
from edge_agent.ports import DeviceKey, Intake, Route
from protocols.alink.codes import Code, code_of
from protocols.alink.messages import Reply
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Command
from protocols.edgelink.records import ReplyRecord
from protocols.errors import Refused, TryAgain
from protocols.thing.model import ThingModel

log = logging.getLogger("edge.obey")

OFFLINE = 9201  # alink.md par. 11: the application API's word for it
NO_ANSWER = 100_000  # device side timeout
NO_METHOD = 460
PROPERTY_SET = "thing.service.property.set"
REMEMBERED = 1_024  # answered commands; a repeat of one is answered again, not carried out again
WAITING = 512  # commands under way; more are refused
UNDER_WAY = -1  # the code in the mark of a command that has no reply yet
MARK_PREFIX = "command/"
_json = msgspec.json.Encoder()


class Obey:
    """Matches commands (ids of the cloud's) with messages to devices (ids of ours: decimal digits, alink.md par. 1).

    At most once: that a command is under way is on the disk before it reaches the device. One that was under way when the agent ended
    gets its definite end when the agent is back.
    """

    def __init__(
        self,
        models: Mapping[DeviceKey, ThingModel],
        routes: Mapping[DeviceKey, Route],
        intake: Intake,
        clock: Clock,
        stored: Mapping[str, bytes],
        remember: Callable[[Mapping[str, bytes]], Awaitable[None]],
    ) -> None:
        """`stored` are the marks of commands; `remember` writes marks, durable on return."""
        self._models, self._routes, self._intake, self._clock, self._remember = models, routes, intake, clock, remember
        self._waiting: dict[str, tuple[DeviceKey, Command]] = {}
        self._by_command: dict[str, str] = {}  # accepted and not finished; "" until it is with the device
        self._slots: dict[str, int] = {}  # of commands that are not finished
        self._accepted: deque[Command] = deque()
        self._work = asyncio.Event()
        self._done: OrderedDict[str, ReplyRecord] = OrderedDict()
        self._slot = 0
        interrupted = []
        for slot, key, record in sorted(_known(stored), key=lambda known: known[0]):
            self._slot = slot + 1
            if record.code == UNDER_WAY:
                self._slots[key] = slot
                interrupted.append((key, record.command_id))
            else:
                self._done[key] = record
        for key, command_id in interrupted:
            self._end(key, command_id, NO_ANSWER, {"message": "the gateway stopped before the device answered; it may have obeyed"})
        self._next_id = clock.now_ms() % 1_000_000_000  # so that an answer to the run before is not taken for one of ours
        self.obeyed = 0

    def handle(self, command: Command) -> None:
        """Take a command in, or answer why not; never raises."""
        if _key(command) in self._by_command:
            return  # sent again while it is under way
        done = self._done.get(_key(command))
        if done is not None:
            self._intake.record(Lane.REPLY, done)
            return
        try:
            self._check(command)
        except Refused as refused:
            self._finish(command, int(code_of(refused)), {"message": str(refused)})

    def _check(self, command: Command) -> None:
        """Answer what cannot be carried out; accept the rest. Raises Refused."""
        key = _device(command)
        model = self._models.get(key)
        if model is None:
            return self._finish(command, int(Code.DEVICE_UNKNOWN), {"message": f"{key} is not configured at this gateway"})
        if command.expires_ms <= self._clock.now_ms():
            return self._finish(command, OFFLINE, {"message": "the command expired before it reached the device"})
        if command.method != PROPERTY_SET:
            return self._finish(command, NO_METHOD, {"message": f"this gateway does not carry {command.method[:80]!r}"})
        if key not in self._routes:
            return self._finish(command, OFFLINE, {"message": f"{key} is not attached to this gateway"})
        if len(self._by_command) >= WAITING:
            return self._finish(command, int(Code.TOO_MANY_REQUESTS), {"message": "too many commands under way"})
        model.coerce_set(command.params)
        self._by_command[_key(command)] = ""
        self._slots[_key(command)] = self._take_slot()
        self._accepted.append(command)
        self._work.set()
        return None

    async def run(self) -> None:
        """Carry out what was accepted, in order, for ever: first note it, then do it."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._accepted = self._accepted, deque()
            notes = {}
            for command in batch:
                slot = self._slots[_key(command)]
                notes[_mark(slot)] = _ENCODER.encode((slot, _key(command), ReplyRecord(command.command_id, UNDER_WAY, "{}")))
            try:
                await self._remember(notes)
            except TryAgain as problem:
                log.error("command.not_noted", extra={"problem": str(problem), "commands": len(batch)})
                for command in batch:
                    self._finish(command, int(Code.FAILED), {"message": "the gateway's disk refused; the device was not asked"})
                continue
            crash_point("obey.after_note")
            for command in batch:
                if _key(command) in self._by_command:  # not expired meanwhile
                    self._start(command)

    def _start(self, command: Command) -> None:
        key = _device(command)
        route = self._routes.get(key)
        if route is None:
            return self._finish(command, OFFLINE, {"message": f"{key} is not attached to this gateway"})
        self._next_id = self._next_id % 4_294_967_295 + 1
        message_id = str(self._next_id)
        try:
            route.set_properties(message_id, self._models[key].coerce_set(command.params))
        except Refused as refused:
            return self._finish(command, int(code_of(refused)), {"message": str(refused)})
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
        self.obeyed += 1
        data = reply.data if isinstance(reply.data, dict) else {} if reply.data is None else {"data": reply.data}
        self._finish(found[1], reply.code, data)

    def expire(self) -> None:
        """Answer for devices that did not, once their time is over; call every second or so."""
        now_ms = self._clock.now_ms()
        late = [(message_id, command) for message_id, (_, command) in self._waiting.items() if command.expires_ms <= now_ms]
        for message_id, command in late:
            del self._waiting[message_id]
            self._finish(command, NO_ANSWER, {"message": "the device did not answer in time"})

    def _take_slot(self) -> int:
        """The next place in the ring of remembered commands that none under way holds."""
        held = {slot % REMEMBERED for slot in self._slots.values()}
        while self._slot % REMEMBERED in held:
            self._slot += 1
        self._slot += 1
        return self._slot - 1

    def _finish(self, command: Command, code: int, data: Mapping[str, object]) -> None:
        self._end(_key(command), command.command_id, code, data)

    def _end(self, key: str, command_id: str, code: int, data: Mapping[str, object]) -> None:
        """The one reply of a command, remembered with it."""
        self._by_command.pop(key, None)
        slot = self._slots.pop(key, None)
        slot = self._take_slot() if slot is None else slot
        record = ReplyRecord(command_id, code, _json.encode(data).decode())
        self._done[key] = record
        while len(self._done) > REMEMBERED:
            self._done.popitem(last=False)
        self._intake.record(Lane.REPLY, record)
        self._intake.mark(_mark(slot), _ENCODER.encode((slot, key, record)), Lane.REPLY)


def _device(command: Command) -> DeviceKey:
    return DeviceKey(command.product_key, command.device_name)


def _mark(slot: int) -> str:
    return f"{MARK_PREFIX}{slot % REMEMBERED:04d}"


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
