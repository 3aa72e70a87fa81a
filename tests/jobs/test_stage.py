"""Stages: each runs once, keeps what is finished, refuses to mix old and new, and starts nothing that cannot end well."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.recipes import NAIVE, small_recipe, write_recipe

import quantfleet
from quantfleet.errors import (
    ConfigError,
    DataError,
    MissingInputError,
    OutputExistsError,
    QuantfleetError,
    RegistryError,
    StorageError,
)
from quantfleet.storage import Storage, StorageConfig
from quantfleet_jobs import run as whole_path
from quantfleet_jobs.progress import Progress
from quantfleet_jobs.recipe import Recipe, load_recipe
from quantfleet_jobs.record import RunRecord, StageRecord
from quantfleet_jobs.stage import Stage, StageContext, StageOutput, run_stages


class World:
    """A recipe on a folder of its own, three stages in a row, and a diary of what ran."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.recipe = write_recipe(folder, small_recipe(str(self.store), models=NAIVE, name="tiny"))
        self.diary: list[str] = []
        self.outside = 1
        self.first = self.stage("first", settings=("run.seed",))
        self.second = self.stage("second", needs=("first",), settings=("windows",))
        self.third = self.stage("third", needs=("second",))

    def stage(self, name: str, *, needs: tuple[str, ...] = (), settings: tuple[str, ...] = (), **more: Any) -> Stage:
        """A stage that writes a file and notes that it did."""

        def work(context: StageContext) -> StageOutput:
            self.diary.append(name)
            path = context.path(f"{name}.txt")
            context.storage.write_text(path, "".join(made.outputs["text"] for made in context.inputs.values()) + name)
            return StageOutput(
                outputs={"path": path, "text": context.storage.read_text(path), "outside": self.outside},
                summary=f"{name} made",
            )

        return Stage(name=name, help=name, **{"needs": needs, "settings": settings, "work": work, **more})

    def run(
        self, *overrides: str, stages: Sequence[Stage] | None = None, overwrite: bool = False
    ) -> dict[str, StageRecord]:
        self.said = io.StringIO()
        self.diary.clear()
        resolved = load_recipe(str(self.recipe), overrides, environ={})
        progress = Progress(Console(file=self.said, width=200))
        chosen = (self.first, self.second, self.third) if stages is None else stages
        return run_stages(chosen, resolved, progress=progress, overwrite=overwrite)

    def files(self, run: str = "tiny") -> dict[str, str]:
        folder = self.store / "runs" / run
        return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- running and keeping ---


def test_stages_run_in_order_and_read_what_the_ones_before_them_made(world: World):
    done = world.run()
    assert world.diary == ["first", "second", "third"]
    assert done["third"].outputs["text"] == "firstsecondthird"
    assert list(done) == ["first", "second", "third"]


def test_every_finished_stage_leaves_a_record_that_says_what_it_is_made_of(world: World):
    done = world.run()
    record = json.loads(world.files()["stages/second.json"])
    assert record["inputs"] == {"first": done["first"].fingerprint}
    assert record["outputs"]["path"] == "runs/tiny/second.txt"
    assert record["summary"] == "second made"
    assert record["settings"] == {"windows": {"lookback_bars": 16, "chunk_bars": 32, "max_gap_bars": None}}
    assert record["version"] == quantfleet.__version__
    assert StageRecord(**record) == done["second"]


def test_the_second_time_nothing_runs_and_each_stage_says_so(world: World):
    first = world.run()
    before = world.files()

    again = world.run()

    assert world.diary == []
    assert again == first
    assert world.files() == before
    for name in ("first", "second", "third"):
        assert f"unchanged: {name} made" in world.said.getvalue()


def test_one_stage_alone_goes_on_from_what_earlier_commands_made(world: World):
    world.run(stages=[world.first])
    assert world.run(stages=[world.second])["second"].outputs["text"] == "firstsecond"
    assert world.diary == ["second"]


def test_a_setting_that_no_stage_reads_changes_nothing(world: World):
    world.run()
    world.run("training.workers=1")
    assert world.diary == []


def test_another_run_name_is_another_run(world: World):
    world.run()
    world.run("run.name=other")
    assert world.diary == ["first", "second", "third"]
    assert world.files("other").keys() == world.files("tiny").keys()


# --- changes ---


def test_changed_settings_are_refused_with_what_changed_and_what_to_do(world: World):
    world.run()
    before = world.files()

    with pytest.raises(OutputExistsError) as caught:
        world.run("windows.lookback_bars=8")

    assert world.diary == []
    assert world.files() == before
    said = caught.value.message
    assert said.startswith("run 'tiny' already holds the output of second of ")
    assert "and since then the settings have changed: windows.lookback_bars from 16 to 8." in said
    assert "--set run.name=NAME" in said
    assert "--overwrite" in said
    assert caught.value.fields == {"run": "tiny", "stage": "second"}


