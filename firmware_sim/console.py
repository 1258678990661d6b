"""Logging of the simulation's processes: events on stderr, nothing of bumble's chatter."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def quiet_logging() -> None:
    """Events at INFO and above (HOMETWIN_LOG=debug shows more). No event carries a reading or a dose."""
    level = logging.DEBUG if os.environ.get("HOMETWIN_LOG", "").lower() == "debug" else logging.INFO
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    # bumble logs refused pairings and lost links as warnings or with tracebacks; for us they are normal faults
    logging.getLogger("bumble").setLevel(logging.CRITICAL)
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
