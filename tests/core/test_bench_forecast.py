"""The forecasting benchmark: the literature's cuts, every window judged, errors by definition, training that keeps its best epoch.

Shapes: N windows, L look-back rows, S steps, F channels.
"""

import dataclasses
import gzip
import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.recipes import REPOSITORY
from torch import nn


@pytest.fixture
def forecast(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    names = ("data", "protocol", "rows", "__main__")
    return SimpleNamespace(**{name.strip("_"): importlib.import_module(f"bench.forecast.{name}") for name in names})


@pytest.fixture
def waves(forecast: Any) -> Any:
    """Two channels that repeat after 8 rows; 60 rows to learn, 20 to validate, 30 to judge."""
    t = torch.arange(110, dtype=torch.float32)
    values = torch.stack([torch.sin(t * math.pi / 4), torch.cos(t * math.pi / 4)], 1)
    return forecast.data.Dataset(
        name="waves", values_TF=values, parts={"train": (0, 60), "validation": (60, 80), "test": (80, 110)}
    )


def test_etth1_is_cut_at_12_16_and_20_months_and_scaled_by_its_first_12(forecast: Any, shared_data: Path):
    data = forecast.data.load("ETTh1", shared_data)
    assert data.parts == {"train": (0, 8640), "validation": (8640, 11520), "test": (11520, 14400)}
    known = data.values_TF[:8640].double()
    torch.testing.assert_close(known.mean(0), torch.zeros(7).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(known.std(0, correction=0), torch.ones(7).double(), atol=1e-5, rtol=0)
    assert len(data.windows("test", lookback=336, steps=96)) == 2880 - 96 + 1, "none is dropped for a round batch"
    assert len(data.windows("train", lookback=336, steps=96)) == 8640 - 336 - 96 + 1


def test_persistence_on_exchange_rate_has_the_published_errors(forecast: Any, shared_data: Path):
    """The paper leaves out the last windows, which fill no batch of 32; without them its figures come out to the last digit."""
    data = forecast.data.load("exchange_rate", shared_data)
    for row in forecast.rows.ROWS:
        if row.model == "persistence" and row.data == "exchange_rate":
            dropped = len(data.windows("test", lookback=1, steps=row.steps)) % 32
            first, last = data.parts["test"]
            whole = dataclasses.replace(data, parts={**data.parts, "test": (first, last - dropped)})
            found = forecast.protocol.errors(row.make(8), whole, "test", lookback=1, steps=row.steps)
            assert tuple(round(value, 3) for value in found) == row.published


def test_a_window_of_a_part_forecasts_rows_of_that_part_alone_and_no_row_twice_as_first(waves: Any):
    windows_NFT = waves.windows("test", lookback=10, steps=5)
    assert windows_NFT.shape == (30 - 5 + 1, 2, 15)
    torch.testing.assert_close(windows_NFT[0, :, 10:].T, waves.values_TF[80:85])
    torch.testing.assert_close(windows_NFT[-1, :, 10:].T, waves.values_TF[105:110])
    torch.testing.assert_close(windows_NFT[0, :, :10].T, waves.values_TF[70:80])


def test_errors_are_means_over_every_window_step_and_channel(forecast: Any, waves: Any):
    class Zero(nn.Module):
        def forward(self, x_NLF):
            return torch.zeros(len(x_NLF), 5, 2)

    mse, mae = forecast.protocol.errors(Zero(), waves, "test", lookback=10, steps=5)
    rows = waves.values_TF.double().numpy()
    judged = np.concatenate([rows[first : first + 5] for first in range(80, 106)])
    assert mse == pytest.approx((judged**2).mean(), rel=1e-6)
    assert mae == pytest.approx(np.abs(judged).mean(), rel=1e-6)


def test_training_learns_a_wave_and_hands_back_its_best_epoch(forecast: Any, waves: Any):
    from quantfleet_models.dlinear.model import DLinearCore

    torch.manual_seed(0)
    network = DLinearCore(lookback_bars=16, steps=8, average_bars=3)
    settings = forecast.protocol.Training(batch=8, learning_rate=2e-2, epochs=30, patience=30)
    shape = {"lookback": 16, "steps": 8}
    before, _ = forecast.protocol.errors(network, waves, "test", **shape)
    trained = forecast.protocol.train(network, waves, settings, **shape, seed=1, limit_s=60)
    after, _ = forecast.protocol.errors(network, waves, "test", **shape)
    assert after < before / 50
    assert (trained.epochs, trained.stopped_by_time) == (30, False)
    assert 1 <= trained.best_epoch <= 30


def test_training_says_when_time_stopped_it_and_ends_when_validation_no_longer_falls(forecast: Any, waves: Any):
    shape = {"lookback": 8, "steps": 8}

    class Still(nn.Module):
        """Nothing it learns changes its answer: the first epoch is the best."""

        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x_NLF):
            return x_NLF + 0 * self.unused

    settings = forecast.protocol.Training(batch=8, learning_rate=1e-3, epochs=9, patience=3)
    patient = forecast.protocol.train(Still(), waves, settings, **shape, seed=1, limit_s=60)
    assert (patient.epochs, patient.best_epoch, patient.stopped_by_time) == (4, 1, False)
    hurried = forecast.protocol.train(Still(), waves, settings, **shape, seed=1, limit_s=0)
    assert (hurried.epochs, hurried.stopped_by_time) == (1, True)


def test_the_rate_halves_or_falls_late_as_the_authors_scripts_say(forecast: Any):
    halve = forecast.protocol.Training(batch=1, learning_rate=8.0)
    late = forecast.protocol.Training(batch=1, learning_rate=1.0, decay="late")
    assert [halve.rate(e) for e in range(5)] == [8, 8, 4, 2, 1]
    assert [late.rate(e) for e in range(6)] == pytest.approx([1, 1, 1, 1, 0.9, 0.81])


def test_the_table_says_where_persistence_wins(forecast: Any):
    record = {
        "id": "m/d/96", "model": "m", "lookback": 336, "mse": 0.09, "mae": 0.19, "published_mse": 0.081, "published_mae": 0.2,
        "persistence_mse": 0.081, "persistence_mae": 0.2, "epochs": 2, "of_epochs": 10, "stopped_by_time": True,
    }  # fmt: skip
    line = forecast.main.table([record]).splitlines()[1]
    assert "stopped by time; PERSISTENCE WINS on MSE" in line
    assert "on MAE" not in line


def test_the_file_of_results_holds_rows_that_exist(forecast: Any):
    known = {row.id: row for row in forecast.rows.ROWS}
    for record in json.loads((REPOSITORY / "bench" / "forecast.json").read_text()):
        row = known[record["id"]]
        assert (record["lookback"], record["steps"], record["source"]) == (row.lookback, row.steps, row.source)
        if record["published_mse"] is not None:
            assert (record["published_mse"], record["published_mae"]) == row.published


def test_the_page_shows_the_table_of_the_file(forecast: Any):
    records = json.loads((REPOSITORY / "bench" / "forecast.json").read_text())
    page = (REPOSITORY / "bench" / "forecast" / "README.md").read_text()
    assert f"```\n{forecast.main.table(records)}\n```" in page


def test_without_the_data_the_error_says_where_to_get_them(
    forecast: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QUANTFLEET_BENCH_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"ETTh1\.csv\.gz is not in .*zhouhaoyi/ETDataset.*QUANTFLEET_BENCH_DATA"
    ):
        forecast.data.data_folder()
    with gzip.open(tmp_path / "ETTh1.csv.gz", "wt") as file:
        file.write("date,a\n")
    assert forecast.data.data_folder() == tmp_path
