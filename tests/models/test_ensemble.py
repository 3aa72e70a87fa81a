"""Ensembles: weights that are what they are said to be, and no position where members disagree.

Shapes: M members, B chunks, C targets, P chunks of a segment.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.row_models import context, learnable_data, run_here

from quantfleet.contracts import FitReport, Forecast, Model, ModelConfig
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.testing import check_model_contract
from quantfleet.testing.training_data import HOUR_US, memory_data
from quantfleet.training.single_task import SingleTaskModel
from quantfleet_models.ensemble import ModelAveragingConfig, RegimeGatedConfig, StackingConfig, VotingConfig
from quantfleet_models.ensemble.folds import folds_of
from quantfleet_models.ensemble.model import decide, stacked
from quantfleet_models.linear import LogisticConfig, RidgeConfig

MEMBERS = (RidgeConfig(), LogisticConfig(shrinkage=1.0), RidgeConfig(name="stiff", shrinkage=5.0))
CONFIGS = [
    VotingConfig(members=MEMBERS, weights=(2.0, 1.0, 1.0), agreement=0.6),
    ModelAveragingConfig(members=MEMBERS),
    RegimeGatedConfig(members=MEMBERS, feature="f1", prior_rows=20.0),
    StackingConfig(members=MEMBERS, folds=2),
]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SingleTaskModel, "_run", run_here)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SaysConfig(ModelConfig):
    """Answers the truth of the label plus noise of its own, and remembers on what it was fitted."""

    noise: float = 1.0
    seed: int = 0
    scale: float = 1.0
    wild_when: float = 0.0
    """Noise is ten times as great where feature f0 lies above 0 (1) or below (-1)."""

    def build(self, spec):
        return Says(self, spec)


class Says(Model):
    fitted: list = []  # noqa: RUF012 - read by tests

    def __init__(self, config, spec):
        self.config, self.spec = config, spec

    def fit(self, data, context):
        self.fitted.append((context.run_name, data))
        return FitReport()

    def predict(self, batch):
        H = len(self.spec.horizons_bars)
        rng = np.random.default_rng((self.config.seed, int(batch.chunk_id_B[0])))
        noise = self.config.noise * rng.normal(size=batch.y_BCK[..., :H].shape)
        own = batch.x_BTF[:, self.spec.lookback_bars - 1 :, :1]
        noise = np.where(own * self.config.wild_when > 0, 10 * noise, noise)
        said = (self.config.scale * (np.nan_to_num(batch.y_BCK[..., :H]) + noise)).astype(np.float32)
        return Forecast(return_BCH=said, direction_logit_BCH=said, volatility_BCH=np.abs(said))

    def save(self, directory): ...

    def load(self, directory): ...


def fitted(config, data):
    model = config.build(data.spec)
    model.fit(data, context())
    return model


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_an_ensemble_keeps_the_contract(config, tmp_path):
    (tmp_path / "saved").mkdir()
    check_model_contract(config, learnable_data(), context(tmp_path / "root"), tmp_path / "saved")


def test_voting_is_the_weighted_mean_of_returns_probabilities_and_variances(tmp_path):
    data = learnable_data()
    model = CONFIGS[0].build(data.spec)
    model.fit(data, context(tmp_path))
    batch = data.batches["test"]
    said, answer, weight = [m.predict(batch) for m in model.members], model.predict(batch), np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(
        answer.return_BCH, sum(w * f.return_BCH for w, f in zip(weight, said, strict=True)), rtol=1e-4
    )
    chance = sum(w / (1 + np.exp(-f.direction_logit_BCH.astype(float))) for w, f in zip(weight, said, strict=True))
    np.testing.assert_allclose(answer.direction_logit_BCH, np.log(chance / (1 - chance)), rtol=1e-3, atol=1e-4)
    variance = sum(w * f.volatility_BCH.astype(float) ** 2 for w, f in zip(weight, said, strict=True))
    np.testing.assert_allclose(answer.volatility_BCH, np.sqrt(variance), rtol=1e-4)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=3, max_size=3), st.sampled_from([0.51, 0.7, 1.0]))
@settings(max_examples=60)
def test_a_position_is_taken_only_where_enough_weight_agrees(calls, agreement):
    weight = np.array([0.5, 0.3, 0.2])
    position = decide(np.array(calls)[:, None, None], weight[:, None, None], agreement)[0, 0]
    up, down = (weight @ (np.array(calls) == sign) for sign in (1, -1))
    assert position == (1 if up >= agreement - 1e-9 else -1 if down >= agreement - 1e-9 else 0)


def test_averaging_trusts_the_member_whose_errors_are_smaller_and_only_as_much_as_the_rows_tell():
    data = memory_data(0, chunks=20)
    weight = fitted(
        ModelAveragingConfig(members=(SaysConfig(name="a", noise=1.0), SaysConfig(name="b", noise=1.15, seed=1))), data
    )
    few = weight.weights["weight_MH"][:, 0]
    assert few[0] > few[1] > 0
    validation = data.batches["validation"]
    at = validation.mask_BC & np.isfinite(validation.y_BCK[..., 0])
    said = [member.predict(validation).return_BCH[..., 0] for member in weight.members]
    error = [np.square((own - validation.y_BCK[..., 0])[at].astype(float)).mean() for own in said]
    log_odds = 0.5 * at.sum() * (np.log(error[1]) - np.log(error[0]))
    assert np.log(few[0] / few[1]) == pytest.approx(log_odds, rel=1e-4)


def test_the_gate_trusts_each_member_in_the_regime_where_it_is_good():
    data = memory_data(0, chunks=20)
    for batch in data.batches.values():
        batch.x_BTF[..., 0] = np.random.default_rng(0).normal(size=batch.x_BTF.shape[:2])
    members = (SaysConfig(name="low", wild_when=1.0), SaysConfig(name="high", wild_when=-1.0, seed=1))
    config = RegimeGatedConfig(members=members, feature="f0", quantiles=(0.5,), prior_rows=1.0)
    model = fitted(config, data)
    low, high = model.weights["weight_ZMH"][:, :, 0]
    assert low[0] > 0.8
    assert high[1] > 0.8
    batch = data.batches["test"]
    own = batch.x_BTF[:, data.spec.lookback_bars - 1 :, 0]
    said, answer = [m.predict(batch).return_BCH[..., 0] for m in model.members], model.predict(batch).return_BCH[..., 0]
    at = own < model.weights["cut_Z"][0]
    np.testing.assert_allclose(answer[at], (low[0] * said[0] + low[1] * said[1])[at], rtol=1e-4)


def test_stacking_undoes_a_member_s_scale_and_leaves_out_what_is_noise():
    data = memory_data(0, chunks=20)
    members = (SaysConfig(name="thrice", noise=0.1, scale=3.0), SaysConfig(name="noise", noise=50.0, seed=1))
    model = fitted(StackingConfig(members=members, folds=2), data)
    weight = model.weights["weight_3MH"][0, :, 0]
    assert weight[0] == pytest.approx(1 / 3, rel=0.05)
    assert abs(weight[1]) < 0.01


def test_stacked_weights_solve_the_least_squares_problem_without_negative_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    y = x @ [0.5, 0.3, -0.4] + 2.0 + 0.01 * rng.normal(size=500)
    weight, constant = stacked(x, y, convex=False)
    assert weight[2] == 0
    free, *_ = np.linalg.lstsq(np.c_[x[:, :2], np.ones(500)], y, rcond=None)
    np.testing.assert_allclose([*weight[:2], constant], free, rtol=1e-6)
    weight, constant = stacked(x, x @ [0.2, 0.3, 0.5], convex=True)
    np.testing.assert_allclose(weight, [0.2, 0.3, 0.5], atol=1e-4)
    assert constant == 0


# --- folds ------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 50), folds=st.integers(2, 5), embargo=st.integers(0, 10), horizon=st.integers(1, 6))
@settings(max_examples=25)
def test_no_target_that_is_fitted_on_shares_a_bar_of_its_label_with_the_block_that_is_held_out(
    seed, folds, embargo, horizon
):
    data = memory_data(seed, chunks=6)
    data.spec = dataclasses.replace(data.spec, horizons_bars=(horizon,))
    batch = data.batches["train"]
    bar_PC = batch.time_BC // HOUR_US
    made, held_ever = folds_of(data, folds, embargo_bars=embargo), np.zeros_like(batch.mask_BC)
    for fold, held in made:
        keep = fold.keep_PC
        assert not (keep & held).any()
        assert not (keep & ~batch.mask_BC).any()
        assert not (held & held_ever).any()
        held_ever |= held
        last = int(bar_PC.max())
        for begin in np.unique(bar_PC[keep]):  # a label knows the bars begin + 1 .. begin + 1 + horizon
            ends = min(begin + 1 + horizon, last)
            first, final = int(bar_PC[held].min()), min(int(bar_PC[held].max()) + 1 + horizon, last)
            assert ends < first or begin > final
            assert not final < begin <= final + embargo
    assert (held_ever == batch.mask_BC).all()


def test_a_fold_reads_the_same_by_place_and_in_order_and_its_moments_are_those_of_what_is_left():
    data = memory_data(0)
    fold, _ = folds_of(data, 2, embargo_bars=1)[0]
    read = next(fold.read("train"))
    taken = fold.reader("train").take(np.arange(len(read.chunk_id_B)))
    np.testing.assert_array_equal(read.mask_BC, taken.mask_BC)
    rows = read.x_BTF[:, data.spec.lookback_bars - 1 :][read.mask_BC].astype(np.float64)
    np.testing.assert_allclose(fold.stats.feature_mean_F, rows.mean(0))
    assert fold.stats.targets["train"] == len(rows)
    assert fold.reader("train").content != data.reader("train").content
    assert fold.reader("train").index().targets_P.sum() == len(rows)
    np.testing.assert_array_equal(next(fold.read("validation")).mask_BC, data.batches["validation"].mask_BC)


def test_stacking_asks_no_member_about_rows_it_was_fitted_on():
    data = memory_data(0)
    Says.fitted.clear()
    fitted(StackingConfig(members=(SaysConfig(name="a"), SaysConfig(name="b", seed=1)), folds=3), data)
    runs = [name for name, _ in Says.fitted]
    assert len(runs) == len(set(runs)) == 8  # two members on everything and on three folds, each under a run of its own
    whole = data.batches["train"].mask_BC.sum()
    assert [int(d.stats.targets["train"]) < whole for _, d in Says.fitted] == [False, False] + [True] * 6


# --- settings that cannot work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VotingConfig(members=MEMBERS[:1]), "needs two models or more"),
        (lambda: VotingConfig(members=(RidgeConfig(), RidgeConfig())), "holds 'ridge' more than once"),
        (lambda: VotingConfig(members=MEMBERS, weights=(1.0,)), "one weight for each of 3 members"),
        (lambda: RegimeGatedConfig(members=MEMBERS, feature="f0", quantiles=(0.7, 0.2)), "must rise"),
        (lambda: RegimeGatedConfig(members=MEMBERS, feature="g0").build(memory_data().spec), "does not compute"),
        (lambda: folds_of(memory_data(), 500, embargo_bars=0), "too few for 500 folds"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_weights_of_another_ensemble_are_refused(tmp_path):
    data = learnable_data()
    model = CONFIGS[0].build(data.spec)
    model.fit(data, context(tmp_path / "root"))
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    other = VotingConfig(members=(*MEMBERS[:2], RidgeConfig(name="other")))
    with pytest.raises(SchemaError, match="weighs"):
        other.build(data.spec).load(tmp_path / "saved")
    for path in (tmp_path / "saved").glob("member1.*"):
        path.unlink()
    with pytest.raises(SchemaError, match="no files of member1"):
        CONFIGS[0].build(data.spec).load(tmp_path / "saved")
