"""Rows A1 and A2: the sixty indicators of the set `indicators`, and the TA-Lib calls they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import talib as ta

__all__ = ["Market", "assert_equals_talib", "random_market", "talib_calls"]

Array: TypeAlias = Any
WARM_UP_BARS = 2000  # the slowest average, EMA 100, then weighs its start less than 1e-17


@dataclass(frozen=True)
class Market:
    """A random walk of minute bars, contiguous float64 columns."""

    open: Array
    high: Array
    low: Array
    close: Array
    volume: Array
    day: Array

    def columns(self) -> dict[str, Array]:
        return dict(vars(self))


def random_market(seed: int, bars: int) -> Market:
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.001, bars)))
    opened = np.concatenate([[100.0], close[:-1]]) * np.exp(rng.normal(0.0, 0.0002, bars))
    high = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0.0, 0.0005, bars)))
    low = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0.0, 0.0005, bars)))
    day = (np.arange(bars) // 1440).astype(np.float64)
    return Market(opened, high, low, close, rng.lognormal(8.0, 1.0, bars), day)


def talib_calls(m: Market) -> Iterator[Any]:
    """What the peer is timed on: the raw calls, without the arithmetic that makes them free of scale.

    The VWAP since midnight has no call: TA-Lib does 59 of the sixty.
    """
    o, h, lo, c, v = m.open, m.high, m.low, m.close, m.volume
    yield from (ta.ROCP(c, n) for n in (1, 5, 21))
    yield from (ta.ROC(c, n) for n in (10, 63))
    yield from (ta.SMA(c, n) for n in (5, 10, 20, 50, 100, 200))
    yield from (ta.EMA(c, n) for n in (5, 9, 12, 21, 26, 34, 50, 100))
    yield from (
        ta.DEMA(c, 20),
        ta.TEMA(c, 20),
        ta.KAMA(c, 10),
        ta.TRIX(c, 15),
        ta.MACD(c, 12, 26, 9),
        ta.PPO(c, 12, 26, 1),
    )
    yield from (ta.ADX(h, lo, c, 14), ta.PLUS_DI(h, lo, c, 14), ta.MINUS_DI(h, lo, c, 14))
    yield from (ta.AROON(h, lo, 25), ta.AROONOSC(h, lo, 25), ta.RSI(c, 7), ta.RSI(c, 14))
    yield from (ta.STOCHF(h, lo, c, 5, 3, 0), ta.STOCH(h, lo, c, 14, 3, 0, 3, 0), ta.STOCHRSI(c, 14, 14, 3, 0))
    yield from (ta.WILLR(h, lo, c, 28), ta.CCI(h, lo, c, 20), ta.ULTOSC(h, lo, c, 7, 14, 28), ta.MFI(h, lo, c, v, 14))
    yield from (ta.NATR(h, lo, c, 14), ta.TRANGE(h, lo, c), ta.BBANDS(c, 20, 2.0, 2.0, 0))
    yield from (ta.EMA(c, 20), ta.ATR(h, lo, c, 10), ta.MAX(h, 20), ta.MIN(lo, 20))
    yield from (ta.OBV(c, v), ta.SUM(ta.MULT(ta.TYPPRICE(h, lo, c), v), 20), ta.SUM(v, 20), ta.AD(h, lo, c, v))
    yield from (ta.SMA(v, 5), ta.SMA(v, 20), ta.STDDEV(v, 20), ta.BOP(o, h, lo, c))


def _lagged(x: Array, bars: int) -> Array:
    return np.concatenate([np.full(bars, np.nan), x[:-bars]])


def _references(m: Market) -> dict[str, Array]:
    """TA-Lib's value of every column."""
    o, h, lo, c, v = m.open, m.high, m.low, m.close, m.volume
    bands, middle, swing = ta.BBANDS(c, 20, 2.0, 2.0, 0), ta.EMA(c, 20), ta.ATR(h, lo, c, 10)
    line, signal, histogram = ta.MACD(c, 12, 26, 9)
    down, up = ta.AROON(h, lo, 25)
    fast_k, fast_d = ta.STOCHF(h, lo, c, 5, 3, 0)
    slow_k, slow_d = ta.STOCH(h, lo, c, 14, 3, 0, 3, 0)
    rsi_k, rsi_d = ta.STOCHRSI(c, 14, 14, 3, 0)
    highest, lowest, traded = ta.MAX(h, 20), ta.MIN(lo, 20), ta.SUM(v, 20)
    obv, flow = ta.OBV(c, v), ta.AD(h, lo, c, v)
    turnover = ta.SUM(ta.MULT(ta.TYPPRICE(h, lo, c), v), 20)
    starts = np.flatnonzero(np.diff(m.day, prepend=m.day[0] - 1.0))
    typical = (h + lo + c) / 3.0
    session = np.concatenate(
        [
            np.cumsum(t) / np.cumsum(w)
            for t, w in zip(np.split(typical * v, starts[1:]), np.split(v, starts[1:]), strict=True)
        ]
    )
    return {
        **{f"simple_return_{n}": ta.ROCP(c, n) for n in (1, 5, 21)},
        **{f"roc_{n}": ta.ROC(c, n) for n in (10, 63)},
        **{f"close_sma_ratio_{n}": c / ta.SMA(c, n) - 1.0 for n in (5, 10, 20, 50, 100, 200)},
        **{f"close_ema_ratio_{n}": c / ta.EMA(c, n) - 1.0 for n in (5, 9, 12, 21, 26, 34, 50, 100)},
        "close_dema_ratio_20": c / ta.DEMA(c, 20) - 1.0,
        "close_tema_ratio_20": c / ta.TEMA(c, 20) - 1.0,
        "close_kama_ratio_10_2_30": c / ta.KAMA(c, 10) - 1.0,
        "trix_15": ta.TRIX(c, 15),
        "macd_line_12_26": line / c,
        "macd_signal_12_26_9": signal / c,
        "macd_histogram_12_26_9": histogram / c,
        "ppo_12_26": ta.PPO(c, 12, 26, 1),
        "adx_14": ta.ADX(h, lo, c, 14),
        "plus_di_14": ta.PLUS_DI(h, lo, c, 14),
        "minus_di_14": ta.MINUS_DI(h, lo, c, 14),
        "aroon_up_25": up,
        "aroon_down_25": down,
        "aroon_oscillator_25": ta.AROONOSC(h, lo, 25),
        **{f"rsi_{n}": ta.RSI(c, n) for n in (7, 14)},
        "stochastic_k_5": fast_k,
        "stochastic_d_5_3": fast_d,
        "stochastic_d_14_3": slow_k,
        "stochastic_slow_d_14_3_3": slow_d,
        "stochastic_rsi_k_14_14": rsi_k,
        "stochastic_rsi_d_14_14_3": rsi_d,
        "williams_r_28": ta.WILLR(h, lo, c, 28),
        "cci_20": ta.CCI(h, lo, c, 20),
        "ultimate_oscillator_7_14_28": ta.ULTOSC(h, lo, c, 7, 14, 28),
        "money_flow_index_14": ta.MFI(h, lo, c, v, 14),
        "atr_ratio_14": ta.NATR(h, lo, c, 14) / 100.0,
        "true_range_ratio": ta.TRANGE(h, lo, c) / c,
        "bollinger_b_20_2": (c - bands[2]) / (bands[0] - bands[2]),
        "bollinger_width_20_2": (bands[0] - bands[2]) / bands[1],
        "keltner_b_20_10_2": 0.5 + (c - middle) / (4.0 * swing),
        "keltner_width_20_10_2": 4.0 * swing / middle,
        "donchian_place_20": (highest + lowest) / (2.0 * c) - 1.0,
        "donchian_width_20": (highest - lowest) / c,
        "obv_slope_20": (obv - _lagged(obv, 20)) / traded,
        "vwap_ratio_20": c * traded / turnover - 1.0,
        "session_vwap_ratio": c / session - 1.0,
        "chaikin_money_flow_20": (flow - _lagged(flow, 20)) / traded,
        "volume_ratio_5_20": ta.SMA(v, 5) / ta.SMA(v, 20) - 1.0,
        "volume_zscore_20": (v - ta.SMA(v, 20)) / ta.STDDEV(v, 20),
        "balance_of_power": ta.BOP(o, h, lo, c),
    }


def assert_equals_talib(
    columns: tuple[str, ...], values_of: Callable[[int], Array], market: Market, *, tolerance: float
) -> None:
    """Compare every column with TA-Lib after the warm-up.

    Args:
        tolerance: relative to the value, or to the column's median size where the value is smaller than that: a
            difference of two averages that cross has no digits of its own.
    """
    references = _references(market)
    assert set(references) == set(columns), set(references) ^ set(columns)
    for number, name in enumerate(columns):
        ours = np.asarray(values_of(number), dtype=np.float64)[WARM_UP_BARS:]
        theirs = references[name][WARM_UP_BARS:]
        assert np.isfinite(ours).all(), name
        scale = np.maximum(np.abs(theirs), np.median(np.abs(theirs)))
        worst = float(np.max(np.abs(ours - theirs) / scale))
        assert worst <= tolerance, f"{name} differs from TA-Lib by {worst:.3g}, {tolerance:g} is allowed"
