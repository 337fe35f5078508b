"""`edgectl buffer`: what waits for the cloud, and how long there is room for it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent.buffer.rekey import rekey
from edge_agent.buffer.sealing import KEY_BYTES, Seal
from edge_agent.cli.output import Context, Exit, Format, Output, buffer_of, fail, say, show
from edge_agent.compose import BUFFER
from edge_agent.documents.status import is_running, read_status
from edge_agent.domain.forecast import Forecast, drain_time_s, forecast, in_an_outage
from edge_agent.ports import OutboxDamaged, OutboxUnavailable
from edge_agent.settings import read_buffer_key
from protocols.edgelink.lanes import LANES, Lane
from protocols.errors import Refused

app = typer.Typer(help="The buffer on this gateway's disk.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """The buffer on this gateway's disk."""


@app.command("status")
def status(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Frames, bytes and readings by lane; works with the agent running and stopped."""
    session: Context = context.obj
    found: Any = buffer_of(session.settings())
    rows = [
        (name, lane["frames"], lane["readings"], lane["used_bytes"], lane["floor"], lane["next_seq"])
        for name, lane in found["lanes"].items()
    ]
    show(found, output, rows, ("LANE", "FRAMES", "READINGS", "BYTES", "FIRST SEQ", "NEXT SEQ"))
    wear = found.get("written_bytes_per_reading")
    if output is Format.TABLE and wear is not None:
        typer.echo(
            f"\nSince the agent started: {wear:g} bytes written for each reading, and as many again when the log is moved into the file."
        )


@app.command("forecast")
def plan(
    context: typer.Context,
    outage_h: Annotated[
        float, typer.Option(min=0.0, envvar="HEARTHLINE_EDGE_OUTAGE_H", help="Plan for an outage of so many hours.", show_default=True)
    ] = 8.0,
    output: Output = Format.TABLE,
) -> None:
    """Were the cloud away from now on: when each lane is full at the present rate, what goes first, and how long the drain takes.

    Readings of an outage lie in the lane `bulk`, but for those of its first `buffer.bulk_after_s` seconds.
    """
    session: Context = context.obj
    settings = session.settings()
    found = read_status(settings.data_dir)
    pace = found.get("pace") if found is not None and is_running(found) else None
    if pace is not None and not pace["over_s"]:
        fail(Exit.NOTHING_THERE, "the agent has not run long enough to know its rates: ask again in ten seconds")
    if found is None or pace is None:
        fail(Exit.NOTHING_THERE, "rates are measured while the agent runs: start it with `edgectl run` and ask again after half a minute")
    quotas = settings.buffer.quotas
    used = {lane: float(found["buffer"]["lanes"][lane.value]["used_bytes"]) for lane in LANES}
    rates = {lane: float(pace["bytes_per_s"][lane.value]) for lane in LANES}
    if settings.buffer.bulk_after_s:
        rates = in_an_outage(rates)
    planned = forecast(quotas, used, rates, pace["drain_bytes_per_s"])
    held_then = min(quotas.total_bytes, sum(used.values()) + sum(rates.values()) * outage_h * 3600)
    after_s = drain_time_s(held_then, sum(rates.values()), pace["drain_bytes_per_s"])
    full = planned.lanes[planned.first].full_in_s if planned.first else None
    data = {
        "over_s": pace["over_s"],
        "lanes": {lane.value: asdict(of) for lane, of in planned.lanes.items()},
        "first": planned.first,
        "outage_h": outage_h,
        "loses": full is not None and full < outage_h * 3600,
        "drain_bytes_per_s": pace["drain_bytes_per_s"],
        "drain_s": planned.drain_s,
        "drain_after_outage_s": after_s,
    }
    rows = [
        (lane, round(of.bytes_per_s), round(of.used_bytes), _hours(of.full_in_s), _then(planned, lane))
        for lane, of in planned.lanes.items()
    ]
    show(data, output, rows, ("LANE", "BYTES/S", "BYTES", "FULL IN", "THEN"))
    if output is Format.TABLE:
        verdict = "loses nothing" if not data["loses"] else f"{planned.first} loses first, after {_hours(full)}"
        typer.echo(f"\nAn outage of {outage_h:g} h: {verdict}. Drain afterwards: {_drain(after_s, pace['drain_bytes_per_s'])}.")


@app.command("make-key")
def make_key(
    file: Annotated[Path, typer.Argument(envvar="HEARTHLINE_EDGE_KEY_FILE", help="The file to write; only its owner may read it.")],
) -> None:
    """Write a new key for buffer.key_file. Keep it where the disk does not go: a thief of both has what is stored."""
    try:
        with open(file, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.write(os.urandom(KEY_BYTES).hex() + "\n")
    except FileExistsError:
        fail(Exit.FAILED, f"{file} exists; nothing was written")
    except OSError as problem:
        fail(Exit.FAILED, f"{file} cannot be written: {problem.strerror}")
    say(f'wrote {file}\nnext: key_file = "{file}" under [buffer], then `edgectl buffer rekey` with the agent stopped')


@app.command("rekey")
def rekey_file(
    context: typer.Context,
    old: Annotated[
        Path | None, typer.Option("--from", envvar="HEARTHLINE_EDGE_OLD_KEY_FILE", help="The key it has now; left out: it has none.")
    ] = None,
) -> None:
    """Encrypt what is stored with the key of buffer.key_file, or with none when there is none. With the agent stopped."""
    session: Context = context.obj
    settings = session.settings()
    path = settings.data_dir / BUFFER
    if not path.exists():
        fail(Exit.NOTHING_THERE, f"there is no buffer in {settings.data_dir} yet: the first run makes it with the key")
    try:
        before = Seal(read_buffer_key(old, "--from") if old else None)
        frames = rekey(path, before, Seal(settings.buffer.key))
    except Refused as refused:
        fail(Exit.USAGE, str(refused))
    except (OutboxUnavailable, OutboxDamaged) as problem:
        fail(Exit.FAILED, str(problem))
    say(f"{frames} frames and all marks are {'encrypted with the new key' if settings.buffer.key else 'not encrypted any more'}")


def _then(planned: Forecast, lane: Lane) -> str | None:
    of = planned.lanes[lane]
    if of.full_in_s is None:
        return None
    return of.then if of.taken_by is None else f"{of.then}, for {of.taken_by}"


def _hours(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _drain(seconds: float | None, drain_bytes_per_s: float | None) -> str:
    if drain_bytes_per_s is None:
        return "not known, the uplink has had no backlog since the start"
    return _hours(seconds) or "never, as much arrives as the uplink carried at its best"
