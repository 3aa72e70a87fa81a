"""Small panels, random walks and random scenarios for the tests of backtests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from quantfleet.backtest import BacktestConfig, BarPanel
from quantfleet.ledger import CostModel

FREE = CostModel(commission_bps=0.0, slippage_bps=0.0)
NAN = math.nan


def days(count: int) -> np.ndarray:
    return np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")


def panel(opens: object, closes: object | None = None, symbols: tuple[str, ...] | None = None) -> BarPanel:
    """A panel of daily bars; closes default to the opens; a flat list is one symbol."""
    open_TS = np.array(opens, dtype=np.float64)
    close_TS = open_TS if closes is None else np.array(closes, dtype=np.float64)
    if open_TS.ndim == 1:
        open_TS, close_TS = open_TS[:, None], close_TS[:, None]
    names = symbols or tuple("ABCDEFGH"[: open_TS.shape[1]])
    return BarPanel(open_TS=open_TS, close_TS=close_TS, time_T=days(len(open_TS)), symbols=names)


def weights(rows: object) -> np.ndarray:
    array = np.array(rows, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def config(**options: object) -> BacktestConfig:
    return BacktestConfig(**{"initial_capital": 1000.0, "costs": FREE, **options})  # type: ignore[arg-type]


def random_walk(bars: int, symbols: int, seed: int = 0, drift: float = 0.0) -> BarPanel:
    rng = np.random.default_rng(seed)
    close_TS = 100.0 * np.exp(np.cumsum(rng.normal(drift, 0.01, (bars, symbols)), axis=0))
    open_TS = np.vstack([np.full(symbols, 100.0), close_TS[:-1]]) * np.exp(rng.normal(0.0, 0.002, (bars, symbols)))
    return panel(open_TS, close_TS)


@st.composite
def scenarios(
    draw: Callable[..., object], *, shorts: bool, everything: bool = False
) -> tuple[BarPanel, np.ndarray, BacktestConfig]:
    """Random prices with gaps and missing bars, random weights and costs; `everything` adds what is off by default."""
    bars, width = draw(st.integers(2, 10)), draw(st.integers(1, 3))  # type: ignore[call-overload]
    cells = bars * width

    def grid(elements: st.SearchStrategy[object]) -> np.ndarray:
        return np.array(draw(st.lists(elements, min_size=cells, max_size=cells))).reshape(bars, width)

    close_TS = 100.0 * np.exp(np.cumsum(grid(st.floats(-0.4, 0.4)), axis=0))
    open_TS = np.vstack([np.full((1, width), 100.0), close_TS[:-1]]) * np.exp(grid(st.floats(-0.2, 0.2)))
    missing = grid(st.sampled_from([False, False, False, True])).astype(bool)
    missing[-1] &= ~missing[:-1].all(axis=0)  # every symbol has a bar somewhere
    open_TS[missing], close_TS[missing] = np.nan, np.nan
    target = grid(st.floats(-1.0 if shorts else 0.0, 1.0))
    target = target / np.maximum(np.abs(target).sum(axis=1, keepdims=True), 1.0)
    target[grid(st.sampled_from([False, False, True])).astype(bool)] = np.nan
    prices = panel(open_TS, close_TS)
    target[~prices.listed()] = np.nan
    costs = {name: draw(st.floats(0.0, 100.0)) for name in ("commission_bps", "slippage_bps", "spread_bps")}  # type: ignore[call-overload]
    costs["borrow_bps_per_year"] = draw(st.floats(0.0, 5000.0))  # type: ignore[call-overload]
    options: dict[str, object] = {"rebalance_band": draw(st.sampled_from([0.0, 0.05]))}  # type: ignore[call-overload]
    if everything:
        costs["margin_bps_per_year"] = draw(st.floats(0.0, 5000.0))  # type: ignore[call-overload]
        costs["impact_bps"] = draw(st.sampled_from([0.0, 50.0, 500.0]))  # type: ignore[call-overload]
        options["leverage"] = leverage = draw(st.sampled_from([1.0, 1.5, 4.0]))  # type: ignore[call-overload]
        options["maintenance_margin"] = draw(st.sampled_from([0.0, 0.1, 0.2]))  # type: ignore[call-overload]
        options["lot_units"] = draw(st.sampled_from([0.0, 0.25, 1.0]))  # type: ignore[call-overload]
        options["tick"] = draw(st.sampled_from([0.0, 0.01, 0.5]))  # type: ignore[call-overload]
        target = target * leverage
        prices = replace(
            prices,
            funding_TS=grid(st.sampled_from([0.0, 0.001, -0.002])),
            volume_TS=np.where(np.isnan(close_TS), np.nan, grid(st.sampled_from([0.0, 5.0, 40.0, 1000.0]))),
        )
    return prices, target, config(costs=CostModel(**costs), allow_short=shorts, **options)
