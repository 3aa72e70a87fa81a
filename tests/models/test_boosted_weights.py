"""Models of rows and sample weights: what a worker hands to the library."""

import numpy as np
import pytest

from quantfleet.contracts import FitContext
from quantfleet.storage import Storage, StorageConfig
from quantfleet.testing.training_data import memory_data
from quantfleet.training import TrainingConfig
from quantfleet.training.rows import Share
from quantfleet_models.boosted import XGBoostConfig


def weights(data, segment, **config):
    model = XGBoostConfig(**config).build(data.spec)
    context = FitContext(run_name="w", storage=Storage(StorageConfig()), training=TrainingConfig(), seed=0)
    reader = model._task(data, context).readers[segment]
    return np.concatenate([reader.read(places).weight_R for places in reader.batches(Share(0, 1))])


def test_training_rows_carry_their_weights_at_mean_one_and_validation_rows_weigh_the_same():
    data = memory_data()
    _, labels_RK = data.rows("train")
    expected = data.weights("train")[np.isfinite(labels_RK).all(1)] / data.stats.mean_weight
    np.testing.assert_allclose(weights(data, "train"), expected, rtol=1e-6)
    assert expected.mean() == pytest.approx(1.0, abs=0.05)
    assert (weights(data, "validation") == 1.0).all()


def test_a_switch_takes_the_weights_out():
    assert (weights(memory_data(), "train", sample_weights=False) == 1.0).all()
