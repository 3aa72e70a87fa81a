"""The public face: what each package exports is pinned here, so that a name that goes or comes is a visible change."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOTS = ("quantfleet", "quantfleet_models", "quantfleet_data", "quantfleet_jobs")
PUBLIC = {
    "quantfleet": ["__version__"],
    "quantfleet.backtest": [
        "TRADE_SCHEMA", "BacktestConfig", "BacktestResult", "BarPanel", "OrderLog", "PositionPolicy", "SignalMetrics",
        "SignalRuns", "run_backtest", "run_backtests", "run_signals",
    ],
    "quantfleet.backtest.events": [
        "BarEvent", "BarEvents", "BookEvent", "BookEvents", "Cancel", "Decision", "EventResult", "EventSource",
        "ExecutionConfig", "Fill", "MarketView", "Order", "OrderStatus", "Strategy", "TradeEvent", "TradeEvents", "Working",
        "run_events",
    ],
    "quantfleet.backtest.paper": [
        "TRADERS", "ForecastStrategy", "MovingAverageTrader", "PaperConfig", "PaperSession", "TraderConfig", "bar_events",
        "register_trader", "saved_owner",
    ],
    "quantfleet.calibration": ["ConformalQuantiles", "IsotonicCalibration", "TemperatureCalibration"],
    "quantfleet.cluster": ["ClusterConfig"],
    "quantfleet.config": ["Resolved", "fingerprint", "from_plain", "load_config", "to_plain"],
    "quantfleet.contracts": [
        "AUGMENTATIONS", "BARS_SCHEMA", "BAR_COLUMNS", "BOOK_COLUMNS", "BOOK_KINDS", "BOOK_SCHEMA",
        "BOOK_SIDES", "FEATURES", "FUNDING_COLUMNS", "FUNDING_SCHEMA", "LABELS", "MODELS",
        "OPTIONAL_BARS_SCHEMA", "PRICE_COLUMNS", "SCALERS", "SEGMENTS", "SELECTORS", "SOURCES", "SPLITTERS", "TRADES_SCHEMA",
        "TRADE_COLUMNS",
        "TRADE_SIDES", "VALUE_COLUMNS", "Asked", "AugmentationConfig", "Augmenter", "ChunkBatch", "ChunkIndex",
        "ChunkReader", "DataSpec", "FeatureConfig", "FeatureSet", "FeatureState", "FetchRequest", "FitContext",
        "FitReport", "Forecast", "LabelConfig", "Model", "ModelConfig", "RawRows", "Scaler", "ScalerConfig", "Scaling",
        "Segment", "Selection", "SelectorConfig", "Source", "SourceConfig", "SplitPlan", "SplitterConfig", "StreamingNetwork",
        "TimeInterval", "Timeframe", "TrainingData", "TrainingStats", "TrainingWindows", "chunk_schema",
        "register_augmentation", "register_feature", "register_label", "register_model", "register_scaler",
        "register_selector", "register_source", "register_splitter", "scaler_from_dict", "selection_from_dict",
        "t_end_column", "validate_bars", "validate_book", "validate_funding", "validate_trades",
    ],
    "quantfleet.evaluation": [
        "CURVE_COLUMNS", "METRICS", "PREDICTION_COLUMNS", "Capacity", "ClassScore", "DirectionClassesMetric",
        "DirectionalAccuracyMetric", "EvaluationView", "ForecastErrorMetric", "IcInterval", "InformationCoefficientMetric",
        "InformationRatioOfIcMetric", "MaxDrawdownMetric", "MetricConfig", "OverfittingResult", "Reliability",
        "ReturnMetric", "RiskMetric", "SharpeDifference", "SharpeInterval", "SharpeMetric", "SortinoMetric",
        "TurnoverMetric", "alpha_beta", "annual_return", "annual_volatility", "brier_score", "call_share", "calmar",
        "capacity", "class_scores", "crps_ensemble", "crps_normal", "crps_quantiles", "deflated_sharpe",
        "directional_accuracy", "drawdown_length_bars", "evaluate_model", "expected_best_sharpe",
        "expected_shortfall", "exposure", "hit_rate", "ic_block_bars", "ic_by_time", "ic_decay", "ic_interval", "icir",
        "impact_per_root_capital",
        "information_coefficient", "max_drawdown", "mean_absolute_error", "mean_squared_error",
        "minimum_track_record_bars", "omega", "optimal_block_bars", "pinball", "plant_oracle",
        "probabilistic_sharpe", "probability_of_overfitting", "profit_factor", "rank_ic", "register_metric",
        "reliability", "resample_ics", "resample_sharpes", "score_forecasts", "sharpe", "sharpe_difference", "sharpe_interval",
        "shuffle_labels", "shuffle_rows", "sortino", "tail_ratio", "total_return", "turnover_per_year", "up_share",
        "value_at_risk",
    ],
    "quantfleet.evaluation.audit": ["CHECKS", "AuditConfig", "AuditInputs", "Finding", "audit", "least_squares"],
    "quantfleet.evaluation.inference": [
        "BayesianComparison", "DieboldMariano", "ModelVerdict", "RunVerdict", "SeededDifference", "Superiority",
        "adjusted_p_values", "bayes_factor", "bayesian_comparison", "confidence_set", "detection_power", "diebold_mariano",
        "difference_over_seeds", "judge", "permuted_correlation_p", "pooled_deviation",
        "sign_flip_p", "superiority", "years_to_detect",
    ],
    "quantfleet.evaluation.report": [
        "CURVE_COLUMNS", "FEATURE_COLUMNS", "SEGMENTS", "ModelPage", "ReportInputs", "StageRow",
        "render_quality_page", "render_report", "report_data",
    ],
    "quantfleet.ledger": ["BPS", "DUST", "Account", "CostModel", "Fills", "RiskRules"],
    "quantfleet.registry": [
        "GATES", "BeatsBaselinesGate", "BeatsChampionGate", "Candidate", "Decision", "DeflatedSharpeGate",
        "GateConfig", "GateContext", "GateResult", "MaxDrawdownGate", "MinIcGate", "MinSharpeGate",
        "MinTradesOrBarsGate", "NoLeakGate", "Verdict", "decide", "decide_all", "register_gate",
    ],
    "quantfleet.serving": [],
    "quantfleet.serving.onnx": ["ExportedGraph", "OnnxStreams", "OnnxWindows", "export_onnx"],
    "quantfleet.storage": ["LakeTable", "MadeTable", "Rewrite", "Storage", "StorageConfig", "TableVersion", "s3_environment"],
    "quantfleet.testing": ["check_model_contract"],
    "quantfleet.training": [
        "SAMPLERS", "STRATEGIES", "BoostedConfig", "CheckpointsConfig", "DDPConfig", "DeepSpeedConfig", "DifficultySampling",
        "FSDPConfig", "FaultsConfig", "LossConfig", "RecencySampling", "RegimeSampling", "RowModelConfig", "SamplingConfig",
        "SingleTaskConfig", "StrategyConfig", "TorchModelConfig", "TrainingConfig", "UniformSampling", "UniquenessSampling",
        "register_sampler", "register_strategy",
    ],
    "quantfleet.training.strategies": [
        "STRATEGIES", "DDPConfig", "DeepSpeedConfig", "EngineSettings", "FSDPConfig", "StrategyConfig", "register_strategy",
    ],
    "quantfleet.transforms": [
        "AffineScaler", "AffineScalerConfig", "IdentityScalerConfig", "InputTransform", "RowSample", "StandardScalerConfig",
        "TrainingRows",
        "fit_selection", "output_units", "sample_training_rows", "training_rows", "training_rows_by_symbol",
    ],
    "quantfleet.tuning": [
        "ParameterRange", "SearchConfig", "Sensitivity", "SettingIndex", "settings_sensitivity", "sobol_indices",
    ],
    "quantfleet_data.augmentation": ["BlockBootstrap", "Jitter", "Mixup", "Scale", "TimeWarp", "WindowSlice"],
    "quantfleet_data.order_book": ["BookFeaturesConfig", "BookReplay", "join_book", "replay"],
    "quantfleet_data.scaling": [
        "RobustScalerConfig", "RollingScaler", "RollingScalerConfig",
    ],
    "quantfleet_data.selection": [
        "ColumnSelection", "CorrelationSelectorConfig", "GainSelectorConfig", "MutualInformationSelectorConfig",
        "PermutationSelectorConfig", "PrincipalComponents", "PrincipalComponentsConfig",
    ],
    "quantfleet_data.trade_bars": [
        "TRADE_BARS", "TRADE_BAR_COLUMNS", "DollarBars", "DollarImbalanceBars", "TickBars", "TickImbalanceBars",
        "TimeBars", "TradeBarBuilder", "TradeBarsConfig", "VolumeBars", "VolumeImbalanceBars",
        "bars_from_trades", "register_trade_bars", "stream_trade_bars",
    ],
    "quantfleet_models": [
        "boosted", "calibrated", "catboost", "cnn", "dlinear", "efficient_hybrid", "ensemble", "forest", "foundation", "gru",
        "hierarchical", "hist_boosting", "hybrid", "itransformer", "lightgbm", "linear", "lstm_attention",
        "multimodal", "naive", "nhits", "patch_tst", "position_sizer", "statistical", "svm", "task_ensemble", "tcn",
        "tft", "transformer", "xlstm", "xlstm_transformer",
    ],
    "quantfleet_models.boosted": ["XGBoostConfig"],
    "quantfleet_models.catboost": ["CatBoostConfig"],
    "quantfleet_models.forest": ["RandomForestConfig"],
    "quantfleet_models.foundation": ["FoundationConfig"],
    "quantfleet_models.hybrid": ["HybridConfig"],
    "quantfleet_models.lightgbm": ["LightGBMConfig"],
    "quantfleet_models.linear": ["LogisticConfig", "RidgeConfig"],
    "quantfleet_models.cnn": ["CNNConfig"],
    "quantfleet_models.dlinear": ["DLinearConfig"],
    "quantfleet_models.gru": ["GRUConfig"],
    "quantfleet_models.itransformer": ["ITransformerConfig"],
    "quantfleet_models.lstm_attention": ["LSTMAttentionConfig"],
    "quantfleet_models.nhits": ["NHITSConfig"],
    "quantfleet_models.patch_tst": ["PatchTSTConfig"],
    "quantfleet_models.position_sizer": ["PositionSizerConfig"],
    "quantfleet_models.tcn": ["TCNConfig"],
    "quantfleet_models.tft": ["TFTConfig"],
    "quantfleet_models.transformer": ["TransformerConfig"],
    "quantfleet_models.parts": [],
    "quantfleet_models.naive": ["BuyAndHoldConfig", "MovingAverageConfig", "ZeroReturnConfig"],
    "quantfleet_models.calibrated": ["CalibratedConfig"],
    "quantfleet_models.ensemble": ["ModelAveragingConfig", "RegimeGatedConfig", "StackingConfig", "VotingConfig"],
    "quantfleet_models.efficient_hybrid": ["EfficientHybridConfig"],
    "quantfleet_models.hierarchical": ["HierarchicalConfig"],
    "quantfleet_models.multimodal": ["MultimodalConfig"],
    "quantfleet_models.task_ensemble": ["TaskEnsembleConfig"],
    "quantfleet_models.hist_boosting": ["HistBoostingConfig"],
    "quantfleet_models.statistical": ["ARIMAConfig", "ETSConfig", "GARCHConfig", "ProphetConfig"],
    "quantfleet_models.svm": ["SVMConfig"],
    "quantfleet_models.xlstm": ["XLSTMConfig"],
    "quantfleet_models.xlstm_transformer": ["XLSTMTransformerConfig"],
    "quantfleet_data": [
        "augmentation", "features", "labels", "scaling", "selection", "sources", "splits", "trade_bars",
    ],
    "quantfleet_data.chunks": [
        "ChunkCutter", "ChunkInputs", "ChunkStore", "chunk_segment", "chunk_store_path", "symbol_rows",
        "write_chunks",
    ],
    "quantfleet_data.features": [
        "BookMeasure", "CrossSectionConfig", "Feature", "FeaturesConfig", "KernelFeature", "OnTimeframe", "advance_features",
        "assert_causal", "assert_causal_across", "check_base", "compute_features", "compute_panel", "core_v2", "feature_set",
        "feature_set_names", "indicators_v1", "intraday_v2", "one_symbol", "register_feature_set", "sixty_indicators",
        "spread_cuts",
    ],
    "quantfleet_data.features.kernels": [
        "Formula", "Graph", "Node", "Operand", "Panel", "PanelRunner", "Program", "Runner", "bar_columns",
        "empty_rows", "lane_code_of", "plan", "program_of",
    ],
    "quantfleet_data.features.sets": [
        "alpha158_v1", "candles_v1", "core_v2", "cross_section_v1", "feature_set", "feature_set_names",
        "indicators_v1", "intraday_v2", "multi_timeframe_1d_v1", "multi_timeframe_1h_v1", "multi_timeframe_1m_v1",
        "multi_timeframe_5m_v1", "register_feature_set", "relative_v1", "signals_v1", "sixty_indicators",
        "structure_v1",
    ],
    "quantfleet_data.ingest": [
        "TABLES", "IngestConfig", "IngestProgress", "IngestReport", "RawTable", "RowCounts", "StreamConfig",
        "bars_path", "event_stretches", "ingest", "list_symbols", "read_bars", "read_events", "stream",
        "stream_bars",
    ],
    "quantfleet_data.instruments": [
        "INDEX_COLUMNS", "IndexConfig", "InstrumentFile", "InstrumentVersions", "Instruments",
        "InstrumentsConfig", "adjust_backward", "adjust_forward", "aggregate_index", "bar_blocks",
        "build_index", "join_index", "listings_from_bars", "load_instruments", "read_actions",
        "read_instruments", "write_instruments",
    ],
    "quantfleet_data.labels": [
        "Direction", "Entry", "ForwardReturn", "LabelsConfig", "Measure", "MetaLabel", "RealisedVolatility",
        "TrendScanning", "TripleBarrier", "VolatilityRegime", "assert_settled", "compute_labels",
    ],
    "quantfleet_data.quality": [
        "CHECKS", "MARKET", "Action", "Calendar", "Check", "CleanResult", "Coverage", "CoverageCount", "CoverageRow",
        "Finding", "MarketTimes", "PriceSketch", "QualityPolicy", "QualityReport", "Severity", "SymbolReport",
        "SymbolTimes", "apply_policy", "correcting_versions", "count_bars", "find_breaks", "find_contradictions",
        "find_corrections", "find_duplicates", "find_flat_bars", "find_gaps", "find_outliers", "find_stale_runs",
        "find_thin_moves", "find_zero_volume_runs", "inspect_bars", "read_corrections", "refuse_failing",
        "report_symbol", "sketch_prices", "sum_up_times", "symbols_to_sketch",
    ],
    "quantfleet_data.sources": [
        "AlpacaConfig", "ArchDailyConfig", "CcxtBookConfig", "CcxtConfig", "CcxtFundingConfig", "CcxtSource",
        "CcxtTradesConfig", "FilesConfig", "SqlConfig", "SyntheticConfig", "YfinanceConfig", "check_timeframe",
    ],
    "quantfleet_data.splits": [
        "CombinatorialPurged", "FoldSplitter", "PurgedKFold", "RegimeStratified", "SegmentCounts", "TimeSplit", "WalkForward",
        "assert_no_leak", "assign_segments", "check_split", "count_segments", "require_rows", "segment_column",
    ],
    "quantfleet_data.feature_store": [
        "BarContext", "FeatureBars", "OnlineFeatures", "feature_drift", "feature_table_path", "latest_features",
        "point_in_time_join", "write_features",
    ],
    "quantfleet_data.weights": [
        "WeightsConfig", "average_uniqueness", "concurrency", "return_attribution", "sequential_bootstrap", "time_decay",
    ],
    "quantfleet_jobs": [],
    "quantfleet_jobs.bench": [],
}  # fmt: skip


def packages() -> list[str]:
    found = []
    for root in ROOTS:
        module = importlib.import_module(root)
        found += [root, *(p.name for p in pkgutil.walk_packages(module.__path__, f"{root}.") if p.ispkg)]
    return found


def kind_and_name(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions, each in order of the alphabet."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_every_package_is_pinned_and_every_pin_is_a_package():
    assert sorted(packages()) == sorted(PUBLIC)


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_exports_what_is_pinned_and_all_of_it_is_there(package):
    module = importlib.import_module(package)
    assert list(getattr(module, "__all__", [])) == PUBLIC[package]
    for name in PUBLIC[package]:
        assert hasattr(module, name) or importlib.import_module(f"{package}.{name}")


@pytest.mark.parametrize("package", PUBLIC)
def test_exported_names_are_sorted_and_none_is_private(package):
    names = PUBLIC[package]
    assert names == sorted(set(names), key=kind_and_name)
    assert not [n for n in names if n.startswith("_") and n != "__version__"]


def test_configs_contracts_and_storage_come_without_torch_ray_and_mlflow():
    light = "quantfleet.config, quantfleet.contracts, quantfleet.storage, quantfleet.training, quantfleet.plugins, quantfleet.logs"
    code = f"import sys, {light}; print(*sorted({{'torch', 'ray', 'mlflow', 'lightning'}} & set(sys.modules)))"
    paths = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_the_source_roots_are_no_packages_so_that_pythons_own_platform_module_stays():
    import platform

    assert platform.system()
    for root in ROOTS:
        package = Path(importlib.import_module(root).__path__[0])
        assert (package / "__init__.py").exists()
        assert not (package.parent / "__init__.py").exists()
