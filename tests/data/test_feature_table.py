"""The feature table on Ray: kept up to date symbol by symbol, equal to computing everything again."""

from dataclasses import dataclass, field

import polars as pl
import pytest
from data.conftest import random_bars

from quantfleet.config import fingerprint
from quantfleet.contracts import FeatureSet, Timeframe
from quantfleet.errors import LeakageError
from quantfleet.storage import LakeTable, Storage, StorageConfig, TableVersion
from quantfleet_data.feature_store import OnlineFeatures, latest_features, write_features
from quantfleet_data.feature_store.state import bars_digest
from quantfleet_data.features import Feature, compute_features
from quantfleet_data.features.cross_section import CrossRank, CrossSectionConfig, CrossZScore
from quantfleet_data.features.momentum import RelativeStrengthIndex
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.trend import CloseEmaRatio
from quantfleet_data.label_table import write_labels
from quantfleet_data.labels import ForwardReturn, LabelsConfig, compute_labels

pytestmark = pytest.mark.ray

OWN = (LogReturn(bars=3), CloseEmaRatio(bars=5), RelativeStrengthIndex(bars=3))
PLAIN = FeatureSet(name="plain", version=1, features=OWN)
RANKED = FeatureSet(
    name="ranked",
    version=1,
    features=(
        CrossRank(of=LogReturn(bars=5), min_symbols=2),
        *OWN,
        CrossRank(of=OWN[2], min_symbols=2),
        CrossZScore(of=LogReturn(bars=5), min_symbols=2),
    ),
)
ROWS = 60


@dataclass(frozen=True)
class HeldBars:
    """Bars in memory in place of a lake's."""

    storage: Storage
    frames: dict[str, pl.DataFrame]
    version: int = 0
    timeframe: str = "1d"
    symbols: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(sorted(self.frames)))

    @property
    def fingerprint(self) -> str:
        return fingerprint({symbol: bars_digest(bars, bars.height) for symbol, bars in self.frames.items()})

    def read(self, symbol: str) -> pl.DataFrame:
        return self.frames[symbol]


def histories(*symbols: str) -> dict[str, pl.DataFrame]:
    return {symbol: random_bars(seed, rows=ROWS, symbol=symbol) for seed, symbol in enumerate(symbols)}


def content(storage: Storage, version: TableVersion) -> pl.DataFrame:
    return LakeTable(storage, version.path).read(version.version).sort("symbol", "timestamp")


def expected(frames: dict[str, pl.DataFrame], features: FeatureSet) -> pl.DataFrame:
    """By another way: every symbol's whole history at once, ranks by polars; z-scores are left out."""
    own = [f for f in features.features if not isinstance(f, CrossSectionConfig)]
    ranked = [f for f in features.features if isinstance(f, CrossRank)]
    needed = {f.column: f for f in (*own, *(f.of for f in ranked))}
    plain = FeatureSet(name="x", version=1, features=tuple(needed.values()))
    rows = pl.concat([compute_features(frames[symbol], plain) for symbol in sorted(frames)])
    for f in ranked:
        value = pl.col(f.of.column).fill_nan(None)
        n = value.count().over("timestamp")
        place = (value.rank("average").over("timestamp") - 1) / (n - 1)
        rows = rows.with_columns(
            pl.when(n >= f.min_symbols).then(place).otherwise(None).fill_null(float("nan")).alias(f.column)
        )
    return rows.select("symbol", "timestamp", *(f.column for f in (*own, *ranked))).sort("symbol", "timestamp")


def assert_same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert found.select("symbol", "timestamp").equals(wanted.select("symbol", "timestamp"))
    for name in wanted.columns[2:]:
        assert found[name].to_numpy().tobytes() == wanted[name].to_numpy().tobytes(), name


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def test_new_bars_are_appended_corrected_symbols_replaced_and_the_rest_left_alone(local_ray: None, storage: Storage):
    whole = histories("A", "B", "C", "D")
    before = {s: bars.head(50) for s, bars in whole.items()}
    first = write_features(HeldBars(storage, before), PLAIN)
    assert_same(content(storage, first), expected(before, PLAIN))
    assert write_features(HeldBars(storage, before), PLAIN) == first, "the same bars again change nothing"

    corrected = whole["B"].with_columns(close=pl.col("open"))
    after = {"A": whole["A"], "B": corrected, "C": before["C"], "E": random_bars(9, rows=ROWS, symbol="E")}  # D is gone
    second = write_features(HeldBars(storage, after, version=1), PLAIN)

    assert_same(content(storage, second), expected(after, PLAIN))
    assert_same(content(storage, first), expected(before, PLAIN))
    table = LakeTable(storage, second.path)
    files = [set(table.files(v.version)["path"]) for v in (first, second)]
    kept = {path.split("/")[0] for path in files[0] & files[1]}
    assert kept == {"symbol=A", "symbol=C"}, "files of A and C were not written again"
    online = OnlineFeatures(storage, second.path)
    assert online.latest("A")[1].tolist() == list(
        content(storage, second).filter(symbol="A").tail(1).select(PLAIN.columns).row(0)
    )
    assert set(online.symbols) == {"A", "B", "C", "E"}


