"""Scalers: learnt from training rows alone, checked against scikit-learn, and the same bits in training and in service."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import RobustScaler, StandardScaler

from quantfleet.contracts import SCALERS, scaler_from_dict
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError, UnknownPluginError
from quantfleet.testing.training_data import memory_data, take
from quantfleet.transforms import AffineScaler, StandardScalerConfig
from quantfleet_data.scaling import RobustScalerConfig, RollingScalerConfig

CONFIGS = [
    StandardScalerConfig(),
    StandardScalerConfig(per_symbol=True),
    RobustScalerConfig(),
    RobustScalerConfig(per_symbol=True, clip=None),
    RollingScalerConfig(window_bars=5),
]


def history(rows: int = 60, features: int = 4, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(rows, features)), 0) * 10.0 ** np.arange(features)
    x[rng.random(x.shape) < 0.02] = np.nan
    return x.astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@settings(max_examples=15)
@given(bars=st.integers(1, 20), last=st.integers(0, 59), symbol=st.integers(0, 2))
def test_one_window_in_service_has_the_bits_of_the_whole_history_in_training(config, bars, last, symbol):
    scaler = config.fit(memory_data())
    x_TF = history()
    trained = scaler.apply(x_TF, symbol)
    served = scaler_from_dict(json.loads(json.dumps(scaler.to_dict())))
    halo = bars + served.lookback_bars - 1
    if last + 1 < halo:
        return
    window = x_TF[last + 1 - halo : last + 1]
    one = served.apply(window, symbol)[served.lookback_bars - 1 :]
    assert one.dtype == np.float32
    assert one.tobytes() == trained[last + 1 - bars : last + 1].tobytes()
    batch = served.apply_batch(np.stack([window, window]), np.array([symbol, symbol], np.int32))
    assert batch[1, served.lookback_bars - 1 :].tobytes() == one.tobytes()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_only_the_training_segment_is_read_and_what_lies_after_it_changes_nothing(config):
    data, other = memory_data(), memory_data()
    other.batches = {**memory_data(seed=9).batches, "train": data.batches["train"]}
    assert config.fit(data).to_dict() == config.fit(other).to_dict()
    assert set(data.segments_read) <= {"train"}


@pytest.mark.parametrize(
    ("config", "peer"),
    [
        (StandardScalerConfig(clip=None), StandardScaler()),
        (RobustScalerConfig(clip=None), RobustScaler(unit_variance=True)),
    ],
    ids=["standard", "robust"],
)
@pytest.mark.parametrize("per_symbol", [False, True])
def test_standard_and_robust_scaling_are_those_of_scikit_learn(config, peer, per_symbol):
    data, x_TF = memory_data(chunks=9), history()
    scaler = type(config)(per_symbol=per_symbol, clip=None).fit(data)
    for symbol in range(3):
        rows, _ = data.rows("train", symbol if per_symbol else None)
        wanted = peer.fit(rows.astype(np.float64)).transform(x_TF.astype(np.float64))
        np.testing.assert_allclose(scaler.apply(x_TF, symbol), wanted, rtol=2e-5, atol=2e-5)


def test_standard_scaling_has_the_bits_of_the_same_formula_in_torch():
    """As it was done in the network's own module before there were scalers."""
    import torch

    data, x_TF = memory_data(), history()
    mean_F, std_F = (
        torch.as_tensor(v, dtype=torch.float32) for v in (data.stats.feature_mean_F, data.stats.feature_std_F)
    )
    theirs = torch.nan_to_num((torch.tensor(x_TF) - mean_F) / std_F, nan=0.0).clamp(-10.0, 10.0)
    ours = np.nan_to_num(StandardScalerConfig().fit(data).apply(x_TF, 0), nan=0.0)
    assert ours.tobytes() == theirs.numpy().tobytes()


def test_rolling_scaling_is_a_z_score_over_the_last_bars_and_sees_no_later_one():
    scaler, x_TF = RollingScalerConfig(window_bars=5, clip=None).fit(memory_data()), history()
    scaled = scaler.apply(x_TF, 0)
    for t in range(4, len(x_TF)):
        window = x_TF[t - 4 : t + 1].astype(np.float64)
        np.testing.assert_allclose(scaled[t], (window[-1] - window.mean(0)) / window.std(0), rtol=1e-5, atol=1e-6)
        changed = x_TF.copy()
        changed[t + 1 :] = 7.0
        assert scaler.apply(changed, 0)[: t + 1].tobytes() == scaled[: t + 1].tobytes()
    assert np.isnan(scaled[:4]).all()


