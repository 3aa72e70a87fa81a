"""The registry's address: which one counts, what stands in for what is installed, and what is said when it cannot be used."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from pydantic import SecretStr
from services.postgres import PostgresServer
from support.stored_models import open_registry

from quantfleet.errors import RegistryError
from quantfleet.registry.address import reach_database, without_secrets


@pytest.fixture(autouse=True)
def no_inherited_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_without_an_address_the_registry_is_a_sqlite_file_in_the_storage_root(root: Path):
    assert open_registry(root).uri == f"sqlite:///{root}/mlflow.db"


def test_the_recipe_s_address_goes_before_the_environment_and_an_empty_variable_counts_as_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert open_registry(root, tracking_uri=SecretStr("http://from-recipe:5000")).uri == "http://from-recipe:5000"
    assert open_registry(root).uri == "http://from-environment:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert open_registry(root).uri == f"sqlite:///{root}/mlflow.db"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_an_address_of_postgresql_names_the_driver_that_is_installed(scheme: str, root: Path):
    registry = open_registry(root, tracking_uri=SecretStr(f"{scheme}://user:pw@host:5432/mlflow"))
    assert registry.uri == "postgresql+psycopg2://user:pw@host:5432/mlflow"


SECRET = "correct-horse"
UNREACHABLE = {
    "server": f"http://user:{SECRET}@127.0.0.1:1",
    "database": f"postgresql://user:{SECRET}@127.0.0.1:1/mlflow",
    "database, old name": f"postgres://user:{SECRET}@127.0.0.1:1/mlflow",
    "password with an @": f"postgresql://user:{SECRET[:7]}@{SECRET[7:]}@127.0.0.1:1/mlflow",
    "password in the query": f"postgresql://127.0.0.1:1/mlflow?user=user&password={SECRET}",
    "unknown kind": f"oracle://user:{SECRET}@127.0.0.1/mlflow",
    "no driver": f"mysql://user:{SECRET}@127.0.0.1/mlflow",
    "no port": f"postgresql://user:{SECRET}@127.0.0.1:port/mlflow",
    "no host": f"postgresql://user:{SECRET}",
}


@pytest.mark.parametrize("uri", UNREACHABLE.values(), ids=UNREACHABLE.keys())
def test_a_registry_that_cannot_be_used_never_tells_its_password(uri: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("quantfleet.registry.address._PAUSES_S", ())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(RegistryError) as caught:
        open_registry(root, tracking_uri=SecretStr(uri)).check()

    assert "Check registry.tracking_uri (or MLFLOW_TRACKING_URI)" in caught.value.message
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(part in shown for part in (SECRET, SECRET[:7], SECRET[7:]))


@pytest.mark.parametrize("kind", ["server", "database"])
def test_a_registry_that_refuses_connections_is_given_up_after_seconds(kind: str, root: Path):
    began = time.monotonic()
    with pytest.raises(RegistryError, match="Connection refused"):
        open_registry(root, tracking_uri=SecretStr(UNREACHABLE[kind])).check()
    assert time.monotonic() - began < 15, "it takes 4 s; left to itself MLflow tries a database for 100 s"


def test_a_database_that_is_still_starting_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    attempts: list[str] = []
    connect = sqlalchemy.Engine.connect

    def starting(engine: sqlalchemy.Engine) -> sqlalchemy.Connection:
        attempts.append(str(engine.url))
        if len(attempts) == 1:
            raise sqlalchemy.exc.OperationalError("", {}, Exception("the database system is starting up"))
        return connect(engine)

    monkeypatch.setattr("quantfleet.registry.address._PAUSES_S", (0.01,))
    monkeypatch.setattr(sqlalchemy.Engine, "connect", starting)

    reach_database(f"sqlite:///{tmp_path}/mlflow.db")

    assert len(attempts) == 2


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("this is not SQLite, it only has its name " * 50)
    with pytest.raises(RegistryError, match="the registry's database cannot be used: file is not a database"):
        open_registry(tmp_path).check()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match=r"the registry's files .* File exists: .*/file'"):
        open_registry(tmp_path, tracking_uri=SecretStr(f"sqlite:///{tmp_path}/file/mlflow.db")).check()


def test_the_folder_of_a_new_sqlite_registry_is_made(tmp_path: Path):
    reach_database(f"sqlite:///{tmp_path}/deep/down/mlflow.db")
    assert (tmp_path / "deep" / "down").is_dir()


@pytest.mark.services
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.uri.replace(s.password, "not-the-password"), "password authentication failed"),
        (lambda s: s.uri_of("no_such_database"), 'database "no_such_database" does not exist'),
    ],
    ids=["wrong password", "unknown database"],
)
def test_a_real_postgresql_that_refuses_is_quoted_without_the_password(
    change: Callable[[PostgresServer], str],
    said: str,
    postgres_server: PostgresServer,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("quantfleet.registry.address._PAUSES_S", ())

    with pytest.raises(RegistryError, match=said) as caught:
        open_registry(root, tracking_uri=SecretStr(change(postgres_server))).check()

    shown = "".join(traceback.format_exception(caught.value))
    assert postgres_server.password not in shown
    assert "not-the-password" not in shown


@pytest.mark.services
def test_a_real_postgresql_is_reached_by_the_address_that_libpq_writes(postgres_server: PostgresServer, root: Path):
    registry = open_registry(root, tracking_uri=SecretStr(postgres_server.create_database("registry")))
    assert registry.client.get_experiment(registry.experiment("quickstart")).name == "quickstart"


@pytest.mark.parametrize(
    ("text", "uri", "shown"),
    [
        ("at http://u:secret@h:1/api", "http://u:secret@h:1", "at http://***@h:1/api"),
        ("user u of http://h:1", "http://u:secret@h:1", "user u of http://h:1"),
        ("host s%40cret, s@cret, cret@h", "http://u:s%40cret@h", "host ***, ***, ***@h"),
        ("a:b@h is abc", "http://a:b@h", "***@h is abc"),
        ("token=secret1 sslmode=require", "http://h?token=secret1&sslmode=require", "token=*** sslmode=require"),
        ("nothing to hide at http://h:1", "http://h:1", "nothing to hide at http://h:1"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_passwords_are_masked_and_the_rest_is_left_alone(text: str, uri: str, shown: str):
    assert without_secrets(text, uri) == shown
