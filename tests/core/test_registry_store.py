"""The MLflow side, on a real MLflow with SQLite: runs and versions are made once, whole, and verified when they are loaded."""

import io
import math
import os
import pickletools
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.fs
import pytest
from pydantic import SecretStr
from support.stored_models import LABEL_MEANS, SPEC, fitted, open_registry, store, windows

from quantfleet.errors import ChecksumError, RegistryError
from quantfleet.registry.config import RegistryConfig
from quantfleet.registry.store import LoggedRun, ModelRegistry
from quantfleet.storage import Storage, StorageConfig
from quantfleet_models.naive import BuyAndHoldConfig

LOADER = "quantfleet_jobs.pyfunc"
MODEL = "indices"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once, then copied."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_registry(root).check()
    return root / "mlflow.db"


@pytest.fixture(autouse=True)
def no_inherited_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(empty_database: Path, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    return root


@pytest.fixture
def registry(root: Path) -> ModelRegistry:
    return open_registry(root)


@pytest.fixture
def experiment(registry: ModelRegistry) -> str:
    return registry.experiment("quickstart")


@pytest.fixture
def parent(registry: ModelRegistry, experiment: str) -> str:
    return registry.parent_run(experiment, "quickstart", {"quantfleet.recipe": "abc"})


@pytest.fixture
def record(tmp_path: Path) -> LoggedRun:
    files = tmp_path / "files"
    (files / "plots").mkdir(parents=True)
    (files / "metrics.json").write_text("{}")
    (files / "plots" / "equity.png").write_bytes(b"png")
    return LoggedRun(
        name="hybrid",
        params={"model.width": "32"},
        tags={"quantfleet.kind": "hybrid"},
        metrics={"test.sharpe": 1.25, "test.ic": math.nan},
        curves=({"epoch": 0, "val_loss": 2.0}, {"epoch": 1, "val_loss": 1.5}),
        files=files,
        fingerprint="f" * 16,
    )


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Path, str]:
    return store(tmp_path / "artifact")


@pytest.fixture
def register(
    registry: ModelRegistry, record: LoggedRun, artifact: tuple[Path, str], experiment: str, parent: str
) -> Callable[..., int]:
    """register(): log the model and return its version; changes to the record as keywords."""

    def run(folder: Path | None = None, **changes: Any) -> int:
        return registry.log_model(
            replace(record, **changes), folder or artifact[0], experiment=experiment, parent=parent, model_name=MODEL
        )

    return run


def versions(registry: ModelRegistry) -> list[int]:
    return sorted(int(v.version) for v in registry.client.search_model_versions(f"name = '{MODEL}'"))


