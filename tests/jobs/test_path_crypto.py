"""The whole path on ten real hourly pairs: files in, decisions out."""

import datetime as dt
import io
import json
from collections.abc import Mapping
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from support.recipes import NAIVE, small_recipe, tiny_hybrid, write_recipe
from support.stored_models import open_registry
from typer.testing import CliRunner

from quantfleet.contracts import ChunkBatch, SplitPlan
from quantfleet.errors import EmptyTableError
from quantfleet.registry.artifact import artifact_digest
from quantfleet.registry.promotions import PromotionLog
from quantfleet.registry.store import ModelRegistry
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs import audit
from quantfleet_jobs.cli import app
from quantfleet_jobs.drift import print_drift
from quantfleet_jobs.main import perform
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.run import STAGES
from quantfleet_jobs.table import decision_rows

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PAIRS = tuple(f"{coin}/USDT" for coin in ("ARB", "BCH", "BTC", "DOGE", "ETH", "LINK", "LTC", "NEAR", "SOL", "XRP"))
FILE = "binance_spot_usdt_1h_2024-01_2024-06.parquet"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crypto")


@pytest.fixture(scope="module")
def recipe(root: Path, shared_data: Path) -> Path:
    sections = {
        "market": {"bars_per_year": 8760},
        "quality": {"calendar": "continuous"},
        "features": {"sets": ["intraday", "relative", "cross_section"]},
        "index": {"symbol": "^EW"},
        "ingest": {
            "timeframe": "1h",
            "sources": [{"kind": "files", "path": str(shared_data / FILE), "symbols": list(PAIRS)}],
        },
    }
    models = [tiny_hybrid(), {"kind": "xgboost", "rounds": 20}, *NAIVE]
    return write_recipe(root, small_recipe(str(root / "store"), models=models, name="crypto", **sections))


@pytest.fixture(scope="module")
def done(local_ray: None, recipe: Path) -> Mapping[str, StageRecord]:
    return perform(STAGES, load_recipe(str(recipe), environ={}), console=Console(quiet=True))


@pytest.fixture(scope="module")
def storage(root: Path) -> Storage:
    return Storage(StorageConfig(root=str(root / "store")))