def test_ranks_among_symbols_are_those_of_all_symbols_of_the_moment_also_after_an_update_and_in_service(
    local_ray: None, storage: Storage
):
    whole = histories("A", "B", "C")
    whole["A"] = whole["A"].filter(~pl.int_range(ROWS).is_in([52, 53, 54]))  # its newest rows begin before its peers'
    before = {s: bars.head(50) for s, bars in whole.items()}
    first = write_features(HeldBars(storage, before), RANKED)
    assert_same(content(storage, first), expected(before, RANKED))

    second = write_features(HeldBars(storage, whole), RANKED)

    assert_same(content(storage, second), expected(whole, RANKED))
    assert OnlineFeatures(storage, second.path).columns == RANKED.columns
    assert len(OnlineFeatures(storage, second.path).latest("A")[1]) == len(RANKED.columns)
    newest = latest_features(whole.__getitem__, tuple(whole), RANKED, rows=10)
    table = content(storage, second)
    for symbol, rows in newest.items():
        assert_same(rows, table.filter(symbol=symbol).tail(10).select(rows.columns))
    assert newest["A"].select(RANKED.columns).to_numpy().min() > float("-inf"), "no value is missing"


def test_labels_are_written_anew_when_bars_have_come(local_ray: None, storage: Storage):
    config = LabelsConfig(families=(ForwardReturn(horizons_bars=(2,)),))
    whole = histories("A", "B")
    before = {s: bars.head(50) for s, bars in whole.items()}
    first = write_labels(HeldBars(storage, before), config)
    assert write_labels(HeldBars(storage, before), config) == first, "the same bars again change nothing"

    second = write_labels(HeldBars(storage, whole), config)

    for version, frames in ((first, before), (second, whole)):
        wanted = pl.concat([compute_labels(frames[symbol], config, Timeframe("1d")) for symbol in sorted(frames)])
        assert content(storage, version).select(wanted.columns).equals(wanted.sort("symbol", "timestamp"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Peeking(Feature):
    """A later close; 0 where there is none."""

    kind = "peeking"
    ahead: int = 1

    @property
    def column(self) -> str:
        return "peeking"

    @property
    def lookback_bars(self) -> int:
        return 1

    def values(self, bars: pl.DataFrame):
        return bars["close"].shift(-self.ahead).fill_null(bars["close"] * 0.0).to_numpy().copy()


def test_a_feature_that_looks_ahead_is_refused_by_name_and_nothing_is_written(storage: Storage):
    peeking = FeatureSet(name="bad", version=1, features=(LogReturn(bars=1), Peeking()))
    with pytest.raises(LeakageError, match="feature 'peeking' sees the future"):
        write_features(HeldBars(storage, histories("A")), peeking)
    assert storage.list("lake") == []


def test_a_feature_that_looks_far_ahead_is_refused_though_the_first_symbol_is_too_short_to_show_it(storage: Storage):
    """Its 50 bars ahead are beyond every cut of a symbol of 40."""
    far = FeatureSet(name="bad", version=1, features=(LogReturn(bars=1), Peeking(ahead=50)))
    frames = {"A": random_bars(0, rows=40, symbol="A"), "B": random_bars(1, rows=300, symbol="B")}
    with pytest.raises(LeakageError, match=r"feature 'peeking' sees the future: at 20.* of B"):
        write_features(HeldBars(storage, frames), far)
    assert storage.list("lake") == []


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossPeeking(CrossRank):
    """Each value less the mean of all times."""

    kind = "cross_peeking"

    def across(self, values: pl.DataFrame) -> pl.DataFrame:
        return values.with_columns(pl.col("value").fill_nan(0.0) - pl.col("value").fill_nan(0.0).mean())


def test_a_comparison_of_symbols_that_reads_other_times_is_refused_by_name_and_nothing_is_written(storage: Storage):
    peeking = FeatureSet(name="bad", version=1, features=(LogReturn(bars=1), CrossPeeking(min_symbols=2)))
    with pytest.raises(LeakageError, match="feature 'cross_peeking_log_return_1' sees the future"):
        write_features(HeldBars(storage, histories("A", "B")), peeking)
    assert storage.list("lake") == []
