"""Order flow and liquidity guessed from bars, against their definitions and markets whose answer is known."""

import math
import statistics

import numpy as np
import polars as pl
import pytest

from quantfleet_data.features.microstructure import Amihud, CorwinSchultz, KyleLambda, RollSpread, TradeImbalance, Vpin

NORMAL = statistics.NormalDist()


def bought_less_sold(close, row, n):
    moves = [close[i] - close[i - 1] for i in range(row - n + 1, row + 1)]
    deviation = math.sqrt(statistics.fmean(m * m for m in moves))
    return 2 * NORMAL.cdf(moves[-1] / deviation) - 1


def test_trade_imbalance_is_bulk_classified_volume(make_bars):
    bars = make_bars(1, 80)
    close, volume = bars["close"].to_list(), bars["volume"].to_list()
    flow = sum(bought_less_sold(close, i, 21) * volume[i] for i in range(80 - 10, 80))
    value = TradeImbalance(bars=10, deviation_bars=21).compute(bars)[-1]
    assert value == pytest.approx(flow / sum(volume[-10:]), rel=1e-9)


def test_vpin_deals_the_volume_into_equal_buckets(make_bars):
    bars = make_bars(2, 60)
    close, volume = bars["close"].to_list(), bars["volume"].to_list()
    shares = [bought_less_sold(close, i, 21) for i in range(40, 60)]
    edges = np.linspace(0.0, sum(volume[40:]), 6)
    at = np.concatenate([[0.0], np.cumsum(volume[40:])])
    flow = np.concatenate([[0.0], np.cumsum(np.array(shares) * volume[40:])])
    imbalances = np.abs(np.diff(np.interp(edges, at, flow)))  # flow between two volumes, bars cut where an edge falls
    value = Vpin(bars=20, buckets=5, deviation_bars=21).compute(bars)[-1]
    assert value == pytest.approx(imbalances.sum() / sum(volume[40:]), rel=1e-9)


def test_vpin_is_high_when_trading_is_one_sided_and_low_when_it_alternates(write_bars):
    one_sided = write_bars([[100.0 * 1.01**i] for i in range(120)], volume=[5.0] * 120)
    both_sides = write_bars([[100.0 + i % 2] for i in range(120)], volume=[5.0] * 120)
    vpin = Vpin(bars=50, buckets=5)
    assert vpin.compute(one_sided)[-1] > 0.6
    assert vpin.compute(both_sides)[-1] < 1e-12


def test_amihud_is_the_mean_return_per_turnover_over_bars_that_traded(make_bars):
    bars = make_bars(3, 40).with_columns(volume=pl.when(pl.int_range(pl.len()) == 35).then(0.0).otherwise("volume"))
    close, volume = bars["close"].to_list(), bars["volume"].to_list()
    ratios = [abs(math.log(close[i] / close[i - 1])) / (close[i] * volume[i]) for i in range(19, 40) if volume[i] > 0]
    assert len(ratios) == 20
    assert Amihud(bars=21).compute(bars)[-1] == pytest.approx(statistics.fmean(ratios), rel=1e-9)


def test_kyle_lambda_finds_the_impact_that_was_put_in(write_bars):
    rng = np.random.default_rng(4)
    volume = rng.lognormal(3.0, 0.5, 400)
    side = rng.choice([-1.0, 1.0], 400)
    moves = 0.01 * side * volume / volume.mean() + rng.normal(0.0, 1e-5, 400)
    bars = write_bars([[100.0 * p] for p in np.exp(np.cumsum(moves))], volume=list(volume))
    assert KyleLambda(bars=300).compute(bars)[-1] == pytest.approx(0.01, rel=0.05)


def test_rolls_spread_finds_the_bounce_between_bid_and_ask(write_bars):
    rng = np.random.default_rng(5)
    middle = np.cumsum(rng.normal(0.0, 0.0005, 4000))
    price = np.exp(middle + 0.005 * rng.choice([-1.0, 1.0], 4000))
    bars = write_bars([[100.0 * p] for p in price], timeframe="5m")
    assert RollSpread(bars=3900).compute(bars)[-1] == pytest.approx(0.01, rel=0.1)


def test_corwin_and_schultz_find_the_spread_from_highs_and_lows():
    rng = np.random.default_rng(6)
    steps, rows, half = 400, 2000, 0.005
    path = np.cumsum(rng.normal(0.0, 0.01 / math.sqrt(steps), rows * steps)).reshape(rows, steps)
    bars = pl.DataFrame({"high": np.exp(path.max(axis=1) + half), "low": np.exp(path.min(axis=1) - half)})
    free = pl.DataFrame({"high": np.exp(path.max(axis=1)), "low": np.exp(path.min(axis=1))})
    feature = CorwinSchultz(bars=rows - 1)
    assert feature.compute(bars)[-1] == pytest.approx(2 * half, rel=0.25)
    assert feature.compute(free)[-1] < 0.5 * feature.compute(bars)[-1]


@pytest.mark.parametrize("volume", ["null", "zero"])
def test_without_volume_the_flow_is_neutral(make_bars, volume):
    bars = make_bars(7, 200, volume=volume)
    for feature in (TradeImbalance(), Vpin(), Amihud(), KyleLambda()):
        values = feature.compute(bars)
        assert (values[feature.lookback_bars - 1 :] == 0.0).all(), feature.kind
