"""Recipes: those that ship load, and what does not fit together is refused before anything runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.recipes import NAIVE, REPOSITORY, small_recipe, tiny_hybrid, write_recipe

from quantfleet.contracts import MODELS, ModelConfig
from quantfleet.errors import ConfigError, UnknownPluginError
from quantfleet.plugins import load_plugins
from quantfleet.storage import Storage, StorageConfig, TableVersion
from quantfleet_jobs.inputs import open_bars
from quantfleet_jobs.recipe import BUILT_IN_PLUGINS, Recipe, find_recipe, load_recipe
from quantfleet_jobs.record import StageRecord

SHIPPED = sorted(path.stem for path in (REPOSITORY / "jobs" / "recipes").glob("*.yaml"))
SMA_49 = {"kind": "sma_ratio", "fast_bars": 49, "slow_bars": 200}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Recipe]:
    """load(*overrides, models=..., **sections): a small recipe from a file, without this process's environment."""

    def run(*overrides: str, models: Any = NAIVE, **sections: Any) -> Recipe:
        path = write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=models, **sections))
        return load_recipe(str(path), overrides, environ={}).value

    return run


@pytest.fixture
def refusal(load: Callable[..., Recipe]) -> Callable[..., str]:
    def run(*overrides: str, **sections: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            load(*overrides, **sections)
        return caught.value.message

    return run


def families(**horizons: list[int]) -> dict[str, Any]:
    return {"families": [{"kind": kind, "horizons_bars": bars} for kind, bars in horizons.items()]}


# --- those that ship ---


def test_there_are_shipped_recipes():
    assert {"quickstart", "tune_quickstart"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_and_names_its_run_after_itself(name: str):
    resolved = load_recipe(name, environ={})
    assert resolved.value.run.name == name
    assert resolved.file == REPOSITORY / "jobs" / "recipes" / f"{name}.yaml"


def test_every_model_there_is_has_a_recipe_that_trains_it():
    load_plugins(BUILT_IN_PLUGINS)

    def kinds(model: ModelConfig) -> set[str]:
        inner = [*getattr(model, "members", ()), *([model.model] if hasattr(model, "model") else [])]
        return {model.kind}.union(*map(kinds, inner))

    shown = {kind for name in SHIPPED for model in load_recipe(name, environ={}).value.models for kind in kinds(model)}
    assert {name for name in MODELS.names() if MODELS.get(name).__module__.startswith("quantfleet_models.")} <= shown


def test_the_quickstart_trains_a_deep_a_boosted_and_three_naive_models():
    models = load_recipe("quickstart", environ={}).value.models
    assert [model.kind for model in models] == ["hybrid", "xgboost", "zero_return", "buy_and_hold", "moving_average"]
    assert [model.kind for model in models if not model.baseline] == ["hybrid", "xgboost"]


def test_the_costs_of_the_quickstart_are_those_it_promises():
    costs = load_recipe("quickstart", environ={}).value.backtest.costs
    assert (costs.commission_bps, costs.slippage_bps) == (10, 10)


def test_only_the_search_recipe_has_a_search():
    with_search = [name for name in SHIPPED if load_recipe(name, environ={}).value.search is not None]
    assert with_search == ["tune_quickstart"]


# --- how a recipe is found ---


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml"])
def test_a_shipped_recipe_is_found_by_its_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == REPOSITORY / "jobs" / "recipes" / "quickstart.yaml"


def test_a_file_goes_before_a_shipped_recipe_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "quickstart.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart.yaml") == Path("quickstart.yaml")


@pytest.mark.parametrize("name", ["quikstart", "recipes/quickstrat.yaml", "quickstart.yml"])
def test_a_recipe_that_is_not_there_is_named_with_the_nearest_that_ships(name: str):
    with pytest.raises(ConfigError) as caught:
        find_recipe(name)
    assert caught.value.message == (
        f"there is no recipe {name!r}: no such file, and none of that name ships with Quantfleet "
        f"({', '.join(SHIPPED)}). Did you mean 'quickstart'?"
    )


def test_a_folder_is_not_a_recipe(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no recipe '.*': it is a folder, and none"):
        find_recipe(str(tmp_path))


# --- what does not fit together ---


def test_a_recipe_without_models_is_refused(refusal: Callable[..., str]):
    assert refusal("models=[]").startswith("models is empty; list at least one, such as `kind: buy_and_hold`. (models:")


def test_two_models_of_one_name_are_refused_and_a_name_tells_them_apart(
    refusal: Callable[..., str], load: Callable[..., Recipe]
):
    twins = [tiny_hybrid(), tiny_hybrid(width=16)]
    assert "models: two are called 'hybrid'; give each a `name`." in refusal(models=twins)
    named = load(models=[twins[0], {**twins[1], "name": "wide"}])
    assert [model.label for model in named.models] == ["hybrid", "wide"]


@pytest.mark.parametrize("name", ["Wide", "a/b", "-a", "a b", "a\n", "x" * 64, "ä"])
def test_a_model_s_name_becomes_a_folder_so_it_is_plain(name: str, refusal: Callable[..., str]):
    said = refusal(models=[{"kind": "buy_and_hold", "name": name}])
    assert f"models: name {name!r} must be lower-case letters, digits, '.', '_' or '-'." in said


@pytest.mark.parametrize("name", ["Run", "a/b", "..", "", "a\n", "x" * 64])
def test_a_run_s_name_becomes_a_folder_so_it_is_plain(name: str, refusal: Callable[..., str]):
    said = refusal(f"run.name={name}")
    assert f"run: name={name!r}: use 1 to 63 lower-case letters, digits, '.', '_' or '-'." in said


def test_labels_without_a_horizon_that_all_three_heads_share_are_refused(refusal: Callable[..., str]):
    apart = families(forward_return=[1, 5], direction=[5], realised_volatility=[1])
    said = refusal(labels=apart)
    assert "labels.families gives no horizon for which return, direction and volatility are all there" in said
    assert "forward_return, direction and realised_volatility" in said


def test_horizons_are_those_that_all_three_heads_share(load: Callable[..., Recipe]):
    shared = families(forward_return=[21, 1, 5], direction=[5, 21], realised_volatility=[5, 21, 63])
    assert load(labels=shared, policy={"horizon_bars": 21}).horizons_bars == (5, 21)


def test_a_policy_at_a_horizon_that_no_model_forecasts_is_refused(refusal: Callable[..., str]):
    said = refusal("policy.horizon_bars=21")
    assert said.startswith("policy.horizon_bars=21 is none of the horizons that models forecast: 1, 5.")
    assert "policy.horizon_bars: --set policy.horizon_bars" in said


def test_a_model_that_reads_a_feature_nobody_computes_is_refused_until_it_is_added(
    refusal: Callable[..., str], load: Callable[..., Recipe]
):
    rule = [{"kind": "moving_average", "fast_bars": 49, "slow_bars": 200}]
    assert refusal(models=rule).startswith(
        "model 'moving_average' reads the feature 'sma_ratio_49_200', which features does not compute. Add it to "
        "features.extra. Did you mean 'sma_ratio_50_200'?"
    )
    assert "sma_ratio_49_200" in load(models=rule, features={"extra": [SMA_49]}).feature_set.columns


def test_a_feature_that_reads_an_index_needs_one(refusal: Callable[..., str], load: Callable[..., Recipe]):
    relative = {"sets": ["core", "relative"]}
    said = refusal(features=relative)
    assert "reads 'index_close', but the recipe builds no index" in said
    assert "index: {symbol:" in said
    assert load(features=relative, index={"symbol": "^EW"}).feature_set.name == "core+relative"


def test_a_feature_on_longer_bars_must_know_the_bars_of_the_table(refusal: Callable[..., str]):
    assert "base" in refusal(features={"sets": ["multi_timeframe_1h"]})


def test_sets_add_up_and_what_several_hold_is_computed_once(load: Callable[..., Recipe], refusal: Callable[..., str]):
    both = load(features={"sets": ["core", "intraday"]}).feature_set
    assert both.columns == load(features={"sets": ["intraday"]}).feature_set.columns
    assert "names one set twice: core, core" in refusal(features={"sets": ["core", "core"]})


@pytest.mark.parametrize(
    ("split", "fits"),
    [
        ({"kind": "time"}, True),
        ({"kind": "walk_forward", "validation_fraction": 0.2}, True),
        ({"kind": "walk_forward"}, False),
        ({"kind": "purged_kfold", "validation_fraction": 0.2}, True),
        ({"kind": "purged_kfold", "validation_fraction": 0.2, "fold": 2}, False),
        ({"kind": "combinatorial_purged", "validation_fraction": 0.2}, False),
    ],
)
def test_a_run_is_refused_before_it_starts_where_a_split_has_several_stretches(
    load: Callable[..., Recipe], split: dict[str, Any], fits: bool
):
    from quantfleet_jobs.backtest import STAGE

    recipe = load(split=split)
    assert STAGE.check is not None
    if fits:
        STAGE.check(recipe)
    else:
        with pytest.raises(ConfigError, match="one stretch of time each"):
            STAGE.check(recipe)


def test_calendar_months_cannot_be_ingested(refusal: Callable[..., str]):
    ingest = {"timeframe": "1M", "sources": [{"kind": "arch_daily"}]}
    assert "'1M' has no fixed length" in refusal(ingest=ingest)


def test_short_positions_need_an_account_that_may_be_short(refusal: Callable[..., str], load: Callable[..., Recipe]):
    assert "policy.mode=long_short needs backtest.allow_short=true." in refusal("policy.mode=long_short")
    assert load("policy.mode=long_short", "backtest.allow_short=true").policy.mode == "long_short"


def test_nothing_is_promoted_without_gates(refusal: Callable[..., str]):
    assert "gates is empty: nothing may be promoted untested" in refusal("gates=[]")


# --- misspelt ---


def test_an_unknown_model_names_the_nearest_one_and_its_own_line(tmp_path: Path):
    path = write_recipe(tmp_path, small_recipe(str(tmp_path), models=[{"kind": "buy_and_hold"}, {"kind": "hybird"}]))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), start=1) if "hybird" in text)

    with pytest.raises(UnknownPluginError) as caught:
        load_recipe(str(path), environ={})

    assert caught.value.message == (
        f"models.1 ({path}:{line}): no model named 'hybird'. Did you mean 'hybrid'? Run `quantfleet models list`."
    )


