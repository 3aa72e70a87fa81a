"""Metrics agree with their definitions and with a peer; what is undefined is NaN; metric plugins see one view."""

from __future__ import annotations

import datetime as dt
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet import evaluation
from quantfleet.backtest import BacktestConfig, BarPanel, run_backtest
from quantfleet.contracts import ChunkBatch, DataSpec, Forecast
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.evaluation import (
    METRICS,
    DirectionalAccuracyMetric,
    EvaluationView,
    InformationCoefficientMetric,
    MaxDrawdownMetric,
    MetricConfig,
    ReturnMetric,
    SharpeMetric,
    SortinoMetric,
    TurnoverMetric,
    evaluate_model,
    plant_oracle,
    score_forecasts,
    shuffle_labels,
    shuffle_rows,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantstats.stats as peer

NAN = math.nan
ALL_METRICS = (
    InformationCoefficientMetric(),
    DirectionalAccuracyMetric(),
    SharpeMetric(resamples=500),
    SortinoMetric(),
    MaxDrawdownMetric(),
    TurnoverMetric(),
    ReturnMetric(),
)


def daily(returns: np.ndarray) -> pd.Series:
    return pd.Series(returns, index=pd.date_range("2001-01-01", periods=len(returns), freq="D"))


# --- trading metrics


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bars=st.integers(30, 400))
def test_metrics_agree_with_quantstats_to_nine_digits(seed: int, bars: int):
    returns = np.random.default_rng(seed).normal(0.0005, 0.01, bars)
    series = daily(returns)
    assert evaluation.sharpe(returns, bars_per_year=252) == pytest.approx(peer.sharpe(series, periods=252), rel=1e-9)
    assert evaluation.sortino(returns, bars_per_year=252) == pytest.approx(peer.sortino(series, periods=252), rel=1e-9)
    assert evaluation.max_drawdown(returns) == pytest.approx(-peer.max_drawdown(series), rel=1e-9)
    assert evaluation.annual_return(returns, bars_per_year=252) == pytest.approx(
        peer.cagr(series, periods=252), rel=1e-9, abs=1e-12
    )
    assert evaluation.annual_volatility(returns, bars_per_year=252) == pytest.approx(
        peer.volatility(series, periods=252), rel=1e-9
    )
    assert evaluation.hit_rate(returns) == pytest.approx(peer.win_rate(series), rel=1e-9)
    assert evaluation.total_return(returns) == pytest.approx(peer.comp(series), rel=1e-9, abs=1e-12)


def test_sharpe_by_hand():
    # mean 0.01, deviations -0.01, 0.01, 0: variance 0.0002 / 2, standard deviation 0.01
    assert evaluation.sharpe(np.array([0.0, 0.02, 0.01]), bars_per_year=4) == pytest.approx(2.0)


def test_drawdown_counts_a_loss_in_the_first_bar_and_recovers_nothing():
    assert evaluation.max_drawdown(np.array([-0.5, 1.0])) == pytest.approx(0.5)
    assert evaluation.max_drawdown(np.array([1.0, -0.25, 0.1, -0.2])) == pytest.approx(1 - 0.75 * 1.1 * 0.8)
    assert evaluation.max_drawdown(np.array([0.1, 0.2])) == 0.0


def test_turnover_and_exposure_are_averages():
    assert evaluation.turnover_per_year(np.array([1.0, 0.0, 0.0, 1.0]), bars_per_year=252) == 126.0
    assert evaluation.exposure(np.array([0.0, 0.5, 1.0])) == 0.5


def test_what_is_undefined_is_nan_and_never_zero():
    flat = np.zeros(10)
    assert math.isnan(evaluation.sharpe(flat, bars_per_year=252))
    assert math.isnan(evaluation.sharpe(np.full(10, 0.1), bars_per_year=252))
    assert math.isnan(evaluation.sortino(np.full(10, 0.1), bars_per_year=252))
    assert math.isnan(evaluation.hit_rate(flat))
    assert math.isnan(evaluation.annual_return(np.array([-1.5, 0.1]), bars_per_year=252))
    assert evaluation.annual_return(np.array([-1.0, 0.1]), bars_per_year=252) == -1.0


