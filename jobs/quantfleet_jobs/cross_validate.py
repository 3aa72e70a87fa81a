"""Train, trade and judge every fold of a recipe's split: walk-forward with retraining, or the paths of a cross-validation.

Each fold is a run of its own, RUN-fold-NN, made by the stages that make every run; bars, features and labels are those of the
recipe's run. A recipe with a search searches anew in each fold, on that fold's validation alone (nested search).
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from quantfleet.backtest import run_backtest
from quantfleet.cluster.session import ray_session
from quantfleet.config import Resolved, fingerprint, to_plain
from quantfleet.contracts import SplitPlan, TimeInterval
from quantfleet.errors import ConfigError
from quantfleet.evaluation import EvaluationView, evaluate_model
from quantfleet.evaluation.inference import judge
from quantfleet.evaluation.paths import PathSpread, path_spread, stitched
from quantfleet.evaluation.plain import json_ready
from quantfleet.evaluation.report.text import number, percent
from quantfleet.registry.looks import Look, LookLog
from quantfleet.storage import Storage
from quantfleet.training import TorchModelConfig
from quantfleet.tuning.search import trial_config
from quantfleet_data.splits import FoldSplitter
from quantfleet_jobs import chunks, search, split, train
from quantfleet_jobs.backtest import trading_columns
from quantfleet_jobs.inputs import open_bars, stored_predictions
from quantfleet_jobs.main import Done, perform
from quantfleet_jobs.plots import paths_png
from quantfleet_jobs.prices import read_prices
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import RunRecord
from quantfleet_jobs.run import stages_of

__all__ = ["CrossValidated", "check_folds", "cross_validate", "fold_name", "print_cross_validation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossValidated:
    """What came of it; the JSON holds the same and more."""

    record: str
    """Path under the storage root of the JSON."""
    picture: str
    folds: int
    scores: Mapping[str, Mapping[str, float]]
    """Model to the recipe's metrics on the first path."""
    spread: Mapping[str, PathSpread]


@dataclass(frozen=True, slots=True)
class _Fold:
    """A trained fold."""

    name: str
    plan: SplitPlan
    predictions: str
    trained: str
    """Fingerprint of its models."""
    chosen: Mapping[str, Any] | None
    """Settings that its own search chose."""


@dataclass(frozen=True, slots=True)
class _Tested:
    """One model on one stretch that its fold did not train on."""

    answers: pl.DataFrame
    curve: pl.DataFrame


def fold_name(run: str, fold: int) -> str:
    return f"{run}-fold-{fold:02d}"


def check_folds(recipe: Recipe) -> FoldSplitter:
    """Raises: ConfigError: the split has no folds, or folds without validation, which models are stopped by."""
    splitter = recipe.split
    if not isinstance(splitter, FoldSplitter):
        raise ConfigError(
            f"split.kind={splitter.kind} makes one fold: `quantfleet run` trains and tests it. Use `walk_forward`, "
            "`combinatorial_purged`, `purged_kfold` or `regime_stratified` to cross-validate."
        )
    if not splitter.validation_fraction:
        raise ConfigError(
            "split.validation_fraction=0: models are stopped, and a search is judged, on validation. Set it to 0.15, say, of "
            "each fold's training bars."
        )
    _fold_recipe(recipe, splitter, splitter.n_folds - 1)
    return splitter


def cross_validate(resolved: Resolved[Recipe], *, console: Console, overwrite: bool = False) -> CrossValidated:
    """Train all folds and put their tests together; finished folds are kept, so that the same command goes on.

    Raises: ConfigError: see `check_folds`. OutputExistsError: something was made with other settings.
    """
    recipe = resolved.value
    splitter = check_folds(recipe)
    with ray_session(recipe.cluster):
        before = list(itertools.takewhile(lambda stage: stage.name != "split", stages_of(recipe)))
        shared = perform(before, resolved, overwrite=overwrite, console=console)
        folds = []
        for fold in range(splitter.n_folds):
            console.print(f"fold {fold + 1} of {splitter.n_folds}", highlight=False)
            own = replace(resolved, value=_fold_recipe(recipe, splitter, fold))
            folds.append(_train(own, shared, overwrite=overwrite, console=console))
    return _judge(recipe, splitter, folds, shared)