def test_many_changed_settings_are_counted(world: World):
    stage = world.stage("broad", settings=("windows", "policy", "training"))
    world.run(stages=[stage])
    changes = ("windows.lookback_bars=8", "windows.chunk_bars=8", "policy.horizon_bars=1", "training.workers=1")
    with pytest.raises(
        OutputExistsError, match=r"policy\.horizon_bars from 5 to 1, .* from 2 to 1, .* from 32 to 8 and 1 more\."
    ):
        world.run(*changes, stages=[stage])


def test_a_setting_that_came_or_went_is_told_as_such(world: World):
    stage = world.stage("models", settings=("models",))
    world.run(stages=[stage])
    with pytest.raises(OutputExistsError, match=r'models\.0\.kind from "buy_and_hold" to "zero_return".*to absent'):
        world.run("models=[{kind: zero_return}]", stages=[stage])


def test_a_changed_input_is_refused_by_its_name(world: World):
    world.run()
    with pytest.raises(OutputExistsError, match=r"already holds the output of second .* what first made has changed\."):
        world.run("run.seed=8", stages=[world.stage("first", settings=("run.seed",), always=True), world.second])


def test_an_output_of_another_quantfleet_is_refused_with_both_versions(world: World, monkeypatch: pytest.MonkeyPatch):
    world.run()
    monkeypatch.setattr(quantfleet, "__version__", "9.9.9")
    with pytest.raises(OutputExistsError, match=r"Quantfleet has changed from .* to 9\.9\.9\."):
        world.run()


def test_overwrite_replaces_what_changed_and_what_follows_from_it(world: World):
    world.run()
    done = world.run("windows.lookback_bars=8", overwrite=True)
    assert world.diary == ["second", "third"]
    assert done["third"].inputs == {"second": done["second"].fingerprint}
    world.run("windows.lookback_bars=8")
    assert world.diary == []


def test_an_overwrite_that_is_cut_off_leaves_no_record_of_the_old_output(world: World):
    world.run()
    half = replace(world.second, work=interrupted)

    with pytest.raises(KeyboardInterrupt):
        world.run("windows.lookback_bars=8", stages=[world.first, half], overwrite=True)

    assert "stages/second.json" not in world.files()
    world.run()  # with the old settings: what lies there is half new, so it is made again
    assert world.diary == ["second"]


def interrupted(context: StageContext) -> StageOutput:
    context.storage.write_text(context.path("second.txt"), "half of the new")
    raise KeyboardInterrupt


# --- what goes wrong ---


def test_a_stage_whose_input_was_never_made_says_which_command_makes_it(world: World):
    with pytest.raises(MissingInputError) as caught:
        world.run(stages=[world.second])
    assert world.diary == []
    for part in ("second reads what first makes", "run 'tiny'", "quantfleet_jobs.first --config", "`quantfleet run"):
        assert part in caught.value.message
    assert caught.value.fields["stage"] == "first"


def test_a_failing_stage_leaves_no_record_and_the_earlier_ones_stay(world: World):
    def fail(context: StageContext) -> StageOutput:
        context.storage.write_text(context.path("second.txt"), "half")
        raise DataError("bars are broken")

    with pytest.raises(DataError, match="bars are broken"):
        world.run(stages=[world.first, replace(world.second, work=fail), world.third])

    assert {name for name in world.files() if name.startswith("stages/")} == {"stages/first.json"}
    world.run()
    assert world.diary == ["second", "third"]


def test_a_storage_root_that_cannot_be_written_is_found_before_any_stage_runs(world: World, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"/file/store.* cannot be read or written"):
        world.run(f"storage.root={tmp_path}/file/store")
    assert world.diary == []


def test_a_registry_that_does_not_answer_is_found_before_any_stage_runs(world: World, tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    late = world.stage("late", uses_registry=True)
    with pytest.raises(RegistryError, match="file is not a database"):
        world.run(f"registry.tracking_uri=sqlite:///{tmp_path}/mlflow.db", stages=[world.first, late])
    assert world.diary == []


def test_a_registry_that_no_stage_needs_is_left_alone(world: World):
    world.run("registry.tracking_uri=sqlite:////proc/nowhere/mlflow.db")
    assert world.diary == ["first", "second", "third"]


def test_what_a_late_stage_will_refuse_is_refused_before_the_first_one_runs(world: World):
    def refuse(recipe: Recipe) -> None:
        raise ConfigError(f"no report of {recipe.run.name}")

    with pytest.raises(ConfigError, match="no report of tiny"):
        world.run(stages=[world.first, world.stage("late", check=refuse)])
    assert world.diary == []
    assert not world.store.exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["models=[{kind: zero_return}]"],
            "the report compares with buy and hold: add `kind: buy_and_hold` to models.",
        ),
        (
            ["models.0={kind: hybrid, name: a, batch_windows: 100}", "training.workers=3"],
            "a.batch_windows=100 does not divide",
        ),
    ],
)
def test_the_whole_path_checks_its_late_stages_first(overrides: list[str], said: str, world: World):
    with pytest.raises(ConfigError) as caught:
        world.run(*overrides, stages=whole_path.STAGES)
    assert said in caught.value.message
    assert not world.store.exists()


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            "{model: hybird, space: {width: {choices: [8]}}}",
            "search.model='hybird' is none of the models: buy_and_hold, ",
        ),
        ("{model: buy_and_hold, space: {width: {choices: [8]}}}", "is a buy_and_hold; search runs on torch models"),
        (
            "{model: h, space: {widht: {choices: [8]}}}",
            "search.space names 'widht', which model 'h' does not have. Did you",
        ),
        ("{model: h, space: {dropout: {low: 0.0, high: 2.0}}}", "dropout = 2.0 (search.space) must be less than 1."),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_the_first_stage(search: str, said: str, world: World):
    with pytest.raises(QuantfleetError) as caught:
        world.run(f"search={search}", "models.2={kind: hybrid, name: h}", stages=whole_path.SEARCH_STAGES)
    assert said in caught.value.message
    assert not world.store.exists()


