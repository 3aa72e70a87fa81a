"""How long to wait before a request is tried again. Decisions only: no clock, no sleep, no network."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass

from quantfleet.errors import ConfigError

__all__ = ["Backoff", "GiveUp", "Wait", "asked_wait_s"]

_RETRY_IN = re.compile(
    r"(?:retry|try again)[^0-9]{0,12}\s(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|sec|seconds?|m|min|minutes?)?\b", re.I
)
_BANNED_UNTIL = re.compile(r"until\s+(\d{13})\b", re.I)


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after this long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again; `why` ends a sentence."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Exponential backoff with jitter that never undercuts a wait the other side asked for."""

    max_retries: int
    base_s: float
    """Ceiling of the first wait; it doubles with every retry."""
    cap_s: float
    """Where the doubling ends."""
    patience_s: float
    """The longest wait asked for by the other side that is sat out."""

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ConfigError(f"max_retries={self.max_retries} must not be negative; 0 means one try.")
        for name in ("base_s", "cap_s", "patience_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be zero or more seconds.")

    def decide(self, *, failures: int, asked_s: float | None, jitter: float) -> Wait | GiveUp:
        """Decide after the `failures`-th failure in a row of one request.

        Args:
            failures: 1 for the first.
            asked_s: the wait the other side asked for, seconds; None when it did not say.
            jitter: uniform in [0, 1): half of each wait is random, so that many clients do not come back as one.
        """
        if failures > self.max_retries:
            return GiveUp(f"failed {failures} times in a row")
        if asked_s is not None and asked_s > self.patience_s:
            return GiveUp(f"asks to wait {asked_s:.0f} s, longer than max_wait_s={self.patience_s:g}")
        ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        own_s = ceiling_s * (0.5 + 0.5 * jitter)
        return Wait(own_s if asked_s is None else max(own_s, asked_s + 0.25 * own_s))


def asked_wait_s(headers: Mapping[str, str], text: str, *, now_utc: dt.datetime) -> float | None:
    """Read the wait a server asks for: the header Retry-After (seconds or a date), or its words in an error message.

    Returns: seconds from `now_utc`, at least 0; None when nothing was said.
    """
    for name, value in headers.items():
        if name.lower() == "retry-after":
            try:
                return max(0.0, float(value))
            except ValueError:
                pass
            try:
                until = email.utils.parsedate_to_datetime(value)
            except ValueError:
                break
            until = until if until.tzinfo is not None else until.replace(tzinfo=dt.UTC)
            return max(0.0, (until - now_utc).total_seconds())
    if banned := _BANNED_UNTIL.search(text):  # Binance: "IP banned until 1718000000000"
        return max(0.0, int(banned[1]) / 1000 - now_utc.timestamp())
    if said := _RETRY_IN.search(text):
        return float(said[1]) * _unit_s((said[2] or "s").lower())
    return None


def _unit_s(unit: str) -> float:
    if unit.startswith(("ms", "mil")):
        return 0.001
    return 60.0 if unit.startswith("m") else 1.0
