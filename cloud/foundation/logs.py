"""Structured logs: one JSON object a line on stderr, an event name and fields, secrets masked."""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

# Every field whose name contains one of these words is masked, whatever it holds.
SECRET_WORDS = ("secret", "password", "token", "authorization", "api_key", "admin_key")


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the values of secret-sounding fields.

    >>> mask_secrets(None, "info", {"event": "x", "device_secret": "abc"})
    {'event': 'x', 'device_secret': '***'}
    """
    for name in event:
        if any(word in name for word in SECRET_WORDS):
            event[name] = "***"
    return event


class Unfailing:
    """A file for logs. What cannot be written, as on a full disk, is dropped and counted: a log line must not end who says it."""

    def __init__(self, number: int) -> None:
        """`number` is its descriptor. Nothing is kept back in a buffer, which would fail again with the next line."""
        self._number = number
        self.dropped = 0

    def write(self, text: str) -> int:
        note = f'{{"event": "logs.dropped", "lines": {self.dropped}}}\n' if self.dropped else ""
        try:
            os.write(self._number, (note + text).encode(errors="replace"))
            self.dropped = 0
        except OSError:
            self.dropped += 1
        return len(text)

    def flush(self) -> None:
        """Every line leaves when it is written."""


def configure(role: str, level: str = "info") -> None:
    """Send our own and the libraries' logs of this process to stderr as JSON lines that carry `role`."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_secrets,
        # (without the values of local variables: they may be keys and secrets)
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer = structlog.processors.JSONRenderer(default=str)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, Unfailing(sys.stderr.fileno()))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))  # libraries speak up only when something is wrong


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger: `log.info("stable.event_name", field=value)`."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger())
