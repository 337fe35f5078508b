"""`fwsim controller`: rows of a file as an appliance's controller sends them over a serial line, on a pseudo terminal."""

import asyncio
import json
import os
import signal
import tty
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from firmware_sim.process import remark, say, until
from firmware_sim.replay import Pace, write_thing_model
from firmware_sim.row_log import RowLog
from firmware_sim.series import Series
from firmware_sim.wire.serial_controller import Controller
from protocols.field.serial_line import VALUE_TAGS, SerialDecoder, TagType, decode_value, encode_serial

TICK_S = 0.02
BACKLOG = 3_000  # bytes in the terminal: more is kept back, as a UART would


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """`line`: a link to the terminal; `memory` rows are held; `map_out`: the tags as the agent's configuration names them."""

    line: Path
    device_name: str
    log_dir: Path
    pace: Pace
    memory: int = 4_000
    own_time: bool = True
    map_out: Path | None = None
    tsl_out: Path | None = None


async def serve(series: Series, options: ControllerOptions, stop: asyncio.Event) -> int:
    """Send every row until it is acknowledged; returns 0 when none is left, 1 when stopped before. SIGUSR1 is a dip of its supply."""
    for text in series.remarks:
        remark(text)
    tags = dict(zip((column.identifier for column in series.columns), VALUE_TAGS, strict=False))
    if options.tsl_out is not None:
        write_thing_model(options.tsl_out, series, registers=False, access="rw")
    if options.map_out is not None:
        listed = [{"tag": tag, "type": "float64", "property": identifier} for identifier, tag in tags.items()]
        options.map_out.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    names = {tag: identifier for identifier, tag in tags.items()}

    def obey(values: Mapping[int, bytes]) -> bool:
        say("set", values={names.get(tag, str(tag)): decode_value(TagType.FLOAT64, data) for tag, data in values.items()})
        return all(tag in names for tag in values)

    loop = asyncio.get_running_loop()
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    options.line.unlink(missing_ok=True)
    options.line.symlink_to(os.ttyname(theirs))
    log = RowLog(options.log_dir, options.device_name)
    controller = Controller(options.memory, own_time=options.own_time, obey=obey)
    decoder, out = SerialDecoder(), bytearray()

    def heard() -> None:
        with suppress(OSError):
            for frame in decoder.feed(os.read(ours, 4096)):
                answer = controller.hear(frame)
                if answer is not None:
                    out.extend(encode_serial(answer))

    def talk() -> None:
        if len(out) < BACKLOG:
            for frame in controller.due(loop.time()):
                out.extend(encode_serial(frame))
        with suppress(OSError):
            del out[: os.write(ours, bytes(out[:1024]))]

    async def work() -> None:
        due = loop.time()
        for row, period_s in options.pace.rows(series):
            log.write(row)
            controller.add(row.time_ms, loop.time(), {tags[name]: (TagType.FLOAT64, value) for name, value in row.values.items()})
            while not controller.acknowledged:  # the first row waits for somebody: nothing is produced before anyone could lose it
                talk()
                await asyncio.sleep(TICK_S)
                due = loop.time()
            due += period_s
            while loop.time() < due:
                talk()
                await asyncio.sleep(min(TICK_S, max(0.0, due - loop.time())))
        say("done", rows=log.rows, readings=log.readings)
        while len(controller):
            talk()
            await asyncio.sleep(TICK_S)

    loop.add_reader(ours, heard)
    loop.add_signal_handler(signal.SIGUSR1, controller.reset)
    say("ready", line=str(options.line), devices=[options.device_name], rows=len(series.times), log_dir=str(options.log_dir))
    try:
        finished = await until(stop, work())
    finally:
        loop.remove_reader(ours)
        loop.remove_signal_handler(signal.SIGUSR1)
        options.line.unlink(missing_ok=True)
        os.close(ours)
        os.close(theirs)
        log.close()
    say("stopped", rows=log.rows, readings=log.readings, held=len(controller), dropped=controller.dropped)
    return 0 if finished else 1
