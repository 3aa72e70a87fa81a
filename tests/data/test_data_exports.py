"""The public faces of the four rooms, pinned: a name that goes or comes is a visible change."""

import importlib

import pytest

from quantfleet.contracts import FEATURES, LABELS, SPLITTERS

EXPORTS = {
    "features": [
        "BookMeasure", "CrossSectionConfig", "Feature", "FeaturesConfig", "KernelFeature", "OnTimeframe", "advance_features",
        "assert_causal", "assert_causal_across", "check_base", "compute_features", "compute_panel", "core_v2", "feature_set",
        "feature_set_names", "indicators_v1", "intraday_v2", "one_symbol", "register_feature_set", "sixty_indicators",
        "spread_cuts",
    ],
    "labels": [
        "Direction", "Entry", "ForwardReturn", "LabelsConfig", "Measure", "MetaLabel", "RealisedVolatility",
        "TrendScanning", "TripleBarrier", "VolatilityRegime", "assert_settled", "compute_labels",
    ],
    "splits": [
        "CombinatorialPurged", "FoldSplitter", "PurgedKFold", "RegimeStratified", "SegmentCounts", "TimeSplit", "WalkForward",
        "assert_no_leak", "assign_segments", "check_split", "count_segments", "require_rows", "segment_column",
    ],
    "weights": [
        "WeightsConfig", "average_uniqueness", "concurrency", "return_attribution", "sequential_bootstrap", "time_decay",
    ],
    "quality": [
        "CHECKS", "MARKET", "Action", "Calendar", "Check", "CleanResult", "Coverage", "CoverageCount", "CoverageRow",
        "Finding", "MarketTimes", "PriceSketch", "QualityPolicy", "QualityReport", "Severity", "SymbolReport",
        "SymbolTimes", "apply_policy", "correcting_versions", "count_bars", "find_breaks", "find_contradictions",
        "find_corrections", "find_duplicates", "find_flat_bars", "find_gaps", "find_outliers", "find_stale_runs",
        "find_thin_moves", "find_zero_volume_runs", "inspect_bars", "read_corrections", "refuse_failing",
        "report_symbol", "sketch_prices", "sum_up_times", "symbols_to_sketch",
    ],
}  # fmt: skip


@pytest.mark.parametrize("room", EXPORTS)
def test_the_public_names_of_a_room_are_these_and_all_are_there(room):
    module = importlib.import_module(f"quantfleet_data.{room}")
    assert module.__all__ == EXPORTS[room]
    assert all(hasattr(module, name) for name in module.__all__)


def test_importing_the_rooms_registers_their_plugins():
    for room in EXPORTS:
        importlib.import_module(f"quantfleet_data.{room}")
    built_in = [n for n in FEATURES.names() if FEATURES.get(n).__module__.startswith("quantfleet_data.")]
    assert built_in == [
        "adx", "alpha158", "alpha158_bar", "amihud", "aroon_down", "aroon_oscillator", "aroon_up", "atr_move",
        "atr_ratio", "balance_of_power", "bollinger_b", "bollinger_width", "book", "candle_pattern", "cci",
        "chaikin_money_flow", "close_dema_ratio", "close_ema_ratio", "close_kama_ratio", "close_sma_ratio",
        "close_tema_ratio", "corwin_schultz", "cross_rank", "cross_zscore", "day_of_month", "day_of_week",
        "distance_to_extreme", "donchian_place", "donchian_width", "ema_alignment", "ema_slope",
        "fractional_difference", "garman_klass", "hour_of_day", "hurst", "idiosyncratic_volatility", "index_alpha",
        "index_beta", "index_correlation", "intraday_return", "keltner_b", "keltner_width", "kyle_lambda",
        "log_return", "macd_histogram", "macd_line", "macd_signal", "minus_di", "money_flow_index", "month_of_year",
        "obv_slope", "on_timeframe", "open_gap", "parkinson", "plus_di", "ppo", "prior_period_level",
        "realised_volatility", "relative_strength", "return_autocorrelation", "return_kurtosis", "return_skewness",
        "roc", "rogers_satchell", "roll_spread", "rsi", "run_length", "session_vwap_ratio", "simple_return",
        "sma_ratio", "stochastic_d", "stochastic_k", "stochastic_rsi_d", "stochastic_rsi_k", "stochastic_slow_d",
        "swing_age", "swing_distance", "trade_imbalance", "trix", "true_range_ratio", "ultimate_oscillator",
        "variance_ratio", "volatility_ratio", "volume_profile", "volume_ratio", "volume_zscore", "vpin", "vwap_ratio",
        "williams_r", "yang_zhang",
    ]  # fmt: skip
    assert {
        "direction", "forward_return", "meta_label", "realised_volatility", "trend_scanning", "triple_barrier",
    } <= set(LABELS.names())  # fmt: skip
    assert {
        "combinatorial_purged", "purged_kfold", "regime_stratified", "time", "walk_forward",
    } <= set(SPLITTERS.names())  # fmt: skip
