"""The MLflow side: runs, artifacts, model versions and the alias."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import quantfleet
from quantfleet.errors import RegistryError
from quantfleet.registry.address import reach_database, usable, without_secrets
from quantfleet.registry.artifact import StoredModel, artifact_digest, read_artifact
from quantfleet.registry.config import RegistryConfig
from quantfleet.storage import Storage
from quantfleet.storage.store import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["FitRun", "LoggedRun", "ModelRegistry", "Point"]

_FINGERPRINT, _DIGEST, _PARENT = "quantfleet.fingerprint", "quantfleet.digest", "mlflow.parentRunId"
_FIT = "quantfleet.fit"
_ARTIFACTS = "mlflow"
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_SECONDS_TO_GIVE_UP = 20
_LONGEST_PARAM = 6000
_METRICS_A_CALL = 900
_LONGEST_MESSAGE = 500
_NO_METRICS = frozenset({"epoch", "epochs", "step", "steps", "attempt"})
"""Numbers of a learning curve's row that say where it stands, not how well it goes."""


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    """Since 1970."""
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedRun:
    """What is logged of one model or one trial."""

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """NaN means not known and is not logged."""
    curves: tuple[Mapping[str, float], ...]
    """One row per epoch; `step`, or else `epoch`, is the step."""
    files: Path
    """Folder whose files become the run's artifacts (predictions, metrics, plots)."""
    fingerprint: str
    """The same again is the same run."""
    fit: str | None = None
    """Name of the fit whose run, opened by `open_fit`, this one goes on in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitRun:
    """The run of a fit that begins; `log_model` goes on in it."""

    experiment: str
    """Name."""
    parent: str
    """Name of the Quantfleet run."""
    parent_tags: Mapping[str, str]
    name: str
    fit: str
    """The same again is the same run, so that a resumed fit goes on in it."""
    params: Mapping[str, str]
    tags: Mapping[str, str]


class ModelRegistry:
    """One tracking server. Opens lazily; errors say whether it can be reached."""

    def __init__(self, config: RegistryConfig, storage: Storage, *, loader_module: str) -> None:
        """`loader_module` is what MLflow imports to open a model; it knows which plugins there are."""
        self.config = config
        self.storage = storage
        self._loader_module = loader_module
        self._client: MlflowClient | None = None

    @functools.cached_property
    def uri(self) -> str:
        """Chosen once: others may change the environment later. May hold a password: never log it."""
        if self.config.tracking_uri is not None:
            return usable(self.config.tracking_uri.get_secret_value())
        if os.environ.get(_URI_VARIABLE):
            return usable(os.environ[_URI_VARIABLE])
        folder = Path(".quantfleet").resolve() if self.storage.config.is_s3 else Path(self.storage.uri())
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> MlflowClient:
        options = self.storage.s3_options()
        if options:  # MLflow reaches S3 through boto3, which reads the environment
            for ours, theirs in (
                ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"),
                ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
                ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
                ("AWS_REGION", "AWS_DEFAULT_REGION"),
            ):
                if ours in options:
                    os.environ.setdefault(theirs, options[ours])
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_SECONDS_TO_GIVE_UP))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import: nothing is sent to third parties
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            with self._translated():
                reach_database(self.uri)
                client = MlflowClient(self.uri, self.uri)
                client.search_experiments(max_results=1)
        except RegistryError as error:
            raise RegistryError(
                f"{error.message.rstrip('.? ')}. Check registry.tracking_uri (or MLFLOW_TRACKING_URI), and that the server "
                "runs."
            ) from error.__cause__
        return client

    def check(self) -> None:
        """Raises: RegistryError: the server cannot be reached."""
        _ = self.client

    def experiment(self, name: str) -> str:
        """Id of the experiment; made when needed, its artifacts under the storage root."""
        with self._translated():
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            return str(self.client.create_experiment(name, artifact_location=self.storage.uri(_ARTIFACTS, name)))

    def parent_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Id of the run that the models of one Quantfleet run are children of; the same name again is the same run."""
        with self._translated():
            found = self.client.search_runs([experiment], f"tags.`quantfleet.run` = '{name}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
            run = self.client.create_run(experiment, run_name=name, tags={"quantfleet.run": name, **tags})
            return str(run.info.run_id)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, replacing those of the same name."""
        with self._translated():
            for name, value in tags.items():
                self.client.set_tag(run_id, name, value)

    def finish(self, run_id: str) -> None:
        with self._translated():
            self.client.set_terminated(run_id)

    def log_file(self, run_id: str, file: Path) -> None:
        """Add one file to a run."""
        with self._translated():
            self.client.log_artifact(run_id, str(file))

    def log_run(self, record: LoggedRun, *, experiment: str, parent: str) -> str:
        """Log a run as a child of `parent` and return its id; the same fingerprint again returns the run that is there."""
        with self._translated():
            for run in self._runs_of(record.fingerprint, experiment):
                if run.info.status == "FINISHED":
                    return str(run.info.run_id)
                self.client.delete_run(run.info.run_id)
            run_id = self._open_run(record, experiment, {_PARENT: parent})
            self.client.set_terminated(run_id)
            return run_id

    def log_model(self, record: LoggedRun, artifact: Path, *, experiment: str, parent: str, model_name: str) -> int:
        """Log a model's run and register it as a version; return the version.

        The same fingerprint again returns the version that is there. A run that was cut off before its version was complete
        is deleted and made anew; but the run of a fit is kept, and only its unfinished version is made anew.

        Args:
            artifact: folder written by `write_artifact`.
        """
        with self._translated():
            known = self._version_of(record.fingerprint, experiment, model_name)
            if known is not None:
                return known
            with self._default_server():  # start_run, log_model and, inside MLflow, create_model_version ask it
                return self._register(record, artifact, experiment, parent, model_name)

    def _runs_of(self, fingerprint: str, experiment: str) -> list[Any]:
        return list(self.client.search_runs([experiment], f"tags.`{_FINGERPRINT}` = '{fingerprint}'"))

    def _version_of(self, fingerprint: str, experiment: str, model_name: str) -> int | None:
        for run in self._runs_of(fingerprint, experiment):
            versions = self.client.search_model_versions(f"run_id = '{run.info.run_id}'")
            for version in versions:
                if version.name == model_name and version.tags.get(_DIGEST):  # put on last
                    return int(version.version)
            for version in versions:
                self.client.delete_model_version(version.name, version.version)
            if _FIT not in run.data.tags:
                self.client.delete_run(run.info.run_id)
                continue
            for made in self.client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'"):
                self.client.delete_logged_model(made.model_id)
        return None

    def _run_of_fit(self, fit: str, experiment: str) -> Any:
        """The run that a fit opened; None when it opened none."""
        found = self.client.search_runs([experiment], f"tags.`{_FIT}` = '{fit}'", max_results=1)
        return found[0] if found else None

    def _open_run(self, record: LoggedRun, experiment: str, tags: Mapping[str, str]) -> str:
        """A run with parameters, metrics, curves and files: the one of the record's fit, or a new one; it stays open."""
        from mlflow.entities import Metric

        all_tags = {_FINGERPRINT: record.fingerprint, "quantfleet.model": record.name, **tags, **record.tags}
        run = None if record.fit is None else self._run_of_fit(record.fit, experiment)
        if run is not None and run.data.tags.get(_FINGERPRINT, record.fingerprint) != record.fingerprint:
            run = None  # it holds another version of the same fit, judged by other rules
        if run is None:
            run = self.client.create_run(experiment, run_name=record.name, tags=all_tags)
        else:
            self._tag(run.info.run_id, all_tags)
        run_id, then = (
            str(run.info.run_id),
            run.info.start_time,
        )  # the same time again, so that the same points are no new ones
        self._log_params(run_id, record.params)
        self._log_metrics(run_id, [Metric(k, v, then, 0) for k, v in record.metrics.items() if math.isfinite(v)])
        self.log_curve(run_id, record.curves)
        self.client.log_artifacts(run_id, str(record.files))
        return run_id

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(k, v[:_LONGEST_PARAM]) for k, v in params.items()])

    def _log_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        for first in range(0, len(metrics), _METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + _METRICS_A_CALL])

    # --- a fit while it runs ---

    def open_fit(self, fit: FitRun) -> str:
        """Id of the run of a fit, running: a new child of the Quantfleet run's, or the one that the same fit opened before."""
        with self._translated():
            experiment = self.experiment(fit.experiment)
            parent = self.parent_run(experiment, fit.parent, fit.parent_tags)
            run = self._run_of_fit(fit.fit, experiment)
            if run is None:
                tags = {_FIT: fit.fit, _PARENT: parent, "quantfleet.model": fit.name, **fit.tags}
                run = self.client.create_run(experiment, run_name=fit.name, tags=tags)
            elif run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
            self._log_params(run.info.run_id, fit.params)
            return str(run.info.run_id)

    def last_steps(self, run_id: str) -> dict[str, int]:
        """The last step of each metric of a run."""
        with self._translated():
            # MLflow's public `metrics` has no steps; a whole history would be read for each, which is slow after a long fit
            return {m.key: int(m.step) for m in self.client.get_run(run_id).data._metric_objs}

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Add points to a run's metrics, as they are: who calls knows which ones are there."""
        from mlflow.entities import Metric

        with self._translated():
            self._log_metrics(run_id, [Metric(p.key, p.value, p.time_ms, p.step) for p in points])

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Complete a run's metrics: of these rows, log the points whose step the run does not have.

        Args:
            rows: `step`, or else `epoch`, is the step; the other finite numbers are metrics.
        """
        from mlflow.entities import Metric

        with self._translated():
            run = self.client.get_run(run_id)
            keys = {key for row in rows for key in row} - _NO_METRICS
            there = {
                (key, m.step)
                for key in keys & run.data.metrics.keys()
                for m in self.client.get_metric_history(run_id, key)
            }
            points = [
                Metric(key, float(row[key]), run.info.start_time, step)
                for row in rows
                for key in sorted(keys & row.keys())
                if math.isfinite(row[key]) and (key, step := int(row.get("step", row.get("epoch", 0)))) not in there
            ]
            self._log_metrics(run_id, points)

    def close_fit(self, run_id: str, status: str, files: Mapping[str, bytes]) -> None:
        """End the run of a fit. Args: status: FINISHED, FAILED or KILLED. files: contents by their paths among the artifacts."""
        with self._translated(), tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if files:
                self.client.log_artifacts(run_id, folder)
            self.client.set_terminated(run_id, status)

    def _register(self, record: LoggedRun, artifact: Path, experiment: str, parent: str, model_name: str) -> int:
        import mlflow
        from mlflow.exceptions import MlflowException

        digest = artifact_digest(artifact)
        run_id = self._open_run(record, experiment, {_PARENT: parent, _DIGEST: digest})
        with warnings.catch_warnings(), mlflow.start_run(run_id=run_id):
            warnings.filterwarnings("ignore", message=".*input example was not provided.*")  # the signature is explicit
            info = mlflow.pyfunc.log_model(
                name="model",
                loader_module=self._loader_module,
                data_path=str(artifact),
                signature=_signature(artifact),
                pip_requirements=[f"quantfleet=={quantfleet.__version__}"],
                metadata={_DIGEST: digest},
            )
        try:
            self.client.create_registered_model(model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"quantfleet.model": record.name}
        made = self.client.create_model_version(
            model_name, info.model_uri, run_id=run_id, tags=tags, model_id=info.model_id
        )
        self.client.set_model_version_tag(model_name, made.version, _DIGEST, digest)  # last: now it counts
        return int(made.version)

    def move_alias(self, model_name: str, version: int) -> None:
        """Point the alias at a version. Only the promotion log's sync calls this."""
        with self._translated():
            self.client.set_registered_model_alias(model_name, self.config.alias, str(version))

    def alias_version(self, model_name: str, alias: str | None = None) -> int | None:
        """Version under the alias; None when it points nowhere."""
        from mlflow.exceptions import MlflowException

        with self._translated():
            try:
                return int(self.client.get_model_version_by_alias(model_name, alias or self.config.alias).version)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def load(
        self, model_name: str, *, version: int | None = None, alias: str | None = None, chunk_bars: int | None = None
    ) -> tuple[StoredModel, int]:
        """Fetch a version (or the one under an alias), verify it against the registered digest and rebuild it.

        Raises: RegistryError: no such model, version or alias. ChecksumError: what is stored is not what was registered.
        """
        if version is None:
            version = self.alias_version(model_name, alias)
            if version is None:
                raise RegistryError(
                    f"model {model_name!r} has no alias {alias or self.config.alias!r}: {self._instead(model_name)}"
                )
        with tempfile.TemporaryDirectory() as folder:
            with self._translated():
                import mlflow

                known = self._versions(model_name)
                if version not in known:
                    has = f"the newest is {known[-1]}" if known else "nothing is registered under that name yet"
                    raise RegistryError(f"model {model_name!r} has no version {version}: {has}.")
                info = self.client.get_model_version(model_name, str(version))
                digest = info.tags.get(_DIGEST)
                if not digest:
                    raise RegistryError(
                        f"{model_name} version {version} was not registered by Quantfleet: it has no digest."
                    )
                # the files' own address: `models:/` would be looked up on MLflow's global server
                where = self.client.get_model_version_download_uri(model_name, str(version))
                path = mlflow.artifacts.download_artifacts(where, dst_path=folder, tracking_uri=self.uri)
            return read_artifact(_data_folder(Path(path)), digest=digest, chunk_bars=chunk_bars), version

    def _versions(self, model_name: str) -> list[int]:
        return sorted(int(v.version) for v in self.client.search_model_versions(f"name = '{model_name}'"))

    def _instead(self, model_name: str) -> str:
        """What to do while an alias points nowhere."""
        with self._translated():
            versions = self._versions(model_name)
        if not versions:
            return "nothing is registered under that name yet; `quantfleet run RECIPE` does it."
        return f"nothing was promoted to it yet. Name a version: --version N; the newest is {max(versions)}."

    @contextlib.contextmanager
    def _default_server(self) -> Iterator[None]:
        """Make this the server of MLflow's global functions, inside the block only.

        MLflow also writes it into the environment, where it would outlive this registry, be taken for the user's choice by
        the next one, and give its password to every child process.
        """
        import mlflow

        chosen = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(chosen)  # and the variable with it

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what MLflow, its database driver and its artifact store raise into a RegistryError without secrets."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
            return
        except MlflowException as error:
            cause: Exception = error
            problem = f"MLflow refused: {error.message}"
        except SQLAlchemyError as error:  # its own text may hold the address: only the driver's words are shown
            cause = error
            problem = f"the registry's database cannot be used: {getattr(error, 'orig', None) or type(error).__name__}"
        except (OSError, Boto3Error, BotoCoreError, ClientError) as error:
            cause = error
            problem = f"the registry's files or its address cannot be used: {error}"
        text = one_line(without_secrets(problem, self.uri), most=_LONGEST_MESSAGE)
        # a cause that may repeat the password is not chained: tracebacks and logs would show it
        raise RegistryError(text) from (cause if without_secrets(f"{cause}", self.uri) == f"{cause}" else None)

    def fetch_file(self, model_name: str, version: int, name: str, folder: Path) -> Path:
        """Download one of the files logged with a version's run."""
        with self._translated():
            run_id = self.client.get_model_version(model_name, str(version)).run_id
            return Path(self.client.download_artifacts(run_id, name, str(folder)))


def _data_folder(model: Path) -> Path:
    """Where MLflow put the `data_path` folder inside a pyfunc model."""
    found = sorted(model.rglob("checksums.json"))
    if not found:
        raise RegistryError(f"{model} holds no Quantfleet model.")
    return found[0].parent


def _signature(artifact: Path) -> Any:
    import json

    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    description = json.loads((artifact / "model.json").read_text())
    spec = description["spec"]
    horizons = len(spec["horizons_bars"])
    window = TensorSpec(np.dtype(np.float32), (-1, spec["lookback_bars"], len(spec["feature_columns"])), "x_NLF")
    inputs = [window, TensorSpec(np.dtype(str), (-1,), "symbol_N")] if description["per_symbol"] else [window]
    heads = [
        TensorSpec(np.dtype(np.float32), (-1, horizons), name) for name in ("return", "direction_logit", "volatility")
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(heads))