@pytest.mark.parametrize("name", ["sharpe", "sortino", "annual_return", "annual_volatility"])
def test_one_nan_return_makes_the_metric_nan(name: str):
    returns = np.array([0.01, NAN, 0.02])
    assert math.isnan(getattr(evaluation, name)(returns, bars_per_year=252))
    assert all(math.isnan(f(returns)) for f in (evaluation.max_drawdown, evaluation.total_return, evaluation.hit_rate))


@pytest.mark.parametrize("name", ["sharpe", "annual_volatility"])
def test_one_bar_is_no_series(name: str):
    with pytest.raises(ValueError, match="at least 2 bars"):
        getattr(evaluation, name)(np.array([0.01]), bars_per_year=252)


# --- forecast metrics on columns


def test_information_coefficient_and_rank_ic_by_hand():
    forecast, realised = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0, 16.0])
    assert evaluation.information_coefficient(forecast, realised) == pytest.approx(
        np.corrcoef(forecast, realised)[0, 1]
    )
    assert evaluation.rank_ic(forecast, realised) == pytest.approx(1.0)
    assert evaluation.rank_ic(forecast, -realised) == pytest.approx(-1.0)


def test_tied_ranks_share_their_average():
    forecast, realised = np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0, 5.0])
    expected = pd.Series(forecast).corr(pd.Series(realised), method="spearman")
    assert evaluation.rank_ic(forecast, realised) == pytest.approx(expected)


def test_a_forecast_of_exactly_zero_is_no_call():
    call, realised = np.array([0.0, 1.0, -1.0, 1.0]), np.array([0.1, 0.1, 0.1, -0.1])
    assert evaluation.directional_accuracy(call, realised) == pytest.approx(1 / 3)
    assert evaluation.call_share(call, realised) == 0.75
    assert math.isnan(evaluation.directional_accuracy(np.zeros(4), realised))
    assert evaluation.call_share(np.zeros(4), realised) == 0.0


def test_an_outcome_of_exactly_zero_is_not_up():
    assert evaluation.directional_accuracy(np.array([-1.0, 1.0]), np.zeros(2)) == 0.5
    assert evaluation.up_share(np.array([0.0, 0.1, NAN])) == 0.5


def test_unknown_outcomes_are_left_out():
    forecast, realised = np.array([1.0, 2.0, 3.0, -9.0]), np.array([1.0, 2.0, 4.0, NAN])
    assert evaluation.information_coefficient(forecast, realised) == pytest.approx(
        np.corrcoef(forecast[:3], realised[:3])[0, 1]
    )
    assert evaluation.directional_accuracy(forecast, realised) == 1.0


def test_a_nan_forecast_of_a_known_outcome_makes_every_score_nan():
    forecast, realised = np.array([1.0, NAN, 3.0]), np.array([1.0, 2.0, 4.0])
    for score in ("information_coefficient", "rank_ic", "directional_accuracy", "call_share"):
        assert math.isnan(getattr(evaluation, score)(forecast, realised)), score


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
def test_a_constant_forecast_has_no_correlation(constant: float):
    realised = np.random.default_rng(0).normal(size=1000)
    forecast = np.full(1000, constant)
    assert math.isnan(evaluation.information_coefficient(forecast, realised))
    assert math.isnan(evaluation.rank_ic(forecast, realised))


def test_correlation_survives_a_forecast_that_varies_little_around_a_large_mean():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=2000)
    realised = signal + rng.normal(size=2000)
    assert evaluation.information_coefficient(1e5 + 1e-4 * signal, realised) == pytest.approx(
        np.corrcoef(signal, realised)[0, 1], abs=1e-4
    )


def test_no_rows_score_nothing():
    empty = np.zeros(0)
    assert all(
        math.isnan(score)
        for score in (
            evaluation.information_coefficient(empty, empty),
            evaluation.directional_accuracy(empty, empty),
            evaluation.call_share(empty, empty),
            evaluation.up_share(empty),
        )
    )


def test_forecasts_and_outcomes_of_different_length_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        evaluation.information_coefficient(np.zeros(3), np.zeros(4))


# --- streaming scores

SPEC = DataSpec(
    symbols=("A", "B"),
    feature_columns=("f",),
    feature_digest="0" * 16,
    horizons_bars=(1, 5),
    timeframe="1d",
    lookback_bars=2,
    chunk_bars=4,
)


