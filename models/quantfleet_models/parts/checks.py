"""Checks of settings that families share; free of torch, so that a `config.py` may import them."""

from __future__ import annotations

from quantfleet.contracts import DataSpec
from quantfleet.errors import ConfigError

__all__ = ["check_divides", "check_odd", "check_within_window"]


def check_divides(*, total: int, total_name: str, part: int, part_name: str) -> None:
    """Raises: ConfigError: `part` does not divide `total`."""
    if total % part:
        raise ConfigError(f"{total_name}={total} does not divide by {part_name}={part}; use a multiple of it.")


def check_odd(name: str, value: int) -> None:
    """Raises: ConfigError: a centred window needs a middle, and `value` is even."""
    if value % 2 == 0:
        raise ConfigError(f"{name}={value} is even, and a centred average needs a middle bar; use {value + 1}.")


def check_within_window(label: str, name: str, bars: int, spec: DataSpec) -> None:
    """Raises: ConfigError: `bars` bars do not fit into the window that the network gets."""
    if bars > spec.lookback_bars:
        raise ConfigError(
            f"{label}.{name}={bars} is longer than the window, lookback_bars={spec.lookback_bars}. Set {name} to that or less, or "
            f"windows.lookback_bars to {bars} or more."
        )
