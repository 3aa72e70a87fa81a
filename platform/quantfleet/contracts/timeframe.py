"""Timeframes ("1d", "1h", "5m", "1M"): the length of a bar, and the grid its opens lie on."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantfleet.errors import ConfigError

__all__ = ["Timeframe"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PATTERN = re.compile(r"([1-9][0-9]*)([smhdwM])")
_MONDAY_S = 4 * 86_400
"""1970-01-05, the first Monday: where weeks are counted from."""

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Timeframe:
    """Length of a bar. A bar stamped t covers [t, t + delta) and is known at t + delta.

    Seconds to weeks have a fixed length. Months ("1M", "3M") follow the calendar: they have no `seconds` and no `delta`,
    so no source delivers them; they are made of shorter bars, on the grid of `opens_us` and `ends_us`.
    """

    text: str

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(self.text):
            raise ConfigError(
                f"timeframe {self.text!r} is not a count and a unit of s, m, h, d, w, such as '1d' or '5m', "
                "or of M for calendar months."
            )

    @property
    def months(self) -> int:
        """Length in calendar months; 0 for a timeframe of fixed length."""
        return int(self.text[:-1]) if self.text.endswith("M") else 0

    @property
    def seconds(self) -> int:
        """Fixed length.

        Raises: ConfigError: calendar months have none.
        """
        if self.months:
            raise ConfigError(
                f"timeframe {self.text!r} has no fixed length, so bars cannot be stored or fetched in it. Keep bars of "
                "'1d' or shorter; features on months are made of them with `kind: on_timeframe`."
            )
        return int(self.text[:-1]) * _UNITS_S[self.text[-1]]

    @property
    def longest_seconds(self) -> int:
        """Length that no bar exceeds: `seconds`, or 31 days a calendar month."""
        return self.months * 31 * _UNITS_S["d"] or self.seconds

    @property
    def delta(self) -> dt.timedelta:
        """`seconds` as a time span; ConfigError for calendar months."""
        return dt.timedelta(seconds=self.seconds)

    def opens_us(self, times_us: Times) -> Times:
        """Open of the bar that holds each time. Both are microseconds since 1970, UTC.

        The grid: multiples of the length since 1970-01-01 00:00; weeks since Monday 1970-01-05; months since January
        1970, so that '3M' are the quarters and '12M' the years.
        """
        if self.months:
            month = times_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
            return _months_us(month // self.months * self.months)
        step, origin = self.seconds * 1_000_000, _MONDAY_S * 1_000_000 if self.text.endswith("w") else 0
        opens: Times = (times_us - origin) // step * step + origin
        return opens

    def ends_us(self, opens_us: Times) -> Times:
        """End of the bar that opens at each time of the grid: the open of the next one."""
        if self.months:
            return _months_us(opens_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) + self.months)
        ends: Times = opens_us + self.seconds * 1_000_000
        return ends

    def __str__(self) -> str:
        return self.text


def _months_us(months: Times) -> Times:
    """Midnight of the first day of each month, counted from January 1970."""
    times: Times = months.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
    return times
