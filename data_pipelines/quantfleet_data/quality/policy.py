"""What to do about each kind of finding, and doing it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from quantfleet.contracts import PRICE_COLUMNS, Timeframe
from quantfleet.errors import ConfigError, QualityError
from quantfleet_data.quality.anomalies import OutlierScale
from quantfleet_data.quality.checks import keep_last_ingested
from quantfleet_data.quality.finding import ACTIONS, CHECKS, Action, Check, Finding

__all__ = ["Calendar", "CleanResult", "QualityPolicy", "apply_policy", "refuse_failing"]

Calendar = Literal["continuous", "sessions", "union"]
"""Which bars are due. continuous: one every timeframe, as in crypto. sessions: one every timeframe but for long breaks, the
weekends of currencies and futures. union: one whenever any symbol of the market has one, as for stocks, which share their
holidays; one symbol alone can have no gap there."""

_REPAIRABLE: tuple[Check, ...] = ("duplicates", "ohlc")
_OF_MISSING_BARS: tuple[Check, ...] = ("gaps", "halts")
_TO_THE_END: tuple[Check, ...] = ("splits", "token_swaps", "reused_tickers")
"""Checks whose quarantine moves everything from the finding on."""
_LEAST = {"stale_bars": 2, "zero_volume_bars": 1, "flat_bars": 1, "outlier_window_bars": 2, "halt_symbols": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityPolicy:
    """The `quality:` section of a recipe: an action per check, and the thresholds of the checks.

    keep: report only. fail: stop with a QualityError. quarantine: move the bars concerned out of the table. repair:
    mend them from what was known at the time, possible for two checks only: of duplicates the bar ingested last is
    kept (of equals, the last row); contradicting bars get their high raised and their low lowered to enclose open
    and close. Missing bars are never invented, and large moves never smoothed.

    Quarantine of duplicates moves all bars of that time. After a suspected split, a token swap or a name used again it
    moves the symbol's bars from that one on, since they continue on another scale; those before it stay, because on
    their day nothing was wrong with them, and no past bar is rescaled by what was learnt later. Apply corporate actions
    where their terms are known, at the source.

    Some findings need later bars (`Finding.hindsight`, `known_at`): that a price was a wrong tick shows when the next
    one is right again. Quarantining those takes bars out of the past that a strategy would have seen on the day.
    """

    gaps: Action = "keep"
    duplicates: Action = "repair"
    ohlc: Action = "repair"
    stale: Action = "keep"
    zero_volume: Action = "keep"
    flat: Action = "keep"
    outliers: Action = "keep"
    thin_moves: Action = "keep"
    splits: Action = "fail"
    token_swaps: Action = "fail"  # noqa: S105 - a coin's token, no secret
    bad_ticks: Action = "quarantine"
    half_adjusted: Action = "keep"
    reused_tickers: Action = "fail"
    corrections: Action = "keep"
    halts: Action = "keep"
    calendar: Calendar = "union"
    closed_hours: float = 40.0
    """With calendar sessions: a break of so many hours, from a bar's open to the next one's, is a closed market."""
    stale_bars: int = 5
    """Bars with the same prices that count as stale."""
    zero_volume_bars: int | None = None
    """Bars without volume that count as a run; None: 1 on bars of a day or longer, 3 on shorter ones."""
    flat_bars: int | None = None
    """Bars of one price each that count as a run; None: 1 on bars of a day or longer, 20 on shorter ones."""
    outlier_z: float = 20.0
    """Robust deviations; 20 leaves 2008 and 2018 in the S&P 500 alone."""
    outlier_window_bars: int = 250
    outlier_scale: OutlierScale = "trailing"
    split_tolerance: float = 0.05
    """How far, as a fraction, a jump may be from a whole multiple."""
    reuse_stop_days: float = 30.0
    """Silence after which a name that comes back at another price may stand for another asset."""
    halt_share: float = 0.8
    """Share of the listed symbols without a bar or without volume that makes a halt of the exchange."""
    halt_symbols: int = 5
    """Symbols that must be listed to speak of an exchange."""

    def __post_init__(self) -> None:
        for check in CHECKS:
            action = self.action(check)
            if action not in ACTIONS:
                raise ConfigError(f"quality.{check}={action!r} is not one of {', '.join(ACTIONS)}.")
            if action == "repair" and check not in _REPAIRABLE:
                raise ConfigError(
                    f"quality.{check}=repair is refused: it would invent prices. Only {' and '.join(_REPAIRABLE)} can "
                    "be repaired; choose keep, quarantine or fail."
                )
        for check in _OF_MISSING_BARS:
            if self.action(check) == "quarantine":
                raise ConfigError(
                    f"quality.{check}=quarantine is refused: a missing bar cannot be moved. Choose keep or fail."
                )
        if self.outlier_scale == "sample" and self.outliers != "keep":
            raise ConfigError(
                f"quality.outliers={self.outliers} with outlier_scale=sample would let later bars decide about earlier "
                "ones. Set outlier_scale: trailing, or outliers: keep."
            )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"quality.{name}={value} must be at least {least}.")
        if not (math.isfinite(self.outlier_z) and self.outlier_z > 0.0):
            raise ConfigError(f"quality.outlier_z={self.outlier_z} must be a positive number.")
        if not 0.0 < self.split_tolerance < 0.5:
            raise ConfigError(f"quality.split_tolerance={self.split_tolerance} must lie between 0 and 0.5.")
        if not (math.isfinite(self.reuse_stop_days) and self.reuse_stop_days > 0.0):
            raise ConfigError(f"quality.reuse_stop_days={self.reuse_stop_days} must be a positive number.")
        if not (math.isfinite(self.closed_hours) and self.closed_hours > 0.0):
            raise ConfigError(f"quality.closed_hours={self.closed_hours} must be a positive number.")
        if not 0.5 < self.halt_share <= 1.0:
            raise ConfigError(
                f"quality.halt_share={self.halt_share} must be more than a half and at most 1: a halt is common."
            )

    def closed_from(self, timeframe: Timeframe) -> dt.timedelta | None:
        """The shortest break in which no bar is due; None where the calendar knows no such breaks.

        Raises: ConfigError: bars are so long that a single missing one would pass for a closed market.
        """
        if self.calendar != "sessions":
            return None
        closed = dt.timedelta(hours=self.closed_hours)
        if closed <= 2 * timeframe.delta:
            raise ConfigError(
                f"quality.calendar=sessions with closed_hours={self.closed_hours:g} cannot tell a missing bar of {timeframe} "
                f"from a closed market. Set closed_hours above {2 * timeframe.seconds / 3600:g}, or calendar: union."
            )
        return closed

    def action(self, check: Check) -> Action:
        action: Action = getattr(self, check)
        return action


@dataclass(frozen=True, kw_only=True)
class CleanResult:
    """What is left of the bars, what was moved out, and every finding with the action taken."""

    bars: pl.DataFrame
    quarantined: pl.DataFrame
    """The bars moved out, with the column `quarantined_for`: the first check that asked for it."""
    findings: tuple[Finding, ...]


def refuse_failing(findings: Sequence[Finding], policy: QualityPolicy) -> None:
    """Raises: QualityError: findings whose action is `fail`; names the first check, symbol and time and counts them all."""
    failing = [f for f in findings if policy.action(f.check) == "fail"]
    if failing:
        first = min(failing, key=lambda f: (f.start, f.symbol))
        same = sum(f.check == first.check for f in failing)
        raise QualityError(
            f"quality.{first.check}: {first.symbol} at {first.start}: {first.detail}. {same} such findings, "
            f"{len(failing)} failing ones in all. See the quality report; then correct the source, leave the "
            f"symbol out, or set quality.{first.check} to another action.",
            check=first.check,
            symbol=first.symbol,
            start=first.start.isoformat(),
            findings=same,
        )


def apply_policy(bars: pl.DataFrame, findings: Sequence[Finding], policy: QualityPolicy) -> CleanResult:
    """Do to the bars what the policy says about their findings.

    Args:
        bars: one or more symbols, sorted by (symbol, timestamp); extra columns are kept.
        findings: of these bars, from `inspect_bars`.
        policy: an action per check.
    Returns: bars in their order. Nothing is changed without a finding.
    Raises: QualityError: findings whose action is `fail`; names the first check, symbol and time and counts them all.
    """
    refuse_failing(findings, policy)
    judged = tuple(replace(f, action=policy.action(f.check)) for f in findings)
    marked = bars.with_columns(quarantined_for=_quarantine_reasons(bars, judged))
    kept = marked.filter(pl.col("quarantined_for").is_null()).drop("quarantined_for")
    repaired = {finding.check for finding in judged if finding.action == "repair"}
    if "duplicates" in repaired:
        kept = keep_last_ingested(kept)
    if "ohlc" in repaired:
        kept = kept.with_columns(high=pl.max_horizontal(PRICE_COLUMNS), low=pl.min_horizontal(PRICE_COLUMNS))
    return CleanResult(bars=kept, quarantined=marked.filter(pl.col("quarantined_for").is_not_null()), findings=judged)


def _quarantine_reasons(bars: pl.DataFrame, findings: Sequence[Finding]) -> pl.Series:
    """The first check that wants each row out, null for rows that stay."""
    reasons = np.zeros(bars.height, np.int8)  # 0: stays; otherwise one more than the place of the check
    parts = bars.with_row_index("row").partition_by("symbol", as_dict=True)
    own = {key[0]: (part["row"].to_numpy(), part["timestamp"].dt.epoch("us").to_numpy()) for key, part in parts.items()}
    for finding in findings:
        if finding.action != "quarantine" or finding.symbol not in own:
            continue
        rows, stamps = own[finding.symbol]
        first = np.searchsorted(stamps, _epoch_us(finding.start), side="left")
        last = np.searchsorted(stamps, _epoch_us(finding.end), side="right")
        moved = rows[first : None if finding.check in _TO_THE_END else last]
        reasons[moved[reasons[moved] == 0]] = 1 + CHECKS.index(finding.check)
    return pl.Series(reasons).replace_strict({0: None, **dict(enumerate(CHECKS, start=1))}, return_dtype=pl.String)


def _epoch_us(time: dt.datetime) -> int:
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
