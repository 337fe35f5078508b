"""`fwsim`: simulated appliances and equipment, replay of real data, load, a bad network, and the demo."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from firmware_sim import process
from firmware_sim.conduct import Shadow
from firmware_sim.options import Host, LogDir, Seed, log_dir_of, positive
from firmware_sim.sample import Machine
from firmware_sim.swarm_verb import swarm
from protocols.errors import Reason, Refused

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Wire(StrEnum):
    """How a replay shows its rows."""

    MODBUS = "modbus"
    ALINK = "alink"


class Text(StrEnum):
    """What happens to a column that holds text."""

    ENUM = "enum"
    DROP = "drop"
    REFUSE = "refuse"


@app.command()
def line(
    port: Annotated[int, typer.Option(help="Modbus TCP port, 0 = any free one (printed).")] = 5020,
    host: Host = "127.0.0.1",
    log_dir: LogDir = None,
    seed: Seed = 1,
    rate: Annotated[float, typer.Option(help="Rows per wall second, at most; a row stays until it was polled twice.")] = 2.0,
    speed: Annotated[float, typer.Option(help="Seconds of the machine per wall second.")] = 1.0,
    idle_s: Annotated[float, typer.Option(help="With nobody polling for so long, rows go by at their rate.")] = 1.0,
    map_out: Annotated[Path | None, typer.Option(help="Write the register map here (JSON).")] = None,
    fault_file: Annotated[Path | None, typer.Option(help="While this file exists, the press's die is misaligned.")] = None,
) -> None:
    """A production line on Modbus TCP: a power meter (unit 1) and a stamping press (unit 2)."""
    from firmware_sim.line import LineOptions, serve

    def checked() -> LineOptions:
        positive("--rate", rate)
        positive("--speed", speed)
        return LineOptions(host, port, log_dir_of(log_dir), seed, rate, speed, idle_s, map_out=map_out, fault_file=fault_file)

    raise typer.Exit(process.run(lambda stop: serve(checked(), stop)))


@app.command()
def home(
    devices: Annotated[
        Path,
        typer.Option(
            help="JSON: [{kind, product_key, device_name, device_secret (or product_secret, token?: it registers), host?, port?}]"
        ),
    ],
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="MQTT port of the cloud or of a gateway's front door.")] = 1883,
    log_dir: LogDir = None,
    seed: Seed = 1,
    rate: Annotated[float, typer.Option(help="Posts per device and wall second.")] = 1.0,
    speed: Annotated[float, typer.Option(help="Seconds of the appliance per wall second.")] = 1.0,
    rows: Annotated[int | None, typer.Option(help="Stop after so many posts each.")] = None,
    drain_s: Annotated[float, typer.Option(help="After SIGTERM, wait so long for the last PUBACK.")] = 8.0,
    state_dir: Annotated[
        Path | None, typer.Option(help="Flash and credentials of each device; with it they take firmware, even when killed meanwhile.")
    ] = None,
    firmware: Annotated[str, typer.Option(help="Version that a device has before any update.")] = "1.0.0",
    download_rate: Annotated[float | None, typer.Option(help="Bytes a second of a firmware download, at most.")] = None,
    watchdog_s: Annotated[float, typer.Option(help="A new image has so long to start; then the old one is back.")] = 1.0,
    shadow: Annotated[Shadow, typer.Option(help="document: keep the shadow; desired: ask for desired values on connecting.")] = Shadow.OFF,
) -> None:
    """Appliances on Alink MQTT: integrated stove and range hood. They hold every message until PUBACK, obey sets and serve calls.

    A firmware image that begins with the line `fwsim-image boots=no` does not start.
    """
    from firmware_sim.devices import read_devices
    from firmware_sim.home import HomeOptions, live

    def checked() -> HomeOptions:
        positive("--rate", rate)
        positive("--speed", speed)
        positive("--download-rate", download_rate)
        return HomeOptions(
            host,
            port,
            tuple(read_devices(devices)),
            log_dir_of(log_dir),
            seed,
            rate,
            speed,
            rows,
            drain_s=drain_s,
            state_dir=state_dir,
            firmware=firmware,
            download_rate=download_rate,
            watchdog_s=watchdog_s,
            shadow=shadow,
        )

    raise typer.Exit(process.run(lambda stop: live(checked(), stop)))


@app.command()
def gateway(
    own: Annotated[Path, typer.Option("--gateway", help="JSON: {product_key, device_name, device_secret} of the gateway itself.")],
    devices: Annotated[Path, typer.Option(help="JSON list of its sub-devices: [{kind, product_key, device_name, device_secret}].")],
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="MQTT port of the cloud.")] = 1883,
    log_dir: LogDir = None,
    seed: Seed = 1,
    rate: Annotated[float, typer.Option(help="Posts per sub-device and wall second.")] = 1.0,
) -> None:
    """A gateway that carries appliances: adds them, logs them in, posts and answers for them over its one connection.

    Reads `logout [NAME]`, `login [NAME]` and `count` from stdin, one a line, and says a JSON line for each.
    """
    from firmware_sim.devices import read_devices
    from firmware_sim.gateway import GatewayOptions, carry

    async def main(stop: process.Stop) -> int:
        positive("--rate", rate)
        carrier, *more = read_devices(own)
        if more:
            raise Refused(Reason.BAD_CONFIGURATION, "--gateway names more than one device: give the others as --devices")
        options = GatewayOptions(host, port, carrier, tuple(read_devices(devices)), log_dir_of(log_dir), seed, rate)
        return await carry(options, stop, process.lines())

    raise typer.Exit(process.run(main))


@app.command()
def sample(
    machine: Annotated[Machine, typer.Argument(help="Whose rows.")],
    rows: Annotated[int, typer.Option(min=1, help="How many.")] = 5_000,
    every_ms: Annotated[int, typer.Option(min=1, help="Milliseconds of the machine's time between two rows.")] = 200,
    seed: Seed = 1,
) -> None:
    """Rows of a sound machine as CSV on stdout, to train a model on."""
    from firmware_sim.sample import write_csv

    write_csv(sys.stdout, machine, rows, every_ms, seed)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A CSV or .csv.gz file with a header.")],
    wire: Annotated[Wire, typer.Option("--as", help="modbus: one slave; alink: MQTT appliances.")],
    host: Host = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Modbus: to listen on (5020; 0 = any). Alink: to connect to (1883).")] = None,
    log_dir: LogDir = None,
    time_column: Annotated[str | None, typer.Option(help="Found by its name or its dates if not given; no zone means UTC.")] = None,
    time_format: Annotated[str | None, typer.Option(help="strptime format of the time column, if not ISO 8601 or epoch.")] = None,
    start: Annotated[str | None, typer.Option(help="Time of the first row (ISO), for a file without a time column.")] = None,
    step_s: Annotated[float, typer.Option(help="Seconds between rows, with --start.")] = 1.0,
    columns: Annotated[str | None, typer.Option(help="Comma list of headers to replay; all if not given.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="HEADER=IDENTIFIER; without --columns only these are replayed.")] = None,
    text: Annotated[Text, typer.Option(help="A column of text becomes an enum, is dropped, or refused.")] = Text.ENUM,
    rows: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    speed: Annotated[float, typer.Option(help="How much faster than the file's own times.")] = 1.0,
    rate: Annotated[float | None, typer.Option(help="Rows per wall second, instead of the file's times.")] = None,
    tsl_out: Annotated[Path | None, typer.Option(help="Write the thing model of the columns here (TSL JSON).")] = None,
    device_name: Annotated[str | None, typer.Option(help="Name of the device and of its log.")] = None,
    unit_id: Annotated[int, typer.Option(help="[modbus] Unit id of the slave.")] = 1,
    address: Annotated[list[str] | None, typer.Option(help="[modbus] NAME=holding|input:ADDRESS[:TYPE]; NAME may be a header.")] = None,
    map_out: Annotated[Path | None, typer.Option(help="[modbus] Write the points here, as the agent's configuration names them.")] = None,
    idle_s: Annotated[float, typer.Option(help="[modbus] With nobody polling for so long, rows go by at their rate.")] = 1.0,
    max_age: Annotated[float | None, typer.Option(help="[modbus] A row never waits longer than this (s) for its two polls.")] = None,
    product_key: Annotated[str | None, typer.Option(help="[alink] With --device-name and --secret-file: one device.")] = None,
    secret_file: Annotated[Path | None, typer.Option(help="[alink] File with the device secret.")] = None,
    devices: Annotated[Path | None, typer.Option(help="[alink] JSON list of devices, each with its columns {header: identifier}.")] = None,
    window: Annotated[int, typer.Option(help="[alink] Messages in flight per device.")] = 20,
    drain_s: Annotated[float, typer.Option(help="[alink] After SIGTERM, wait so long for the last PUBACK.")] = 8.0,
) -> None:
    """Rows of any CSV as a machine's registers or as an appliance's messages, in real time or faster."""
    from firmware_sim.devices import DeviceSpec, read_devices
    from firmware_sim.replay import AlinkReplay, ModbusReplay, Pace, as_alink, as_modbus, write_thing_model
    from firmware_sim.series import Series, identifier_of, read_series
    from firmware_sim.wire.registers import parse_place

    def series_of(named: dict[str, str]) -> Series:
        wanted = columns.split(",") if columns else list(named)
        return read_series(
            file,
            time_column=time_column,
            time_format=time_format,
            start=start,
            step_s=step_s,
            columns=[name.strip() for name in wanted],
            named=named,
            text=text.value,
            rows=rows,
        )

    def one_device() -> DeviceSpec:
        if product_key is None or device_name is None or secret_file is None:
            raise Refused(Reason.BAD_CONFIGURATION, "--as alink needs --devices, or --product-key, --device-name and --secret-file")
        try:
            secret = secret_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Refused(Reason.BAD_CONFIGURATION, f"--secret-file: {error}") from error
        return DeviceSpec(product_key, device_name, secret)

    async def main(stop: process.Stop) -> int:
        positive("--speed", speed)
        positive("--rate", rate)
        named = dict(_pair(entry, "--column") for entry in column or ())
        pace, logs = Pace(speed, rate), log_dir_of(log_dir)
        if wire is Wire.MODBUS:
            series = series_of(named)
            if tsl_out is not None:
                write_thing_model(tsl_out, series, registers=True)
            identifiers = {entry.header: entry.identifier for entry in series.columns}
            places = dict(parse_place(entry) for entry in address or ())
            places = {identifiers.get(name, identifier_of(name)): place for name, place in places.items()}
            name = device_name or identifier_of(file.name.partition(".")[0])
            slave = ModbusReplay(host, 5020 if port is None else port, name, logs, pace, unit_id, idle_s, max_age, map_out)
            return await as_modbus(series, slave, places, stop)
        specs = read_devices(devices) if devices is not None else [one_device()]
        parts = [(spec, series_of(spec.columns or named)) for spec in specs]
        if tsl_out is not None:
            write_thing_model(tsl_out, parts[0][1], registers=False)
        return await as_alink(parts, AlinkReplay(host, 1883 if port is None else port, logs, pace, window, drain_s=drain_s), stop)

    raise typer.Exit(process.run(main))


@app.command()
def controller(
    file: Annotated[Path, typer.Argument(help="A CSV or .csv.gz file with a header.")],
    line: Annotated[Path, typer.Option(help="Make this link to the pseudo terminal: `path` of the agent's connector.")],
    log_dir: LogDir = None,
    device_name: Annotated[str, typer.Option(help="Name of the device and of its log.")] = "controller-1",
    columns: Annotated[str | None, typer.Option(help="Comma list of headers to send; all if not given.")] = None,
    rows: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    speed: Annotated[float, typer.Option(help="How much faster than the file's own times.")] = 1.0,
    rate: Annotated[float | None, typer.Option(help="Rows per wall second, instead of the file's times.")] = None,
    memory: Annotated[int, typer.Option(min=1, help="Rows that it holds until they are acknowledged; then the oldest goes.")] = 4_000,
    own_time: Annotated[bool, typer.Option(help="Rows carry their time; else how old they are.")] = True,
    tsl_out: Annotated[Path | None, typer.Option(help="Write the thing model of the columns here (TSL JSON).")] = None,
    map_out: Annotated[Path | None, typer.Option(help="Write the tags here, as the agent's configuration names them.")] = None,
) -> None:
    """An appliance's controller on a serial line: rows until they are acknowledged, and sets. SIGUSR1 is a dip of its supply."""
    from firmware_sim.controller import ControllerOptions, serve
    from firmware_sim.replay import Pace
    from firmware_sim.series import read_series

    async def main(stop: process.Stop) -> int:
        positive("--speed", speed)
        positive("--rate", rate)
        wanted = [name.strip() for name in columns.split(",")] if columns else []
        series = read_series(file, columns=wanted, named={}, rows=rows)
        options = ControllerOptions(line, device_name, log_dir_of(log_dir), Pace(speed, rate), memory, own_time, map_out, tsl_out)
        return await serve(series, options, stop)

    raise typer.Exit(process.run(main))


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise Refused(Reason.BAD_CONFIGURATION, f"{option} {text!r} is not HEADER=IDENTIFIER")
    return name, value


