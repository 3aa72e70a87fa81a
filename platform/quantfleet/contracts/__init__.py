"""What rooms hand each other: bars, features, labels, splits, chunks, forecasts, models. Contracts only, no work."""

from quantfleet.contracts.augmentation import (
    AUGMENTATIONS,
    AugmentationConfig,
    Augmenter,
    TrainingWindows,
    register_augmentation,
)
from quantfleet.contracts.bars import (
    BAR_COLUMNS,
    BARS_SCHEMA,
    OPTIONAL_BARS_SCHEMA,
    PRICE_COLUMNS,
    VALUE_COLUMNS,
    validate_bars,
)
from quantfleet.contracts.book import BOOK_COLUMNS, BOOK_KINDS, BOOK_SCHEMA, BOOK_SIDES, validate_book
from quantfleet.contracts.chunk import ChunkBatch, ChunkIndex, ChunkReader, DataSpec, chunk_schema
from quantfleet.contracts.feature import (
    FEATURES,
    FeatureConfig,
    FeatureSet,
    FeatureState,
    Scaling,
    register_feature,
)
from quantfleet.contracts.forecast import Forecast
from quantfleet.contracts.funding import FUNDING_COLUMNS, FUNDING_SCHEMA, validate_funding
from quantfleet.contracts.label import LABELS, LabelConfig, register_label, t_end_column
from quantfleet.contracts.model import (
    MODELS,
    FitContext,
    FitReport,
    Model,
    ModelConfig,
    TrainingData,
    TrainingStats,
    register_model,
)
from quantfleet.contracts.scaler import SCALERS, Scaler, ScalerConfig, register_scaler, scaler_from_dict
from quantfleet.contracts.selection import SELECTORS, Selection, SelectorConfig, register_selector, selection_from_dict
from quantfleet.contracts.source import SOURCES, Asked, FetchRequest, RawRows, Source, SourceConfig, register_source
from quantfleet.contracts.split import (
    SEGMENTS,
    SPLITTERS,
    Segment,
    SplitPlan,
    SplitterConfig,
    TimeInterval,
    register_splitter,
)
from quantfleet.contracts.streaming import StreamingNetwork
from quantfleet.contracts.timeframe import Timeframe
from quantfleet.contracts.trades import TRADE_COLUMNS, TRADE_SIDES, TRADES_SCHEMA, validate_trades

__all__ = [
    "AUGMENTATIONS",
    "BARS_SCHEMA",
    "BAR_COLUMNS",
    "BOOK_COLUMNS",
    "BOOK_KINDS",
    "BOOK_SCHEMA",
    "BOOK_SIDES",
    "FEATURES",
    "FUNDING_COLUMNS",
    "FUNDING_SCHEMA",
    "LABELS",
    "MODELS",
    "OPTIONAL_BARS_SCHEMA",
    "PRICE_COLUMNS",
    "SCALERS",
    "SEGMENTS",
    "SELECTORS",
    "SOURCES",
    "SPLITTERS",
    "TRADES_SCHEMA",
    "TRADE_COLUMNS",
    "TRADE_SIDES",
    "VALUE_COLUMNS",
    "Asked",
    "AugmentationConfig",
    "Augmenter",
    "ChunkBatch",
    "ChunkIndex",
    "ChunkReader",
    "DataSpec",
    "FeatureConfig",
    "FeatureSet",
    "FeatureState",
    "FetchRequest",
    "FitContext",
    "FitReport",
    "Forecast",
    "LabelConfig",
    "Model",
    "ModelConfig",
    "RawRows",
    "Scaler",
    "ScalerConfig",
    "Scaling",
    "Segment",
    "Selection",
    "SelectorConfig",
    "Source",
    "SourceConfig",
    "SplitPlan",
    "SplitterConfig",
    "StreamingNetwork",
    "TimeInterval",
    "Timeframe",
    "TrainingData",
    "TrainingStats",
    "TrainingWindows",
    "chunk_schema",
    "register_augmentation",
    "register_feature",
    "register_label",
    "register_model",
    "register_scaler",
    "register_selector",
    "register_source",
    "register_splitter",
    "scaler_from_dict",
    "selection_from_dict",
    "t_end_column",
    "validate_bars",
    "validate_book",
    "validate_funding",
    "validate_trades",
]
