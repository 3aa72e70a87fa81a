"""Canaries: a model that is shown the answer must win by far, a model that is taught nonsense must not."""

from functools import partial

import polars as pl
import pyarrow as pa
import pytest
from support.lake import index_bars, make_chunks

from quantfleet.backtest import BacktestConfig, BarPanel, PositionPolicy, run_backtest
from quantfleet.contracts import FitContext, Model, ModelConfig
from quantfleet.evaluation import EvaluationView, evaluate_model, plant_oracle, shuffle_labels
from quantfleet.registry import Candidate, Decision, GateContext, Verdict, decide_all
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training import TrainingConfig
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.backtest import trading_columns
from quantfleet_jobs.predictions import prediction_rows
from quantfleet_jobs.recipe import default_gates, default_metrics
from quantfleet_models.boosted import XGBoostConfig
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.naive import BuyAndHoldConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HORIZON = 5
BARS = index_bars("2001-01-01", "2012-01-01")
LEARNERS: tuple[ModelConfig, ...] = (
    HybridConfig(epochs=8, width=16, batch_windows=256, learning_rate=3e-3, dropout=0.0),
    XGBoostConfig(rounds=60),
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path_factory.mktemp("canaries"))))


@pytest.fixture(scope="module")
def with_oracle(local_ray: None, storage: Storage) -> ChunkStore:
    """The label of the primary horizon stands among the features."""
    plant = partial(plant_oracle, label=f"return_{HORIZON}")
    return make_chunks(storage, BARS, change_features=plant, name="oracle")


@pytest.fixture(scope="module")
def with_shuffled_labels(local_ray: None, storage: Storage) -> ChunkStore:
    """Labels are dealt out at random over the times of each symbol."""
    columns = [f"{kind}_{h}" for kind in ("return", "direction", "volatility") for h in (1, HORIZON)]
    return make_chunks(
        storage, BARS, change_labels=lambda labels: shuffle_labels(labels, columns=columns), name="shuffled"
    )


def judged(model: Model, store: ChunkStore, *, baseline: bool) -> Candidate:
    """Trade the test period as the jobs do."""
    rows = pa.concat_tables([prediction_rows(b, model.predict(b), store.spec) for b in store.read("test")])
    answers = pl.from_arrow(rows)
    assert isinstance(answers, pl.DataFrame)
    predictions = trading_columns(answers.sort("symbol", "timestamp"), HORIZON)
    first = predictions["timestamp"].min()
    panel = BarPanel.from_bars(pl.concat([frame.filter(pl.col("timestamp") >= first) for frame in BARS.values()]))
    policy = PositionPolicy(horizon_bars=HORIZON)
    curve = run_backtest(panel, policy.target_weights(predictions, panel), BacktestConfig()).curve()
    view = EvaluationView(predictions=predictions, curve=curve, bars_per_year=252)
    return Candidate(
        name=model.config.label,
        kind=model.config.kind,
        baseline=baseline,
        metrics=evaluate_model(view, default_metrics()),
        net_return_T=curve["net_return"].to_numpy(),
        time_T=curve["timestamp"].dt.replace_time_zone(None).to_numpy(),
    )


def fitted(config: ModelConfig, store: ChunkStore, storage: Storage) -> Model:
    model = config.build(store.spec)
    name = f"{store.path.rsplit('/', 1)[1]}-{config.label}"
    model.fit(store, FitContext(run_name=name, storage=storage, training=TrainingConfig(workers=1), seed=1))
    return model


def tried(config: ModelConfig, store: ChunkStore, storage: Storage) -> tuple[Candidate, Candidate, Decision]:
    """The learner, buy and hold beside it, and what the gates say."""
    learner = judged(fitted(config, store, storage), store, baseline=False)
    hold = judged(fitted(BuyAndHoldConfig(), store, storage), store, baseline=True)
    context = GateContext(
        candidates=(learner,), baselines=(hold,), champion=None, n_trials=1, leaks=(), bars_per_year=252, seed=1
    )
    return learner, hold, decide_all(context, default_gates())[learner.name]


@pytest.mark.parametrize("config", LEARNERS, ids=lambda c: c.label)
def test_a_planted_oracle_wins_by_a_wide_margin(config: ModelConfig, with_oracle: ChunkStore, storage: Storage):
    learner, hold, decision = tried(config, with_oracle, storage)
    assert learner.metrics["ic"] > 0.7
    assert learner.sharpe(252) > hold.sharpe(252) + 2.0
    assert decision.verdict is Verdict.PROMOTE


@pytest.mark.parametrize("config", LEARNERS, ids=lambda c: c.label)
def test_shuffled_labels_lose(config: ModelConfig, with_shuffled_labels: ChunkStore, storage: Storage):
    learner, hold, decision = tried(config, with_shuffled_labels, storage)
    assert abs(learner.metrics["ic"]) < 0.1
    assert learner.sharpe(252) < hold.sharpe(252) + 0.5
    assert decision.verdict is Verdict.HOLD
    failed = {reason.gate for reason in decision.reasons if not reason.passed}
    assert "beats_baselines" in failed, "held because it is no better than holding, not by some other gate alone"