@pytest.mark.parametrize(
    ("section", "key", "right"),
    [
        ("training", "worker", "workers"),
        ("policy", "horizon_bar", "horizon_bars"),
        ("windows", "lookback", "lookback_bars"),
    ],
)
def test_a_misspelt_key_is_named_with_its_line_and_the_nearest_right_one(
    section: str, key: str, right: str, tmp_path: Path
):
    path = write_recipe(tmp_path, small_recipe(str(tmp_path), models=NAIVE, **{section: {key: 5}}))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), start=1) if f"{key}:" in text)

    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path), environ={})

    start = f"unknown key '{section}.{key}' ({path}:{line}). Did you mean '{right}'? Known keys here:"
    assert caught.value.message.startswith(start)


def test_a_misspelt_section_names_all_sections(refusal: Callable[..., str]):
    said = refusal(trainig={"workers": 2})
    assert re.match(
        r"^unknown key 'trainig' \(.*\)\. Did you mean 'training'\? Known keys here: ingest, models, ", said
    )


def test_the_environment_and_set_go_before_the_file(tmp_path: Path):
    path = write_recipe(
        tmp_path, small_recipe(str(tmp_path), models=NAIVE, training={"workers": 1, "faults": {"max_failures": 1}})
    )
    environ = {"QUANTFLEET_TRAINING__WORKERS": "2", "QUANTFLEET_RUN__SEED": "5"}

    resolved = load_recipe(str(path), ["training.workers=3"], environ=environ)

    assert (resolved.value.training.workers, resolved.value.training.faults.max_failures, resolved.value.run.seed) == (
        3,
        1,
        5,
    )
    assert resolved.origins["training.workers"] == "--set training.workers"
    assert resolved.origins["run.seed"] == "environment variable QUANTFLEET_RUN__SEED"


