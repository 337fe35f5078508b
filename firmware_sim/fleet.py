"""`fwsim swarm --as fleet`: a fleet that connects, stays, and answers what it is asked. Its log says who was told what."""

import asyncio
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from firmware_sim.conduct import Conduct, Response
from firmware_sim.devices import DeviceSpec
from firmware_sim.process import remark, say, until
from firmware_sim.wire.commands import KINDS, answer_topic
from protocols.alink.codes import Code
from protocols.alink.credentials import sign
from protocols.alink.envelope import open_request
from protocols.alink.messages import reply
from protocols.alink.topics import Topic
from protocols.errors import Reason, Refused, TryAgain
from protocols.mqtt.codec import ConnAck, Connect, Decoder, Disconnect, PublishRun, encode, encode_publish

CONNECT_S = 30.0
TOGETHER = 200  # connections that are made at the same time
KEEPALIVE_S = 1_200  # no pings: a run is shorter
AGAIN_S = 1.0
_IDS = 65_535


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """`log` gets a JSON line for each command that came; `seconds` ends the fleet, None: a signal does."""

    host: str
    port: int
    conduct: Conduct
    log: Path
    seconds: float | None = None


@dataclass(slots=True)
class Tally:
    """What the whole fleet saw; `refused` are CONNECTs, `again` connections that came again by themselves, `unreadable` messages."""

    connected: int = 0
    refused: int = 0
    again: int = 0
    commands: int = 0
    repeated: int = 0
    others: int = 0
    unreadable: int = 0
    responses: Counter[str] = field(default_factory=Counter)


class FleetFailed(TryAgain):
    """Devices of the fleet were refused, or did not get through."""


class Fleet:
    """All devices, and what they share."""

    def __init__(self, specs: Sequence[DeviceSpec], options: FleetOptions, log: BinaryIO) -> None:
        self.options, self.tally, self._log = options, Tally(), log
        at_home, away = options.conduct.at_home(specs)
        self.members = {_key(spec): Member(self, spec, options.conduct.ext(place)) for place, spec in enumerate(specs)}
        if len(self.members) != len(specs):
            raise Refused(Reason.BAD_CONFIGURATION, "the file names a device twice: keep one of them")
        self._at_home = [self.members[_key(spec)] for spec in at_home]
        self._away = [self.members[_key(spec)] for spec in away]
        self._tasks = asyncio.TaskGroup()

    @property
    def online(self) -> int:
        return sum(member.is_connected for member in self.members.values())

    async def run(self, stop: asyncio.Event, orders: AsyncIterator[str]) -> None:
        """Connect, say so, and stay until `stop`, the end of the time, or a device that is refused (FleetFailed)."""
        async with self._tasks:
            try:
                started = time.monotonic()
                await self.come(self._at_home)
                took = round(time.monotonic() - started, 3)
                say("ready", online=self.online, away=len(self._away), seconds=took, log=str(self.options.log))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.options.seconds):
                        await until(stop, self._take(orders))
            finally:
                for member in self.members.values():
                    member.leave()

    async def _take(self, orders: AsyncIterator[str]) -> None:
        """`online [COUNT]`, `offline [COUNT]`, `count`, one a line. Without anybody who speaks the fleet stays as it is."""
        async for line in orders:
            word, _, number = line.partition(" ")
            if word == "online" and (not number or number.isdecimal()):
                coming, self._away = self._split(self._away, number)
                await self.come(coming)
                self._at_home += coming
            elif word == "offline" and (not number or number.isdecimal()):
                going, self._at_home = self._split(self._at_home, number)
                for member in going:
                    member.leave()
                self._away += going
            elif word != "count":
                remark(f"fwsim: {line!r} is none of: online [COUNT], offline [COUNT], count")
                continue
            say(word, online=self.online, away=len(self._away), **self.summary())
        await asyncio.Event().wait()

    @staticmethod
    def _split(members: "list[Member]", number: str) -> "tuple[list[Member], list[Member]]":
        count = int(number) if number else len(members)
        return members[:count], members[count:]

    async def come(self, members: "Sequence[Member]") -> None:
        """Connect them, `TOGETHER` at a time; raises FleetFailed when one is refused or does not get through."""
        for start in range(0, len(members), TOGETHER):
            try:
                async with asyncio.timeout(CONNECT_S), asyncio.TaskGroup() as tasks:
                    for member in members[start : start + TOGETHER]:
                        tasks.create_task(member.come(), name="fleet.come")
            except TimeoutError:
                raise FleetFailed(f"no CONNACK for {CONNECT_S:g} s: is the server at work?") from None

    def come_again(self, member: "Member") -> None:
        """A connection was lost that nobody ended: the device comes again, as a device does."""
        self.tally.again += 1
        self._tasks.create_task(self._come_again(member), name="fleet.again")

    async def _come_again(self, member: "Member") -> None:
        while member.wanted and not member.is_connected:
            await asyncio.sleep(AGAIN_S)
            try:
                async with asyncio.timeout(CONNECT_S):
                    await member.come()
            except (TryAgain, TimeoutError):
                continue

    def note(self, member: "Member", message_id: str, method: str, topic: Topic, response: Response, n: int) -> None:
        """A command came, for the `n`th time; it is in the log before the answer leaves."""
        self.tally.commands += 1
        self.tally.repeated += n > 1
        self.tally.responses[response] += 1
        line = {
            "device": member.spec.device_name,
            "id": message_id,
            "method": method,
            "carrier": topic.kind.value,
            "response": response,
            "n": n,
            "time_ms": time.time_ns() // 1_000_000,
        }
        self._log.write(msgspec.json.encode(line) + b"\n")
        self._log.flush()

    def summary(self) -> dict[str, object]:
        """The tally as a line of JSON."""
        fields: dict[str, object] = {name: getattr(self.tally, name) for name in Tally.__slots__ if name != "responses"}
        return fields | {str(response): self.tally.responses[response] for response in Response}


