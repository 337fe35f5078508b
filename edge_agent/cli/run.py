"""`edgectl run`: become the agent. The command line's own libraries stay behind."""

import os
import sys

import typer

from edge_agent.cli.output import Context


def run(context: typer.Context) -> None:
    """Run the agent in the foreground until SIGTERM. Ends with 0 after a stop in order, 3 bad configuration, 5 cannot start."""
    session: Context = context.obj
    session.settings()
    os.execv(sys.executable, [sys.executable, "-m", "edge_agent", "--config", str(session.config)])  # noqa: S606 - no shell
