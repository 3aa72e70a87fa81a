"""`strategy: deepspeed` (ZeRO-2) on a real Ray: two CPU workers train the hybrid, and each keeps its own part of the state."""

from pathlib import Path

import pytest
from support.lake import index_bars, make_chunks

from quantfleet.contracts import FitContext
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training import DeepSpeedConfig, TrainingConfig
from quantfleet_models.hybrid import HybridConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_zero_2_on_two_cpu_workers_learns_and_parts_its_state(local_ray: None, tmp_path: Path):
    pytest.importorskip(
        "deepspeed", reason="the extra `deepspeed` is not installed: pip install 'quantfleet[deepspeed]'"
    )
    storage = Storage(StorageConfig(root=str(tmp_path)))
    chunks = make_chunks(storage, index_bars("2010-01-01", "2015-01-01"))
    model = HybridConfig(epochs=2, width=8, attention_heads=2, batch_windows=256, dropout=0.0).build(chunks.spec)
    training = TrainingConfig(workers=2, strategy=DeepSpeedConfig(zero_stage=2))

    report = model.fit(chunks, FitContext(run_name="fit", storage=storage, training=training, seed=3))

    losses = [row["val_loss"] for row in report.curves]
    assert losses[-1] < losses[0]
    assert model.evaluate(chunks, "test")["directional_accuracy_1"] > 0
    newest = max((tmp_path / "train" / "fit").glob("checkpoint_2*"))
    parts = sorted(path.name for path in (newest / "state").glob("*zero_pp_rank_*"))
    assert [name.partition("_mp_")[0] for name in parts] == ["zero_pp_rank_0", "zero_pp_rank_1"]
