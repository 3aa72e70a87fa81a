"""`quantfleet bench models`: one budget, honest measurements, noise that is called noise; no model takes the others with it."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.recipes import quantfleet, small_recipe, tiny_hybrid, write_recipe
from typer.testing import CliRunner

from quantfleet.config import Resolved
from quantfleet.contracts import ChunkBatch, Forecast
from quantfleet.errors import ConfigError, DataError
from quantfleet_jobs.bench.ablation import SeedRun, ablation_rows
from quantfleet_jobs.bench.job import epochs_within, within_budget
from quantfleet_jobs.bench.measure import PeakMemory, answer_latency
from quantfleet_jobs.bench.models import choose_models, seed_runs
from quantfleet_jobs.bench.rows import AnswersOnTest, BenchRow
from quantfleet_jobs.bench.view import bench_png, print_ablation, print_bench
from quantfleet_jobs.cli import app
from quantfleet_jobs.recipe import Recipe, load_recipe

NAIVE_ONE = {"kind": "buy_and_hold"}


def recipe_of(folder: Path, models: list[dict[str, Any]], **sections: Any) -> Resolved[Recipe]:
    path = write_recipe(folder, small_recipe(str(folder / "store"), models=models, **sections))
    return load_recipe(str(path), environ={})


def said_by(*arguments: str) -> str:
    """What a refused command says, on one line."""
    result = CliRunner().invoke(app, ["bench", "models", *arguments])
    assert result.exit_code == 1, result.output
    return " ".join(result.output.split())


# --- what is compared, and with which budget ---


def test_models_are_chosen_by_label_or_by_kind_and_the_naive_ones_stay(tmp_path: Path):
    resolved = recipe_of(tmp_path, [{"kind": "ridge", "name": "lines"}, tiny_hybrid(), NAIVE_ONE])
    chosen = choose_models(resolved, ["logistic", "lines"]).value.models
    assert [(model.kind, model.label) for model in chosen] == [
        ("logistic", "logistic"),
        ("ridge", "lines"),
        ("buy_and_hold", "buy_and_hold"),
    ]
    assert choose_models(resolved, []).value.models == resolved.value.models


def test_each_seed_is_a_run_of_its_own_and_the_first_has_the_recipes_name(tmp_path: Path):
    resolved = recipe_of(tmp_path, [{"kind": "ridge"}, NAIVE_ONE], bench={"seeds": [3, 4]})
    assert [(run.value.run.name, run.value.run.seed) for run in seed_runs(resolved)] == [
        ("small", 3),
        ("small-seed4", 4),
    ]
    plain = recipe_of(tmp_path, [{"kind": "ridge"}, NAIVE_ONE])
    assert [(run.value.run.name, run.value.run.seed) for run in seed_runs(plain)] == [("small", 7)]


def test_the_budget_is_epochs_of_torch_models_and_nothing_else(tmp_path: Path):
    recipe = recipe_of(tmp_path, [tiny_hybrid(), {"kind": "xgboost", "rounds": 9}, NAIVE_ONE]).value
    hybrid, trees, naive = within_budget(recipe.models, {"hybrid": 5})
    assert hybrid == replace(recipe.models[0], epochs=5)
    assert (trees, naive) == recipe.models[1:]


def test_minutes_cut_epochs_to_what_fits_beside_the_start_but_never_below_one():
    assert epochs_within(60.0, epoch_s=5.0, start_s=10.0, most=50) == 10
    assert epochs_within(60.0, epoch_s=5.0, start_s=10.0, most=4) == 4
    assert epochs_within(60.0, epoch_s=100.0, start_s=10.0, most=4) == 1


def test_what_cannot_be_compared_is_refused_before_anything_starts(tmp_path: Path):
    def refused(models: list[dict[str, Any]], *arguments: str, **sections: Any) -> str:
        return said_by(
            str(write_recipe(tmp_path, small_recipe(str(tmp_path / "s"), models=models, **sections))), *arguments
        )

    learns = [{"kind": "ridge"}]
    assert "are all naive; add one that learns" in refused([NAIVE_ONE])
    assert "the recipe has none among ridge" in refused(learns)
    both = [*learns, NAIVE_ONE]
    assert "no model 'rigde': none of the recipe is called so" in refused(both, "--models", "rigde")
    assert "Did you mean 'ridge'?" in refused(both, "--models", "rigde")
    assert "gives several, or no validation" in refused(both, split={"kind": "purged_kfold"})
    assert "bench.reference='base' is no model" in refused(both, bench={"reference": "base"})
    assert "bench.seeds holds 7 twice" in refused(both, "--seeds", "7,7")
    assert "batch_windows=5 does not divide" in refused([*both, tiny_hybrid(batch_windows=5)])
    assert "give a recipe or --ablation, not both" in refused(both, "--ablation", "hybrid")
    assert "there is no recipe 'hybird_ablation'" in said_by("--ablation", "hybird")
    assert not (tmp_path / "s").exists()


# --- what is measured ---


class Clocked:
    """A model whose answers take 1, 2, 3, ... milliseconds on the test's clock, or are not finite."""

    config = NAIVE_ONE

    def __init__(self, value: float = 0.0) -> None:
        self.now, self.value, self.calls = 0.0, value, count(1)

    def clock(self) -> float:
        return self.now

    def predict(self, batch: ChunkBatch) -> Forecast:
        self.now += 1e-3 * next(self.calls)
        head = np.full((1, 1, 1), self.value, np.float32)
        return Forecast(return_BCH=head, direction_logit_BCH=head, volatility_BCH=np.abs(head))