class Member(asyncio.Protocol):
    """One device: its socket, and which commands it has had. `wanted` says whether it means to be connected."""

    def __init__(self, fleet: Fleet, spec: DeviceSpec, ext: int) -> None:
        self._fleet, self.spec, self._ext = fleet, spec, ext
        self._decoder = Decoder(server_side=False)
        self._transport: asyncio.Transport | None = None
        self._let_in: asyncio.Future[None] | None = None
        self._seen: Counter[str] = Counter()
        self._packet_id = 0
        self.wanted = self.is_connected = False

    async def come(self) -> None:
        """Connect and wait for the CONNACK; raises FleetFailed when it says no, or nobody listens."""
        loop = asyncio.get_running_loop()
        self.wanted, self._decoder, self._let_in = True, Decoder(server_side=False), loop.create_future()
        options = self._fleet.options
        try:
            await loop.create_connection(lambda: self, self.spec.host or options.host, self.spec.port or options.port)
        except OSError as error:
            raise FleetFailed(f"{self.spec.device_name}: {error}") from error
        await self._let_in

    def leave(self) -> None:
        """DISCONNECT; nothing if it is away."""
        self.wanted = self.is_connected = False
        if self._transport is not None:
            self._transport.write(encode(Disconnect(), 4))
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        fields = sign(self.spec.product_key, self.spec.device_name, self.spec.device_secret, ext=self._ext)
        self._transport.write(encode(Connect(fields.client_id, fields.username, fields.password, keepalive=KEEPALIVE_S), 4))

    def data_received(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            if isinstance(packet, PublishRun):
                if packet.qos and self._transport is not None:
                    self._transport.write(packet.acks())
                for payload in packet.payloads():
                    self._take(packet.topic, payload)
            elif isinstance(packet, ConnAck):
                self._on_connack(packet)

    def _on_connack(self, packet: ConnAck) -> None:
        waiting = self._let_in
        if packet.reason == 0:
            self.is_connected = True
            self._fleet.tally.connected += 1
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
            return
        self._fleet.tally.refused += 1
        if waiting is not None and not waiting.done():
            waiting.set_exception(FleetFailed(f"{self.spec.device_name}: CONNECT refused with {packet.reason}"))

    def _take(self, name: str, payload: bytes) -> None:
        """Note a command, then do with it what the fleet's conduct says; other messages are counted."""
        try:
            topic = Topic.parse(name)
            if topic.kind not in KINDS:
                self._fleet.tally.others += 1
                return
            request = open_request(payload)
            message_id, method = str(msgspec.json.decode(request.id)), str(msgspec.json.decode(request.method or b'""'))
        except (Refused, msgspec.MsgspecError):
            self._fleet.tally.unreadable += 1
            return
        response = self._fleet.options.conduct.response(self.spec.device_name, message_id)
        self._seen[message_id] += 1
        self._fleet.note(self, message_id, method, topic, response, self._seen[message_id])
        if response is Response.IGNORE or self._transport is None:
            return
        code, text = (Code.DONE, "success") if response is Response.OBEY else (Code.FAILED, "not now")
        answer = reply(request.id, method, code, message=text)
        self._packet_id = self._packet_id % _IDS + 1
        self._transport.write(encode_publish(str(answer_topic(topic)), answer, 1, self._packet_id))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_connected, self._transport = False, None
        waiting = self._let_in
        if waiting is not None and not waiting.done():
            text = f"{self.spec.device_name}: the connection ended before its CONNACK ({exc or 'closed by the server'})"
            waiting.set_exception(FleetFailed(text))
        elif self.wanted:
            self._fleet.come_again(self)


def _key(spec: DeviceSpec) -> tuple[str, str]:
    return spec.product_key, spec.device_name


def raise_file_limit(needed: int) -> None:
    """Allow this process so many open files; raises Refused where the machine does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise Refused(Reason.BAD_CONFIGURATION, f"{needed} open files are needed, the machine allows {hard}: raise `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def run_fleet(specs: Sequence[DeviceSpec], options: FleetOptions, stop: asyncio.Event, orders: AsyncIterator[str]) -> int:
    """Run a fleet to its end and say one summary line. Raises FleetFailed, or Refused for a log that is there already."""
    raise_file_limit(len(specs) + 64)
    options.log.parent.mkdir(parents=True, exist_ok=True)
    try:
        log = options.log.open("xb")
    except FileExistsError:
        raise Refused(Reason.BAD_CONFIGURATION, f"{options.log} exists: choose another --log") from None
    with log:
        fleet = Fleet(specs, options, log)
        await fleet.run(stop, orders)
        say("summary", devices=len(specs), **fleet.summary())
    return 0
