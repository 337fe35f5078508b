"""The verb `fwsim swarm`: load, or a fleet that answers."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from firmware_sim import process
from firmware_sim.conduct import Carrier, Conduct
from firmware_sim.options import Host, Seed, log_dir_of, positive
from protocols.errors import Reason, Refused


class Message(StrEnum):
    """What a swarm sends."""

    BYTES = "bytes"
    POSTS = "posts"
    FRAMES = "frames"
    FLEET = "fleet"


def swarm(
    port: Annotated[int, typer.Option(help="MQTT port.")],
    host: Host = "127.0.0.1",
    message: Annotated[Message, typer.Option("--as", help="bytes of a size, Alink posts, edge frames; fleet: answers.")] = Message.BYTES,
    devices: Annotated[
        Path | None, typer.Option(help="JSON list of devices (for frames, gateways with `behind`), or CSV: device_name, device_secret.")
    ] = None,
    product_key: Annotated[str | None, typer.Option(help="Of all devices, when --devices is a CSV file.")] = None,
    anonymous: Annotated[int, typer.Option(help="So many connections without credentials instead, for another broker.")] = 0,
    topic: Annotated[str, typer.Option(help="[bytes] Topic; {pk} and {dn} are filled in.")] = "/{pk}/{dn}/user/load",
    size: Annotated[int, typer.Option(help="[bytes] Payload size.")] = 200,
    identifiers: Annotated[str, typer.Option(help="[posts, frames] Comma list of properties.")] = "p1,p2,p3,p4",
    readings: Annotated[int, typer.Option(help="[frames] Readings a frame.")] = 1_000,
    start_ms: Annotated[int, typer.Option(help="[posts, frames] Event time of the first message.")] = 1_700_000_000_000,
    step_ms: Annotated[int, typer.Option(help="[posts, frames] Event time between readings of one property.")] = 1_000,
    window: Annotated[int, typer.Option(help="Messages in flight per connection.")] = 10,
    count: Annotated[int | None, typer.Option(help="Messages per connection.")] = None,
    seconds: Annotated[float | None, typer.Option(help="[bytes] Send for so long. [fleet] Stay for so long.")] = None,
    rate: Annotated[float | None, typer.Option(help="Messages a second, all connections together.")] = None,
    timing: Annotated[bool, typer.Option(help="Measure PUBACK and reply times.")] = False,
    reply: Annotated[bool, typer.Option(help="[posts] Ask for a reply to every post and wait for it.")] = False,
    refuse: Annotated[float, typer.Option(help="[fleet] Share of the commands that are refused.")] = 0.0,
    ignore: Annotated[float, typer.Option(help="[fleet] Share of the commands that are never answered.")] = 0.0,
    away: Annotated[float, typer.Option(help="[fleet] Share of the devices that stay away until a line `online` on stdin.")] = 0.0,
    carrier: Annotated[Carrier, typer.Option(help="[fleet] How sync services come: on their topic, as a request, half of each.")] = (
        Carrier.BOTH
    ),
    log: Annotated[Path | None, typer.Option(help="[fleet] A JSON line for each command that came; a new file.")] = None,
    seed: Seed = 1,
) -> None:
    """Many devices. As load: a window of QoS 1 messages on each connection, PUBACKs counted, one JSON line at the end.

    As a fleet: connected until a signal, answering property sets and services. Reads `online [COUNT]`, `offline [COUNT]` and `count` from
    stdin, one a line, and says a JSON line for each.
    """
    import msgspec

    from firmware_sim import load
    from firmware_sim.devices import DeviceSpec, read_devices, read_secrets
    from firmware_sim.fleet import FleetOptions, run_fleet
    from firmware_sim.swarm import run

    names = [name.strip() for name in identifiers.split(",")]

    def load_of(spec: DeviceSpec, index: int) -> load.Load:
        connect = load.connect_of(spec) if devices is not None else load.anonymous(index)
        pk, dn = spec.product_key, spec.device_name
        match message:
            case Message.BYTES:
                return load.load_of(connect, topic.format(pk=pk, dn=dn), load.filler(size, 64 * window), count)
            case Message.POSTS:
                payloads = load.posts(names, count or 1, start_ms, step_ms, reply=reply)
                return load.load_of(connect, load.post_topic(pk, dn), payloads, count)
            case Message.FRAMES | Message.FLEET:
                frames = load.frames(spec.behind, names, readings, count or 1, start_ms, step_ms)
                return load.load_of(connect, load.live_topic(pk, dn), frames, count)

    def specs_of(file: Path) -> list[DeviceSpec]:
        if file.suffix != ".csv":
            return read_devices(file)
        if product_key is None:
            raise Refused(Reason.BAD_CONFIGURATION, "a CSV file of devices needs --product-key")
        return read_secrets(file, product_key)

    async def main(stop: process.Stop) -> int:
        positive("--rate", rate)
        if message is Message.FLEET:
            if devices is None:
                raise Refused(Reason.BAD_CONFIGURATION, "a fleet needs --devices")
            options = FleetOptions(
                host, port, Conduct(refuse, ignore, away, carrier, seed), log or log_dir_of(None) / "fleet.jsonl", seconds
            )
            return await run_fleet(specs_of(devices), options, stop, process.lines())
        if (count is None) == (seconds is None) or (seconds is not None and message is not Message.BYTES):
            raise Refused(Reason.BAD_CONFIGURATION, "give --count, or for --as bytes --seconds")
        if (devices is None) == (anonymous < 1):
            raise Refused(Reason.BAD_CONFIGURATION, "give --devices or --anonymous")
        specs = [DeviceSpec("load", f"c{index}", "") for index in range(anonymous)] if devices is None else specs_of(devices)
        loads = [load_of(spec, index) for index, spec in enumerate(specs)]
        result = await run(loads, host, port, window=window, rate=rate, seconds=seconds, timing=timing, replies=reply)
        process.say("swarm", **msgspec.to_builtins(result))
        return 0

    raise typer.Exit(process.run(main, fast=True))
