"""The compiled loop over trades. All state lives in two small arrays, so any cutting into batches gives the same bits.

Sums are added trade by trade in the order of trading; no fast-math, no blocks.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from quantfleet.compiled import read_only
from quantfleet_data.trade_bars.base import BarRule

__all__ = ["FLOATS", "INTEGERS", "Floats", "Integers", "run_trades", "start_state"]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

# Float state: the open bar, then what the imbalance rule remembers.
OPEN, HIGH, LOW, CLOSE, VOLUME, VALUE, BUY, SUM, LIMIT, MEAN_LENGTH, MEAN_SIGNED, MEAN_SQUARE, LAST_PRICE = range(13)
FLOATS = 13
# Integer state: trades of the open bar (0: none is open), how many of them have no side, times in microseconds.
COUNT, UNSIDED, FIRST_US, LAST_US, SIGN, NUMBER, SEEN = range(7)
INTEGERS = 7

_RULES = {"time": 0, "sum": 1, "imbalance": 2}
_MEASURES = {"trades": 0, "amount": 1, "value": 2}


def start_state(rule: BarRule) -> tuple[Floats, Integers]:
    """State before a symbol's first trade."""
    floats, integers = np.zeros(FLOATS), np.zeros(INTEGERS, np.int64)
    floats[MEAN_LENGTH] = rule.expected_trades
    return floats, integers


def run_trades(
    rule: BarRule,
    floats: Floats,
    integers: Integers,
    time_T: Integers,
    price_T: Floats,
    amount_T: Floats,
    side_T: npt.NDArray[np.int8],
) -> tuple[Floats, Integers]:
    """Run T trades of one symbol through the rule, changing the state in place.

    Args:
        time_T: microseconds since 1970 UTC.
        side_T: +1 buy, -1 sell, 0 not known.
    Returns: bars that ended. floats (M, 7): open, high, low, close, volume, value, buy volume (NaN where a side is not
        known). integers (M, 4): open time, time known (microseconds), trades, running number.
    """
    low, high = rule.expected_trades_range
    bars, whole = np.empty((len(time_T), 7)), np.empty((len(time_T), 4), np.int64)
    made = _run(
        _RULES[rule.rule],
        _MEASURES[rule.measure],
        np.array([rule.step_us, rule.origin_us, rule.by_side, rule.chance_floor], np.int64),
        np.array([rule.threshold, low, high, rule.bars_alpha, rule.trades_alpha]),
        floats,
        integers,
        read_only(time_T),
        read_only(price_T),
        read_only(amount_T),
        read_only(side_T),
        bars,
        whole,
    )
    return bars[:made].copy(), whole[:made].copy()


def close_by_clock(rule: BarRule, floats: Floats, integers: Integers, until_us: int) -> tuple[Floats, Integers]:
    """End the open time bar if its interval is over by `until_us`. Returns: as `run_trades`, 0 or 1 bars."""
    bars, whole = np.empty((1, 7)), np.empty((1, 4), np.int64)
    made = 0
    if rule.rule == "time" and integers[COUNT] > 0:
        opened = _floor(integers[FIRST_US], rule.step_us, rule.origin_us)
        if opened + rule.step_us <= until_us:
            made = _emit(floats, integers, opened, opened + rule.step_us, bars, whole, 0)
    return bars[:made], whole[:made]


@njit(cache=True, nogil=True)
def _floor(time_us: int, step_us: int, origin_us: int) -> Any:
    return origin_us + (time_us - origin_us) // step_us * step_us


@njit(cache=True, nogil=True)
def _emit(
    floats: Floats, integers: Integers, opened_us: int, known_us: int, bars: Floats, whole: Integers, made: int
) -> Any:
    for i in range(OPEN, BUY + 1):
        bars[made, i] = floats[i]
    if integers[UNSIDED] > 0:
        bars[made, BUY] = np.nan
    whole[made, 0] = opened_us
    whole[made, 1] = known_us
    whole[made, 2] = integers[COUNT]
    whole[made, 3] = integers[NUMBER]
    integers[NUMBER] += 1
    integers[COUNT] = 0
    return made + 1


@njit(cache=True, nogil=True)
def _run(
    rule: int,
    measure: int,
    whole_settings: Integers,
    settings: Floats,
    floats: Floats,
    integers: Integers,
    time_T: Integers,
    price_T: Floats,
    amount_T: Floats,
    side_T: npt.NDArray[np.int8],
    bars: Floats,
    whole: Integers,
) -> Any:
    step_us, origin_us = whole_settings[0], whole_settings[1]
    by_side, chance_floor = whole_settings[2] == 1, whole_settings[3] == 1
    threshold, shortest, longest, bars_alpha, trades_alpha = settings
    made = 0
    for t in range(time_T.size):
        time, price, amount = time_T[t], price_T[t], amount_T[t]
        value = price * amount
        if rule == 0 and integers[COUNT] > 0:
            opened = _floor(integers[FIRST_US], step_us, origin_us)
            if time >= opened + step_us:
                made = _emit(floats, integers, opened, opened + step_us, bars, whole, made)
        if integers[COUNT] == 0:
            floats[OPEN] = floats[HIGH] = floats[LOW] = price
            floats[VOLUME] = floats[VALUE] = floats[BUY] = floats[SUM] = 0.0
            integers[UNSIDED] = 0
            integers[FIRST_US] = time
            if rule == 2:
                limit = floats[MEAN_LENGTH] * abs(floats[MEAN_SIGNED])
                if chance_floor:
                    limit = max(limit, np.sqrt(floats[MEAN_LENGTH] * floats[MEAN_SQUARE]))
                floats[LIMIT] = limit
        floats[HIGH] = max(floats[HIGH], price)
        floats[LOW] = min(floats[LOW], price)
        floats[CLOSE] = price
        floats[VOLUME] += amount
        floats[VALUE] += value
        if side_T[t] > 0:
            floats[BUY] += amount
        elif side_T[t] == 0:
            integers[UNSIDED] += 1
        integers[COUNT] += 1
        integers[LAST_US] = time
        size = 1.0 if measure == 0 else (amount if measure == 1 else value)
        over = False
        if rule == 1:
            floats[SUM] += size
            over = floats[SUM] >= threshold
        elif rule == 2:
            if by_side:
                integers[SIGN] = side_T[t]
            elif integers[SEEN] > 0 and price != floats[LAST_PRICE]:
                integers[SIGN] = 1 if price > floats[LAST_PRICE] else -1
            floats[LAST_PRICE] = price
            integers[SEEN] += 1
            signed = integers[SIGN] * size
            floats[SUM] += signed
            weight = max(trades_alpha, 1.0 / integers[SEEN])  # a plain mean until there are enough trades for the span
            floats[MEAN_SIGNED] += weight * (signed - floats[MEAN_SIGNED])
            floats[MEAN_SQUARE] += weight * (size * size - floats[MEAN_SQUARE])
            first = integers[NUMBER] == 0
            over = integers[COUNT] >= floats[MEAN_LENGTH] if first else abs(floats[SUM]) >= floats[LIMIT]
            if over:
                length = floats[MEAN_LENGTH] + bars_alpha * (integers[COUNT] - floats[MEAN_LENGTH])
                floats[MEAN_LENGTH] = min(max(length, shortest), longest)
        if over:
            made = _emit(floats, integers, integers[FIRST_US], time, bars, whole, made)
    return made