def test_latency_is_the_median_of_single_answers_after_the_first_ones(monkeypatch: pytest.MonkeyPatch):
    model = Clocked()
    found = answer_latency(model, None, calls=11, clock=model.clock)  # type: ignore[arg-type]
    assert found.calls == 11
    assert found.p50_ms == pytest.approx(np.median(np.arange(4, 15))), "the three that warm up are not timed"
    slow = Clocked()
    slow.calls = count(1000)
    assert answer_latency(slow, None, calls=100, clock=slow.clock).calls == 5  # type: ignore[arg-type]


def test_a_model_whose_answers_are_no_numbers_has_failed():
    broken = Clocked(np.nan)
    broken.config = recipe_model()  # type: ignore[assignment]
    with pytest.raises(DataError, match="answers return_BCH with values that are not finite"):
        answer_latency(broken, None, calls=5, clock=broken.clock)  # type: ignore[arg-type]


def recipe_model() -> Any:
    from quantfleet_models.naive import ZeroReturnConfig

    return ZeroReturnConfig()


def test_peak_memory_is_that_of_the_largest_process_that_fits():
    seen = iter(
        [[("ray::IDLE", 9_000_000_000), ("ray::_fit_in_task", 200_000_000)], [("ray::RayTrainWorker", 500_000_000)]]
    )
    enough = threading.Event()

    def processes() -> list[tuple[str, int]]:
        look = next(seen, None)
        if look is None:
            enough.set()
        return look or [("ray::RayTrainWorker", 100_000_000)]

    with PeakMemory(every_s=0.001, processes=processes) as memory:
        assert enough.wait(10)
    assert memory.peak_mb == 500.0
    with PeakMemory(every_s=0.001, processes=lambda: [("ray::IDLE", 1)]) as nothing:
        pass
    assert nothing.peak_mb is None


# --- what is noise ---


def seed_run(seed: int, *, edge: dict[str, float], failed: dict[str, str] | None = None) -> SeedRun:
    """Models whose forecasts and returns are the same noise, plus an edge; 600 bars of one symbol."""
    rng = np.random.default_rng(0)
    outcome, market = rng.normal(size=600), 0.01 * rng.normal(size=600)
    time = np.datetime64("2020-01-01") + np.arange(600)
    answers, rows = {}, {}
    for number, (name, more) in enumerate(edge.items()):
        own = np.random.default_rng((seed, number))
        answers[name] = AnswersOnTest(
            expected_N=own.normal(size=600) + more * outcome,
            realised_N=outcome,
            time_N=time,
            return_T=market + 0.001 * own.normal(size=600) + 0.003 * more,
        )
        rows[name] = BenchRow(name=name, kind="hybrid", baseline=False, parameters=10 * number, epoch_s=1.0 + number)
    for name, why in (failed or {}).items():
        rows[name] = BenchRow(name=name, kind="hybrid", baseline=False, failed=why)
    return SeedRun(seed=seed, rows=rows, answers=answers)


def compare(runs: list[SeedRun], names: list[str]) -> Any:
    return {
        row.name: row for row in ablation_rows(runs, names, "base", horizon_bars=1, bars_per_year=252, resamples=2000)
    }


def test_a_switch_that_does_nothing_is_noise_and_one_that_does_something_is_not():
    runs = [seed_run(s, edge={"base": 0.0, "nothing": 0.0, "better": 1.0}) for s in (1, 2, 3)]
    found = compare(runs, ["base", "nothing", "better"])
    assert list(found) == ["nothing", "better"]
    assert found["nothing"].noise
    assert not found["better"].noise
    assert found["better"].ic.low > 0.3
    assert found["better"].sharpe.low > 0