def test_a_feature_that_never_varies_is_centred_and_stays_finite():
    data = memory_data()
    data.batches["train"].x_BTF[..., 0] = 0.1
    flat = np.full((8, 4), 0.1, np.float32)
    for config in (StandardScalerConfig(), RobustScalerConfig(), RobustScalerConfig(per_symbol=True)):
        assert (config.fit(data).apply(flat, 0)[:, 0] == 0).all()
        assert config.fit(data).apply(flat + np.float32(1.0), 0)[0, 0] == pytest.approx(1.0)
    assert (RollingScalerConfig(window_bars=3).fit(data).apply(flat, 0)[2:] == 0).all()


def test_a_symbol_without_training_rows_takes_the_scale_of_all_and_padding_passes():
    data = memory_data()
    data.batches["train"].mask_BC[data.batches["train"].symbol_id_B == 1] = False
    pooled, own = StandardScalerConfig().fit(data), StandardScalerConfig(per_symbol=True).fit(data)
    assert own.per_symbol
    assert not pooled.per_symbol
    np.testing.assert_array_equal(own.apply(history(), 1), pooled.apply(history(), 1))
    assert np.isnan(own.apply(np.full((3, 4), np.nan, np.float32), -1)).all()
    with pytest.raises(SchemaError, match=r"symbol_id 7 is none of the 3 symbols .*per_symbol: false"):
        own.apply(history(), 7)


def test_outliers_move_the_standard_scale_and_not_the_robust_one():
    clean, dirty = memory_data(chunks=20), memory_data(chunks=20)
    dirty.batches["train"].x_BTF[0, 6:9] = 1e6
    moved = {
        kind: dirty_scale / clean_scale - 1
        for kind, clean_scale, dirty_scale in (
            (c.kind, c.fit(clean).scale_SF[0, 0], c.fit(dirty).scale_SF[0, 0])
            for c in (StandardScalerConfig(), RobustScalerConfig())
        )
    }
    assert abs(moved["robust"]) < 0.05
    assert moved["standard"] > 100


def test_quartiles_from_a_bounded_sample_are_near_the_exact_ones_and_the_same_each_time():
    data = memory_data(symbols=2, chunks=400)
    exact, few, again = (
        RobustScalerConfig(sample_rows=n, seed=s).fit(data) for n, s in ((10**6, 0), (2000, 1), (2000, 1))
    )
    assert few.to_dict() == again.to_dict()
    np.testing.assert_allclose(few.scale_SF, exact.scale_SF, rtol=0.1)
    assert (few.scale_SF != exact.scale_SF).all()


def test_refusals_name_what_is_wrong():
    data = memory_data()
    scaler = StandardScalerConfig().fit(data)
    with pytest.raises(SchemaError, match=r"fitted on 4 features, and is given an array of shape \(9, 3\)"):
        scaler.apply(np.zeros((9, 3), np.float32), 0)
    with pytest.raises(SchemaError, match="does not say its kind"):
        scaler_from_dict({})
    with pytest.raises(UnknownPluginError, match=r"no scaler named 'standrad'\. Did you mean 'standard'"):
        scaler_from_dict({"kind": "standrad"})
    with pytest.raises(SchemaError, match="stored standard scaler cannot be read: KeyError"):
        scaler_from_dict({"kind": "standard"})
    with pytest.raises(SchemaError, match="scales that are not positive"):
        scaler_from_dict({**scaler.to_dict(), "scale": [[0.0] * 4]})
    data.batches["train"].mask_BC[:] = False
    with pytest.raises(EmptyTableError, match="no training rows to fit a scaler on"):
        RobustScalerConfig().fit(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StandardScalerConfig(clip=0.0),
        lambda: RobustScalerConfig(sample_rows=0),
        lambda: RollingScalerConfig(window_bars=1),
        lambda: RollingScalerConfig(clip=-1.0),
    ],
)
def test_settings_without_sense_are_refused(make):
    with pytest.raises(ConfigError, match="scaler "):
        make()


def test_the_three_kinds_are_registered():
    assert {"robust", "rolling", "standard"} <= set(SCALERS.names())


def test_training_chunks_of_a_symbol_that_do_not_follow_each_other_are_refused_where_that_matters():
    data = memory_data(chunks=2)
    mixed = np.array([0, 2, 4, 1, 3, 5])
    data.batches = {**data.batches, "train": take(data.batches["train"], mixed)}
    with pytest.raises(SchemaError, match="training chunks of symbol_id 0 do not follow each other"):
        RobustScalerConfig(per_symbol=True).fit(data)
    assert isinstance(RobustScalerConfig().fit(data), AffineScaler)
