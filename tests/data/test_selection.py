"""Feature selection: finds planted signals, checked against scikit-learn, the same for a seed, and blind to later segments."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from quantfleet.contracts import SELECTORS, selection_from_dict
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError, UnknownPluginError
from quantfleet.testing.training_data import memory_data
from quantfleet.transforms import RowSample, fit_selection, sample_training_rows, training_rows
from quantfleet_data.selection import (
    CorrelationSelectorConfig,
    GainSelectorConfig,
    MutualInformationSelectorConfig,
    PermutationSelectorConfig,
    PrincipalComponentsConfig,
)
from quantfleet_data.selection.base import complete_rows

NAMES = ("noise_a", "straight", "bent", "noise_b", "copy_of_straight", "flat")
CONFIGS = [
    CorrelationSelectorConfig(threshold=0.9),
    CorrelationSelectorConfig(threshold=0.9, method="spearman"),
    GainSelectorConfig(keep=3, rounds=20),
    PermutationSelectorConfig(keep=3, rounds=20),
    MutualInformationSelectorConfig(keep=3),
    PrincipalComponentsConfig(variance_share=0.9),
]


def planted(rows: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A label made of one feature straight and one bent (so that a straight line does not see it), the others noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(NAMES))).astype(np.float32)
    x[:, 4] = x[:, 1] + 0.05 * x[:, 4]
    x[:, 5] = 3.0
    y = x[:, 1] + (x[:, 2] ** 2 - 1) + 0.3 * rng.normal(size=rows)
    return x, y.astype(np.float32)


# ------------------------------------------------------------------------------------------------ each kind


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_of_two_features_that_say_the_same_the_first_stays_and_flat_ones_go(method):
    x, _ = planted()
    selection = CorrelationSelectorConfig(threshold=0.95, method=method).fit(x, None, NAMES)
    assert selection.columns == ("noise_a", "straight", "bent", "noise_b")
    assert selection.dropped["flat"] == "never varies"
    assert selection.dropped["copy_of_straight"].startswith("correlation 0.99")
    wanted = abs(np.corrcoef(x[:, 4], x[:, 1])[0, 1])
    if method == "pearson":
        assert selection.scores["copy_of_straight"] == pytest.approx(wanted, rel=1e-9)
    np.testing.assert_array_equal(selection.transform(x), x[:, :4])


@pytest.mark.parametrize(
    "config", [GainSelectorConfig(keep=3), PermutationSelectorConfig(keep=3)], ids=lambda c: c.kind
)
def test_trees_find_the_planted_features_and_leave_the_noise(config):
    x, y = planted()
    selection = config.fit(x, y, NAMES)
    assert {"straight", "bent"} <= set(selection.columns)
    assert min(selection.scores[n] for n in ("straight", "bent")) > 5 * selection.scores["noise_a"]
    assert "flat" in selection.dropped


def test_permutation_drops_noise_by_itself_and_agrees_with_scikit_learn_on_the_order():
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.inspection import permutation_importance

    x, y = planted()
    x, names = x[:, :4], NAMES[:4]
    selection = PermutationSelectorConfig(rounds=30, least_growth=0.1).fit(x, y, names)
    assert selection.columns == ("straight", "bent")
    peer = permutation_importance(
        GradientBoostingRegressor(n_estimators=50, random_state=0).fit(x[:1100], y[:1100]),
        x[1125:],
        y[1125:],
        random_state=0,
    ).importances_mean
    ours = [selection.scores[n] for n in names]
    assert set(np.argsort(ours)[-2:]) == set(np.argsort(peer)[-2:])


def test_permutation_judges_on_the_last_times_only_and_keeps_labels_out_of_them():
    x, y = planted(400)
    rows = complete_rows("permutation", x, y, NAMES, np.repeat(np.arange(200), 2), labelled=True)
    head, tail = rows.split_tail(0.25, 10)
    assert tail.time_R.min() == 150
    assert head.time_R.max() == 139  # a label of row t reads up to t + 10
    assert len(head) + len(tail) == 400 - 20


def test_mutual_information_sees_the_bent_feature_and_is_near_its_known_value():
    rng, rho = np.random.default_rng(0), 0.8
    a = rng.normal(size=4000)
    b = rho * a + np.sqrt(1 - rho**2) * rng.normal(size=4000)
    x, y = planted()
    pair = MutualInformationSelectorConfig().fit(a[:, None].astype(np.float32), b.astype(np.float32), ("a",))
    assert pair.scores["a"] == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.05)  # of a bivariate normal
    selection = MutualInformationSelectorConfig(keep=3).fit(x, y, NAMES)
    assert set(selection.columns) == {"straight", "bent", "copy_of_straight"}
    classes = MutualInformationSelectorConfig(keep=1, task="classification").fit(
        x, (x[:, 2] ** 2 > 1).astype(np.float32), NAMES
    )
    assert classes.columns == ("bent",)


def test_principal_components_are_those_of_scikit_learn_up_to_sign():
    x, _ = planted()
    selection = PrincipalComponentsConfig(components=3).fit(x, None, NAMES)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    peer = PCA(n_components=3).fit(z)
    wanted = peer.transform(z)
    ours = selection.transform(x)
    sign = np.sign((wanted * ours).sum(0))
    np.testing.assert_allclose(ours, wanted * sign, atol=1e-4)
    np.testing.assert_allclose(list(selection.scores.values()), peer.explained_variance_ratio_, rtol=1e-9)
    assert (np.take_along_axis(selection.loadings_GF, np.abs(selection.loadings_GF).argmax(1)[:, None], 1) > 0).all()
    most = PrincipalComponentsConfig(variance_share=0.99).fit(x, None, NAMES)
    assert sum(most.scores.values()) >= 0.99 > sum(list(most.scores.values())[:-1])


# ------------------------------------------------------------------------------------------------ all kinds


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_stored_selection_gives_the_same_bits_for_one_row_and_for_many(config):
    x, y = planted()
    selection = config.fit(x, y, NAMES)
    stored = selection_from_dict(json.loads(json.dumps(selection.to_dict())))
    whole = selection.transform(x)
    assert whole.shape == (len(x), len(selection.columns))
    assert whole.dtype == np.float32
    assert stored.transform(x[7]).tobytes() == whole[7].tobytes()
    assert stored.transform(x[:60].reshape(3, 20, -1)).tobytes() == whole[:60].tobytes()
    assert (stored.columns, stored.to_dict()) == (selection.columns, selection.to_dict())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_same_rows_give_the_same_selection_and_incomplete_rows_are_left_out(config):
    x, y = planted()
    holes_x, holes_y = np.vstack([x, x[:50]]), np.concatenate([y, y[:50]])
    holes_x[1500:1530, 2] = np.nan
    holes_x[1530:1550, 0] = np.inf
    assert config.fit(holes_x, holes_y, NAMES).to_dict() == config.fit(x, y, NAMES).to_dict()
    if config.kind not in ("correlation", "pca"):
        unknown = np.concatenate([y, np.full(50, np.nan, np.float32)])
        assert config.fit(np.vstack([x, x[:50]]), unknown, NAMES).to_dict() == config.fit(x, y, NAMES).to_dict()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_selection_on_chunks_reads_training_rows_only(config):
    data, other = memory_data(chunks=8), memory_data(chunks=8)
    other.batches = {**memory_data(seed=9, chunks=8).batches, "train": data.batches["train"]}
    one, two = (fit_selection(config, d, label="return_1") for d in (data, other))
    assert one.to_dict() == two.to_dict()
    assert set(data.segments_read) == {"train"}


# ------------------------------------------------------------------------------------------------ rows


def test_a_sample_holds_training_rows_and_no_row_of_validation_or_test():
    data = memory_data(chunks=20)
    sample = sample_training_rows(data, rows=100, seed=0)
    known = {x.tobytes(): y.tobytes() for x, y in zip(*data.rows("train"), strict=True)}
    later = {x.tobytes() for s in ("validation", "test") for x in data.rows(s)[0]}
    assert len(sample) == 100
    assert all(known[x.tobytes()] == y.tobytes() for x, y in zip(sample.x_RF, sample.y_RK, strict=True))
    assert not {x.tobytes() for x in sample.x_RF} & later
    assert data.segments_read == ["train"]
    assert (np.diff(sample.time_R) >= 0).all()
    assert sum(len(r) for r in training_rows(data)) == data.batches["train"].mask_BC.sum()


@settings(max_examples=25)
@given(
    seed=st.integers(-5, 5),
    rows=st.integers(1, 300),
    cuts=st.lists(st.integers(1, 190), unique=True, max_size=6),
    order=st.randoms(),
)
def test_a_sample_does_not_depend_on_batches_or_their_order(seed, rows, cuts, order):
    everything = next(iter(training_rows(memory_data())))
    parts = np.split(np.arange(len(everything)), sorted(cuts))
    order.shuffle(parts)
    sample = RowSample(rows, seed)
    for part in parts:
        sample.offer(everything.take(part))
    whole = RowSample(rows, seed)
    whole.offer(everything)
    a, b = sample.result(), whole.result()
    assert len(a) == min(rows, len(everything))
    assert a.x_RF.tobytes() == b.x_RF.tobytes()
    assert (a.time_R == b.time_R).all()


def test_a_sample_is_uniform_over_symbols_and_time_and_another_seed_gives_another():
    data = memory_data(symbols=4, chunks=100)
    sample, other = (sample_training_rows(data, rows=2000, seed=s) for s in (1, 2))
    share = np.bincount(sample.symbol_id_R) / 2000
    assert abs(share - 0.25).max() < 0.04
    assert abs(np.mean(sample.time_R < np.median(sample.time_R.max()) / 2) - 0.5) < 0.05
    assert (sample.time_R != other.time_R).any()


def test_a_sample_never_holds_more_than_twice_its_rows_and_a_batch():
    sample, most = RowSample(50, 0), 0
    for rows in training_rows(memory_data(symbols=8, chunks=60)):
        sample.offer(rows)
        most = max(most, sample._held)
    assert most <= 100


# ------------------------------------------------------------------------------------------------ refusals


def test_refusals_name_what_is_wrong():
    x, y = planted()
    with pytest.raises(ConfigError, match="selector gain judges features by a label"):
        GainSelectorConfig().fit(x, None, NAMES)
    with pytest.raises(SchemaError, match=r"features of shape \(1500, 6\) come with 2 names"):
        GainSelectorConfig().fit(x, y, ("a", "b"))
    with pytest.raises(SchemaError, match="rows step back in time"):
        GainSelectorConfig().fit(x, y, NAMES, time_R=np.arange(1500)[::-1])
    with pytest.raises(ConfigError, match="keep=7 of 6 features"):
        GainSelectorConfig(keep=7, rounds=1).fit(x, y, NAMES)
    x[:, 3] = np.nan
    with pytest.raises(EmptyTableError, match=r"0 of 1500 rows are complete.* 'noise_b' is undefined most often"):
        CorrelationSelectorConfig().fit(x, None, NAMES)
    with pytest.raises(ConfigError, match="no feature varies"):
        CorrelationSelectorConfig().fit(np.ones((100, 2), np.float32), None, ("a", "b"))
    with pytest.raises(ConfigError, match="components=2 of 1 features that vary"):
        PrincipalComponentsConfig(components=2).fit(planted()[0][:, 4:], None, NAMES[4:])
    with pytest.raises(EmptyTableError, match="rows lie before the tail"):
        PermutationSelectorConfig().fit(*planted(60), NAMES, horizon_bars=40)
    with pytest.raises(ConfigError, match="task=classification reads labels 0 and 1 only"):
        GainSelectorConfig(task="classification").fit(*planted(), NAMES)
    with pytest.raises(SchemaError, match=r"no label 'retrun_1'\. Did you mean 'return_1'"):
        fit_selection(CorrelationSelectorConfig(), memory_data(), label="retrun_1")
    with pytest.raises(UnknownPluginError, match="no selector named 'pcs'"):
        selection_from_dict({"kind": "pcs"})
    with pytest.raises(SchemaError, match="does not say its kind"):
        selection_from_dict({})
    with pytest.raises(SchemaError, match=r"fitted on 6 features, and is given an array of shape \(3, 5\)"):
        CorrelationSelectorConfig().fit(planted()[0], None, NAMES).transform(np.zeros((3, 5), np.float32))


@pytest.mark.parametrize(
    "make",
    [
        lambda: CorrelationSelectorConfig(threshold=0.0),
        lambda: GainSelectorConfig(keep=0),
        lambda: GainSelectorConfig(rounds=0),
        lambda: PermutationSelectorConfig(tail_share=1.0),
        lambda: MutualInformationSelectorConfig(neighbours=0),
        lambda: PrincipalComponentsConfig(variance_share=0.0),
        lambda: PrincipalComponentsConfig(components=0),
    ],
)
def test_settings_without_sense_are_refused(make):
    with pytest.raises(ConfigError, match="selector "):
        make()


def test_the_kinds_are_registered():
    assert {"correlation", "gain", "mutual_information", "pca", "permutation"} <= set(SELECTORS.names())
