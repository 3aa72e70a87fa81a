"""Models keep the contract, fitted for real on two Ray Train workers and real bars.

All that are no torch network, and of the torch networks the one that sends every part of a fit through the workers: what differs
between them is the network, and `test_deep_models.py` runs the contract and the training loop on each of those without a cluster.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.lake import index_bars, make_chunks

from quantfleet.contracts import MODELS, FitContext, ModelConfig
from quantfleet.plugins import load_plugins
from quantfleet.storage import Storage, StorageConfig
from quantfleet.testing import check_model_contract
from quantfleet.training import LossConfig, TorchModelConfig, TrainingConfig
from quantfleet_data.augmentation import Jitter, Mixup
from quantfleet_data.chunks import ChunkStore
from quantfleet_data.scaling import RobustScalerConfig
from quantfleet_data.selection import CorrelationSelectorConfig, GainSelectorConfig
from quantfleet_models.linear import LogisticConfig, RidgeConfig

load_plugins(("quantfleet_models",))
pytestmark = [pytest.mark.ray, pytest.mark.slow]

MEMBERS = (RidgeConfig(), LogisticConfig())
QUICK: dict[str, dict[str, Any]] = {
    "hybrid": {
        "epochs": 2,
        "width": 8,
        "batch_windows": 256,
        "attention_heads": 2,
        "scaler": RobustScalerConfig(per_symbol=True),
        "selection": CorrelationSelectorConfig(threshold=0.9),
        "augmentations": (Jitter(), Mixup()),
        "loss": LossConfig(quantiles=(0.1, 0.5, 0.9), sharpe=0.2, balance="gradnorm", balance_classes=True),
    },
    "xgboost": {
        "rounds": 12, "checkpoint_every_rounds": 6, "external_memory": "always",
        "selection": GainSelectorConfig(keep=2, rounds=5),
    },
    "lightgbm": {"rounds": 12, "checkpoint_every_rounds": 6},
    "catboost": {"rounds": 12},
    "random_forest": {"trees": 10},
    "hist_boosting": {"rounds": 12},
    "calibrated": {"model": RidgeConfig(), "directions": "isotonic"},
    "voting": {"members": MEMBERS, "agreement": 0.6},
    "model_averaging": {"members": MEMBERS},
    "regime_gated": {"members": MEMBERS, "feature": "realised_volatility_21"},
    "stacking": {"members": MEMBERS, "folds": 2},
    "svm": {"rows": 300},
}  # fmt: skip
"""Settings that make a fit short and send every part of a model through the workers; one that is not named runs with defaults."""
WITHOUT_TIMES = ("prophet",)
"""What answers by the time of a bar, which windows without one do not say: `test_prophet.py` says what it keeps."""
NAMES = [
    name
    for name in MODELS.names()
    if (name in QUICK or not issubclass(MODELS.get(name), TorchModelConfig)) and name not in WITHOUT_TIMES
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path_factory.mktemp("contract"))))


@pytest.fixture(scope="module")
def chunks(local_ray: None, storage: Storage) -> ChunkStore:
    return make_chunks(storage, index_bars("2010-01-01", "2015-01-01"))


@pytest.fixture
def context(storage: Storage) -> Callable[[ModelConfig], FitContext]:
    return lambda config: FitContext(
        run_name=f"contract-{config.label}", storage=storage, training=TrainingConfig(workers=2), seed=1
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_model_keeps_the_contract(
    name: str, chunks: ChunkStore, context: Callable[[ModelConfig], FitContext], tmp_path: Path
):
    config = MODELS.get(name)(**QUICK.get(name, {}))
    check_model_contract(config, chunks, context(config), tmp_path)


def test_scalers_are_those_of_the_training_targets_alone(chunks: ChunkStore):
    place = chunks.spec.lookback_bars - 1
    rows = np.concatenate([b.x_BTF[:, place:][b.mask_BC] for b in chunks.read("train")]).astype(np.float64)
    np.testing.assert_allclose(chunks.stats.feature_mean_F, rows.mean(0), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(chunks.stats.feature_std_F, rows.std(0), rtol=1e-5, atol=1e-8)
