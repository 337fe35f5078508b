"""`edgectl account`: what was collected, and where it is now."""

from collections.abc import Mapping
from typing import Any

import typer

from edge_agent.cli.output import Context, Exit, Format, Output, buffer_of, say, show


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


def account(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Readings collected = delivered + buffered + in gaps. Ends with 1 if they do not balance."""
    session: Context = context.obj
    found = balance(buffer_of(session.settings(), as_of_now=True))
    show(
        found,
        output,
        [(found["collected"], found["delivered"], found["buffered"], found["in_gaps"], "yes" if found["balanced"] else "NO")],
        ("COLLECTED", "DELIVERED", "BUFFERED", "IN GAPS", "BALANCED"),
    )
    if not found["balanced"]:
        say("the account does not balance: this is a fault of the agent, please report it")
        raise typer.Exit(int(Exit.FAILED))
