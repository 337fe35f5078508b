"""`edgectl account`: what was collected, and where it is now."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from edge_agent.buffer.peek import peek_ledger
from edge_agent.cli.output import Context, Exit, Format, Output, buffer_of, fail, say, show, when
from edge_agent.compose import BUFFER
from edge_agent.documents.account import ask
from edge_agent.documents.status import is_running, read_status
from edge_agent.ports import OutboxDamaged, OutboxUnavailable, Stretch
from edge_agent.settings import Settings
from protocols.edgelink.stretches import STRETCH_MS

PATIENCE_S = 5.0
HEAD = ("COLLECTED", "DELIVERED", "BUFFERED", "IN GAPS", "BALANCED")


def balance(buffer: Mapping[str, Any]) -> dict[str, Any]:
    """Readings over all lanes: collected = delivered + buffered + in_gaps.

    >>> lane = {"collected": 10, "delivered": 6, "readings": 3, "in_gaps": 1}
    >>> balance({"lanes": {"live": lane}})["balanced"]
    True
    """
    lanes = buffer["lanes"].values()
    total = {name: sum(lane[name] for lane in lanes) for name in ("collected", "delivered", "in_gaps")}
    buffered = sum(lane["readings"] for lane in lanes)
    balanced = total["collected"] == total["delivered"] + buffered + total["in_gaps"]
    return {**total, "buffered": buffered, "balanced": balanced}


def balance_between(stretches: Sequence[Stretch], from_ms: int | None, to_ms: int | None) -> dict[str, Any]:
    """The account of what was collected in an interval (None: without a bound), widened to whole stretches of ten minutes.

    >>> found = balance_between([Stretch(0, 10, 6, 3, 1), Stretch(600_000, 5, 5, 0, 0)], 60_000, 500_000)
    >>> found["from_ms"], found["to_ms"], found["collected"], found["balanced"]
    (0, 600000, 10, True)
    """
    from_ms = None if from_ms is None else from_ms // STRETCH_MS * STRETCH_MS
    to_ms = None if to_ms is None else -(-to_ms // STRETCH_MS) * STRETCH_MS
    inside = [one for one in stretches if (from_ms is None or from_ms <= one.from_ms) and (to_ms is None or one.from_ms < to_ms)]
    total = {name: sum(getattr(one, name) for one in inside) for name in ("collected", "delivered", "in_gaps", "buffered")}
    balanced = total["collected"] == total["delivered"] + total["buffered"] + total["in_gaps"]
    return {"from_ms": from_ms, "to_ms": to_ms, **total, "balanced": balanced}


def account(
    context: typer.Context,
    begin: Annotated[
        str | None, typer.Option("--from", envvar="HEARTHLINE_EDGE_FROM", help="Only what was collected from then on (2026-03-01T08:00).")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", envvar="HEARTHLINE_EDGE_TO", help="Only what was collected before then; left out: until now.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Readings collected = delivered + buffered + in gaps. Ends with 1 if they do not balance.

    Times are UTC unless they name their zone, and the interval is widened to whole ten minutes: so finely, and for 92 days of work, the
    buffer remembers. A reading belongs to the time at which its frame was made, by the agent's clock of that moment.
    """
    session: Context = context.obj
    if begin is None and end is None:
        found = balance(buffer_of(session.settings(), as_of_now=True))
    else:
        from_ms = None if begin is None else _time(begin, "--from")
        to_ms = None if end is None else _time(end, "--to")
        found = balance_between(_stretches(session.settings()), from_ms, to_ms)
        if output is Format.TABLE:
            typer.echo(
                f"from {'the first' if begin is None else when(found['from_ms'])} to {'now' if end is None else when(found['to_ms'])}"
            )
    row = (found["collected"], found["delivered"], found["buffered"], found["in_gaps"], "yes" if found["balanced"] else "NO")
    show(found, output, [row], HEAD)
    if not found["balanced"]:
        say("the account does not balance: this is a fault of the agent, please report it")
        raise typer.Exit(int(Exit.FAILED))


def _stretches(settings: Settings) -> Sequence[Stretch]:
    if is_running(read_status(settings.data_dir)):
        try:
            found = ask(settings.data_dir, PATIENCE_S)
        except OSError as problem:
            fail(Exit.FAILED, f"the agent cannot be asked: {problem}")
        if found is None:
            fail(Exit.FAILED, f"the agent has not answered within {PATIENCE_S:g} s: see `edgectl status`")
        return found
    try:
        found = peek_ledger(settings.data_dir / BUFFER)
    except (OutboxDamaged, OutboxUnavailable) as problem:
        fail(Exit.FAILED, f"the buffer cannot be read now: {problem}")
    if found is None:
        fail(Exit.NOTHING_THERE, f"there is no buffer in {settings.data_dir} yet: has the agent ever run?")
    return found


def _time(text: str, option: str) -> int:
    """Epoch ms of an ISO 8601 time."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        fail(Exit.USAGE, f"{option}: {text!r} is no time; write it like 2026-03-01T08:00, or 2026-03-01T08:00+08:00")
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
