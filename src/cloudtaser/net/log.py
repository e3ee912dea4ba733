"""Logs: one JSON object a line on stderr, pretty on a terminal.

Called once by each program's `app.py` (the beacon, which may not use structlog, has its own few lines). The
standard library's loggers, asyncio's among them, come out the same way.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

import structlog

from cloudtaser.errors import ConfigError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

LEVELS: Final = ("debug", "info", "warning", "error")


def configure(level: str, program: str) -> None:
    """Log from `level` up (one of LEVELS, else ConfigError); each line names `program`."""
    if level.lower() not in LEVELS:
        raise ConfigError(f"{level!r} is not a log level", fix=f"use one of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]

    def name_program(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("program", program)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        name_program,  # type: ignore[list-item]  # structlog's EventDict is a MutableMapping
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    pretty = sys.stderr.isatty()
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger for one part; `name` is the part ("bridge.parking"). Safe to call before `configure`."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger
