"""`edgectl guard`: run the agent, and start it again when it dies or hangs, where no systemd does that."""

import logging
import os
import sys

import typer

from edge_agent.cli.output import Context


def guard(context: typer.Context) -> None:
    """Run the agent in the foreground under a guard until SIGTERM: an agent that dies or says nothing for 20 s is started again.

    Under systemd use `edgectl run` with `Type=notify` and `WatchdogSec=20`.
    """
    from edge_agent.guard import guard as watch
    from edge_agent.supervise import AGENT

    session: Context = context.obj
    session.settings()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s guard %(message)s")
    raise typer.Exit(watch(session.config, AGENT, os.environ))
