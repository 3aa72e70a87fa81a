"""The command line as a newcomer meets it: what there is, what a setting means, and one clear line for every mistake."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.recipes import NAIVE, environment, small_recipe, write_recipe
from typer.testing import CliRunner, Result

import quantfleet
from quantfleet.backtest.paper import TRADERS
from quantfleet.contracts import AUGMENTATIONS, FEATURES, LABELS, MODELS, SCALERS, SELECTORS, SOURCES, SPLITTERS
from quantfleet.evaluation import METRICS
from quantfleet.plugins import PluginRegistry, load_plugins
from quantfleet.registry import GATES
from quantfleet.training import SAMPLERS, STRATEGIES
from quantfleet_data.trade_bars import TRADE_BARS
from quantfleet_jobs.cli import app
from quantfleet_jobs.recipe import BUILT_IN_PLUGINS, load_recipe

load_plugins(BUILT_IN_PLUGINS)

STAGES = (
    "ingest",
    "stream",
    "book",
    "quality",
    "split",
    "chunks",
    "train",
    "backtest",
    "evaluate",
    "register",
    "report",
    "paper",
    "search",
)
REGISTRIES: dict[str, PluginRegistry] = {  # type: ignore[type-arg]
    "sources": SOURCES,
    "features": FEATURES,
    "labels": LABELS,
    "splitters": SPLITTERS,
    "models": MODELS,
    "strategies": STRATEGIES,
    "traders": TRADERS,
    "trade-bars": TRADE_BARS,
    "selectors": SELECTORS,
    "scalers": SCALERS,
    "augmentations": AUGMENTATIONS,
    "samplers": SAMPLERS,
    "metrics": METRICS,
    "gates": GATES,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """run("models", "list"): the command line in an empty folder, with a wide terminal and a clean environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(environment_of_ours()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, arguments)


def environment_of_ours() -> set[str]:
    import os

    return set(os.environ) - set(environment())


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return str(write_recipe(tmp_path, small_recipe(str(tmp_path / "store"), models=NAIVE)))


