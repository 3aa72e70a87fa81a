"""The naive models: what everybody else must beat."""

import dataclasses

import numpy as np
import pytest

from quantfleet.contracts import ChunkBatch, DataSpec
from quantfleet.errors import ConfigError
from quantfleet_models.naive import BuyAndHoldConfig, MovingAverageConfig, ZeroReturnConfig

SPEC = DataSpec(
    symbols=("A",),
    feature_columns=("f0", "sma_ratio_50_200"),
    feature_digest="0" * 16,
    horizons_bars=(1, 5),
    timeframe="1d",
    lookback_bars=3,
    chunk_bars=4,
)
MOMENTS = np.array([0.001, 0.005, 0.54, 0.56, 0.01, 0.012])
"""Training means: returns, shares of up moves, volatilities of both horizons."""


def batch(ratio_C: list[float]) -> ChunkBatch:
    """One chunk whose moving averages stand in these ratios at its four targets."""
    x_BTF = np.zeros((1, SPEC.chunk_rows, 2), np.float32)
    x_BTF[0, SPEC.lookback_bars - 1 :, 1] = ratio_C
    return ChunkBatch(
        chunk_id_B=np.zeros(1, np.int64),
        symbol_id_B=np.zeros(1, np.int32),
        time_BC=np.arange(4, dtype=np.int64)[None],
        x_BTF=x_BTF,
        y_BCK=np.full((1, 4, 6), np.nan, np.float32),
        mask_BC=np.ones((1, 4), np.bool_),
        weight_BC=np.ones((1, 4), np.float32),
    )


def test_zero_return_expects_nothing_and_holds_nothing():
    model = ZeroReturnConfig().build(SPEC)
    model.label_mean_K = MOMENTS  # type: ignore[attr-defined]
    answer = model.predict(batch([0.1, -0.1, 0.1, -0.1]))
    assert not answer.return_BCH.any()
    assert not answer.direction_logit_BCH.any()
    assert answer.position_BC is not None
    assert not answer.position_BC.any()


def test_buy_and_hold_is_always_invested_and_expects_the_training_mean():
    model = BuyAndHoldConfig().build(SPEC)
    model.label_mean_K = MOMENTS  # type: ignore[attr-defined]
    answer = model.predict(batch([0.1, -0.1, 0.1, -0.1]))
    assert answer.position_BC is not None
    assert (answer.position_BC == 1).all()
    np.testing.assert_allclose(answer.return_BCH[0, 2], [0.001, 0.005], rtol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-answer.direction_logit_BCH[0, 0])), [0.54, 0.56], rtol=1e-5)


@pytest.mark.parametrize(("short_below", "below"), [(False, 0.0), (True, -1.0)])
def test_the_moving_average_rule_is_long_above_and_flat_or_short_below(short_below: bool, below: float):
    model = MovingAverageConfig(short_below=short_below).build(SPEC)
    answer = model.predict(batch([0.1, -0.1, 0.0, 0.2]))
    assert answer.position_BC is not None
    assert answer.position_BC[0].tolist() == [1.0, below, below, 1.0]


def test_the_moving_average_rule_needs_its_feature_by_name():
    blind = dataclasses.replace(SPEC, feature_columns=("f0", "f1"))
    with pytest.raises(ConfigError, match=r"sma_ratio_50_200.*Add \{kind: sma_ratio, fast_bars: 50, slow_bars: 200\}"):
        MovingAverageConfig().build(blind)


def test_a_fast_average_slower_than_the_slow_one_is_refused():
    with pytest.raises(ConfigError, match="fast_bars=200 must be shorter than slow_bars=50"):
        MovingAverageConfig(fast_bars=200, slow_bars=50)
