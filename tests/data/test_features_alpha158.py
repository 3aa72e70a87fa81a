"""Alpha158 against its published definitions, worked out independently with pandas, one formula at a time."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from quantfleet.errors import ConfigError
from quantfleet_data.features import assert_causal, compute_features, feature_set, spread_cuts
from quantfleet_data.features.alpha158 import ALPHA158_BAR_OPERATORS, ALPHA158_OPERATORS, Alpha158, Alpha158Bar

WINDOWS = (5, 10, 20, 30, 60)
EPS = 1e-12  # qlib's own


def line(values):
    """Ordinary least squares through (1, v1) ... (n, vn): slope, intercept, R squared."""
    time = np.arange(1, len(values) + 1)
    slope, intercept = np.polyfit(time, values, 1)
    return slope, intercept, np.corrcoef(time, values)[0, 1] ** 2


def published(bars):
    """All 158 columns by name, from the expressions of qlib's Alpha158DL, min_periods = n."""
    o, h, lo, c, v = (bars[name].to_pandas() for name in ("open", "high", "low", "close", "volume"))
    upper, lower = pd.concat([o, c], axis=1).max(axis=1), pd.concat([o, c], axis=1).min(axis=1)
    out = {
        "KMID": (c - o) / o,
        "KLEN": (h - lo) / o,
        "KMID2": (c - o) / (h - lo + EPS),
        "KUP": (h - upper) / o,
        "KUP2": (h - upper) / (h - lo + EPS),
        "KLOW": (lower - lo) / o,
        "KLOW2": (lower - lo) / (h - lo + EPS),
        "KSFT": (2 * c - h - lo) / o,
        "KSFT2": (2 * c - h - lo) / (h - lo + EPS),
        "OPEN0": o / c,
        "HIGH0": h / c,
        "LOW0": lo / c,
        "VWAP0": (h + lo + c) / 3 / c,
    }
    dc, dv = c.diff(), v.diff()
    weighted = (c / c.shift() - 1).abs() * v
    for n in WINDOWS:
        roll = c.rolling(n)
        low, high = lo.rolling(n).min(), h.rolling(n).max()
        idx_max = h.rolling(n).apply(lambda w: w.argmax() + 1, raw=True)
        idx_min = lo.rolling(n).apply(lambda w: w.argmin() + 1, raw=True)
        out |= {
            f"ROC{n}": c.shift(n) / c,
            f"MA{n}": roll.mean() / c,
            f"STD{n}": roll.std() / c,
            f"BETA{n}": roll.apply(lambda w: line(w)[0], raw=True) / c,
            f"RSQR{n}": roll.apply(lambda w: line(w)[2], raw=True),
            f"RESI{n}": roll.apply(lambda w: w[-1] - line(w)[0] * len(w) - line(w)[1], raw=True) / c,
            f"MAX{n}": high / c,
            f"MIN{n}": low / c,
            f"QTLU{n}": roll.quantile(0.8) / c,
            f"QTLD{n}": roll.quantile(0.2) / c,
            f"RANK{n}": roll.rank(pct=True),
            f"RSV{n}": (c - low) / (high - low + EPS),
            f"IMAX{n}": idx_max / n,
            f"IMIN{n}": idx_min / n,
            f"IMXD{n}": (idx_max - idx_min) / n,
            f"CORR{n}": roll.corr(np.log(v + 1)),
            f"CORD{n}": (c / c.shift()).rolling(n).corr(np.log(v / v.shift() + 1)),
            f"CNTP{n}": (dc > 0).astype(float).where(dc.notna()).rolling(n).mean(),
            f"CNTN{n}": (dc < 0).astype(float).where(dc.notna()).rolling(n).mean(),
            f"SUMP{n}": dc.clip(lower=0).rolling(n).sum() / (dc.abs().rolling(n).sum() + EPS),
            f"SUMN{n}": (-dc).clip(lower=0).rolling(n).sum() / (dc.abs().rolling(n).sum() + EPS),
            f"VMA{n}": v.rolling(n).mean() / (v + EPS),
            f"VSTD{n}": v.rolling(n).std() / (v + EPS),
            f"WVMA{n}": weighted.rolling(n).std() / (weighted.rolling(n).mean() + EPS),
            f"VSUMP{n}": dv.clip(lower=0).rolling(n).sum() / (dv.abs().rolling(n).sum() + EPS),
            f"VSUMN{n}": (-dv).clip(lower=0).rolling(n).sum() / (dv.abs().rolling(n).sum() + EPS),
        }
        for name in ("CNT", "SUM", "VSUM"):
            out[f"{name}D{n}"] = out[f"{name}P{n}"] - out[f"{name}N{n}"]
    return {name: column.to_numpy() for name, column in out.items()}


