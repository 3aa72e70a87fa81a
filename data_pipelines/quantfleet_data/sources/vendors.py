"""What the adapters of vendor libraries share: the extra they belong to, waiting out what is temporary, one error."""

from __future__ import annotations

import datetime as dt
import importlib
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import polars as pl

from quantfleet.errors import ConfigError, SourceError
from quantfleet.logs import get_logger
from quantfleet.storage.store import one_line
from quantfleet_data.sources.backoff import Backoff, GiveUp
from quantfleet_data.sources.clock import as_utc

__all__ = ["Adjustment", "as_labels", "check_request", "imported", "patiently"]

Adjustment = Literal["raw", "splits", "all"]
"""raw: prices as they were traded on the day; corporate actions go to the instruments. splits: divided by all later splits.
all: by dividends as well. The last two look back from the day of the download, so earlier bars change with every action:
each fetch reads them again, and the table keeps the changes as corrections.
"""
T = TypeVar("T")
_log = get_logger(__name__)


def check_request(
    symbols: Sequence[str], since_utc: dt.datetime, until_utc: dt.datetime | None, timeout_s: float, *, example: str
) -> None:
    """Raises: ConfigError: no symbols or one twice, an end before the start, no time to wait."""
    if not symbols:
        raise ConfigError(f"symbols is empty; name {example}.")
    if len(set(symbols)) != len(symbols):
        raise ConfigError(f"symbols names one symbol twice: {', '.join(symbols)}.")
    if until_utc is not None and as_utc(until_utc) <= as_utc(since_utc):
        raise ConfigError(f"until_utc={until_utc} is not after since_utc={since_utc}.")
    if not timeout_s > 0:
        raise ConfigError(f"timeout_s={timeout_s} must be above zero.")


def imported(module: str, *, extra: str) -> Any:
    """A module of an optional dependency. Raises: ConfigError: it is not installed; names the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.partition(".")[0] != error.name.partition(".")[0]:
            raise
        raise ConfigError(
            f"this source needs the package {error.name!r}, which is not installed: pip install 'quantfleet[{extra}]'."
        ) from None


def patiently(
    what: str,
    request: Callable[[], T],
    *,
    name: str,
    backoff: Backoff,
    sleep: Callable[[float], None],
    temporary: Callable[[Exception], bool],
) -> T:
    """The answer of `request`, tried again as `backoff` says while its failures are temporary; others pass through.

    Raises: SourceError: retries are used up.
    """
    for failures in itertools.count(1):
        try:
            return request()
        except Exception as error:
            if not temporary(error):
                raise
            decision = backoff.decide(failures=failures, asked_s=None, jitter=random.random())  # noqa: S311 - no secret
            if isinstance(decision, GiveUp):
                raise SourceError(
                    f"{name}: {what} {decision.why}, last {type(error).__name__}: {one_line(str(error))} What was fetched "
                    "before is kept; run it again.",
                    failures=failures,
                ) from error
            _log.warning("source.retry", source=name, request=what, failures=failures, error=type(error).__name__)
            sleep(decision.seconds)
    raise AssertionError("unreachable: the backoff gives up in the end")


def as_labels(times: pl.Series, zone: str) -> pl.Series:
    """Moments of daily bars as the contract labels them: the date they have in `zone`, at 00:00 UTC."""
    return times.dt.convert_time_zone(zone).dt.date().cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
