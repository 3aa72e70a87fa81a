"""Fixtures of the engine's tests: a place to store things, and recipes to load."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from services.s3 import S3Server
from support.cars import Car

from quantfleet.config import load_config
from quantfleet.errors import QuantfleetError
from quantfleet.storage import Storage, StorageConfig

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it when it is imported


@pytest.fixture
def s3_config(s3_server: S3Server) -> StorageConfig:
    """A prefix of its own in a bucket of the session's server."""
    bucket = s3_server.create_bucket("storage-tests")
    return StorageConfig(
        root=f"{bucket}/{uuid.uuid4().hex}",
        endpoint_url=s3_server.endpoint_url,
        region=s3_server.region,
        access_key_id=SecretStr(s3_server.access_key),
        secret_access_key=SecretStr(s3_server.secret_key),
    )


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path / "root")))


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Storage:
    """Local or S3, as the test's parameter says."""
    if request.param == "local":
        return request.getfixturevalue("local")
    return Storage(request.getfixturevalue("s3_config"))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(recipe: Callable[[str], Path]) -> Callable[..., Any]:
    """load(text, env, *overrides): the resolved Car."""

    def run(text: str | None = None, env: dict[str, str] | None = None, *overrides: str) -> Any:
        file = None if text is None else recipe(text)
        return load_config(Car, file=file, environ=env or {}, overrides=overrides)

    return run


@pytest.fixture
def refusal(load: Callable[..., Any]) -> Callable[..., str]:
    """refusal(text, env, *overrides): the message of the error that loading them raises."""

    def run(*args: Any) -> str:
        with pytest.raises(QuantfleetError) as caught:
            load(*args)
        return str(caught.value)

    return run