def _fold_recipe(recipe: Recipe, splitter: FoldSplitter, fold: int) -> Recipe:
    """Raises: ConfigError: the run's name leaves no room for that of a fold."""
    try:
        run = replace(recipe.run, name=fold_name(recipe.run.name, fold))
    except ConfigError as error:
        raise ConfigError(
            f"run.name={recipe.run.name!r} is too long to name its folds {fold_name(recipe.run.name, fold)!r}, in 63 characters "
            "at most."
        ) from error
    return replace(recipe, run=run, split=replace(splitter, fold=fold))


def _train(resolved: Resolved[Recipe], shared: Done, *, overwrite: bool, console: Console) -> _Fold:
    recipe = resolved.value
    storage = Storage(recipe.storage).absolute()
    record = RunRecord(storage, recipe.run.name)
    for made in shared.values():
        record.finish(made)

    def do(*stages: Any, recipe: Recipe = recipe) -> Done:
        return perform(stages, replace(resolved, value=recipe), overwrite=overwrite, console=console)

    done = do(split.STAGE, chunks.STAGE)
    chosen = None
    if recipe.search is not None:
        chosen = do(search.STAGE)["search"].outputs["best"]
        recipe = _with_settings(recipe, chosen)
    trained = do(train.STAGE, recipe=recipe)["train"]
    plan = SplitPlan.from_json(storage.read_text(str(done["split"].outputs["plan"])))
    return _Fold(recipe.run.name, plan, str(trained.outputs["predictions"]), trained.fingerprint, chosen)


def _with_settings(recipe: Recipe, chosen: Mapping[str, Any]) -> Recipe:
    """The recipe whose searched model has the settings that were best on validation."""
    assert recipe.search is not None
    models = tuple(
        trial_config(model, chosen, model.label)
        if model.label == recipe.search.model and isinstance(model, TorchModelConfig)
        else model
        for model in recipe.models
    )
    return replace(recipe, models=models)


def _judge(recipe: Recipe, splitter: FoldSplitter, folds: Sequence[_Fold], shared: Done) -> CrossValidated:
    storage = Storage(recipe.storage).absolute()
    run, labels = RunRecord(storage, recipe.run.name), [model.label for model in recipe.models]
    naive = {model.label for model in recipe.models if model.baseline}
    tested = _tests(recipe, folds, shared, storage)
    paths = splitter.test_paths([fold.plan for fold in folds])
    curves = {
        name: [stitched([tested[name, fold, stretch].curve for fold, stretch in path]) for path in paths]
        for name in labels
    }
    year = recipe.market.bars_per_year
    scores = {name: _scores([tested[name, fold, stretch] for fold, stretch in paths[0]], recipe) for name in labels}
    spread = path_spread(curves, naive=naive, bars_per_year=year)
    first = {name: own[0]["net_return"].to_numpy() for name, own in curves.items()}
    verdict = judge(
        {name: r for name, r in first.items() if name not in naive},
        {name: r for name, r in first.items() if name in naive},
        bars_per_year=year,
        seed=recipe.run.seed,
    )
    record, picture = run.path("cross_validation.json"), run.path("cross_validation.png")
    storage.write_bytes(picture, paths_png(recipe.run.name, curves, naive=naive))
    said = {
        "split": to_plain(splitter),
        "folds": [_fold_record(fold, place, labels, tested, recipe) for place, fold in enumerate(folds)],
        "paths": [[[fold, stretch.start.isoformat(), stretch.end.isoformat()] for fold, stretch in p] for p in paths],
        "scores": scores,
        "spread": {name: asdict(own) for name, own in spread.items()},
        "verdict": verdict,
    }
    for name, own in curves.items():
        for place, curve in enumerate(own):
            storage.write_parquet(run.path("cross_validation", name, f"path-{place:02d}.parquet"), curve)
    _note_looks(recipe, folds, shared, storage)
    storage.write_text(record, json.dumps(json_ready(said), indent=1))
    return CrossValidated(record=record, picture=picture, folds=len(folds), scores=scores, spread=spread)


