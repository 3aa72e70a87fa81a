"""The label table of a symbol, and the canary that t_end tells the truth."""

import dataclasses
import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.config import load_config
from quantfleet.contracts import DataSpec, LabelConfig, Timeframe, t_end_column
from quantfleet.errors import ConfigError, LeakageError, PriceError, SchemaError
from quantfleet_data.labels import (
    Direction,
    ForwardReturn,
    LabelsConfig,
    RealisedVolatility,
    TripleBarrier,
    assert_settled,
    compute_labels,
)

DAY = Timeframe("1d")
SHORT = LabelsConfig(
    families=(
        ForwardReturn(horizons_bars=(1, 3)),
        Direction(horizons_bars=(1, 3), entry="close"),
        RealisedVolatility(horizons_bars=(1, 4)),
        TripleBarrier(horizons_bars=(2, 6), volatility_bars=3, profit_multiplier=1.0, loss_multiplier=1.0),
    )
)


def test_by_default_there_is_what_models_and_chunks_need(make_bars):
    config = LabelsConfig()
    table = compute_labels(make_bars(1, 60), config, DAY)
    spec = DataSpec(
        symbols=("AAA",), feature_columns=("f",), feature_digest="", horizons_bars=(1, 5, 21), timeframe="1d",
        lookback_bars=1, chunk_bars=1,
    )  # fmt: skip
    assert set(spec.label_columns) | {"triple_barrier_21"} == set(config.columns)
    values, ends = list(config.columns), [t_end_column(c) for c in config.columns]
    assert table.columns == ["symbol", "timestamp", *values, *ends, "t_end"]
    assert {table.schema[c] for c in values} == {pl.Float64()}
    assert {table.schema[c] for c in (*ends, "t_end")} == {pl.Datetime("us", "UTC")}
    assert config.horizon_bars == 22


def test_the_rows_t_end_is_the_close_of_its_last_bar_and_null_while_a_label_is_unknown(make_bars):
    bars = make_bars(2, 40)
    table = compute_labels(bars, SHORT, DAY)
    ends = [t_end_column(c) for c in SHORT.columns]
    for t, row in enumerate(table.iter_rows(named=True)):
        own = [row[c] for c in ends]
        if t < 3 or t + SHORT.horizon_bars >= 40:  # no trailing volatility yet; no future yet
            assert row["t_end"] is None
        else:
            assert row["t_end"] == bars["timestamp"][t + SHORT.horizon_bars] + DAY.delta >= max(own)


def test_rows_are_not_picked_by_how_soon_a_barrier_is_touched(make_bars):
    """The last rows whose barrier was touched early have every label known, and still wait for the others."""
    table = compute_labels(make_bars(2, 40), SHORT, DAY)
    everything_known = table.select(pl.all_horizontal(pl.col(t_end_column(c)).is_not_null() for c in SHORT.columns))
    assert everything_known.to_series().tail(SHORT.horizon_bars).any()
    assert table["t_end"].tail(SHORT.horizon_bars).is_null().all()


def test_no_label_reads_beyond_the_horizon_the_config_tells(make_bars):
    table = compute_labels(make_bars(3, 60), SHORT, DAY)
    reach = table.select((pl.col("t_end") - pl.col("timestamp")).max()).item()
    assert SHORT.horizon_bars == 6
    assert reach == (SHORT.horizon_bars + 1) * DAY.delta


def test_value_and_t_end_are_unknown_together(make_bars):
    table = compute_labels(make_bars(4, 50), LabelsConfig(), DAY)
    for name in LabelsConfig().columns:
        assert (table[name].is_nan() == table[t_end_column(name)].is_null()).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 80),
    still_share=st.sampled_from([0.0, 0.5]),
    data=st.data(),
)
def test_every_label_is_settled_at_its_t_end_and_unknown_before(make_bars, seed, rows, still_share, data):
    bars = make_bars(seed, rows, still_share=still_share)
    assert_settled(SHORT, bars, DAY, data.draw(st.lists(st.integers(1, rows), min_size=1, max_size=3)))


