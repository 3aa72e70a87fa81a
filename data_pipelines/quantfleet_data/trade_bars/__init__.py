"""Bars made of trades: by the clock, by trades, volume and value, by imbalance; batch or streaming, the same bits."""

from quantfleet_data.trade_bars.base import TRADE_BAR_COLUMNS, TRADE_BARS, TradeBarsConfig, register_trade_bars
from quantfleet_data.trade_bars.build import TradeBarBuilder, bars_from_trades, stream_trade_bars
from quantfleet_data.trade_bars.kinds import (
    DollarBars,
    DollarImbalanceBars,
    TickBars,
    TickImbalanceBars,
    TimeBars,
    VolumeBars,
    VolumeImbalanceBars,
)

__all__ = [
    "TRADE_BARS",
    "TRADE_BAR_COLUMNS",
    "DollarBars",
    "DollarImbalanceBars",
    "TickBars",
    "TickImbalanceBars",
    "TimeBars",
    "TradeBarBuilder",
    "TradeBarsConfig",
    "VolumeBars",
    "VolumeImbalanceBars",
    "bars_from_trades",
    "register_trade_bars",
    "stream_trade_bars",
]
