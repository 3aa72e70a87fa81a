"""Where bars come from: registered sources. Importing this package registers all of them."""

from quantfleet_data.sources.alpaca import AlpacaConfig
from quantfleet_data.sources.arch_daily import ArchDailyConfig
from quantfleet_data.sources.ccxt_book import CcxtBookConfig
from quantfleet_data.sources.ccxt_funding import CcxtFundingConfig
from quantfleet_data.sources.ccxt_ohlcv import CcxtConfig, CcxtSource
from quantfleet_data.sources.ccxt_trades import CcxtTradesConfig
from quantfleet_data.sources.clock import check_timeframe
from quantfleet_data.sources.files import FilesConfig
from quantfleet_data.sources.sql import SqlConfig
from quantfleet_data.sources.synthetic import SyntheticConfig
from quantfleet_data.sources.yfinance import YfinanceConfig

__all__ = [
    "AlpacaConfig",
    "ArchDailyConfig",
    "CcxtBookConfig",
    "CcxtConfig",
    "CcxtFundingConfig",
    "CcxtSource",
    "CcxtTradesConfig",
    "FilesConfig",
    "SqlConfig",
    "SyntheticConfig",
    "YfinanceConfig",
    "check_timeframe",
]
