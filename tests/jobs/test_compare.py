"""Two runs are compared on the bars they share, model by model, and the tests know whether they differ."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.recipes import small_recipe, write_recipe
from typer.testing import CliRunner

from quantfleet.config import Resolved
from quantfleet.errors import ConfigError, DataError, MissingInputError
from quantfleet.evaluation import sharpe
from quantfleet.storage import Storage
from quantfleet_jobs.cli import app
from quantfleet_jobs.compare import compare_runs
from quantfleet_jobs.recipe import Recipe, load_recipe
from quantfleet_jobs.record import RunRecord, StageRecord

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
NOISE = np.random.default_rng(0).normal(0.0, 0.01, 400)


def run(
    folder: Path, name: str, returns: Mapping[str, np.ndarray], *, first_day: int = 0, **sections: object
) -> Resolved[Recipe]:
    """An evaluated run as far as a comparison reads it; the models are kinds that need nothing."""
    kinds = {"ridge": "ridge", "other": "ridge", "buy_and_hold": "buy_and_hold"}
    models = [{"kind": kinds[label], "name": label} for label in returns]
    recipe = small_recipe(str(folder / "store"), models=models, name=name, **sections)
    resolved: Resolved[Recipe] = load_recipe(str(write_recipe(folder, recipe)), environ={})
    storage = Storage(resolved.value.storage)
    record, curves, scores = RunRecord(storage, name), {}, {}
    for label, earned in returns.items():
        days = [START + dt.timedelta(days=first_day + i) for i in range(len(earned))]
        times = pl.Series("timestamp", days, dtype=pl.Datetime("us", "UTC"))
        curves[label] = {"test": {"curve": record.path("backtest", f"{label}.parquet")}}
        storage.write_parquet(curves[label]["test"]["curve"], pl.DataFrame({"timestamp": times, "net_return": earned}))
        scores[label] = record.path("evaluation", f"{label}.json")
        ratio = "null" if np.ptp(earned) == 0 else str(sharpe(earned, bars_per_year=252))
        storage.write_text(scores[label], f'{{"test": {{"sharpe": {ratio}, "ic": 0.02}}}}')
    for stage, outputs in (("backtest", {"models": curves}), ("evaluate", {"models": scores})):
        record.finish(StageRecord(stage=stage, fingerprint=stage, inputs={}, outputs=outputs, summary="", seconds=0.0))
    return resolved


def test_models_of_one_name_are_compared_on_the_bars_both_runs_have(tmp_path: Path):
    a = run(tmp_path, "a", {"ridge": NOISE + 0.003, "buy_and_hold": NOISE})
    b = run(tmp_path, "b", {"ridge": NOISE[100:], "buy_and_hold": NOISE[100:]}, first_day=100)
    ridge, hold = compare_runs(a, b)
    assert (ridge.first, ridge.bars) == ("ridge", 300)
    assert ridge.sharpe == pytest.approx(tuple(sharpe(r[100:], bars_per_year=252) for r in (NOISE + 0.003, NOISE)))
    assert ridge.p_value == pytest.approx(2 / 10_001)
    assert np.isnan(hold.p_value), "the same returns cannot be told apart"
    assert np.isnan(hold.diebold_mariano_p)


def test_which_run_is_named_first_does_not_decide(tmp_path: Path):
    other = np.random.default_rng(1).normal(0.001, 0.01, 400)
    a, b = run(tmp_path, "a", {"ridge": NOISE}), run(tmp_path, "b", {"ridge": other})
    (there,), (back,) = compare_runs(a, b), compare_runs(b, a)
    assert there.p_value == back.p_value
    assert there.diebold_mariano_p == pytest.approx(back.diebold_mariano_p)
    assert there.bayes_factor == pytest.approx(back.bayes_factor)
    assert there.sharpe == back.sharpe[::-1]


def test_candidates_of_other_names_are_compared_best_against_best(tmp_path: Path):
    a = run(tmp_path, "a", {"ridge": NOISE + 0.001, "buy_and_hold": NOISE})
    b = run(tmp_path, "b", {"other": NOISE * 0.5, "buy_and_hold": NOISE})
    assert [(row.first, row.second) for row in compare_runs(a, b)] == [
        ("buy_and_hold", "buy_and_hold"),
        ("ridge", "other"),
    ]


def test_a_model_in_cash_has_a_rival_all_the_same(tmp_path: Path):
    a, b = run(tmp_path, "a", {"ridge": NOISE + 0.004}), run(tmp_path, "b", {"ridge": np.zeros(400)})
    (row,) = compare_runs(a, b)
    assert row.p_value < 0.01


def test_runs_that_cannot_be_compared_say_why(tmp_path: Path):
    a = run(tmp_path, "a", {"ridge": NOISE})
    late = run(tmp_path, "late", {"ridge": NOISE}, first_day=390)
    with pytest.raises(DataError, match="fewer than 30 test bars"):
        compare_runs(a, late)
    hourly = run(tmp_path, "hourly", {"ridge": NOISE}, market={"bars_per_year": 8760})
    with pytest.raises(ConfigError, match="252 and 8760 a year"):
        compare_runs(a, hourly)
    Storage(late.value.storage).delete("runs/late/stages/evaluate.json")
    with pytest.raises(MissingInputError, match="has not done evaluate"):
        compare_runs(a, late)


def test_the_command_line_prints_the_pairs(tmp_path: Path):
    run(tmp_path, "a", {"ridge": NOISE + 0.003})
    run(tmp_path, "b", {"ridge": NOISE})
    said = CliRunner().invoke(app, ["compare", str(tmp_path / "a.yaml"), str(tmp_path / "a.yaml"), "--run-b", "b"])
    assert said.exit_code == 0, said.output
    assert "a against b: common test bars, after costs" in said.output
    assert "400" in said.output