def _tests(
    recipe: Recipe, folds: Sequence[_Fold], shared: Done, storage: Storage
) -> dict[tuple[str, int, TimeInterval], _Tested]:
    """Every model traded on every stretch of every fold, from cash, after costs."""
    bars = open_bars(recipe, storage, shared[recipe.bars_stage], str(shared["quality"].outputs["report"]))
    prices = read_prices(recipe, storage, bars, shared)
    tested = {}
    for place, fold in enumerate(folds):
        answers = {
            model.label: trading_columns(
                stored_predictions(storage, fold.predictions, model.label, "test"), recipe.policy.horizon_bars
            )
            for model in recipe.models
        }
        for stretch in fold.plan.test:
            inside = (pl.col("timestamp") >= stretch.start) & (pl.col("timestamp") < stretch.end)
            panel = prices.panel(stretch)
            for name, all_answers in answers.items():
                own = all_answers.filter(inside)
                traded = run_backtest(panel, recipe.policy.target_weights(own, panel), recipe.backtest)
                tested[name, place, stretch] = _Tested(own, traded.curve())
    return tested


def _fold_record(
    fold: _Fold,
    place: int,
    labels: Sequence[str],
    tested: Mapping[tuple[str, int, TimeInterval], _Tested],
    recipe: Recipe,
) -> dict[str, Any]:
    return {
        "run": fold.name,
        "test": [[stretch.start.isoformat(), stretch.end.isoformat()] for stretch in fold.plan.test],
        "chosen": fold.chosen,
        "scores": {
            name: _scores([tested[name, place, stretch] for stretch in fold.plan.test], recipe) for name in labels
        },
    }


def _scores(tests: Sequence[_Tested], recipe: Recipe) -> dict[str, float]:
    """The recipe's metrics of one model over stretches that follow each other."""
    view = EvaluationView(
        predictions=pl.concat(one.answers for one in tests),
        curve=stitched([one.curve for one in tests]),
        bars_per_year=recipe.market.bars_per_year,
    )
    return evaluate_model(view, recipe.metrics)


def _note_looks(recipe: Recipe, folds: Sequence[_Fold], shared: Done, storage: Storage) -> None:
    """What was tested here has been looked at, should a later run call it its test period."""
    log = LookLog(storage)
    for fold in folds:
        for stretch in fold.plan.test:
            log.append(
                Look(
                    looked_at=dt.datetime.now(dt.UTC),
                    bars=str(shared[recipe.bars_stage].outputs["table"]),
                    test=stretch,
                    run=fold.name,
                    models=sum(not model.baseline for model in recipe.models),
                    fingerprint=fingerprint("cross_validate", fold.trained, recipe.policy, recipe.backtest),
                )
            )


def print_cross_validation(resolved: Resolved[Recipe], *, console: Console, overwrite: bool = False) -> None:
    """Do it, and print a table of models: over all paths, and on the first one."""
    recipe = resolved.value
    done = cross_validate(resolved, console=console, overwrite=overwrite)
    paths = next(iter(done.spread.values())).paths
    title = (
        f"{recipe.run.name}: {done.folds} folds by {recipe.split.kind}, {paths} path{'s' * (paths > 1)}, after costs"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in ("model", "Sharpe [95 %]", "over paths", "lowest", "< naive", "return", "drawdown", "IC"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for name, spread in done.spread.items():
        m = done.scores[name]
        table.add_row(
            name,
            f"{number(m.get('sharpe'))} [{number(m.get('sharpe_low'))}, {number(m.get('sharpe_high'))}]",
            number(spread.mean) + (f" ± {number(spread.deviation)}" if spread.paths > 1 else ""),
            number(spread.lowest),
            percent(spread.share_below_yardstick, 0),
            percent(m.get("total_return")),
            percent(m.get("max_drawdown")),
            number(m.get("ic"), 3),
        )
    console.print(table)
    storage = Storage(recipe.storage).absolute()
    console.print(
        "Sharpe, return, drawdown and IC on the first path; < naive: share of paths on which the best naive model earned a higher "
        f"ratio. Paths share most of their training: their spread is no confidence interval.\nRecord: {storage.uri(done.record)}\n"
        f"Picture: {storage.uri(done.picture)}",
        soft_wrap=True,
        highlight=False,
    )
