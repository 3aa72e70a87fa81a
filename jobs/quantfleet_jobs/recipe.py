"""The recipe: one typed tree with a section for every stage."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from quantfleet.backtest import BacktestConfig, PositionPolicy
from quantfleet.backtest.paper import PaperConfig
from quantfleet.cluster import ClusterConfig
from quantfleet.config import Resolved, load_config
from quantfleet.contracts import BAR_COLUMNS, DataSpec, FeatureSet, ModelConfig, SplitterConfig
from quantfleet.errors import ConfigError, nearest
from quantfleet.evaluation import MetricConfig
from quantfleet.evaluation.adversarial import AttackConfig
from quantfleet.evaluation.audit import AuditConfig
from quantfleet.evaluation.builtin import (
    DirectionalAccuracyMetric,
    DirectionClassesMetric,
    ForecastErrorMetric,
    InformationCoefficientMetric,
    InformationRatioOfIcMetric,
    MaxDrawdownMetric,
    ReturnMetric,
    RiskMetric,
    SharpeMetric,
    TurnoverMetric,
)
from quantfleet.registry import (
    BeatsBaselinesGate,
    BeatsChampionGate,
    DeflatedSharpeGate,
    GateConfig,
    MaxDrawdownGate,
    MinIcGate,
    MinSharpeGate,
    MinTradesOrBarsGate,
    NoLeakGate,
)
from quantfleet.registry.config import RegistryConfig
from quantfleet.storage import StorageConfig
from quantfleet.training import TrainingConfig
from quantfleet.tuning.config import SearchConfig
from quantfleet_data.book_table import BookColumns
from quantfleet_data.features import FeaturesConfig, check_base
from quantfleet_data.ingest import IngestConfig, StreamConfig
from quantfleet_data.instruments import INDEX_COLUMNS, IndexConfig, InstrumentsConfig
from quantfleet_data.labels import LabelsConfig
from quantfleet_data.quality import QualityPolicy
from quantfleet_data.splits import TimeSplit
from quantfleet_data.trade_table import BarsFromTrades, bars_source
from quantfleet_jobs.bench.config import BenchConfig

__all__ = ["BUILT_IN_PLUGINS", "Recipe", "default_gates", "default_metrics", "find_recipe", "load_recipe"]

BUILT_IN_PLUGINS = ("quantfleet_data", "quantfleet_models")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What a run is called and what makes it repeatable."""

    name: str = "quickstart"
    """Folder of the run under the storage root, and its name in MLflow."""
    seed: int = 7

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name={self.name!r}: use 1 to 63 lower-case letters, digits, '.', '_' or '-'.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """Log lines on standard error."""

    format: Literal["console", "json"] = "console"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketConfig:
    """Facts about the market that no table holds."""

    bars_per_year: Annotated[float, Field(gt=0)] = 252.0
    """252 for daily equities, 8760 for hourly crypto: annualises returns and Sharpe ratios."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FundingConfig:
    """Perpetual futures: the ingested funding rates are paid by longs to shorts at each settlement."""

    source: str | None = None
    """As in the table's column `source`; needed where several exchanges are in it."""
    without: tuple[str, ...] = ()
    """Symbols that are no perpetuals and pay none."""
    max_gap_h: Annotated[float, Field(gt=0)] = 24.0
    """Hours between two settlements, or to the first or last bar, beyond which rates are missing and the run stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowsConfig:
    """Windows and the chunks that carry them."""

    lookback_bars: Annotated[int, Field(ge=1)] = 32
    """Bars a model sees, the decision bar included."""
    chunk_bars: Annotated[int, Field(ge=1)] = 64
    """Targets of one chunk."""
    max_gap_bars: Annotated[int, Field(ge=0)] | None = None
    """A window with a larger hole between two of its bars is not used; any hole is let pass when None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Which version of the registered model answers; the alias that the promotion log moves when neither is given."""

    version: Annotated[int, Field(ge=1)] | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.alias is not None:
            raise ConfigError(
                f"version={self.version} and alias={self.alias!r} may be two different models; give one of them."
            )


def default_metrics() -> tuple[MetricConfig, ...]:
    return (
        SharpeMetric(),
        ReturnMetric(),
        MaxDrawdownMetric(),
        TurnoverMetric(),
        RiskMetric(),
        InformationCoefficientMetric(),
        InformationRatioOfIcMetric(),
        ForecastErrorMetric(),
        DirectionalAccuracyMetric(),
        DirectionClassesMetric(),
    )


def default_gates() -> tuple[GateConfig, ...]:
    return (
        NoLeakGate(),
        MinTradesOrBarsGate(),
        MinSharpeGate(),
        DeflatedSharpeGate(),
        BeatsBaselinesGate(),
        MaxDrawdownGate(),
        MinIcGate(),
        BeatsChampionGate(),
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run is made of."""

    ingest: IngestConfig
    models: tuple[ModelConfig, ...]
    plugins: tuple[str, ...] = ()
    """Modules with plugins of your own, imported first."""
    run: RunConfig = field(default_factory=RunConfig)
    log: LogConfig = field(default_factory=LogConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    market: MarketConfig = field(default_factory=MarketConfig)
    instruments: InstrumentsConfig | None = None
    """Listings, index memberships and corporate actions, loaded by `ingest`."""
    index: IndexConfig | None = None
    """A synthetic index of the bars, for features that read `index_close` and its like."""
    trade_bars: BarsFromTrades | None = None
    """Bars made of the trades that `ingest` brings, for recipes that begin with trades."""
    book: BookColumns | None = None
    """Measures of the order books in `lake/book` beside the bars, for features that read `book_...`."""
    funding: FundingConfig | None = None
    """What perpetual futures pay, from the funding rates in the lake; None: the books pay no funding."""
    quality: QualityPolicy = field(default_factory=QualityPolicy)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    split: SplitterConfig = field(default_factory=TimeSplit)
    windows: WindowsConfig = field(default_factory=WindowsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    policy: PositionPolicy = field(default_factory=PositionPolicy)
    """From forecasts to positions; its horizon is the one that models are judged by."""
    backtest: BacktestConfig = field(default_factory=BacktestConfig)
    metrics: tuple[MetricConfig, ...] = field(default_factory=default_metrics)
    gates: tuple[GateConfig, ...] = field(default_factory=default_gates)
    audit: AuditConfig = field(default_factory=AuditConfig)
    """What `quantfleet audit` looks at and does not believe."""
    attacks: AttackConfig | None = None
    """How `evaluate` attacks the inputs of torch models; None: it does not, for it takes minutes."""
    bench: BenchConfig = field(default_factory=BenchConfig)
    """How `quantfleet bench models` compares the models."""
    predict: PredictConfig = field(default_factory=PredictConfig)
    search: SearchConfig | None = None
    stream: StreamConfig | None = None
    """Live bars, for `quantfleet stream`."""
    paper: PaperConfig | None = None
    """Who trades on paper, for `quantfleet paper`."""

    def __post_init__(self) -> None:
        names = [model.label for model in self.models]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if not names:
            raise ConfigError("models is empty; list at least one, such as `kind: buy_and_hold`.")
        if doubled:
            raise ConfigError(f"models: two are called {doubled[0]!r}; give each a `name`.")
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"models: name {name!r} must be lower-case letters, digits, '.', '_' or '-'.")
        if not self.horizons_bars:
            raise ConfigError(
                "labels.families gives no horizon for which return, direction and volatility are all there; "
                "models need all three: forward_return, direction and realised_volatility with a horizon in "
                "common."
            )
        if self.policy.horizon_bars not in self.horizons_bars:
            raise ConfigError(
                f"policy.horizon_bars={self.policy.horizon_bars} is none of the horizons that models forecast: "
                f"{', '.join(map(str, self.horizons_bars))}."
            )
        if self.trade_bars is not None and self.ingest.table.name != "trades":
            raise ConfigError(
                f"trade_bars makes bars of trades, and ingest.sources deliver {self.ingest.table.name}. Leave the section out, "
                "or ingest trades, such as `kind: ccxt_trades` or `kind: files` with `rows: trades`."
            )
        if self.bench.reference is not None and self.bench.reference not in names:
            raise ConfigError(
                f"bench.reference={self.bench.reference!r} is no model of the recipe.{nearest(self.bench.reference, names)} "
                f"It has: {', '.join(names)}."
            )
        self._check_features()
        columns = self.feature_set.columns
        for model in self.models:
            for feature in model.required_features:
                if feature not in columns:
                    raise ConfigError(
                        f"model {model.label!r} reads the feature {feature!r}, which features does not compute. Add "
                        f"it to features.extra.{nearest(feature, columns)}"
                    )
        if not self.gates:
            raise ConfigError(
                "gates is empty: nothing may be promoted untested; list at least one, or leave gates out."
            )
        if self.policy.mode == "long_short" and not self.backtest.allow_short:
            raise ConfigError("policy.mode=long_short needs backtest.allow_short=true.")

    def _check_features(self) -> None:
        """Every column a feature reads is one that a stage makes."""
        check_base(self.feature_set, self.ingest.timeframe)
        known = {*BAR_COLUMNS, *(INDEX_COLUMNS if self.index is not None else ())}
        known |= set(self.book.columns if self.book is not None else ())
        for feature in self.feature_set.features:
            unknown = [name for name in feature.inputs if name not in known]
            if unknown and unknown[0] in INDEX_COLUMNS:
                raise ConfigError(
                    f"feature {feature.column!r} reads {unknown[0]!r}, but the recipe builds no index. Add one, such as "
                    '`index: {symbol: "^EW"}`: equal weights of every symbol.'
                )
            if unknown and unknown[0].startswith("book_") and self.book is None:
                raise ConfigError(
                    f"feature {feature.column!r} reads {unknown[0]!r}, but the recipe has no order book. Add a section, such as "
                    "`book: {max_age_s: 60}`, and ingest book messages under the same storage root."
                )
            if unknown:
                raise ConfigError(
                    f"feature {feature.column!r} reads the bar column {unknown[0]!r}, which no stage of a recipe makes."
                    f"{nearest(unknown[0], known)} Compute it with `quantfleet_data.features` from bars that have it."
                )

    @property
    def bars_stage(self) -> str:
        """The stage whose table and version are the bars of all later stages."""
        return "ingest" if self.trade_bars is None else "trade_bars"

    @property
    def bars_sources(self) -> tuple[str, ...]:
        """What the bars have in their column `source`, the first to be believed first."""
        names = tuple(source.source_name for source in self.ingest.sources)
        return names if self.trade_bars is None else tuple(map(bars_source, names))

    def need_trade_bars(self) -> None:
        """Raises: ConfigError: the recipe makes no bars of trades."""
        if self.trade_bars is None:
            raise ConfigError(
                "the recipe has no section `trade_bars`, which says how bars are made of its trades. Add `trade_bars: {}`."
            )

    @property
    def feature_set(self) -> FeatureSet:
        return self.features.resolve()

    @property
    def horizons_bars(self) -> tuple[int, ...]:
        """Horizons with a return, a direction and a volatility label, rising."""
        columns = set(self.labels.columns)
        found = {int(c.rsplit("_", 1)[1]) for c in columns if c.startswith("return_")}
        return tuple(sorted(h for h in found if {f"direction_{h}", f"volatility_{h}"} <= columns))

    @property
    def registered_name(self) -> str:
        return self.registry.model_name or self.run.name

    def data_spec(self, symbols: Sequence[str]) -> DataSpec:
        features = self.feature_set
        return DataSpec(
            symbols=tuple(symbols),
            feature_columns=features.columns,
            feature_digest=features.digest,
            horizons_bars=self.horizons_bars,
            timeframe=self.ingest.timeframe,
            lookback_bars=self.windows.lookback_bars,
            chunk_bars=self.windows.chunk_bars,
            max_gap_bars=self.windows.max_gap_bars,
        )


def find_recipe(name: str) -> Path:
    """Path of a recipe given as a file or as the bare name of one that ships with Quantfleet.

    Raises: ConfigError: neither exists; lists those that ship.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = _shipped()
    if name.removesuffix(".yaml") in shipped:
        return shipped[name.removesuffix(".yaml")]
    what = "it is a folder" if path.is_dir() else "no such file"
    raise ConfigError(
        f"there is no recipe {name!r}: {what}, and none of that name ships with Quantfleet "
        f"({', '.join(shipped)}).{nearest(path.stem, shipped)}",
        file=name,
    )


def _shipped() -> dict[str, Path]:
    """Recipes in the wheel, or beside the source."""
    package = Path(str(importlib.resources.files("quantfleet_jobs")))
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load_recipe(name: str, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Resolved[Recipe]:
    """Load and validate a recipe. Raises: ConfigError."""
    return load_config(Recipe, file=find_recipe(name), environ=environ, overrides=overrides, plugins=BUILT_IN_PLUGINS)
