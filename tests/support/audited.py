"""A small clean run as the audit sees it, made without any stage: four symbols, one of them delisted, three honest features."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from quantfleet.contracts import SplitPlan, TimeInterval
from quantfleet.evaluation.audit import AuditInputs

__all__ = ["DAY", "FEATURES", "SPLIT", "clean_run", "day", "honest", "scaled_by"]

START, HORIZON = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), 5
BARS, SYMBOLS = 400, ("AAA", "BBB", "CCC", "GONE")
DAY = dt.timedelta(days=1)
FEATURES = ("return_1", "mean_10", "volatility")


def day(number: int) -> dt.datetime:
    return START + number * DAY


SPLIT = SplitPlan(
    train=(TimeInterval(day(0), day(200)),),
    validation=(TimeInterval(day(210), day(290)),),
    test=(TimeInterval(day(300), day(BARS)),),
    horizon_bars=HORIZON,
    purge_bars=HORIZON,
    embargo_bars=5,
    timeframe="1d",
)


def make_bars(symbol: str) -> pl.DataFrame:
    """A random walk whose volatility grows, so that later moments differ. GONE is delisted on day 250."""
    number = 250 if symbol == "GONE" else BARS
    steps = np.random.default_rng(SYMBOLS.index(symbol)).normal(0.0, 0.01 + 0.03 * np.arange(number) / BARS)
    times = pl.Series([day(i) for i in range(number)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"symbol": symbol, "timestamp": times, "close": 100 * np.exp(np.cumsum(steps))})


def honest(bars: pl.DataFrame) -> pl.DataFrame:
    change = (pl.col("close") / pl.col("close").shift(1) - 1.0).fill_null(0.0)
    return bars.select(
        "timestamp",
        return_1=change,
        mean_10=pl.col("close") / pl.col("close").rolling_mean(10, min_samples=1) - 1.0,
        volatility=change.rolling_std(10, min_samples=2).fill_null(0.0),
    )


def make_labels(bars: pl.DataFrame) -> pl.DataFrame:
    end = pl.col("timestamp").shift(-HORIZON) + DAY
    outcome = (pl.col("close").shift(-HORIZON) / pl.col("close") - 1.0).fill_null(np.nan)
    return bars.select("symbol", "timestamp", outcome=outcome, t_end=end)


def make_rows(features: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    known = features.join(labels, on=["symbol", "timestamp"])
    parts = [
        known.filter(SPLIT.mask(s, pl.col("timestamp"), pl.col("t_end"))).with_columns(segment=pl.lit(s))
        for s in ("train", "validation", "test")
    ]
    return pl.concat(parts).drop("t_end")


def scaled_by(rows: pl.DataFrame) -> dict[str, tuple[float, float]]:
    return {name: (float(rows[name].mean()), float(rows[name].std(ddof=0))) for name in FEATURES}  # type: ignore[arg-type]


def clean_run() -> AuditInputs:
    bars = {symbol: make_bars(symbol) for symbol in SYMBOLS}
    features = pl.concat(honest(own).with_columns(symbol=pl.lit(symbol)) for symbol, own in bars.items())
    labels = pl.concat(make_labels(own) for own in bars.values())
    rows = make_rows(features, labels)
    test = rows.filter(pl.col("segment") == "test")
    noise = np.random.default_rng(9).normal(size=test.height)
    return AuditInputs(
        rows=rows,
        feature_columns=FEATURES,
        labels=labels,
        bars=pl.concat(bars.values()),
        split=SPLIT,
        moments=scaled_by(rows.filter(pl.col("segment") == "train")),
        stored_features=features,
        cut_bars={symbol: bars[symbol] for symbol in SYMBOLS[:2]},
        recompute=honest,
        bar_length=DAY,
        answers=test.select("symbol", "timestamp", model=pl.lit("m"), expected_return=pl.Series(noise)),
        looks=1,
        instruments=pl.DataFrame(
            {"symbol": SYMBOLS, "listed_at": [START] * 4, "delisted_at": [None, None, None, day(250)]},
            schema_overrides={"listed_at": pl.Datetime("us", "UTC"), "delisted_at": pl.Datetime("us", "UTC")},
        ),
    )
