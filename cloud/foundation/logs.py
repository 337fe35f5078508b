"""Structured logs: one JSON object a line on stderr, an event name and fields, secrets masked."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, cast

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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
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