def one_error(result: Result, name: str) -> str:
    """The one line an error is; it ends the command with code 1 and no traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{name}: ")
    return line


# --- what there is ---


def test_help_lists_every_verb_with_what_it_does(run: Callable[..., Result]):
    result = run("--help")
    assert result.exit_code == 0
    for verb in ("run", *STAGES, "predict", "submit", "doctor", "config", *REGISTRIES):
        (line,) = [text for text in result.output.splitlines() if text.startswith(f"  {verb} ")]
        assert len(line.split()) > 2, line


def test_without_arguments_there_is_help(run: Callable[..., Result]):
    result = run()
    assert "Usage: quantfleet" in result.output
    assert "doctor" in result.output


def test_the_version_is_the_package_s(run: Callable[..., Result]):
    assert run("--version").output.strip() == quantfleet.__version__


@pytest.mark.parametrize(
    "verb", [*STAGES, "features compute", "labels compute", "trade-bars compute", "run", "predict", "submit", "doctor"]
)
def test_every_verb_has_help_of_its_own(verb: str, run: Callable[..., Result]):
    result = run(*verb.split(), "--help")
    assert result.exit_code == 0
    assert f"Usage: quantfleet {verb}" in result.output


def test_a_misspelt_verb_names_the_nearest(run: Callable[..., Result]):
    result = run("modles", "list")
    assert result.exit_code == 2
    assert "No such command 'modles'. Did you mean 'models'?" in result.stderr


@pytest.mark.parametrize("noun", REGISTRIES)
def test_every_registered_plugin_is_listed_with_one_line(noun: str, run: Callable[..., Result]):
    registry = REGISTRIES[noun]
    lines = {line.split("│")[0].strip(): line for line in run(noun, "list").output.splitlines()}
    for name in registry.names():
        assert registry.summary(name)[:60] in lines[name]


@pytest.mark.parametrize("noun", REGISTRIES)
def test_every_registered_plugin_can_be_described(noun: str, run: Callable[..., Result]):
    for name in REGISTRIES[noun].names():
        result = run(noun, "describe", name)
        assert result.exit_code == 0, result.output
        assert result.output.startswith(f"{name}\n")


def test_a_description_shows_settings_with_types_choices_and_defaults(run: Callable[..., Result]):
    output = run("models", "describe", "hybrid").output
    cells = [[cell.strip() for cell in line.split("│")] for line in output.splitlines() if "│" in line]
    assert ["epochs", "int", "10"] in cells
    assert ["average", '"none" | "ema" | "swa"', '"none"'] in cells
    assert ["name", "str | null", "null"] in cells
    assert "Source:" in output


def test_a_description_says_what_is_required_and_what_has_no_settings(run: Callable[..., Result]):
    cells = [[c.strip() for c in line.split("│")] for line in run("sources", "describe", "ccxt").output.splitlines()]
    assert ["exchange", "str", "required"] in cells
    assert ["symbols", "tuple[str]", "required"] in cells
    assert "It has no settings." in run("metrics", "describe", "directional_accuracy").output


def test_an_unknown_plugin_is_one_clear_line(run: Callable[..., Result]):
    said = one_error(run("models", "describe", "hybird"), "UnknownPluginError")
    assert said == ("UnknownPluginError: no model named 'hybird'. Did you mean 'hybrid'? Run `quantfleet models list`.")


# --- recipes ---


def test_config_show_prints_every_value_with_its_origin(
    recipe: str, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QUANTFLEET_RUN__SEED", "11")
    result = run("config", "show", recipe, "--set", "training.workers=3")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()]
    assert "workers: 3  # --set training.workers" in lines
    assert "seed: 11  # environment variable QUANTFLEET_RUN__SEED" in lines
    assert "max_failures: 3  # default" in lines
    assert any(line.startswith(f"lookback_bars: 16  # {recipe}:") for line in lines)


def test_every_leaf_of_the_tree_is_shown_with_an_origin(recipe: str, run: Callable[..., Result]):
    leaves = [
        line for line in run("config", "show", recipe).output.splitlines() if not line.rstrip().endswith((":", "-"))
    ]
    assert len(leaves) == len(load_recipe(recipe, environ={}).origins)
    assert [line for line in leaves if "  # " not in line] == []


@pytest.mark.parametrize("way", ["environment", "--set", "file"])
def test_config_show_masks_secrets_wherever_they_come_from(
    way: str, tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    values = {"access_key_id": "AKIA-hush", "secret_access_key": "hush-hush"}
    uri = "postgresql://user:hush@host/mlflow"
    sections: dict[str, dict[str, str]] = {}
    overrides: list[str] = []
    if way == "environment":
        for key, value in values.items():
            monkeypatch.setenv(f"QUANTFLEET_STORAGE__{key.upper()}", value)
        monkeypatch.setenv("QUANTFLEET_REGISTRY__TRACKING_URI", uri)
    elif way == "--set":
        for key, value in values.items():
            overrides += ["--set", f"storage.{key}={value}"]
        overrides += ["--set", f"registry.tracking_uri={uri}"]
    else:
        sections = {"storage": {"root": "store", **values}, "registry": {"tracking_uri": uri}}
    path = write_recipe(tmp_path, small_recipe("store", models=NAIVE) | sections)

    result = run("config", "show", str(path), *overrides)

    assert result.exit_code == 0, result.output
    assert "hush" not in result.output
    for key in (*values, "tracking_uri"):
        (line,) = [text.strip() for text in result.output.splitlines() if text.strip().startswith(f"{key}: *")]
        assert line.startswith(f"{key}: ********  # ")


def test_a_secret_without_its_partner_is_refused_without_being_shown(
    recipe: str, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QUANTFLEET_STORAGE__ACCESS_KEY_ID", "AKIA-hush")
    result = run("config", "show", recipe)
    assert "access_key_id and secret_access_key go together" in one_error(result, "ConfigError")
    assert "hush" not in result.output


@pytest.mark.parametrize(
    "verb",
    ["run", *STAGES, "features compute", "labels compute", "trade-bars compute", "predict", "config show"],
    ids=lambda v: v,
)
def test_every_verb_says_of_a_recipe_that_is_not_there_what_ships(verb: str, run: Callable[..., Result]):
    said = one_error(run(*verb.split(), "quikstart.yaml"), "ConfigError")
    assert "there is no recipe 'quikstart.yaml'" in said
    assert "quickstart, trees_28, tune_quickstart). Did you mean 'quickstart'?" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.worker=3", "unknown key 'training.worker' (--set training.worker). Did you mean 'workers'?"),
        ("training.workers=three", 'training.workers = "three" (--set training.workers) must be a whole number.'),
        ("training.workers", "--set 'training.workers'... is not of the form a.b=value."),
        ("models.9.name=x", "'9' is not an item of a list of 3 (items start at 0)."),
        ("policy.horizon_bars=21", "policy.horizon_bars=21 is none of the horizons that models forecast: 1, 5."),
    ],
)
def test_a_bad_override_is_one_clear_line(override: str, said: str, recipe: str, run: Callable[..., Result]):
    assert said in one_error(run("run", recipe, "--set", override), "ConfigError")


def test_a_recipe_that_is_no_yaml_names_the_line(tmp_path: Path, run: Callable[..., Result]):
    (tmp_path / "bad.yaml").write_text("run:\n  name: [unclosed\n")
    assert f"{tmp_path / 'bad.yaml'}:3 is not valid YAML" in one_error(
        run("run", str(tmp_path / "bad.yaml")), "ConfigError"
    )


# --- verbs that need more than a recipe ---


def test_predict_before_anything_ran_says_what_to_run(recipe: str, run: Callable[..., Result]):
    said = one_error(run("predict", recipe), "MissingInputError")
    assert "predict reads what ingest makes, and run 'small' has not done ingest yet" in said
    assert "`quantfleet run RECIPE`" in said


def test_predict_takes_a_version_or_an_alias(recipe: str, run: Callable[..., Result]):
    said = one_error(run("predict", recipe, "--version", "1", "--alias", "best"), "ConfigError")
    assert "predict: version=1 and alias='best' may be two different models; give one of them." in said


def test_submit_names_the_jobs_there_are(recipe: str, run: Callable[..., Result]):
    said = one_error(run("submit", "trian", recipe), "ConfigError")
    assert "there is no job 'trian'. Did you mean 'train'? Jobs: run, ingest, " in said


def test_every_job_that_can_be_submitted_is_a_module_with_a_main(run: Callable[..., Result]):
    said = one_error(run("submit", "?", "quickstart"), "ConfigError")
    jobs = said.partition("Jobs: ")[2].rstrip(".").split(", ")
    assert len(jobs) == len(set(jobs)) == 20
    for job in jobs:
        source = Path(str(importlib.import_module(f"quantfleet_jobs.{job}").__file__)).read_text()
        assert 'if __name__ == "__main__":' in source, job


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no cluster is named: give --address http://host:8265, or set RAY_API_SERVER_ADDRESS."),
        (["--address", "host:8265"], "'host:8265' is not the address of a Ray dashboard: give --address http://"),
    ],
)
def test_submit_without_a_dashboard_says_how_to_name_it(
    arguments: list[str], said: str, recipe: str, run: Callable[..., Result]
):
    assert said in one_error(run("submit", "train", recipe, *arguments), "ClusterError")


# --- doctor ---


def test_doctor_finds_a_healthy_machine_healthy(run: Callable[..., Result], tmp_path: Path):
    result = run("doctor", "--no-start-ray")
    assert result.exit_code == 0, result.output
    rows = {
        cells[1].strip(): cells for cells in (line.split("│") for line in result.output.splitlines()) if len(cells) == 3
    }
    assert {cells[0].strip() for cells in rows.values()} == {"ok"}
    assert rows["quantfleet"][2].strip() == quantfleet.__version__
    assert f"{len(MODELS.names())} models" in rows["plugins"][2]
    assert f"{tmp_path}/.quantfleet can be read and written" in rows["storage"][2]
    assert rows["lake"][2].strip() == "no bars yet: run `quantfleet run quickstart`"
    assert rows["registry"][2].strip() == "sqlite answers"
    assert {"python", "packages", "cores", "memory", "disk", "gpu"} <= rows.keys()
    assert "ray" not in rows


def test_doctor_goes_on_after_a_finding_and_fails_at_the_end(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setattr("quantfleet_jobs.doctor._PACKAGES", ("ray", "no-such-package"))
    result = run("doctor", "--no-start-ray", "--root", "file/store")
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    found = {
        c[1].strip(): (c[0].strip(), c[2])
        for c in (line.split("│") for line in result.output.splitlines())
        if len(c) == 3
    }
    assert found["packages"][0] == "!!"
    assert "no-such-package is not installed" in found["packages"][1]
    assert found["storage"][0] == "!!"
    assert "cannot be read or written" in found["storage"][1]
    assert found["quantfleet"][0] == "ok"


def test_doctor_shows_the_command_that_installs_an_extra_as_it_must_be_typed(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("quantfleet_jobs.doctor._EXTRAS", ("nonesuch",))
    assert "nonesuch not installed (pip install 'quantfleet[nonesuch]')" in run("doctor", "--no-start-ray").output


def test_doctor_with_a_wrong_setting_is_one_clear_line(run: Callable[..., Result]):
    said = one_error(run("doctor", "--no-start-ray", "--root", "ftp://host/x"), "ConfigError")
    assert "only local folders and s3:// are known, not ftp://" in said


def test_a_broken_library_is_a_finding_not_a_crash(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("doctor", "--no-start-ray")
    assert result.exit_code == 1
    (line,) = [text for text in result.output.splitlines() if "│ gpu" in text]
    assert "torch" in line


# --- as a job ---


def test_a_job_s_module_takes_the_same_recipe_and_fails_as_clearly(recipe: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "quantfleet_jobs.features", "--config", recipe],
        cwd=tmp_path,
        env=environment(QUANTFLEET_LOG__FORMAT="json", QUANTFLEET_LOG__LEVEL="INFO"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("MissingInputError: features reads what ingest makes")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_ingest_logs_json_on_demand_and_says_so_when_there_is_nothing_new(recipe: str, run: Callable[..., Result]):
    json_logs = ("--set", "log.format=json", "--set", "log.level=INFO")
    first = run("ingest", recipe, *json_logs)
    assert first.exit_code == 0, first.output
    events = [json.loads(line) for line in first.stderr.splitlines()]
    assert {event["run"] for event in events} == {"small"}
    assert events[-1]["event"] == "stage finished"
    made = events[-1]["outputs"]
    assert made == {"table": "lake/bars/1d", "version": made["version"], "instruments": {}}

    second = run("ingest", recipe)
    assert second.exit_code == 0
    assert second.stderr == "", "the default is quiet"
    assert "unchanged: 10062 bars already there" in second.stdout
