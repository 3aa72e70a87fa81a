"""The compiled book: two sorted arrays a side, best level LAST, so that what changes most moves least.

Shapes: R rows (levels touched), M messages, E rows given out, P measures, W levels of a side that there is room for.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = [
    "ASK_LEVELS",
    "BID_LEVELS",
    "CROSSED",
    "FINE",
    "GAP",
    "HAVE_BOOK",
    "NO_SNAPSHOT",
    "SEQUENCE",
    "STATE",
    "TIME_US",
    "Floats",
    "Integers",
    "measure",
    "run_messages",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

FINE, NO_SNAPSHOT, GAP, CROSSED = range(4)
# State of a book: levels per side, is there a book, its last message.
BID_LEVELS, ASK_LEVELS, HAVE_BOOK, SEQUENCE, TIME_US = range(5)
STATE = 5


@njit(cache=True, nogil=True)
def _set_level(price_W: Floats, amount_W: Floats, levels: int, price: float, amount: float, rising: bool) -> Any:
    """Set, insert or delete one level; return how many there are then. `rising`: prices grow towards the end (bids)."""
    low, high = 0, levels
    while low < high:
        middle = (low + high) // 2
        before = price_W[middle] < price if rising else price_W[middle] > price
        if before:
            low = middle + 1
        else:
            high = middle
    there = low < levels and price_W[low] == price
    if amount == 0.0:
        if there:
            for i in range(low, levels - 1):
                price_W[i], amount_W[i] = price_W[i + 1], amount_W[i + 1]
            return levels - 1
        return levels
    if not there:
        for i in range(levels, low, -1):
            price_W[i], amount_W[i] = price_W[i - 1], amount_W[i - 1]
        price_W[low] = price
        levels += 1
    amount_W[low] = amount
    return levels


@njit(cache=True, nogil=True)
def _lean(bid: float, ask: float) -> Any:
    total = bid + ask
    return (bid - ask) / total if total > 0.0 else np.nan


@njit(cache=True, nogil=True)
def _depth(amount_W: Floats, levels: int, count: int) -> Any:
    total = 0.0
    for i in range(levels - 1, max(levels - count, 0) - 1, -1):
        total += amount_W[i]
    return total


@njit(cache=True, nogil=True)
def _depth_within(price_W: Floats, amount_W: Floats, levels: int, mid: float, bps: float) -> Any:
    total = 0.0
    for i in range(levels - 1, -1, -1):
        if abs(price_W[i] - mid) > mid * bps / 1e4:
            break
        total += amount_W[i]
    return total


@njit(cache=True, nogil=True)
def _slope(price_W: Floats, amount_W: Floats, levels: int, mid: float, count: int) -> Any:
    total, cross, squares = 0.0, 0.0, 0.0
    for i in range(levels - 1, max(levels - count, 0) - 1, -1):
        distance = abs(price_W[i] / mid - 1.0) * 1e4
        total += amount_W[i]
        cross += distance * total
        squares += distance * distance
    return cross / squares


@njit(cache=True, nogil=True)
def measure(
    bid_price: Floats,
    bid_amount: Floats,
    ask_price: Floats,
    ask_amount: Floats,
    bids: int,
    asks: int,
    levels: Integers,
    within_bps: Floats,
    slope_levels: Integers,
    out_P: Floats,
) -> None:
    """Write the measures of `BookFeaturesConfig.columns`."""
    out_P[:] = np.nan
    out_P[6], out_P[7] = bids, asks
    if bids > 0:
        out_P[0] = bid_price[bids - 1]
    if asks > 0:
        out_P[1] = ask_price[asks - 1]
    both = bids > 0 and asks > 0
    mid = (out_P[0] + out_P[1]) / 2.0
    if both:
        bid, ask = bid_amount[bids - 1], ask_amount[asks - 1]
        out_P[2] = mid
        out_P[3] = 1e4 * (out_P[1] - out_P[0]) / mid
        out_P[4] = (out_P[1] * bid + out_P[0] * ask) / (bid + ask)
        out_P[5] = 1e4 * (out_P[4] / mid - 1.0)
    at = 8
    for i in range(levels.size):
        out_P[at] = _depth(bid_amount, bids, levels[i])
        out_P[at + 1] = _depth(ask_amount, asks, levels[i])
        if both:
            out_P[at + 2] = _lean(out_P[at], out_P[at + 1])
        at += 3
    for i in range(within_bps.size):
        if both:
            out_P[at] = _depth_within(bid_price, bid_amount, bids, mid, within_bps[i])
            out_P[at + 1] = _depth_within(ask_price, ask_amount, asks, mid, within_bps[i])
            out_P[at + 2] = _lean(out_P[at], out_P[at + 1])
        at += 3
    for i in range(slope_levels.size):
        if both:
            out_P[at] = _slope(bid_price, bid_amount, bids, mid, slope_levels[i])
            out_P[at + 1] = _slope(ask_price, ask_amount, asks, mid, slope_levels[i])
            out_P[at + 2] = _lean(out_P[at], out_P[at + 1])
        at += 3


@njit(cache=True, nogil=True)
def run_messages(
    state: Integers,
    bid_price: Floats,
    bid_amount: Floats,
    ask_price: Floats,
    ask_amount: Floats,
    start_M: Integers,
    time_M: Integers,
    sequence_M: Integers,
    snapshot_M: npt.NDArray[np.bool_],
    is_bid_R: npt.NDArray[np.bool_],
    price_R: Floats,
    amount_R: Floats,
    sequence_step: int,
    sample_us: int,
    levels: Integers,
    within_bps: Floats,
    slope_levels: Integers,
    out_EP: Floats,
    out_time_E: Integers,
    out_sequence_E: Integers,
) -> Any:
    """Apply messages in order, in place.

    Args:
        start_M: first row of each message; one more entry for the end.
        sequence_step: by how much each delta's sequence grows; 0: it only has to grow.
        sample_us: 0: measures after every message. Otherwise before each message that comes after a multiple of
            sample_us (since 1970 UTC) which the message before did not pass: the book as of that time.
    Returns: (what is wrong, the message at which it is, rows given out).
    """
    made = 0
    for m in range(time_M.size):
        if sample_us > 0 and state[HAVE_BOOK] == 1:
            boundary = -(-state[TIME_US] // sample_us) * sample_us
            if boundary < time_M[m]:
                measure(
                    bid_price, bid_amount, ask_price, ask_amount, state[BID_LEVELS], state[ASK_LEVELS],
                    levels, within_bps, slope_levels, out_EP[made],
                )  # fmt: skip
                out_time_E[made], out_sequence_E[made] = state[TIME_US], state[SEQUENCE]
                made += 1
        if snapshot_M[m]:
            state[BID_LEVELS] = state[ASK_LEVELS] = 0
            state[HAVE_BOOK] = 1
        else:
            if state[HAVE_BOOK] == 0:
                return NO_SNAPSHOT, m, made
            step = sequence_M[m] - state[SEQUENCE]
            if step <= 0 or (sequence_step > 0 and step != sequence_step):
                return GAP, m, made
        for r in range(start_M[m], start_M[m + 1]):
            if is_bid_R[r]:
                state[BID_LEVELS] = _set_level(bid_price, bid_amount, state[BID_LEVELS], price_R[r], amount_R[r], True)
            else:
                state[ASK_LEVELS] = _set_level(ask_price, ask_amount, state[ASK_LEVELS], price_R[r], amount_R[r], False)
        bids, asks = state[BID_LEVELS], state[ASK_LEVELS]
        if bids > 0 and asks > 0 and bid_price[bids - 1] >= ask_price[asks - 1]:
            return CROSSED, m, made
        state[SEQUENCE], state[TIME_US] = sequence_M[m], time_M[m]
        if sample_us == 0:
            measure(
                bid_price, bid_amount, ask_price, ask_amount, bids, asks, levels, within_bps, slope_levels, out_EP[made]
            )
            out_time_E[made], out_sequence_E[made] = time_M[m], sequence_M[m]
            made += 1
    return FINE, -1, made