app.command()(swarm)


@app.command()
def proxy(
    target: Annotated[str, typer.Argument(help="HOST:PORT to forward to.")],
    port: Annotated[int, typer.Option(help="Port to listen on, 0 = any free one (printed).")] = 0,
    host: Host = "127.0.0.1",
    delay_s: Annotated[float, typer.Option(help="How late every byte arrives.")] = 0.0,
) -> None:
    """A network that fails on command: reads `cut`, `cut freeze`, `restore`, `delay SECONDS` from stdin, one a line."""
    from firmware_sim.faults import TcpProxy, obey

    async def main(stop: process.Stop) -> int:
        target_host, _, target_port = target.rpartition(":")
        if not target_host or not target_port.isdecimal():
            raise Refused(Reason.BAD_CONFIGURATION, f"{target!r} is not HOST:PORT")
        link = TcpProxy(target_host, int(target_port), host=host, port=port, delay_s=delay_s)
        process.say("ready", host=host, port=await link.start(), target=target)
        try:
            await process.until(stop, obey(link, process.lines(), process.say))
        finally:
            await link.stop()
        return 0

    raise typer.Exit(process.run(main))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running; prints the API's address and key.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Everything of the run; emptied first.")] = Path("build/demo"),
    seed: Seed = 1,
) -> None:
    """The platform's main job, once: a line, a gateway, a home, a network that fails; ends with the account (build/demo.json)."""
    from firmware_sim.demo import DemoOptions
    from firmware_sim.demo import demo as run_demo

    options = DemoOptions(folder, folder.parent / "demo.json", keep, seed)
    raise typer.Exit(process.run(lambda stop: run_demo(options, stop)))


def main() -> None:
    """Console script."""
    app()