def test_labels_of_real_bars_are_settled_across_a_halt_of_four_days(shared_data):
    path = shared_data / "binance_spot_usdt_1h_2020-12_2021-07.parquet"
    bars = pl.read_parquet(path).filter(pl.col("symbol") == "COCOS/USDT")
    around = bars.with_row_index().filter(pl.col("timestamp") < dt.datetime(2021, 1, 23, 2, tzinfo=dt.UTC)).height
    assert_settled(LabelsConfig(), bars, Timeframe("1h"), range(around - 2, around + 3))
    table = compute_labels(bars, LabelsConfig(), Timeframe("1h"))
    assert table["return_1__t_end"][around - 2] == dt.datetime(2021, 1, 23, 3, tzinfo=dt.UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shady(LabelConfig):
    """A forward return whose t_end, height or columns can be bent."""

    ahead: int = 2
    claims: int = 2
    tells: int = 2
    drop: int = 0
    spelt: str = "shady"

    columns = property(lambda self: ("shady",))
    horizon_bars = property(lambda self: self.tells)

    def compute(self, bars, timeframe):
        value = (bars["close"].shift(-self.ahead) / bars["close"] - 1.0).fill_null(float("nan"))
        t_end = bars["timestamp"].shift(-self.claims) + timeframe.delta
        return pl.DataFrame({self.spelt: value, "shady__t_end": t_end}).head(bars.height - self.drop)


def shady(**bends):
    return LabelsConfig(families=(Shady(**bends),))


def test_a_t_end_before_the_last_bar_read_is_found_out_by_name(make_bars):
    assert_settled(shady(), make_bars(5, 40), DAY, [10, 20])
    with pytest.raises(
        LeakageError, match=r"label 'shady' of 2020-01-09.*not settled at its t_end 2020-01-11"
    ) as caught:
        assert_settled(shady(claims=1), make_bars(5, 40), DAY, [10, 20])
    assert caught.value.fields["label"] == "shady"


def test_a_label_that_is_known_before_its_t_end_is_found_out(make_bars):
    with pytest.raises(LeakageError, match="'shady'"):
        assert_settled(shady(ahead=1, tells=2), make_bars(5, 40), DAY, [20])


def test_a_t_end_no_later_than_the_decision_is_refused_at_once(make_bars):
    with pytest.raises(LeakageError, match=r"'shady' of 2020-01-01 .* claims to be known when its own bar closes"):
        compute_labels(make_bars(6, 40), shady(claims=0), DAY)


def test_a_t_end_beyond_the_horizon_the_family_tells_is_refused_at_once(make_bars):
    with pytest.raises(LeakageError, match=r"known only after bar t\+2, the horizon_bars of"):
        compute_labels(make_bars(6, 40), shady(claims=5), DAY)


def test_a_family_that_drops_rows_is_a_leak(make_bars):
    with pytest.raises(LeakageError, match="returned 38 rows for 40 bars"):
        compute_labels(make_bars(7, 40), shady(drop=2), DAY)


def test_a_family_without_its_column_is_refused(make_bars):
    with pytest.raises(SchemaError, match="did not return its column 'shady'; it returned shadow, shady__t_end"):
        compute_labels(make_bars(8, 40), shady(spelt="shadow"), DAY)


def test_bars_that_break_their_contract_are_refused(make_bars):
    bars = make_bars(9, 40)
    with pytest.raises(SchemaError, match="hold 2 symbols"):
        compute_labels(pl.concat([bars, bars.with_columns(symbol=pl.lit("B"))]), SHORT, DAY)
    with pytest.raises(PriceError, match="open"):
        compute_labels(bars.with_columns(open=pl.lit(np.nan)), SHORT, DAY)


def test_the_same_label_twice_and_no_label_are_refused():
    with pytest.raises(ConfigError, match="computes return_5 twice"):
        LabelsConfig(families=(ForwardReturn(), ForwardReturn(horizons_bars=(5,))))
    with pytest.raises(ConfigError, match=r"labels.families is empty"):
        LabelsConfig(families=())


def test_cuts_outside_the_bars_are_refused(make_bars):
    with pytest.raises(ValueError, match="cut=0"):
        assert_settled(SHORT, make_bars(10, 5), DAY, [0])


@dataclass(frozen=True)
class Recipe:
    labels: LabelsConfig = dataclasses.field(default_factory=LabelsConfig)


def test_a_recipe_lists_the_families(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "labels:\n  families:\n    - {kind: forward_return, horizons_bars: [2]}\n"
        "    - {kind: direction, horizons_bars: [2], dead_band_bps: 20.0}\n    - triple_barrier\n"
    )
    config = load_config(Recipe, file=path, environ={}).value.labels
    assert config.families == (
        ForwardReturn(horizons_bars=(2,)),
        Direction(horizons_bars=(2,), dead_band_bps=20.0),
        TripleBarrier(),
    )
    path.write_text("labels:\n  families:\n    - {kind: direction, horizon_bars: [2]}\n")
    with pytest.raises(ConfigError, match=r"unknown key .*horizon_bars'.*Did you mean 'horizons_bars'"):
        load_config(Recipe, file=path, environ={})
