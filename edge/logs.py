"""Logs are events with fields: JSON lines, or coloured text on a terminal. Never health data above DEBUG."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

# Fields that could carry a reading, a dose or an identity. Above DEBUG they are refused, not trusted to care.
HEALTH_FIELDS = frozenset(
    {
        "value",
        "values",
        "glucose",
        "glucose_mgdl",
        "dose_u",
        "carbs_g",
        "samples",
        "sample",
        "passkey",
        "person",
    }
)


def drop_health_fields(_logger: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last guard: above DEBUG, fields that name health data are replaced."""
    if level != "debug":
        for field in HEALTH_FIELDS & event.keys():
            event[field] = "<withheld>"
    return event


def traceback_at_debug(logger: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The text of an exception may quote a reading, so only DEBUG shows it."""
    if level == "debug":
        return structlog.processors.format_exc_info(logger, level, event)
    event.pop("exc_info", None)
    return event


def configure_logs(process: str, level: str = "info") -> None:
    """Send events of this process to stderr. Call once, first thing."""
    interactive = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if interactive else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            drop_health_fields,
            traceback_at_debug,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(process=process)
    # Libraries speak through logging; only their warnings are worth a line.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("bumble").setLevel(logging.CRITICAL)
