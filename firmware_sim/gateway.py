"""`fwsim gateway`: a gateway that speaks Alink and carries appliances as its sub-devices."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from firmware_sim.devices import DeviceSpec
from firmware_sim.home import Appliance, appliance
from firmware_sim.process import remark, say
from firmware_sim.row_log import Row, RowLog
from firmware_sim.wire.alink_device import AlinkDevice, now_after, run_devices
from firmware_sim.wire.commands import KINDS, Commands
from firmware_sim.wire.topology_client import Key, Topology
from protocols.alink.messages import property_post
from protocols.alink.topics import Kind, Topic
from protocols.thing import library

ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """`rate` is posts per sub-device and wall second."""

    host: str
    port: int
    gateway: DeviceSpec
    devices: tuple[DeviceSpec, ...]
    log_dir: Path
    seed: int = 1
    rate: float = 1.0
    drain_s: float = 8.0


@dataclass(slots=True)
class Carried:
    """A sub-device behind the gateway: its machine, who answers for it, and what it posted."""

    key: Key
    machine: Appliance
    commands: Commands
    log: RowLog


class SubDevices:
    """The part of the gateway that carries (see `Part`): what goes on the wire in the name of sub-devices goes through here."""

    def __init__(self, device: AlinkDevice, options: GatewayOptions) -> None:
        self._device, self._rate = device, options.rate
        key = (options.gateway.product_key, options.gateway.device_name)
        secrets = {(spec.product_key, spec.device_name): spec.device_secret for spec in options.devices}
        self.topology = Topology(key, secrets, device.mention, lambda: str(time.time_ns() // 1_000_000))
        self.carried: dict[Key, Carried] = {}
        for spec in options.devices:
            machine = appliance(spec.kind, f"{options.seed} {spec.device_name}")
            commands = Commands(library.load(spec.kind), machine.obey, machine.serve, machine.readings)
            sub = (spec.product_key, spec.device_name)
            self.carried[sub] = Carried(sub, machine, commands, RowLog(options.log_dir, spec.device_name))

    async def start(self) -> None:
        """Nothing is kept."""

    async def work(self) -> None:
        """Everybody comes in over the new connection; a request without an answer is made again."""
        self.topology.connected()
        while True:
            waiting = self.topology.waits_for
            await asyncio.sleep(ANSWER_S)
            if waiting and waiting == self.topology.waits_for:
                self.topology.give_up()

    def receive(self, topic: Topic, payload: bytes) -> bool:
        carried = self.carried.get((topic.product_key, topic.device_name))
        if carried is None:
            return self.topology.receive(topic, payload)
        if topic.kind in KINDS:
            self._device.mention(*carried.commands.answer(topic, payload))
        return True

    async def post(self, carried: Carried) -> None:
        """Rows of one sub-device for ever, while it is logged in: QoS 0, since what waits for a login would come before it."""
        last_ms, n, last = 0, 0, time.monotonic()
        topic = str(Topic(Kind.PROPERTY_POST, *carried.key))
        while True:
            await asyncio.sleep(1 / self._rate)
            now = time.monotonic()
            values = carried.machine.step(now - last)
            last = now
            if self.topology.is_in(carried.key):
                n, last_ms = n + 1, now_after(last_ms, time.time_ns() // 1_000_000)
                carried.log.write(Row(n, last_ms, values))
                self._device.mention(topic, property_post(n, values, last_ms))

    def summary(self) -> dict[str, object]:
        """Counts, and where each sub-device stands."""
        counts = msgspec.to_builtins(self.topology.counts)
        standing = {sub.key[1]: str(sub.standing.value) for sub in self.topology.sub_devices.values()}
        asked = {"sets": sum(c.commands.sets for c in self.carried.values()), "calls": sum(c.commands.calls for c in self.carried.values())}
        return {**counts, **asked, "codes": {str(code): n for code, n in self.topology.counts.codes.items()}, "standing": standing}

    async def take(self, orders: AsyncIterator[str]) -> None:
        """`logout [NAME]`, `login [NAME]`, `count`, one a line."""
        async for line in orders:
            word, _, name = line.partition(" ")
            keys = [key for key in self.carried if not name or key[1] == name]
            if word == "logout" and keys:
                self.topology.log_out(keys)
            elif word == "login" and keys:
                self.topology.log_in(keys)
            elif word != "count":
                remark(f"fwsim: {line!r} is none of: logout [NAME], login [NAME], count; or there is no such sub-device")
                continue
            say(word, **self.summary())
        await asyncio.Event().wait()


async def carry(options: GatewayOptions, stop: asyncio.Event, orders: AsyncIterator[str]) -> int:
    """Run a gateway and what it carries until stopped; says its counts at the end. Returns the exit code of its connection."""
    own = options.gateway
    device = AlinkDevice(own.identity(), own.host or options.host, own.port or options.port, RowLog(options.log_dir, own.device_name))
    subs = SubDevices(device, options)
    device.parts.append(subs)
    say("ready", gateway=own.device_name, devices=[key[1] for key in subs.carried], log_dir=str(options.log_dir))

    async def turn() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(subs.take(orders), name="gateway.orders")
            for carried in subs.carried.values():
                tasks.create_task(subs.post(carried), name=f"gateway.{carried.key[1]}")

    code = await run_devices([device], turn(), stop, options.drain_s)
    for carried in subs.carried.values():
        carried.log.close()
    say("carried", rows=sum(carried.log.rows for carried in subs.carried.values()), **subs.summary())
    return code