def children(registry: ModelRegistry, experiment: str, parent: str) -> list[Any]:
    return list(registry.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'"))


def stored_files(root: Path, name: str) -> list[Path]:
    """Files of that name in MLflow's artifact folder, which is where registered models lie."""
    return sorted((root / "mlflow").rglob(name))


# --- one server at a time ---


def test_two_registries_in_one_process_do_not_mix(
    root: Path, empty_database: Path, tmp_path: Path, register: Callable[..., int], registry: ModelRegistry
):
    (tmp_path / "other").mkdir()
    shutil.copy(empty_database, tmp_path / "other" / "mlflow.db")
    other = open_registry(tmp_path / "other")
    other.check()

    assert register() == 1

    assert versions(registry) == [1]
    assert versions(other) == []
    assert other.uri == f"sqlite:///{tmp_path}/other/mlflow.db"


def test_registering_leaves_neither_the_address_in_the_environment_nor_mlflow_pointed_elsewhere(
    register: Callable[..., int], tmp_path: Path
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/chosen-by-the-user.db")
        try:
            register()
            assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/chosen-by-the-user.db"
        finally:
            mlflow.set_tracking_uri(None)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "MLFLOW_REGISTRY_URI" not in os.environ


# --- runs ---


def test_an_experiment_is_made_once_and_keeps_its_artifacts_under_the_storage_root(registry: ModelRegistry, root: Path):
    made = registry.experiment("trial")
    assert registry.experiment("trial") == made
    assert registry.client.get_experiment(made).artifact_location == f"{root}/mlflow/trial"


def test_a_parent_run_is_made_once(registry: ModelRegistry, experiment: str, parent: str):
    assert registry.parent_run(experiment, "quickstart", {}) == parent
    assert registry.parent_run(experiment, "another", {}) != parent


def test_a_logged_run_holds_params_metrics_curves_tags_and_files(
    registry: ModelRegistry, record: LoggedRun, experiment: str, parent: str
):
    run_id = registry.log_run(record, experiment=experiment, parent=parent)

    run = registry.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model.width": "32"}
    assert run.data.metrics == {"test.sharpe": 1.25, "val_loss": 1.5}, "NaN means not known: it is left out"
    assert [(m.step, m.value) for m in registry.client.get_metric_history(run_id, "val_loss")] == [(0, 2.0), (1, 1.5)]
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["quantfleet.kind"] == "hybrid"
    assert {f.path for f in registry.client.list_artifacts(run_id)} == {"metrics.json", "plots"}


def test_the_same_run_logged_twice_is_one_run(registry: ModelRegistry, record: LoggedRun, experiment: str, parent: str):
    first = registry.log_run(record, experiment=experiment, parent=parent)
    assert registry.log_run(record, experiment=experiment, parent=parent) == first
    assert len(children(registry, experiment, parent)) == 1


def test_an_unfinished_run_is_replaced(
    registry: ModelRegistry, record: LoggedRun, experiment: str, parent: str, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "log_artifacts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            registry.log_run(record, experiment=experiment, parent=parent)
    (left_over,) = children(registry, experiment, parent)

    made = registry.log_run(record, experiment=experiment, parent=parent)

    assert [run.info.run_id for run in children(registry, experiment, parent)] == [made]
    assert made != left_over.info.run_id


def interrupted(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_a_parameter_longer_than_mlflow_takes_is_cut(
    registry: ModelRegistry, record: LoggedRun, experiment: str, parent: str
):
    run_id = registry.log_run(replace(record, params={"long": "x" * 20_000}), experiment=experiment, parent=parent)
    assert registry.client.get_run(run_id).data.params == {"long": "x" * 6000}


def test_a_run_of_thousands_of_points_is_logged_whole(
    registry: ModelRegistry, record: LoggedRun, experiment: str, parent: str
):
    curve = tuple({"epoch": i, "train_loss": 1.0 / (i + 1)} for i in range(2000))
    run_id = registry.log_run(replace(record, curves=curve), experiment=experiment, parent=parent)
    assert len(registry.client.get_metric_history(run_id, "train_loss")) == 2000


# --- versions ---


def test_a_registered_model_is_a_version_that_carries_its_digest(
    registry: ModelRegistry, register: Callable[..., int], artifact: tuple[Path, str]
):
    assert register() == 1

    info = registry.client.get_model_version(MODEL, "1")
    assert info.tags == {"quantfleet.model": "hybrid", "quantfleet.digest": artifact[1]}
    run = registry.client.get_run(info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["quantfleet.digest"] == artifact[1]


def test_the_same_model_registered_twice_is_one_version(
    registry: ModelRegistry, register: Callable[..., int], experiment: str, parent: str
):
    assert [register(), register()] == [1, 1]
    assert versions(registry) == [1]
    assert len(children(registry, experiment, parent)) == 1


def test_another_fingerprint_is_another_version(registry: ModelRegistry, register: Callable[..., int]):
    assert [register(), register(fingerprint="other")] == [1, 2]
    assert versions(registry) == [1, 2]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("mlflow.pyfunc", "log_model"),
        ("mlflow.MlflowClient", "create_model_version"),
        ("mlflow.MlflowClient", "set_model_version_tag"),
    ],
    ids=["while files are copied", "before the version is made", "before the digest is put on"],
)
def test_a_registration_cut_off_leaves_no_usable_version_and_the_next_one_makes_exactly_one(
    place: str,
    name: str,
    registry: ModelRegistry,
    register: Callable[..., int],
    experiment: str,
    parent: str,
    monkeypatch: pytest.MonkeyPatch,
):
    with monkeypatch.context() as patch:
        patch.setattr(f"{place}.{name}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            register()
    for left_over in versions(registry):
        with pytest.raises(RegistryError, match="was not registered by Quantfleet: it has no digest"):
            registry.load(MODEL, version=left_over)
    assert mlflow.active_run() is None

    made = register()

    assert versions(registry) == [made]
    assert len(children(registry, experiment, parent)) == 1
    assert registry.load(MODEL, version=made)[1] == made


# --- loading ---


def test_a_version_is_loaded_verified_and_answers_as_the_model_that_was_registered(
    registry: ModelRegistry, register: Callable[..., int], artifact: tuple[Path, str]
):
    stored, version = registry.load(MODEL, version=register())

    assert version == 1
    assert stored.digest == artifact[1]
    assert np.array_equal(stored.model.predict(windows()).return_BCH, fitted().predict(windows()).return_BCH)


def test_the_alias_names_the_version_it_was_moved_to(registry: ModelRegistry, register: Callable[..., int]):
    register()
    register(fingerprint="other")
    registry.move_alias(MODEL, 2)
    assert registry.alias_version(MODEL) == 2
    assert registry.load(MODEL)[1] == 2
    registry.move_alias(MODEL, 1)
    assert registry.load(MODEL)[1] == 1
    assert registry.load(MODEL, version=2)[1] == 2


def test_another_alias_can_be_asked_for(registry: ModelRegistry, register: Callable[..., int], root: Path):
    register()
    open_registry(root, alias="challenger").move_alias(MODEL, 1)
    assert registry.load(MODEL, alias="challenger")[1] == 1
    assert registry.alias_version(MODEL) is None


def test_an_alias_that_points_nowhere_says_so_and_names_the_newest_version(
    registry: ModelRegistry, register: Callable[..., int]
):
    register()
    register(fingerprint="other")
    with pytest.raises(
        RegistryError,
        match=r"^model 'indices' has no alias 'champion': nothing was promoted to it yet\. Name a version: --version N; "
        r"the newest is 2\.$",
    ):
        registry.load(MODEL)


def test_a_model_that_nobody_registered_says_which_command_does(registry: ModelRegistry):
    with pytest.raises(
        RegistryError, match=r"model 'nobody' has no alias 'champion': nothing is registered .* `quantfleet run"
    ):
        registry.load("nobody")


def test_a_version_that_does_not_exist_is_named(registry: ModelRegistry, register: Callable[..., int]):
    register()
    with pytest.raises(RegistryError, match=r"^model 'indices' has no version 9: the newest is 1\.$"):
        registry.load(MODEL, version=9)
    with pytest.raises(RegistryError, match=r"^model 'nobody' has no version 1: nothing is registered under that name"):
        registry.load("nobody", version=1)


@pytest.mark.parametrize("name", ["moments.json", "model.json", "checksums.json"])
def test_a_stored_file_that_was_changed_is_refused_and_named(
    name: str, registry: ModelRegistry, register: Callable[..., int], root: Path
):
    version = register()
    (stored,) = stored_files(root, name)
    stored.write_bytes(stored.read_bytes().replace(b"0", b"1", 1))

    with pytest.raises(ChecksumError) as caught:
        registry.load(MODEL, version=version)

    assert caught.value.fields["file"] == name
    assert name in caught.value.message


def test_weights_changed_together_with_their_checksum_list_are_refused(
    registry: ModelRegistry, register: Callable[..., int], root: Path, tmp_path: Path
):
    version = register()
    (moments,) = stored_files(root, "moments.json")
    other, _ = store(tmp_path / "other", fitted(BuyAndHoldConfig()))
    for path in other.iterdir():
        shutil.copy(path, moments.parent)

    with pytest.raises(ChecksumError, match="is not the one that was registered"):
        registry.load(MODEL, version=version)


def test_stored_files_that_are_gone_are_one_clear_error(
    registry: ModelRegistry, register: Callable[..., int], root: Path
):
    version = register()
    shutil.rmtree(root / "mlflow")
    with pytest.raises(RegistryError) as caught:
        registry.load(MODEL, version=version)
    assert f"{root}/mlflow" in caught.value.message


def test_a_version_that_somebody_else_registered_is_refused(registry: ModelRegistry):
    registry.client.create_registered_model("foreign")
    registry.client.create_model_version("foreign", "file:///nowhere")
    with pytest.raises(RegistryError, match="foreign version 1 was not registered by Quantfleet: it has no digest"):
        registry.load("foreign", version=1)


def test_a_file_logged_with_a_version_can_be_fetched(
    registry: ModelRegistry, register: Callable[..., int], tmp_path: Path
):
    fetched = registry.fetch_file(MODEL, register(), "plots/equity.png", tmp_path)
    assert fetched.read_bytes() == b"png"


def test_a_file_that_was_not_logged_is_one_clear_error(
    registry: ModelRegistry, register: Callable[..., int], tmp_path: Path
):
    with pytest.raises(RegistryError, match=r"test_curve\.parquet"):
        registry.fetch_file(MODEL, register(), "backtest/test_curve.parquet", tmp_path)


@pytest.mark.services
def test_a_model_whose_files_lie_on_a_real_s3_server_is_registered_loaded_and_verified(
    s3_config: StorageConfig, root: Path, record: LoggedRun, artifact: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
):
    for name in ("MLFLOW_S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")  # so that what boto3 reads is taken back after the test
        monkeypatch.delenv(name)
    storage = Storage(s3_config)
    registry = ModelRegistry(
        RegistryConfig(tracking_uri=SecretStr(f"sqlite:///{root}/mlflow.db")), storage, loader_module=LOADER
    )
    experiment = registry.experiment("on-s3")
    parent = registry.parent_run(experiment, "on-s3", {})
    version = registry.log_model(record, artifact[0], experiment=experiment, parent=parent, model_name=MODEL)
    assert storage.list("mlflow") == ["on-s3"]
    assert registry.load(MODEL, version=version)[0].digest == artifact[1]

    key = next(name for name in s3_files(storage) if name.endswith("moments.json"))
    storage.write_text(key, '{"label_mean": [9, 9, 9, 9, 9, 9]}')

    with pytest.raises(ChecksumError, match=r"moments\.json has changed"):
        registry.load(MODEL, version=version)

    storage.delete("mlflow")
    with pytest.raises(RegistryError):
        registry.load(MODEL, version=version)


def s3_files(storage: Storage) -> list[str]:
    """Paths of all files under the root."""
    selector = pyarrow.fs.FileSelector(storage.path(), recursive=True)
    found = storage.filesystem.get_file_info(selector)
    return [f.path.removeprefix(f"{storage.path()}/") for f in found if f.type == pyarrow.fs.FileType.File]


# --- through MLflow's own door ---


@pytest.fixture
def logged(registry: ModelRegistry, register: Callable[..., int]) -> Any:
    """The model as anybody with MLflow loads it."""
    version = register()
    mlflow.set_tracking_uri(registry.uri)
    try:
        yield mlflow.pyfunc.load_model(f"models:/{MODEL}/{version}")
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_mlflow_loads_the_model_and_it_answers_as_itself(logged: Any):
    batch = windows(5, spec=replace(SPEC, chunk_bars=1))

    answers: Mapping[str, Any] = logged.predict({"x_NLF": batch.x_BTF})

    own = fitted(spec=replace(SPEC, chunk_bars=1)).predict(batch)
    assert set(answers) == {"return", "direction_logit", "volatility"}
    for head in answers:
        assert np.array_equal(answers[head], getattr(own, f"{head}_BCH")[:, 0]), head
    assert answers["volatility"] == pytest.approx(np.tile(LABEL_MEANS[4:], (5, 1)))


def test_the_signature_says_what_goes_in_and_what_comes_out(logged: Any):
    signature = logged.metadata.signature
    ((name, shape, kind),) = [(t.name, t.shape, t.type) for t in signature.inputs]
    assert (name, shape, kind) == ("x_NLF", (-1, 4, 2), np.float32)
    assert [(t.name, t.shape) for t in signature.outputs] == [
        ("return", (-1, 2)),
        ("direction_logit", (-1, 2)),
        ("volatility", (-1, 2)),
    ]


def test_mlflow_refuses_windows_of_another_shape(logged: Any):
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"Shape of input .* does not match"):
        logged.predict({"x_NLF": np.zeros((5, 3, 2), np.float32)})


def test_mlflow_s_own_door_verifies_the_checksums_too(
    registry: ModelRegistry, register: Callable[..., int], root: Path
):
    register()
    (moments,) = stored_files(root, "moments.json")
    moments.write_text('{"label_mean": [9, 9, 9, 9, 9, 9]}')
    mlflow.set_tracking_uri(registry.uri)
    try:
        with pytest.raises(ChecksumError, match=r"moments\.json has changed"):
            mlflow.pyfunc.load_model(f"models:/{MODEL}/1")
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_nothing_in_the_logged_model_is_a_pickle(register: Callable[..., int], root: Path):
    register()
    files = [path for path in (root / "mlflow").rglob("*") if path.is_file()]
    assert {"MLmodel", "moments.json", "model.json", "checksums.json"} <= {path.name for path in files}
    assert [path for path in files if is_pickle(path.read_bytes())] == []


def is_pickle(content: bytes) -> bool:
    """A pickle of any protocol, or a zip with one inside (test_registry_artifact.py tests the like)."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    try:
        return content.startswith(b"\x80") or bool(list(pickletools.genops(content)))
    except Exception:
        return False
