"""Storage: one contract for local folders and S3, whole files or none, versioned tables that lose nothing."""

import os
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pydantic import SecretStr

from quantfleet.errors import (
    ConfigError,
    MissingInputError,
    QuantfleetError,
    StorageError,
)
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet.storage import store as store_module

ON_BOTH = pytest.mark.parametrize("storage", ["local", pytest.param("s3", marks=pytest.mark.services)], indirect=True)


# --- config -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "gs://bucket"}, r"root='gs://bucket': only local folders and s3:// are known, not gs://"),
        ({"root": "file:///srv"}, "not file://"),
        ({"root": "s3://"}, r"names no bucket; write s3://bucket/prefix"),
        (
            {"endpoint_url": "127.0.0.1:9000"},
            r"endpoint_url='127\.0\.0\.1:9000' needs a scheme: http://127\.0\.0\.1:9000",
        ),
        ({"access_key_id": SecretStr("key")}, "access_key_id and secret_access_key go together"),
        ({"secret_access_key": SecretStr("secret")}, "access_key_id and secret_access_key go together"),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_anything_is_opened(options, message):
    with pytest.raises(ConfigError, match=message):
        StorageConfig(**options)


def test_local_addresses_are_absolute_and_s3_addresses_are_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Storage(StorageConfig(root="lake")).uri("a", "b") == f"{tmp_path}/lake/a/b"
    on_s3 = Storage(StorageConfig(root="s3://bucket/prefix/"))
    assert (on_s3.uri("a", "b"), on_s3.path("a", "b")) == ("s3://bucket/prefix/a/b", "bucket/prefix/a/b")


def test_an_absolute_storage_means_the_same_place_in_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Storage(StorageConfig(root="lake")).write_text("a.txt", "here")
    sent = pickle.loads(pickle.dumps(Storage(StorageConfig(root="lake")).absolute()))
    monkeypatch.chdir("/")
    assert sent.read_text("a.txt") == "here"


def test_credentials_come_from_the_environment_where_the_config_has_none(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "env", "AWS_REGION": "mars-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    options = Storage(StorageConfig(root="s3://bucket")).s3_options()
    assert (options["AWS_SECRET_ACCESS_KEY"], options["AWS_REGION"]) == ("env", "mars-1")
    assert (options["AWS_ENDPOINT_URL"], options["AWS_ALLOW_HTTP"]) == ("http://127.0.0.1:1", "true")
    own = StorageConfig(
        root="s3://bucket", access_key_id=SecretStr("x"), secret_access_key=SecretStr("own"), region="venus-1",
        endpoint_url="https://s3.example",
    )  # fmt: skip
    options = Storage(own).s3_options()
    assert (options["AWS_SECRET_ACCESS_KEY"], options["AWS_REGION"]) == ("own", "venus-1")
    assert (options["AWS_ENDPOINT_URL"], options["AWS_ALLOW_HTTP"]) == ("https://s3.example", "false")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "id"}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together"),
        ({"AWS_SECRET_ACCESS_KEY": "x"}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together"),
        ({"AWS_ENDPOINT_URL": "minio:9000"}, "AWS_ENDPOINT_URL='minio:9000' needs a scheme"),
    ],
)
def test_an_environment_that_cannot_work_is_one_config_error(monkeypatch, environment, message):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        Storage(StorageConfig(root="s3://bucket")).check()