# --- what stages make of it ---


def test_a_registered_model_is_called_after_the_run_unless_it_has_a_name_of_its_own(load: Callable[..., Recipe]):
    assert load().registered_name == "small"
    assert load("registry.model_name=shared").registered_name == "shared"


def test_the_data_spec_holds_what_the_recipe_says(load: Callable[..., Recipe]):
    recipe = load()
    spec = recipe.data_spec(["B", "A"])
    assert (spec.symbols, spec.horizons_bars, spec.timeframe) == (("B", "A"), (1, 5), "1d")
    assert (spec.lookback_bars, spec.chunk_bars) == (16, 32)
    assert (spec.feature_columns, spec.feature_digest) == (recipe.feature_set.columns, recipe.feature_set.digest)


@pytest.mark.parametrize(
    ("settings", "adjusted"),
    [("", True), (", adjust: forward", True), (", adjust: none", False)],
)
def test_the_actions_that_ingest_loaded_adjust_the_bars_of_later_stages_unless_told_not_to(
    tmp_path: Path, settings: str, adjusted: bool
):
    overrides = [f"instruments={{actions: [{{path: actions.csv}}]{settings}}}"]
    recipe = load_recipe("quickstart", overrides, environ={}).value
    outputs = {"version": 3, "instruments": {"listings": 0, "memberships": 0, "actions": 7}}
    ingest = StageRecord(stage="ingest", fingerprint="", inputs={}, outputs=outputs, summary="", seconds=0.0)
    bars = open_bars(recipe, Storage(StorageConfig(root=str(tmp_path))), ingest, "report.json")
    assert bars.actions == (TableVersion("lake/instruments/actions", 7) if adjusted else None)


def test_dividends_without_adjustment_are_refused():
    with pytest.raises(ConfigError, match="dividends=true needs adjust: forward"):
        load_recipe("quickstart", ["instruments={actions: [{path: a.csv}], adjust: none, dividends: true}"], environ={})
