"""`fwsim home`: appliances of one household, each its own MQTT connection to the cloud or to a gateway's front door."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Generic, Protocol, TypeVar

from firmware_sim.appliances import hood, stove
from firmware_sim.conduct import Shadow
from firmware_sim.devices import DeviceSpec
from firmware_sim.process import say
from firmware_sim.row_log import Row, RowLog, Value
from firmware_sim.wire.alink_device import AlinkDevice, now_after, run_devices
from firmware_sim.wire.commands import Commands
from firmware_sim.wire.enrolment import Enrolment
from firmware_sim.wire.firmware_client import Firmware
from firmware_sim.wire.flash_files import FlashFiles
from firmware_sim.wire.shadow_mirror import DesiredValues, ShadowMirror
from protocols.errors import Reason, Refused
from protocols.thing import library
from protocols.thing.datatypes import Value as ThingValue

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class HomeOptions:
    """`rate` is posts per device and wall second, `rows` ends the home after so many posts each.

    With a `state_dir` each device has a folder in it for its flash and its credentials; `firmware` is the version it leaves the factory
    with, `download_rate` bounds its downloads (bytes/s), `watchdog_s` is how long a new image has to start.
    """

    host: str
    port: int
    devices: tuple[DeviceSpec, ...]
    log_dir: Path
    seed: int = 1
    rate: float = 1.0
    speed: float = 1.0
    rows: int | None = None
    window: int = 20
    drain_s: float = 8.0
    state_dir: Path | None = None
    firmware: str = "1.0.0"
    download_rate: float | None = None
    watchdog_s: float = 1.0
    shadow: Shadow = Shadow.OFF


class Appliance(Protocol):
    """What the home needs of an appliance, whatever its state looks like inside; `commanded` is set by `obey`."""

    commanded: asyncio.Event

    def step(self, dt_s: float) -> Mapping[str, Value]:
        """Let `dt_s` pass; returns what it would post now."""

    def readings(self) -> Mapping[str, Value]:
        """What it would post now."""

    def obey(self, params: Mapping[str, ThingValue]) -> None:
        """Do what a property set says."""

    def serve(self, service: str, given: Mapping[str, ThingValue]) -> Mapping[str, ThingValue] | None:
        """Carry out a service and return its output; None: it has no such service."""


class Machine(Generic[S]):
    """Physics as pure steps, with the state and the random numbers they need."""

    def __init__(
        self,
        state: S,
        rng: Random,
        step: Callable[[S, float, Random], S],
        readings: Callable[[S], Mapping[str, Value]],
        obey: Callable[[S, Mapping[str, Value]], S],
        serve: Callable[[S, str, Mapping[str, Value]], tuple[S, Mapping[str, Value]] | None],
    ) -> None:
        self._state, self._rng, self._step, self._readings = state, rng, step, readings
        self._obey, self._serve = obey, serve
        self.commanded = asyncio.Event()

    def step(self, dt_s: float) -> Mapping[str, Value]:
        self._state = self._step(self._state, dt_s, self._rng)
        return self._readings(self._state)

    def readings(self) -> Mapping[str, Value]:
        return self._readings(self._state)

    def obey(self, params: Mapping[str, ThingValue]) -> None:
        self._state = self._obey(self._state, _numbers(params))
        self.commanded.set()

    def serve(self, service: str, given: Mapping[str, ThingValue]) -> Mapping[str, ThingValue] | None:
        done = self._serve(self._state, service, _numbers(given))
        if done is None:
            return None
        self._state, output = done
        self.commanded.set()
        return dict(output)


def _numbers(params: Mapping[str, ThingValue]) -> dict[str, Value]:
    return {name: value for name, value in params.items() if isinstance(value, int | float)}


def appliance(kind: str, seed: str) -> Appliance:
    """An appliance by its library thing model; raises Refused naming the kinds there are."""
    rng = Random(seed)  # noqa: S311  physics, not secrets
    match kind:
        case "integrated_stove":
            return Machine(stove.Stove(), rng, stove.step, stove.readings, stove.obey, stove.serve)
        case "range_hood":
            return Machine(hood.Hood(), rng, hood.step, hood.readings, hood.obey, hood.serve)
        case _:
            raise Refused(Reason.BAD_CONFIGURATION, f"no appliance {kind!r}: there are integrated_stove and range_hood")


def furnished(spec: DeviceSpec, machine: Appliance, options: HomeOptions) -> AlinkDevice:
    """A device with all its parts; raises Refused for one that has no secret, or needs a folder and has none."""
    host, port, key = spec.host or options.host, spec.port or options.port, (spec.product_key, spec.device_name)
    folder = None if options.state_dir is None else options.state_dir / spec.device_name
    credentials = None
    if not spec.device_secret:
        if not spec.product_secret or folder is None:
            message = f"{spec.device_name} needs a device_secret, or a product_secret and --state-dir to keep what it is given"
            raise Refused(Reason.BAD_CONFIGURATION, message)
        credentials = Enrolment(key, spec.product_secret, host, port, folder, token=spec.token)
    model = library.load(spec.kind)
    commands = Commands(model, machine.obey, machine.serve, machine.readings)
    log = RowLog(options.log_dir, spec.device_name)
    device = AlinkDevice(spec.identity(), host, port, log, commands=commands, credentials=credentials, window=options.window)
    if folder is not None:
        flash = FlashFiles(folder, options.firmware, f"{spec.kind} {options.firmware}\n".encode() * 256)
        device.parts.append(Firmware(key, flash, device.send, watchdog_s=options.watchdog_s, rate=options.download_rate))
    settable = [name for name, entry in model.properties.items() if entry.writable]
    if options.shadow is Shadow.DOCUMENT:

        def values() -> dict[str, object]:
            readings = machine.readings()
            return {name: readings[name] for name in settable if name in readings}

        mirror = ShadowMirror(key, device.send, commands.set, values)
        device.parts.append(mirror)
        device.posted = mirror.report
    elif options.shadow is Shadow.DESIRED:
        device.parts.append(DesiredValues(key, device.send, commands.set, settable))
    return device


async def live(options: HomeOptions, stop: asyncio.Event) -> int:
    """Run the appliances until stopped or out of rows, then wait for the last PUBACK; returns the exit code (1 = something unsent)."""
    machines = [appliance(spec.kind, f"{options.seed} {spec.device_name}") for spec in options.devices]
    devices = [furnished(spec, machine, options) for spec, machine in zip(options.devices, machines, strict=True)]
    say("ready", devices=[device.identity.device_name for device in devices], log_dir=str(options.log_dir))

    async def turn() -> None:
        async with asyncio.TaskGroup() as tasks:
            for device, machine in zip(devices, machines, strict=True):
                tasks.create_task(post_rows(device, machine, options), name=f"home.{device.identity.device_name}")

    return await run_devices(devices, turn(), stop, options.drain_s)


async def post_rows(device: AlinkDevice, machine: Appliance, options: HomeOptions) -> None:
    """One appliance: a post a period, and one at once after a property set."""
    last_ms, n, last = 0, 0, time.monotonic()
    while options.rows is None or n < options.rows:
        now = time.monotonic()
        values = machine.step((now - last) * options.speed)
        last, n, last_ms = now, n + 1, now_after(last_ms, time.time_ns() // 1_000_000)
        await device.post(Row(n, last_ms, values))
        with suppress(TimeoutError):
            async with asyncio.timeout(1 / options.rate):
                await machine.commanded.wait()
        machine.commanded.clear()
