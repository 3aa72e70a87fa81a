"""A ccxt client that waits: every call is retried with backoff, and what cannot be retried becomes one error."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections.abc import Callable
from typing import Any, TypeVar

from quantfleet.errors import SourceError
from quantfleet.logs import get_logger
from quantfleet_data.sources.backoff import Backoff, GiveUp, asked_wait_s

__all__ = ["PatientClient", "said"]

T = TypeVar("T")
_log = get_logger(__name__)
_MESSAGE_CHARS = 240


class PatientClient:
    """Calls a ccxt exchange and sits out what is temporary. Not thread-safe, as ccxt's clients are not.

    Temporary is all of ccxt's OperationFailed: connections that break or time out, rate limits (429), servers in
    trouble (5xx) and, which is no NetworkError in ccxt's tree, the exchange's own "internal error". A wait that the
    exchange asks for is handed on to `hold`: it means every client that shares the limit.
    """

    def __init__(
        self,
        exchange: Any,
        *,
        name: str,
        backoff: Backoff,
        sleep: Callable[[float], None],
        hold: Callable[[float], None] = lambda wait_s: None,
    ) -> None:
        self.exchange = exchange
        self.name = name
        self.backoff = backoff
        self._sleep = sleep
        self._hold = hold

    def call(self, what: str, request: Callable[[], T]) -> T:
        """Return the answer of `request`, after as many retries as the backoff allows.

        Args:
            what: names the request in messages, e.g. "BTC/USDT from 2021-01-01".
        Raises: SourceError: a permanent refusal, or retries used up; the text says how to go on.
        """
        import ccxt

        for failures in itertools.count(1):
            self.exchange.last_response_headers = None  # a broken connection would leave those of the answer before
            try:
                return request()
            except ccxt.OperationFailed as error:
                headers = self.exchange.last_response_headers or {}
                asked_s = asked_wait_s(headers, str(error), now_utc=dt.datetime.now(dt.UTC))
                decision = self.backoff.decide(failures=failures, asked_s=asked_s, jitter=random.random())  # noqa: S311
                if isinstance(decision, GiveUp):
                    raise SourceError(
                        f"{self.name}: {what} {decision.why}, last {said(error)}. What was fetched so far is kept: "
                        "run the same ingest again and it goes on from the last bar in the table.",
                        exchange=self.name,
                        failures=failures,
                    ) from error
                _log.warning(
                    "source.retry",
                    source=self.name,
                    request=what,
                    failures=failures,
                    wait_s=round(decision.seconds, 2),
                    error=type(error).__name__,
                )
                if asked_s is not None:
                    self._hold(decision.seconds)
                self._sleep(decision.seconds)
            except ccxt.BaseError as error:
                raise SourceError(
                    f"{self.name}: {what} was refused for good, {said(error)}. What was fetched so far is kept.",
                    exchange=self.name,
                    failures=failures,
                ) from error
        raise AssertionError("unreachable: the backoff gives up in the end")


def said(error: Exception) -> str:
    """An error of ccxt as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_MESSAGE_CHARS]}"