# --- the world outside ---


def test_a_stage_that_looks_outside_runs_every_time_and_what_follows_sees_whether_it_changed(world: World):
    ingest = world.stage("ingest", always=True)
    after = world.stage("after", needs=("ingest",))
    world.run(stages=[ingest, after])

    world.run(stages=[ingest, after])
    assert world.diary == ["ingest"], "it looked, and found the same"

    world.outside = 2
    with pytest.raises(OutputExistsError, match="what ingest made has changed"):
        world.run(stages=[ingest, after])
    assert world.diary == ["ingest"]

    world.run(stages=[ingest, after], overwrite=True)
    assert world.diary == ["ingest", "after"]


def test_a_stage_that_looks_outside_and_fails_leaves_what_it_made_before(world: World):
    ingest = world.stage("ingest", always=True)
    before = world.run(stages=[ingest])["ingest"]

    def fail(context: StageContext) -> StageOutput:
        raise DataError("the exchange is down")

    with pytest.raises(DataError):
        world.run(stages=[replace(ingest, work=fail)])

    assert StageRecord(**json.loads(world.files()["stages/ingest.json"])) == before


# --- what people see ---


def test_progress_has_a_line_when_a_stage_starts_and_one_when_it_ends(world: World):
    def work(context: StageContext) -> StageOutput:
        context.progress.update("half way")
        context.progress.update("half way")
        return StageOutput(outputs={}, summary="all [green]brackets[/] kept")

    world.run(stages=[replace(world.first, work=work)])

    lines = world.said.getvalue().splitlines()
    assert lines[:2] == ["[ 1/1] first     started", "[ 1/1] first     half way"]
    assert lines[2].startswith("[ 1/1] first     done: all [green]brackets[/] kept  (")
    assert len(lines) == 3


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_log_lines_carry_the_run_and_are_json_on_demand(fmt: str, world: World, capsys: pytest.CaptureFixture[str]):
    world.run("log.level=INFO", f"log.format={fmt}", stages=[world.first])
    (line,) = capsys.readouterr().err.splitlines()
    if fmt == "json":
        event = json.loads(line)
        assert (event["run"], event["stage"], event["level"]) == ("tiny", "first", "info")
        assert event["outputs"]["path"] == "runs/tiny/first.txt"
    else:
        assert "stage finished" in line
        assert "run=tiny" in line


def test_a_record_of_a_stage_that_did_not_run_is_none(world: World):
    world.run(stages=[world.first])
    record = RunRecord(Storage(StorageConfig(root=str(world.store))), "tiny")
    assert record.find("second") is None
    found = record.find("first")
    assert found is not None
    assert found.summary == "first made"


@pytest.mark.parametrize("damaged", ['{"stage": "fir', '{"stage": "first"}', "[]"])
def test_a_damaged_record_is_named_with_what_to_do(damaged: str, world: World):
    world.run(stages=[world.first])
    (world.store / "runs" / "tiny" / "stages" / "first.json").write_text(damaged)
    with pytest.raises(StorageError, match=r"first\.json is no record of a finished stage.* run first again"):
        world.run()


def test_every_stage_of_the_whole_path_needs_only_what_runs_before_it():
    for stages in (whole_path.STAGES, whole_path.SEARCH_STAGES):
        names = [stage.name for stage in stages]
        for at, stage in enumerate(stages):
            assert set(stage.needs) <= set(names[:at]), stage.name


def test_the_stages_that_look_outside_are_those_that_read_a_source_the_log_of_looks_or_an_alias():
    assert [stage.name for stage in whole_path.STAGES if stage.always] == ["ingest", "audit", "predict"]


def test_every_setting_that_a_stage_names_is_in_the_recipe():
    recipe = load_recipe("tune_quickstart", environ={}).value
    stages: dict[str, Stage] = {stage.name: stage for stage in (*whole_path.STAGES, *whole_path.SEARCH_STAGES)}
    for stage in stages.values():
        for path in stage.settings:
            value: Any = recipe
            for part in path.split("."):
                assert hasattr(value, part), f"{stage.name}: {path}"
                value = getattr(value, part)
