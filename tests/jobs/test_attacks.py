"""Attacks on stored models, at windows of chunks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.fits import fit_torch_here
from support.stored_models import FEATURES, PROVENANCE

from quantfleet.contracts import ModelConfig
from quantfleet.evaluation.adversarial import AttackConfig
from quantfleet.registry.artifact import write_artifact
from quantfleet.storage import Storage, StorageConfig
from quantfleet.testing.training_data import MemoryData, memory_data
from quantfleet.training.torch_model import TorchModel
from quantfleet_jobs.attacks import attack_stored
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.naive import BuyAndHoldConfig

QUICK = AttackConfig(windows=40, sizes=(0.05, 1.0), searched_windows=4)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


@pytest.fixture
def data() -> MemoryData:
    made = memory_data(seed=1, symbols=2, features=len(FEATURES.columns), chunks=6, chunk_bars=16, lookback_bars=8)
    spec = replace(made.spec, feature_columns=FEATURES.columns, feature_digest=FEATURES.digest)
    like_training = {
        **made.batches,
        "test": made.batches["train"],
    }  # its own test rows lie where every input is clipped
    return replace(made, spec=spec, batches=like_training)


def stored(config: ModelConfig, data: MemoryData, storage: Storage) -> str:
    model = config.build(data.spec)
    torch.manual_seed(0)
    if isinstance(model, TorchModel):
        fit_torch_here(model, data)
        model.forecaster.label_mean_K.zero_()  # so that its forecasts lean to neither side
    else:
        model.fit(data, None)
    return write_artifact(model, FEATURES, PROVENANCE, Path(storage.path("model")))


def test_a_network_is_attacked_at_as_many_windows_as_asked(storage: Storage, data: MemoryData):
    digest = stored(HybridConfig(width=8, attention_heads=2, dropout=0.0), data, storage)
    found = attack_stored(storage, "model", digest, data, QUICK, horizon_bars=data.spec.horizons_bars[0], seed=1)
    assert found["windows"] == 40
    small, large = found["turned"]
    assert small["pgd"] <= large["pgd"]
    assert large["pgd"] > large["noise"]
    assert large["pgd"] > 0.5, "a whole standard deviation turns most"


def test_a_model_without_gradients_is_passed_over_with_the_reason(storage: Storage, data: MemoryData):
    digest = stored(BuyAndHoldConfig(), data, storage)
    found = attack_stored(storage, "model", digest, data, QUICK, horizon_bars=data.spec.horizons_bars[0], seed=1)
    assert found == {"skipped": "no network: its answers have no gradient"}