def test_intervals_are_wider_the_more_models_there_are_to_be_lucky():
    runs = [seed_run(s, edge={"base": 0.0, **{f"m{i}": 0.0 for i in range(10)}}) for s in (1, 2)]
    alone, among = compare(runs, ["m0"])["m0"].ic, compare(runs, [f"m{i}" for i in range(10)])["m0"].ic
    assert (alone.confidence, among.confidence) == (pytest.approx(0.95), pytest.approx(0.995))
    assert among.low < alone.low < alone.high < among.high


def test_a_model_that_failed_has_its_reason_and_one_that_failed_once_is_judged_by_the_other_seeds():
    edge = {"base": 0.0, "half": 0.0}
    runs = [
        seed_run(1, edge=edge, failed={"broken": "no GPU"}),
        seed_run(2, edge={"base": 0.0}, failed={"half": "lost", "broken": "no GPU"}),
    ]
    found = compare(runs, ["base", "half", "broken"])
    assert (found["half"].seeds, found["half"].failed) == (1, "")
    assert (found["broken"].seeds, found["broken"].failed) == (0, "no GPU")
    with pytest.raises(DataError, match="'base' was fitted for no seed"):
        compare([seed_run(1, edge={"half": 0.0})], ["half"])


# --- how it is shown ---


def test_tables_show_naive_models_reasons_of_failure_and_what_is_noise(tmp_path: Path):
    recipe = recipe_of(tmp_path, [{"kind": "ridge"}, NAIVE_ONE], bench={"epochs": 3, "minutes": 2}).value
    rows = [
        BenchRow(name="ridge", kind="ridge", baseline=False, parameters=60, fit_s=1.5, p50_ms=0.25, p99_ms=0.5, ic=0.02,
                 ic_low=-0.05, ic_high=0.09, directional_accuracy=0.55, sharpe=0.4, sharpe_low=-0.3, sharpe_high=1.1),
        BenchRow(name="buy_and_hold", kind="buy_and_hold", baseline=True, sharpe=0.6, sharpe_low=-0.2, sharpe_high=1.4),
        BenchRow(name="odd", kind="svm", baseline=False, failed="its rows would take 9 GB"),
    ]  # fmt: skip
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    print_bench(rows, recipe, console)
    runs = [seed_run(1, edge={"base": 0.0, "nothing": 0.0})]
    compared = ablation_rows(runs, ["nothing"], "base", horizon_bars=1, bars_per_year=252, resamples=500)
    print_ablation(compared, "base", [1], console)
    text = shown.getvalue()
    lines = text.splitlines()
    assert all(part in text for part in ("0.020 [−0.050, 0.090]", "0.40 [−0.30, 1.10]", "buy_and_hold* "))
    assert "FAILED odd: its rows would take 9 GB" in lines
    assert "torch models 3 epochs each, at most what fits into 2 min" in text
    assert any(line.startswith("nothing") and line.rstrip().endswith("noise") for line in lines)
    assert "of one seed's luck nothing is known" in text
    assert "…" not in text, "it fits into 80 columns"
    assert bench_png(rows, "title")[:8] == b"\x89PNG\r\n\x1a\n"


# --- the whole way ---


@pytest.mark.ray
@pytest.mark.slow
def test_a_bench_runs_through_the_stages_and_a_model_that_fails_is_a_row(tmp_path: Path):
    models = [
        {"kind": "ridge"},
        {"kind": "patch_tst", "patch_bars": 64, "epochs": 1},
        {"kind": "zero_return"},
        NAIVE_ONE,
    ]
    path = write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=models, training={"workers": 1}))
    done = quantfleet("bench", "models", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FAILED patch_tst: patch_tst.patch_bars=64" in " ".join(done.stdout.split())
    folder = tmp_path / "store" / "runs" / "small"
    told = json.loads((folder / "bench" / "models.json").read_text())["models"]["7"]
    rows = {row["name"]: row for row in told}
    assert rows["patch_tst"]["failed"]
    assert rows["ridge"]["ic_low"] < rows["ridge"]["ic"] < rows["ridge"]["ic_high"]
    assert rows["ridge"]["p50_ms"] > 0
    scores = json.loads((folder / "evaluation" / "ridge.json").read_text())["test"]
    assert rows["ridge"]["sharpe"] == scores["sharpe"], "the stage of every run has judged it"
    assert (folder / "bench" / "models.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="bench"):
        load_recipe(str(path), ["bench.epochs=0"], environ={})
