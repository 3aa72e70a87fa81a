"""The feature store without a cluster: what is carried from run to run, and what is read online."""

import polars as pl
import pytest
from data.conftest import random_bars
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import FeatureSet
from quantfleet.errors import DataError, MissingInputError
from quantfleet.storage import Storage, StorageConfig, TableVersion
from quantfleet_data.feature_store import OnlineFeatures
from quantfleet_data.feature_store.live import LiveFeatures
from quantfleet_data.feature_store.plan import SymbolRun, is_prefix
from quantfleet_data.feature_store.state import SymbolState, bars_digest, states_from_bytes, states_to_bytes
from quantfleet_data.features import compute_features
from quantfleet_data.features.momentum import RelativeStrengthIndex
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.trend import CloseEmaRatio

TABLE = "lake/features/1d/test-1"
FEATURES = FeatureSet(
    name="test", version=1, features=(LogReturn(bars=3), CloseEmaRatio(bars=5), RelativeStrengthIndex(bars=3))
)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(1, 119), max_size=4, unique=True), block=st.integers(7, 130), seed=st.integers(0, 3))
def test_any_series_of_runs_and_blocks_makes_the_rows_of_one_run_over_everything(cuts, block, seed):
    bars = random_bars(seed, rows=120)
    state, parts = None, []
    for end in [*sorted(cuts), 120]:
        run = SymbolRun(bars.head(end), FEATURES, state, block_bars=block)
        parts += run
        (state,) = states_from_bytes(states_to_bytes([run.state])).values()
    whole = compute_features(bars, FEATURES)
    together = pl.concat(parts)
    assert together.select("symbol", "timestamp").equals(whole.select("symbol", "timestamp"))
    for name in FEATURES.columns:
        assert together[name].to_numpy().tobytes() == whole[name].to_numpy().tobytes()
    assert state.latest.tolist() == pytest.approx(
        list(whole.tail(1).select(FEATURES.columns).row(0)), nan_ok=True, abs=0
    )


def state_after(bars: pl.DataFrame) -> SymbolState:
    run = SymbolRun(bars, FEATURES, None)
    assert sum(rows.height for rows in run) == bars.height
    return run.state


def test_a_state_goes_on_only_from_the_very_bars_it_stands_for():
    bars = random_bars(1, rows=60)
    state = state_after(bars.head(50))
    assert is_prefix(state, bars)
    assert is_prefix(state, bars.head(50))
    assert not is_prefix(state, bars.head(49)), "a bar is gone"
    corrected = bars.with_columns(close=pl.when(pl.int_range(60) == 7).then(pl.col("close") + 0.01).otherwise("close"))
    assert not is_prefix(state, corrected), "a bar was corrected"
    assert not is_prefix(state, bars.slice(1)), "the history begins later"
    assert not is_prefix(state, bars.with_columns(index_close=pl.lit(1.0))), "another column is there"
    unknown = bars.with_columns(volume=pl.when(pl.int_range(60) == 7).then(None).otherwise("volume"))
    assert bars_digest(unknown, 60) != bars_digest(unknown.with_columns(pl.col("volume").fill_null(0.0)), 60)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def publish(storage: Storage, content: str, version: int, rows: int) -> pl.DataFrame:
    live = LiveFeatures(storage, TABLE)
    states = [state_after(random_bars(seed, rows=rows, symbol=symbol)) for seed, symbol in enumerate(("A", "B"))]
    live.write(content, states_to_bytes(states))
    live.publish(content, TableVersion(TABLE, version), FEATURES.columns)
    return compute_features(random_bars(0, rows=rows, symbol="A"), FEATURES).tail(1)


def test_the_online_row_is_the_newest_row_of_the_table(storage):
    last = publish(storage, "one", 3, rows=40)
    online = OnlineFeatures(storage, TABLE)
    opened, values = online.latest("A")
    assert (online.version, online.symbols, online.columns) == (3, ("A", "B"), FEATURES.columns)
    assert opened == last["timestamp"][0]
    assert values.tolist() == list(last.select(FEATURES.columns).row(0))
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1.0


def test_a_new_version_is_seen_at_the_next_refresh_and_the_old_file_stays_for_those_who_read_it(storage):
    publish(storage, "one", 3, rows=40)
    online = OnlineFeatures(storage, TABLE)
    assert online.refresh() is False
    last = publish(storage, "two", 6, rows=41)
    assert online.version == 3
    assert online.refresh() is True
    assert (online.version, online.latest("A")[0]) == (6, last["timestamp"][0])
    assert LiveFeatures(storage, TABLE).file("one") in storage.list("lake/live/1d/test-1")
    publish(storage, "three", 9, rows=42)
    assert LiveFeatures(storage, TABLE).file("one") not in storage.list("lake/live/1d/test-1")


def test_an_unknown_symbol_and_a_table_that_was_never_made_are_refused(storage):
    with pytest.raises(MissingInputError, match="no live features"):
        OnlineFeatures(storage, TABLE)
    publish(storage, "one", 1, rows=40)
    with pytest.raises(DataError, match=r"has no symbol 'AA'\. Did you mean 'A'"):
        OnlineFeatures(storage, TABLE).latest("AA")


def test_a_look_up_reads_no_file(storage, monkeypatch):
    publish(storage, "one", 1, rows=40)
    online = OnlineFeatures(storage, TABLE)
    monkeypatch.setattr(Storage, "read_bytes", lambda *_: pytest.fail("a look-up went to the storage"))
    assert online.latest("B")[1].shape == (3,)


def test_another_version_of_quantfleet_computes_anew_and_still_reads_what_is_online(storage, monkeypatch):
    publish(storage, "one", 1, rows=40)
    assert set(LiveFeatures(storage, TABLE).states("one")) == {"A", "B"}
    monkeypatch.setattr("quantfleet.__version__", "99.0")
    assert LiveFeatures(storage, TABLE).states("one") == {}
    assert OnlineFeatures(storage, TABLE).symbols == ("A", "B")