def made_batch(seed: int, chunks: int = 6) -> tuple[ChunkBatch, Forecast]:
    rng = np.random.default_rng(seed)
    shape = (chunks, SPEC.chunk_bars)
    y = rng.normal(0.001, 0.01, (*shape, 6)).astype(np.float32)
    y[..., 2:4] = y[..., :2] > 0
    y[..., 4:] = np.abs(y[..., 4:])
    y[rng.random(y.shape) < 0.1] = NAN
    batch = ChunkBatch(
        chunk_id_B=np.arange(chunks),
        symbol_id_B=np.zeros(chunks, np.int32),
        time_BC=np.zeros(shape, np.int64),
        x_BTF=np.zeros((chunks, SPEC.chunk_rows, 1), np.float32),
        y_BCK=y,
        mask_BC=rng.random(shape) < 0.8,
        weight_BC=np.ones(shape, np.float32),
    )
    heads = [rng.normal(size=(*shape, 2)).astype(np.float32) for _ in range(3)]
    heads[1][rng.random(heads[1].shape) < 0.2] = 0.0
    return batch, Forecast(return_BCH=heads[0], direction_logit_BCH=heads[1], volatility_BCH=heads[2])


def test_streaming_scores_equal_the_scores_of_all_rows_at_once():
    pairs = [made_batch(seed) for seed in range(5)]
    scores = score_forecasts(SPEC, iter(pairs))
    for h, horizon in enumerate(SPEC.horizons_bars):

        def rows(take: str, h: int = h) -> np.ndarray:
            parts = {
                "expected": [f.return_BCH[..., h][b.mask_BC] for b, f in pairs],
                "logit": [f.direction_logit_BCH[..., h][b.mask_BC] for b, f in pairs],
                "volatility": [f.volatility_BCH[..., h][b.mask_BC] for b, f in pairs],
                "realised": [b.y_BCK[..., h][b.mask_BC] for b, _ in pairs],
                "realised_volatility": [b.y_BCK[..., 4 + h][b.mask_BC] for b, _ in pairs],
            }
            return np.concatenate(parts[take]).astype(np.float64)

        known = np.isfinite(rows("realised"))
        error = (rows("expected") - rows("realised"))[known]
        assert scores[f"mse_return_{horizon}"] == pytest.approx((error**2).mean(), rel=1e-12)
        assert scores[f"ic_{horizon}"] == pytest.approx(
            np.corrcoef(rows("expected")[known], rows("realised")[known])[0, 1], rel=1e-9
        )
        assert scores[f"directional_accuracy_{horizon}"] == pytest.approx(
            evaluation.directional_accuracy(rows("logit"), rows("realised")), rel=1e-12
        )
        assert scores[f"up_share_{horizon}"] == pytest.approx((rows("realised")[known] > 0).mean())
        assert scores[f"mse_volatility_{horizon}"] == pytest.approx(
            np.nanmean((rows("volatility") - rows("realised_volatility")) ** 2), rel=1e-12
        )
        assert scores[f"targets_{horizon}"] == known.sum()


def test_masked_targets_never_count():
    batch, forecast = made_batch(0)
    hidden = ~batch.mask_BC
    wild = forecast.return_BCH.copy()
    wild[hidden] = NAN
    changed = Forecast(
        return_BCH=wild, direction_logit_BCH=forecast.direction_logit_BCH, volatility_BCH=forecast.volatility_BCH
    )
    assert score_forecasts(SPEC, iter([(batch, changed)])) == score_forecasts(SPEC, iter([(batch, forecast)]))


def test_scores_without_a_known_target_are_nan_and_count_zero_targets():
    batch, forecast = made_batch(0)
    nothing = replace(batch, mask_BC=np.zeros_like(batch.mask_BC))
    scores = score_forecasts(SPEC, iter([(nothing, forecast)]))
    assert {name for name, value in scores.items() if not math.isnan(value)} == {"targets_1", "targets_5"}
    assert scores["targets_1"] == 0


def test_a_model_that_answers_nan_scores_nan():
    batch, forecast = made_batch(0)
    broken = Forecast(
        return_BCH=np.full_like(forecast.return_BCH, NAN),
        direction_logit_BCH=np.full_like(forecast.return_BCH, NAN),
        volatility_BCH=np.full_like(forecast.return_BCH, NAN),
    )
    scores = score_forecasts(SPEC, iter([(batch, broken), made_batch(1)]))
    names = ("mse_return_1", "ic_1", "directional_accuracy_1", "mse_volatility_1")
    assert all(math.isnan(scores[name]) for name in names)


