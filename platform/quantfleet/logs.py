"""Structured logging: readable on a terminal, one JSON object a line on demand, the run id on every line."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from quantfleet.errors import ConfigError, nearest

__all__ = ["LogFormat", "bind_run", "configure_logging", "get_logger"]

LogFormat = Literal["console", "json"]
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_bound: dict[str, str] = {}
"""What every line of this process carries, whichever thread writes it (context variables stay in their thread)."""


def configure_logging(*, fmt: LogFormat = "console", level: str = "INFO") -> None:
    """Send log lines to standard error, as coloured text (`console`) or as one JSON object a line (`json`).

    Raises: ConfigError: no such format or level.
    """
    if fmt not in ("console", "json"):
        raise ConfigError(f"log format {fmt!r} is neither 'console' nor 'json'.")
    if level.upper() not in _LEVELS:
        raise ConfigError(f"log level {level!r} is none of {', '.join(_LEVELS)}.{nearest(level.upper(), _LEVELS)}")
    # Tracebacks are plain: the library's default prints the local variables of every frame, secrets included.
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_strict_json)
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _merge_bound,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if fmt == "console" else "iso", utc=fmt == "json"),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if fmt == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _strict_json(event: Any, **options: Any) -> str:
    """JSON has no NaN and no infinity: such numbers become texts, so that every reader can parse the line."""
    try:
        return json.dumps(event, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(event), **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _merge_bound(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in _bound.items():
        event.setdefault(key, value)
    return event


def bind_run(run_id: str) -> None:
    """Put `run=run_id` on every later log line of this process, in all of its threads."""
    _bound["run"] = run_id


def get_logger(name: str) -> Any:
    """Return the structured logger of one module; call it as `log.info("event", key=value)`."""
    return structlog.get_logger(module=name)