@pytest.fixture
def registry(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """The run's own MLflow, for this test's process too."""
    made = open_registry(root / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    return made


def test_every_stage_leaves_a_record_that_names_its_versions(done: Mapping[str, StageRecord]):
    assert list(done) == [stage.name for stage in STAGES]
    assert done["features"].outputs["bars_version"] == done["ingest"].outputs["version"]
    assert len(done["features"].outputs["feature_digest"]) == 16


def test_all_bars_of_all_pairs_are_in_the_lake_once(
    done: Mapping[str, StageRecord], storage: Storage, shared_data: Path
):
    bars = LakeTable(storage, done["ingest"].outputs["table"]).read(done["ingest"].outputs["version"])
    source = pl.read_parquet(shared_data / FILE).filter(pl.col("symbol").is_in(PAIRS))
    assert bars.height == source.height
    assert bars.select("symbol", "timestamp").is_unique().all()


def test_every_model_answers_for_every_test_row_once(done: Mapping[str, StageRecord], storage: Storage):
    rows = done["split"].outputs["rows"]["test"]
    for model in done["train"].outputs["models"]:
        path = storage.uri(done["train"].outputs["predictions"], "test", f"model={model}")
        answers = pl.read_parquet(f"{path}/*.parquet", hive_partitioning=False)
        assert answers.height == rows
        assert answers.select("symbol", "timestamp").is_unique().all()


def test_no_row_knows_a_later_period(done: Mapping[str, StageRecord], storage: Storage):
    """By the label table's own `t_end`, for the rows that the chunks really hold."""
    plan = SplitPlan.from_json(storage.read_text(done["split"].outputs["plan"]))
    columns = ["symbol", "timestamp", "t_end"]
    labels = LakeTable(storage, done["labels"].outputs["table"]).read(done["labels"].outputs["version"]).select(columns)
    chunks = ChunkStore.open(storage, done["chunks"].outputs["path"])
    for segment, later in (("train", "validation"), ("validation", "test")):
        known = [known_at(batch, chunks, labels) for batch in chunks.read(segment)]
        assert max(known) <= plan.interval(later).start, (
            f"{segment}: known when the next period's first bar opens, at the latest"
        )
        first_us = min(int(b.time_BC[b.mask_BC].min()) for b in chunks.read(later))
        assert first_us >= plan.interval(later).start.timestamp() * 1e6


def known_at(batch: ChunkBatch, chunks: ChunkStore, labels: pl.DataFrame) -> dt.datetime:
    """When the last label of a batch's targets is known."""
    where, bar = np.nonzero(batch.mask_BC)
    rows = pl.DataFrame(
        {
            "symbol": [chunks.spec.symbols[s] for s in batch.symbol_id_B[where]],
            "timestamp": pl.Series(batch.time_BC[where, bar]).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        }
    ).join(labels, on=("symbol", "timestamp"), how="left")
    assert rows["t_end"].null_count() == 0, "every target has a label whose end is known"
    last = rows["t_end"].max()
    assert isinstance(last, dt.datetime)
    return last


def test_positions_never_take_more_than_the_capital(done: Mapping[str, StageRecord], storage: Storage):
    for model, segments in done["backtest"].outputs["models"].items():
        positions = storage.read_parquet(segments["test"]["positions"])
        gross = positions.group_by("timestamp").agg(pl.col("weight").abs().sum())["weight"]
        assert float(gross.max()) <= 1 + 1e-9, model  # type: ignore[arg-type]


def test_every_decision_has_reasons_and_is_in_the_promotion_log(
    done: Mapping[str, StageRecord], storage: Storage, recipe: Path
):
    rows = decision_rows(load_recipe(str(recipe), environ={}).value, done)
    assert {row.name for row in rows} == set(done["register"].outputs["versions"])
    assert all(row.why for row in rows)
    log = PromotionLog(storage).rows()
    assert dict(zip(log["candidate"], log["verdict"], strict=True)) == {row.name: row.verdict for row in rows}
    assert [row.verdict for row in rows if row.baseline] == ["HOLD"] * len(NAIVE)


def test_every_version_holds_what_an_auditor_asks_for_and_the_alias_is_where_the_log_says(
    done: Mapping[str, StageRecord], storage: Storage, registry: ModelRegistry, tmp_path: Path
):
    log, models = PromotionLog(storage), done["train"].outputs["models"]
    assert registry.alias_version("crypto") == log.champion("crypto", "champion")
    for name, version in done["register"].outputs["versions"].items():
        model = registry.client.get_model_version("crypto", str(version))
        run = registry.client.get_run(model.run_id)
        tags = {kind: run.data.tags[f"quantfleet.{kind}"] for kind in ("bars", "features", "labels")}
        stages = {"bars": "ingest", "features": "features", "labels": "labels"}
        assert tags == {k: f"{done[s].outputs['table']}@{done[s].outputs['version']}" for k, s in stages.items()}
        assert model.tags["quantfleet.digest"] == models[name]["digest"]
        signature = mlflow.models.get_model_info(model.source).signature
        assert signature.inputs.input_names()[0] == "x_NLF"
        assert signature.outputs.input_names() == ["return", "direction_logit", "volatility"]
        folder = Path(registry.client.download_artifacts(model.run_id, "", str(tmp_path / name)))
        for segment in ("validation", "test"):
            answers = pl.read_parquet(folder / "predictions" / segment / "*.parquet", hive_partitioning=False)
            assert answers.height == done["split"].outputs["rows"][segment]
        for file in ("metrics.json", "recipe.json", "split.json", "plots/equity.png"):
            assert (folder / file).stat().st_size > 100, file


@pytest.mark.parametrize(("model", "weights"), [("hybrid", "weights.safetensors"), ("xgboost", "booster.ubj")])
def test_a_tampered_weights_file_is_one_clear_error_and_nothing_is_answered(
    model: str, weights: str, done: Mapping[str, StageRecord], recipe: Path, storage: Storage
):
    version, digest = done["register"].outputs["versions"][model], done["train"].outputs["models"][model]["digest"]
    listed = Path(storage.uri("mlflow")).rglob("checksums.json")
    (folder,) = (f.parent for f in listed if artifact_digest(f.parent) == digest)
    latest = Path(storage.uri("runs", "crypto", "latest.parquet"))
    before, intact = latest.read_bytes(), (folder / weights).read_bytes()
    flipped = bytearray(intact)
    flipped[len(flipped) // 2] ^= 1
    (folder / weights).write_bytes(flipped)
    try:
        result = CliRunner().invoke(app, ["predict", str(recipe), "--version", str(version)])
    finally:
        (folder / weights).write_bytes(intact)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("ChecksumError: ")
    assert weights in line
    assert latest.read_bytes() == before
    assert CliRunner().invoke(app, ["predict", str(recipe), "--version", str(version)]).exit_code == 0


def test_while_nothing_is_promoted_the_best_on_validation_answers_and_the_job_says_so(
    done: Mapping[str, StageRecord], storage: Storage, registry: ModelRegistry
):
    if registry.alias_version("crypto") is not None:
        pytest.skip("these data promoted a model")
    answered, versions = done["predict"].outputs, done["register"].outputs["versions"]
    scores = {m: json.loads(storage.read_text(p)) for m, p in done["evaluate"].outputs["models"].items()}
    best = max(("hybrid", "xgboost"), key=lambda m: scores[m]["validation"]["sharpe"])
    assert answered["version"] == versions[best]
    assert f"({best}: best Sharpe ratio on validation" in answered["chosen"]
    assert "nothing has been promoted" in done["predict"].summary


def test_the_report_shows_every_pair_and_every_model(done: Mapping[str, StageRecord], storage: Storage):
    html = storage.read_text(done["report"].outputs["report"])
    assert all(pair in html for pair in PAIRS)
    assert all(model in html for model in done["train"].outputs["models"])


def test_drift_since_training_is_told_feature_by_feature(done: Mapping[str, StageRecord], recipe: Path):
    console = Console(record=True, width=160, file=io.StringIO())
    print_drift(load_recipe(str(recipe), environ={}), console, top=60)
    told = console.export_text()
    assert "(training) against" in told
    shown = {line.split()[0]: line.split()[-1] for line in told.splitlines() if len(line.split()) >= 6}
    assert shown["hour_of_day_sin"] == "stable", "the hours of a day stay the same"
    assert sum(verdict in ("large", "moderate", "stable") for verdict in shown.values()) == 53
    with pytest.raises(EmptyTableError, match="has no row from 2030-01-01"):
        print_drift(load_recipe(str(recipe), environ={}), console, since="2030-01-01")


def test_the_audit_finds_no_leak_and_says_what_it_could_not_check(
    done: Mapping[str, StageRecord], recipe: Path, storage: Storage
):
    made = perform([audit.STAGE], load_recipe(str(recipe), environ={}), console=Console(quiet=True))["audit"]
    outcomes = {f["check"]: f["outcome"] for f in json.loads(storage.read_text(made.outputs["findings"]))["findings"]}
    assert {name for name, outcome in outcomes.items() if outcome != "passed"} == {"universe"}
    assert len(outcomes) == 11


def test_the_evaluation_holds_what_costs_delays_and_parts_of_the_period_do(
    done: Mapping[str, StageRecord], storage: Storage
):
    outputs = done["evaluate"].outputs
    detail = json.loads(storage.read_text(outputs["details"]["xgboost"]))
    assert [row["cost_bps"] for row in detail["costs"]] == [0, 5, 10, 20, 30, 50]
    earned = [row["total_return"] for row in detail["costs"]]
    assert earned == sorted(earned, reverse=True)
    assert {row["group"] for row in detail["slices"]} == {"year", "regime", "asset", "stress"}
    scores = json.loads(storage.read_text(outputs["models"]["xgboost"]))["test"]
    assert detail["delays"][0]["sharpe"] == pytest.approx(scores["sharpe"], abs=1e-9)
    verdict = json.loads(storage.read_text(outputs["verdict"]))
    assert set(verdict["models"]) == {"hybrid", "xgboost"}
    assert outputs["looks"] == 1


def test_the_same_recipe_again_changes_nothing(done: Mapping[str, StageRecord], recipe: Path):
    again = perform(STAGES, load_recipe(str(recipe), environ={}), console=Console(quiet=True))
    assert {name: made.outputs for name, made in again.items()} == {name: made.outputs for name, made in done.items()}