# --- metric plugins


def view(bars: int = 300, seed: int = 0) -> EvaluationView:
    rng = np.random.default_rng(seed)
    closes = 100.0 * np.exp(np.cumsum(rng.normal(0.001, 0.01, bars)))
    times = np.datetime64("2020-01-01", "us") + np.arange(bars) * np.timedelta64(1, "D")
    prices = BarPanel(open_TS=closes[:, None], close_TS=closes[:, None], time_T=times, symbols=("A",))
    result = run_backtest(prices, (rng.random((bars, 1)) < 0.5).astype(float), BacktestConfig())
    realised = np.append(closes[1:] / closes[:-1] - 1.0, NAN)
    rows = pl.DataFrame(
        {
            "symbol": ["A"] * bars,
            "timestamp": result.curve()["timestamp"],
            "expected_return": np.nan_to_num(realised) + rng.normal(0.0, 0.01, bars),
            "direction_probability": rng.random(bars),
            "position": pl.Series([None] * bars, dtype=pl.Float64),
            "realised_return": pl.Series(realised).fill_nan(None),
        }
    )
    return EvaluationView(predictions=rows, curve=result.curve(), bars_per_year=252)


def test_the_builtin_metrics_are_registered_under_their_names():
    names = {"ic", "directional_accuracy", "sharpe", "sortino", "max_drawdown", "turnover", "return"}
    assert names <= set(METRICS.names())
    assert all(METRICS.summary(name) for name in names)


def test_all_metrics_of_a_model_are_one_mapping_of_finite_numbers():
    seen = view()
    scores = evaluate_model(seen, ALL_METRICS)
    assert all(math.isfinite(value) for value in scores.values())
    returns = seen.curve["net_return"].to_numpy()
    assert scores["sharpe"] == evaluation.sharpe(returns, bars_per_year=252)
    assert scores["sharpe_low"] < scores["sharpe"] < scores["sharpe_high"]
    assert scores["max_drawdown"] == pytest.approx(-seen.curve["drawdown"].min())
    assert scores["total_return"] == pytest.approx(seen.curve["equity"][-1] / 1_000_000.0 - 1.0)
    assert scores["trades"] == seen.curve["trades"].sum()
    assert scores["ic"] > 0.5
    assert scores["call_share"] == 1.0


def test_a_model_in_cash_has_no_sharpe_no_hits_and_no_drawdown():
    seen = view()
    idle = seen.curve.with_columns(net_return=pl.lit(0.0), turnover=pl.lit(0.0), exposure=pl.lit(0.0), trades=pl.lit(0))
    scores = evaluate_model(EvaluationView(predictions=seen.predictions, curve=idle, bars_per_year=252), ALL_METRICS)
    assert all(math.isnan(scores[name]) for name in ("sharpe", "sharpe_low", "sharpe_high", "sortino", "hit_rate"))
    assert (scores["max_drawdown"], scores["total_return"], scores["trades"]) == (0.0, 0.0, 0.0)


def test_the_same_view_gives_the_same_numbers():
    assert evaluate_model(view(), ALL_METRICS) == evaluate_model(view(), ALL_METRICS)


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="both return 'sharpe'"):
        evaluate_model(view(), (SharpeMetric(resamples=10), SharpeMetric(resamples=20)))


def test_a_metric_of_ones_own_is_a_frozen_config_that_computes():
    @dataclass(frozen=True, kw_only=True, slots=True)
    class BarsMetric(MetricConfig):
        """Number of bars."""

        times: float = 1.0

        def compute(self, view: EvaluationView) -> Mapping[str, float]:
            return {"bars": self.times * view.curve.height}

    assert evaluate_model(view(40), (BarsMetric(times=2.0),)) == {"bars": 80.0}


@pytest.mark.parametrize(("frame", "column"), [("predictions", "realised_return"), ("curve", "net_return")])
def test_a_view_without_a_column_names_it(frame: str, column: str):
    seen = view(40)
    parts = {"predictions": seen.predictions, "curve": seen.curve}
    parts[frame] = parts[frame].drop(column)
    with pytest.raises(SchemaError, match=f"no column '{column}'"):
        EvaluationView(**parts, bars_per_year=252)


