"""Numbers as people read them. Undefined is an en dash that says why, never "nan"."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

__all__ = [
    "DASH",
    "Cell",
    "as_time",
    "count",
    "day",
    "duration",
    "listed",
    "magnitude",
    "moment",
    "number",
    "percent",
    "plural",
]

DASH = "–"
MINUS = "−"


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in a table. `title` says more on hover; of a missing value, why it is missing."""

    text: str
    title: str = ""
    missing: bool = False
    note: str = ""
    """Small print under the value."""


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A number with a real minus sign and thousands apart; an en dash when it is none."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = format(value, f"z,.{digits}f")
    sign = "+" if signed and value > 0 and text.strip("0.") else ""
    return sign + text.replace("-", MINUS)


def percent(value: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """A fraction as per cent."""
    text = number(None if value is None else value * 100.0, digits, signed=signed)
    return text if text == DASH else f"{text}%"


def count(value: float | None) -> str:
    """A whole number."""
    return number(value, 0)


def magnitude(value: float) -> str:
    """ "0", "950", "12.3 k", "4.5 M", "7.8 G": money or counts whose order of magnitude matters."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return number(value / factor, 1) + unit
    return number(value, 0)


def plural(how_many: int, noun: str) -> str:
    """ "1 bar", "2,000 bars"."""
    return f"{how_many:,} {noun}{'' if how_many == 1 else 's'}"


def listed(names: list[str], *, most: int = 4) -> str:
    """ "a, b and c"; a long list ends in how many more there are."""
    shown = names[:most] + ([f"{len(names) - most:,} more"] if len(names) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def duration(seconds: float) -> str:
    """ "0.4 s", "3 min 05 s", "1 h 04 min"."""
    if not math.isfinite(seconds):
        return DASH
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def as_time(value: Any) -> dt.datetime | None:
    """A time from a datetime or its ISO text, in UTC; None when it is neither."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, dt.datetime):
        return None
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


def moment(value: Any) -> str:
    """ "2018-12-31", with the time of day unless it is midnight UTC."""
    time = as_time(value)
    if time is None:
        return DASH
    return time.strftime("%Y-%m-%d" if (time.hour, time.minute) == (0, 0) else "%Y-%m-%d %H:%M")


def day(value: Any) -> str:
    """ "2018-12-31"."""
    time = as_time(value)
    return DASH if time is None else time.strftime("%Y-%m-%d")
