"""The agent's process: `python -m edge_agent --config FILE`. Ends with 0 after SIGTERM, and with the exit codes of `edgectl` otherwise."""

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from pathlib import Path

from edge_agent.compose import compose
from edge_agent.ports import OutboxDamaged, OutboxUnavailable
from edge_agent.settings import Settings, load
from protocols.errors import PlatformError, Refused

BAD_CONFIGURATION, CANNOT_START, BROKEN = 3, 5, 6
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and what `extra` says."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line = {"time_ms": int(record.created * 1000), "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class OnceAMinute(logging.Filter):
    """Lets the same event pass once a minute: asyncio says of a full table of files what it says for every connection that waits."""

    def __init__(self) -> None:
        super().__init__()
        self._said: tuple[str, float] = ("", 0.0)

    def filter(self, record: logging.LogRecord) -> bool:
        text, at = self._said
        if record.getMessage() == text and record.created - at < 60:
            return False
        self._said = (record.getMessage(), record.created)
        return True


def main() -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edge_agent", description="The Hearthline edge agent (use `edgectl run`).")
    parser.add_argument("--config", type=Path, default=Path("edge.toml"), help="the configuration file (default: %(default)s)")
    options = parser.parse_args()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # The buffer's thread takes the interpreter several times a commit; at the default 5 ms it would wait longer for that than for the disk.
    sys.setswitchinterval(0.001)
    logging.getLogger("asyncio").addFilter(OnceAMinute())
    for chatty in ("pymodbus", "mqtt"):  # every failed poll and read; the connector and the forwarder say once what matters
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    try:
        settings = load(options.config)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return BAD_CONFIGURATION
    try:
        asyncio.run(_run(settings))
    except (OutboxUnavailable, OutboxDamaged, OSError) as problem:
        print(f"the agent cannot run: {problem}", file=sys.stderr)
        return CANNOT_START
    except PlatformError:
        logging.getLogger("edge").exception("agent.broken")
        return BROKEN
    return 0


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    start = time.perf_counter()
    agent = await compose(settings)
    agent.ready = lambda: logging.getLogger("edge").info("agent.started", extra={"compose_ms": round(1000 * (time.perf_counter() - start))})
    await agent.run(stop)


if __name__ == "__main__":
    sys.exit(main())
