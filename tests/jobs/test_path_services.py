"""The same path with lake, checkpoints and artifacts on a real S3 server, and MLflow on a real PostgreSQL."""

import contextlib
from pathlib import Path

import psycopg2
import pytest
from pydantic import SecretStr
from services.postgres import PostgresServer
from services.s3 import S3Server
from support.recipes import NAIVE, quantfleet, small_recipe, tiny_hybrid, write_recipe

from quantfleet.storage import Storage, StorageConfig

pytestmark = [pytest.mark.services, pytest.mark.ray, pytest.mark.slow]


def credentials(server: S3Server) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server.endpoint_url,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_REGION": server.region,
    }


def test_the_whole_path_runs_on_s3_and_postgresql(
    s3_server: S3Server, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = f"{s3_server.create_bucket('whole-path')}/prefix"
    database = postgres_server.create_database("whole_path")
    recipe = write_recipe(
        tmp_path, small_recipe(root, models=[tiny_hybrid(), {"kind": "xgboost", "rounds": 10}, *NAIVE], name="remote")
    )
    env = credentials(s3_server) | {"QUANTFLEET_REGISTRY__TRACKING_URI": database}

    done = quantfleet("run", str(recipe), cwd=tmp_path, **env)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Decisions of run remote" in done.stdout
    assert f"Report: {root}/runs/remote/report.html" in done.stdout
    for secret in (s3_server.secret_key, postgres_server.password):
        assert secret not in done.stdout + done.stderr
    for name, value in credentials(s3_server).items():
        monkeypatch.setenv(name, value)
    storage = Storage(StorageConfig(root=root))
    assert {"lake", "mlflow", "registry", "runs", "train"} <= set(storage.list())
    for learner in ("hybrid", "xgboost"):
        (place,) = (name for name in storage.list("train") if name.startswith(f"remote-{learner}"))
        assert [name for name in storage.list("train", place) if name.startswith("checkpoint_")], learner
    with contextlib.closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT version, storage_location FROM model_versions WHERE name = 'remote'")
        versions = dict(cursor.fetchall())
    assert sorted(versions) == [1, 2, 3, 4, 5]
    for place in versions.values():
        assert place.startswith(f"{root}/mlflow/")
        assert storage.exists(place.removeprefix(f"{root}/"), "MLmodel")
    assert not (tmp_path / ".quantfleet").exists(), "nothing is kept on the local disk"

    answer = quantfleet("predict", str(recipe), "--version", "1", cwd=tmp_path, **env)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "^GSPC" in answer.stdout


def test_a_wrong_secret_is_one_clear_error_and_nothing_is_written(s3_server: S3Server, tmp_path: Path):
    root = s3_server.create_bucket("wrong-secret")
    recipe = write_recipe(tmp_path, small_recipe(root, models=NAIVE))
    wrong = credentials(s3_server) | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}

    done = quantfleet("ingest", str(recipe), cwd=tmp_path, **wrong)

    assert done.returncode == 1
    assert "StorageError" in done.stderr
    assert "refused the credentials" in done.stderr
    assert "Traceback" not in done.stderr
    assert "not-the-secret" not in done.stdout + done.stderr
    right = StorageConfig(
        root=root,
        endpoint_url=s3_server.endpoint_url,
        region=s3_server.region,
        access_key_id=SecretStr(s3_server.access_key),
        secret_access_key=SecretStr(s3_server.secret_key),
    )
    assert Storage(right).list() == []