def ours(name):
    """The column of a published name: ROC5 is alpha158_roc_5, KMID2 alpha158_kmid2."""
    if name.lower() in ALPHA158_BAR_OPERATORS:
        return f"alpha158_{name.lower()}"
    letters = name.rstrip("0123456789")
    return f"alpha158_{letters.lower()}_{name[len(letters) :]}"


def compare(bars):
    table = compute_features(bars, feature_set("alpha158"))
    expected = published(bars)
    assert {ours(name) for name in expected} == set(table.columns) - {"symbol", "timestamp"}
    for name, values in expected.items():
        np.testing.assert_allclose(table[ours(name)].to_numpy(), values, rtol=1e-7, atol=1e-9, err_msg=name)


def test_there_are_exactly_the_158_published_features():
    features = feature_set("alpha158")
    assert len(features.features) == len(set(features.columns)) == 158
    assert (len(ALPHA158_BAR_OPERATORS), len(ALPHA158_OPERATORS)) == (13, 29)
    assert features.lookback_bars == 61


@pytest.mark.parametrize("seed", [0, 1])
def test_every_column_equals_its_published_formula_on_random_bars(make_bars, seed):
    compare(make_bars(seed, 200))


def test_every_column_equals_its_published_formula_on_real_bars(shared_data):
    path = shared_data / "binance_spot_usdt_1h_2024-01_2024-06.parquet"
    bars = pl.read_parquet(path).filter(pl.col("symbol") == "BTC/USDT").head(400)
    compare(bars)


def test_the_set_is_causal_to_the_bit(make_bars):
    bars = make_bars(2, 300, still_share=0.3, volume="patchy")
    assert_causal(feature_set("alpha158"), bars, spread_cuts(bars.height, 5))


def test_ties_share_their_rank_and_the_oldest_of_equal_extremes_counts(write_bars):
    bars = write_bars([[2.0], [3.0], [1.0], [3.0], [1.0], [3.0]])
    assert Alpha158(operator="rank", bars=5).compute(bars)[-1] == pytest.approx(
        (2 + 2) / 5
    )  # 1, 1, 3, 3, 3: places 3..5
    assert Alpha158(operator="imax", bars=5).compute(bars)[-1] == 1 / 5
    assert Alpha158(operator="imin", bars=5).compute(bars)[-1] == 2 / 5


def test_a_still_market_gives_numbers_where_the_formulas_divide_by_zero(write_bars):
    bars = write_bars([[7.0]] * 80, volume=[5.0] * 80)
    table = compute_features(bars, feature_set("alpha158"))
    last = {name: table[name][-1] for name in table.columns[2:]}
    zero = [
        "kmid2",
        "kup2",
        "klow2",
        "ksft2",
        "rsqr_20",
        "rsv_20",
        "corr_20",
        "cord_20",
        "sump_20",
        "wvma_20",
        "vsumd_20",
    ]
    assert [last[f"alpha158_{name}"] for name in zero] == [0.0] * len(zero)
    assert last["alpha158_vma_20"] == 1.0
    assert np.isfinite(list(last.values())).all()


@pytest.mark.parametrize("volume", [None, 0.0])
def test_without_volume_the_volume_operators_are_neutral(write_bars, make_bars, volume):
    bars = make_bars(3, 90).with_columns(volume=pl.lit(volume, dtype=pl.Float64))
    for operator in ("corr", "cord", "vma", "vstd", "wvma", "vsump", "vsumn", "vsumd"):
        values = Alpha158(operator=operator, bars=10).compute(bars)[20:]
        assert (values == (1.0 if operator == "vma" else 0.0)).all(), operator


def test_the_weighted_price_may_come_from_a_column_of_its_own(make_bars):
    bars = make_bars(4, 20).with_columns(vwap=pl.col("close") * 0.5)
    feature = Alpha158Bar(operator="vwap0", vwap_column="vwap")
    assert feature.inputs == ("vwap", "close")
    np.testing.assert_array_equal(feature.compute(bars), np.full(20, 0.5))
    typical = (bars["high"] + bars["low"] + bars["close"]) / 3 / bars["close"]
    np.testing.assert_allclose(Alpha158Bar(operator="vwap0").compute(bars), typical.to_numpy())


def test_an_unknown_operator_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no operator 'vsum'\. Did you mean 'vsump'\?|no operator 'vsum'"):
        Alpha158(operator="vsum")
    with pytest.raises(ConfigError, match="no operator 'kmid3'"):
        Alpha158Bar(operator="kmid3")
    with pytest.raises(ConfigError, match="only operator vwap0 reads vwap_column"):
        Alpha158Bar(operator="kup", vwap_column="vwap")