def test_bars_per_year_must_be_positive():
    seen = view(40)
    with pytest.raises(ConfigError, match="bars_per_year=0"):
        EvaluationView(predictions=seen.predictions, curve=seen.curve, bars_per_year=0)


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}])
def test_a_sharpe_metric_out_of_range_is_a_config_error(options: dict[str, float]):
    with pytest.raises(ConfigError, match="metric sharpe"):
        SharpeMetric(**options)  # type: ignore[arg-type]


# --- canaries


def label_frame(rows: int = 50) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    times = [start + dt.timedelta(days=i) for i in range(rows)]
    return pl.DataFrame(
        {
            "symbol": ["A"] * rows + ["B"] * rows,
            "timestamp": times * 2,
            "return_1": np.concatenate([rng.normal(0, 1, rows), rng.normal(100, 1, rows)]),
            "direction_1": rng.integers(0, 2, 2 * rows).astype(float),
            "return_1__t_end": times * 2,
        }
    ).with_columns(return_1=pl.when(pl.int_range(pl.len()) % rows == rows - 1).then(NAN).otherwise("return_1"))


def test_an_oracle_is_the_label_as_a_feature():
    labels = label_frame()
    features = labels.select("symbol", "timestamp", rsi=pl.lit(1.0)).reverse()
    planted = plant_oracle(features, labels, label="return_1")
    assert planted.columns == ["symbol", "timestamp", "rsi", "oracle"]
    assert planted.select("symbol", "timestamp").equals(features.select("symbol", "timestamp"))
    truth = planted.join(labels, on=["symbol", "timestamp"])
    assert np.array_equal(truth["oracle"].to_numpy(), truth["return_1"].to_numpy(), equal_nan=True)


def test_a_noisy_oracle_knows_less_the_more_noise_it_has():
    labels = label_frame(2000).filter(pl.col("symbol") == "A")
    features = labels.select("symbol", "timestamp")
    ics = [
        evaluation.information_coefficient(
            plant_oracle(features, labels, label="return_1", noise=noise, seed=1)["oracle"].to_numpy()[:-1],
            labels["return_1"].to_numpy()[:-1],
        )
        for noise in (0.0, 1.0, 10.0)
    ]
    assert ics == pytest.approx([1.0, 1 / math.sqrt(2.0), 1 / math.sqrt(101.0)], abs=0.05)


def test_an_oracle_over_an_existing_feature_is_refused():
    labels = label_frame()
    with pytest.raises(SchemaError, match="have a column 'return_1' already"):
        plant_oracle(labels, labels, label="return_1", column="return_1")


def test_shuffled_labels_keep_each_symbols_values_and_rows_together_but_lose_their_times():
    labels = label_frame()
    shuffled = shuffle_labels(labels, columns=["return_1", "direction_1"], seed=1)
    assert shuffled.select("symbol", "timestamp", "return_1__t_end").equals(
        labels.select("symbol", "timestamp", "return_1__t_end")
    )
    for name in ("A", "B"):
        before, after = (frame.filter(pl.col("symbol") == name).head(49) for frame in (labels, shuffled))
        assert not before["return_1"].equals(after["return_1"])
        pairs = ["return_1", "direction_1"]
        assert before.select(pairs).sort(pairs).equals(after.select(pairs).sort(pairs))
    assert np.array_equal(np.isnan(labels["return_1"].to_numpy()), np.isnan(shuffled["return_1"].to_numpy()))


def test_shuffling_depends_on_the_seed_and_on_nothing_else():
    labels = label_frame()
    once, again, other = (shuffle_labels(labels, columns=["return_1"], seed=seed) for seed in (1, 1, 2))
    assert once.equals(again)
    assert not once.equals(other)


def test_shuffled_rows_leave_unknown_rows_where_they_are():
    values = np.column_stack([np.arange(20.0), np.arange(20.0)]).astype(np.float32)
    values[[3, 11], 1] = NAN
    dealt = shuffle_rows(values, seed=0)
    assert dealt.dtype == np.float32
    assert np.array_equal(dealt[[3, 11]], values[[3, 11]], equal_nan=True)
    known = np.setdiff1d(np.arange(20), [3, 11])
    assert sorted(dealt[known, 0].tolist()) == values[known, 0].tolist()
    assert not np.array_equal(dealt[known, 0], values[known, 0])
    assert np.array_equal(dealt[known, 0], dealt[known, 1])