def test_local_folders_need_no_s3_options(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    assert Storage(StorageConfig(root="lake")).s3_options() == {}


# --- files ------------------------------------------------------------------------------------------------------------


@ON_BOTH
def test_a_storage_that_can_be_written_passes_its_check_and_keeps_nothing_of_it(storage):
    storage.check()
    assert storage.list() == []


@ON_BOTH
def test_what_is_written_is_read(storage):
    storage.write_bytes("a/b.bin", b"\x00\xff")
    storage.write_text("a/c.txt", "grüße")
    storage.write_parquet("a/d.parquet", pl.DataFrame({"x": [1, 2]}))
    assert storage.read_bytes("a", "b.bin") == b"\x00\xff"
    assert storage.read_text("a/c.txt") == "grüße"
    assert storage.read_parquet("a/d.parquet")["x"].to_list() == [1, 2]


@ON_BOTH
def test_writing_again_replaces(storage):
    storage.write_text("a.txt", "a long first text")
    storage.write_text("a.txt", "short")
    assert storage.read_text("a.txt") == "short"


@ON_BOTH
def test_existence_and_listing_tell_what_is_there(storage):
    storage.write_text("runs/two/x.txt", "")
    storage.write_text("runs/one.txt", "")
    assert storage.list("runs") == ["one.txt", "two"]
    assert storage.list("nowhere") == []
    found = [storage.exists(*p) for p in (("runs",), ("runs", "two", "x.txt"), ("runs", "three"), ("runs/one",))]
    assert found == [True, True, False, False]


@ON_BOTH
def test_deleting_takes_a_file_or_a_whole_folder_and_does_not_mind_nothing(storage):
    for name in ("a/one.txt", "a/b/two.txt", "a/b/c/three.txt", "keep.txt"):
        storage.write_text(name, "x")
    storage.delete("a", "one.txt")
    assert storage.list("a") == ["b"]
    storage.delete("a")
    storage.delete("a")
    assert storage.list() == ["keep.txt"]


@ON_BOTH
def test_reading_what_is_not_there_is_a_missing_input_that_names_it(storage):
    with pytest.raises(MissingInputError, match=r"nowhere/x\.txt does not exist") as caught:
        storage.read_text("nowhere", "x.txt")
    assert caught.value.fields["uri"] == storage.uri("nowhere", "x.txt")


@ON_BOTH
def test_a_folder_goes_up_and_comes_down_as_it_was(storage, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    (source / "a.bin").write_bytes(b"\x00" * 100_000)
    (source / "inner" / "b.txt").write_text("b")
    storage.upload(source, "models/1")
    storage.download("models/1", target)
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == {"a.bin": b"\x00" * 100_000, "inner/b.txt": b"b"}


def test_a_relative_local_folder_can_be_uploaded(local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model", "w.txt").write_text("w")
    local.upload(Path("model"), "up")
    local.download("up", Path("down"))
    assert Path("down", "w.txt").read_text() == "w"


@ON_BOTH
def test_uploading_what_is_no_folder_names_it_and_writes_nothing(storage, tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("absent", "file"):
        with pytest.raises(StorageError, match=rf"{tmp_path}/{name} is not a folder"):
            storage.upload(tmp_path / name, "up")
    assert storage.list() == []


@ON_BOTH
def test_downloading_what_is_not_there_is_a_missing_input(storage, tmp_path):
    with pytest.raises(MissingInputError, match="models/9 does not exist"):
        storage.download("models/9", tmp_path / "target")


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError, MemoryError])
def test_a_write_that_is_interrupted_leaves_the_old_content_and_no_litter(local, monkeypatch, moment, interruption):
    local.write_text("state.json", "old")

    def stop(*_args: object, **_options: object) -> None:
        raise interruption("stopped")

    if moment == "write":  # some bytes get through first
        original = Path.open

        def open_and_stop(path: Path, *args: object, **options: object) -> object:
            file = original(path, *args, **options)
            file.write(b"ha")
            file.close()
            return stop()

        monkeypatch.setattr(Path, "open", open_and_stop)
    elif moment == "fsync":
        monkeypatch.setattr(os, "fsync", stop)
    else:
        monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(StorageError if interruption is OSError else interruption):
        local.write_text("state.json", "new, and longer")
    monkeypatch.undo()
    assert local.read_text("state.json") == "old"
    assert local.list() == ["state.json"]


def test_readers_never_see_a_part_of_a_file(local):
    texts = {letter * 200_000 for letter in "abc"}
    local.write_text("x", min(texts))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for text in texts:
                local.write_text("x", text)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(write)
        seen = {local.read_text("x") for _ in range(100)}
        stop.set()
    assert seen <= texts
    assert local.list() == ["x"]


def test_a_root_below_a_regular_file_is_one_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    broken = Storage(StorageConfig(root=str(tmp_path / "file" / "root")))
    with pytest.raises(StorageError, match=rf"^{tmp_path}/file/root/\.probe-\w+ cannot be read or written: ") as caught:
        broken.check()
    assert type(caught.value) is StorageError
    with pytest.raises(StorageError, match="cannot be read or written"):
        broken.read_text("x")
    assert not broken.exists("x")


def test_a_path_with_403_in_it_is_not_blamed_on_credentials(tmp_path):
    (tmp_path / "403 Forbidden").write_text("x")
    with pytest.raises(StorageError) as caught:
        Storage(StorageConfig(root=str(tmp_path / "403 Forbidden" / "AccessDenied"))).check()
    assert "credentials" not in str(caught.value)


# --- S3 that refuses or does not answer -------------------------------------------------------------------------------


def operations(storage: Storage) -> dict[str, Callable[[], object]]:
    table = LakeTable(storage, "t")
    return {
        "check": storage.check,
        "read a file": lambda: storage.read_text("x"),
        "list": lambda: storage.list("x"),
        "open a table": table.latest,
        "write a table": lambda: table.append(pa.table({"a": [1]})),
    }


def chained(error: BaseException | None) -> str:
    shown = ""
    while error is not None:
        shown += "".join(traceback.format_exception(error)) + repr(error) + repr(getattr(error, "fields", ""))
        error = error.__cause__ or error.__context__
    return shown


@pytest.mark.services
def test_a_wrong_secret_is_one_error_that_names_the_credentials_and_not_the_secret(s3_config):
    wrong = "Wr0ngS3cretThatMustNotShow"
    refused = Storage(replace(s3_config, secret_access_key=SecretStr(wrong)))
    for name, operation in operations(refused).items():
        with pytest.raises(StorageError) as caught:
            operation()
        assert "the storage server refused the credentials. Check storage.access_key_id and" in str(caught.value), name
        assert caught.value.fields["uri"].startswith(s3_config.root)
        assert wrong not in chained(caught.value)
        assert wrong not in repr(refused)


@pytest.mark.services
def test_an_unknown_access_key_names_the_credentials(s3_config):
    with pytest.raises(StorageError, match="refused the credentials"):
        Storage(replace(s3_config, access_key_id=SecretStr("nobody"))).check()


@pytest.mark.services
def test_a_bucket_that_is_not_there_is_named_so(s3_config):
    lost = Storage(replace(s3_config, root="s3://no-such-bucket/x"))
    for operation in (lost.check, LakeTable(lost, "t").latest):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/x.*: there is no such bucket\. Create it"):
            operation()


@pytest.mark.services
def test_a_trailing_slash_after_the_endpoint_does_no_harm(s3_config):
    storage = Storage(replace(s3_config, endpoint_url=f"{s3_config.endpoint_url}/", root=f"{s3_config.root}/"))
    storage.check()
    assert LakeTable(storage, "t").append(pa.table({"a": [1]})).version == 0
    assert storage.list() == ["t"]


def s3_at(port: int) -> Storage:
    config = StorageConfig(
        root="s3://bucket/root",
        endpoint_url=f"http://127.0.0.1:{port}",
        region="us-east-1",
        access_key_id=SecretStr("id"),
        secret_access_key=SecretStr("s3cr3t-value"),
    )
    return Storage(config)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("name", ["check", "open a table"])
def test_an_endpoint_where_nobody_listens_is_one_error_within_seconds(name):
    began = time.monotonic()
    with pytest.raises(
        StorageError, match=r"the storage server cannot be reached\. Check storage\.endpoint_url"
    ) as caught:
        operations(s3_at(closed_port()))[name]()
    assert time.monotonic() - began < 30
    assert type(caught.value) is StorageError
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "s3cr3t-value" not in chained(caught.value)


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", ["check", "open a table"])
def test_a_server_that_never_answers_is_given_up_after_bounded_tries(silent_server, monkeypatch, name):
    for setting, value in {
        "_CONNECT_TIMEOUT_S": 1,
        "_SILENCE_TIMEOUT_S": 1,
        "_REQUEST_TIMEOUT_S": 1,
        "_RETRY_TIMEOUT_S": 2,
    }.items():
        assert getattr(store_module, setting) <= 60  # the real ones, too, end within minutes
        monkeypatch.setattr(store_module, setting, value)
    began = time.monotonic()
    with pytest.raises(StorageError, match="the storage server cannot be reached"):
        operations(s3_at(silent_server))[name]()
    assert time.monotonic() - began < 10


def test_every_storage_error_is_in_the_one_tree_and_travels(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(QuantfleetError) as caught:
        Storage(StorageConfig(root=str(tmp_path / "file" / "x"))).check()
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (type(sent), str(sent), sent.fields) == (StorageError, str(caught.value), caught.value.fields)
