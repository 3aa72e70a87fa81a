"""The one place that opens local and s3:// paths: for files, Delta tables, Ray Data and Ray Train."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from quantfleet.errors import ConfigError, MissingInputError, StorageError
from quantfleet.storage.config import StorageConfig

__all__ = ["Storage", "one_line", "s3_environment", "translated_errors"]

# What pyarrow's and delta-rs's S3 clients say, each in its own words
_CREDENTIALS = re.compile(
    r"ACCESS_DENIED|AccessDenied|403 Forbidden|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|INVALID_ACCESS_KEY_ID"
    r"|InvalidAccessKeyId|EXPIRED_TOKEN|ExpiredToken|INVALID_TOKEN|InvalidToken|MISSING_AUTHENTICATION_TOKEN"
)
_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket")
_NETWORK = re.compile(r"NETWORK_CONNECTION|error sending request|timed out|[Tt]imeout|curlCode|connect error")
# A server that accepts and then says nothing costs about a minute a call; the libraries' own defaults make it three.
_CONNECT_TIMEOUT_S, _SILENCE_TIMEOUT_S, _REQUEST_TIMEOUT_S, _RETRY_TIMEOUT_S = 5, 20, 30, 40


def s3_environment() -> dict[str, str]:
    """Environment every process that talks to S3 needs: servers other than AWS refuse the SDK's new trailing
    checksums.
    """
    return {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}


for _name, _value in s3_environment().items():
    os.environ.setdefault(_name, _value)  # read by the AWS SDK inside pyarrow when it first connects


@contextlib.contextmanager
def translated_errors(uri: str) -> Iterator[None]:
    """Turn what file systems and Delta raise into one StorageError that names the path and the likely cause."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingInputError(f"{uri} does not exist.", uri=uri) from error
    except OSError as error:
        raise StorageError(_diagnosis(uri, str(error)), uri=uri) from error


def _diagnosis(uri: str, text: str) -> str:
    if uri.startswith("s3://"):
        if _CREDENTIALS.search(text):
            return (
                f"{uri}: the storage server refused the credentials. Check storage.access_key_id and "
                "storage.secret_access_key (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), and what they may do."
            )
        if _BUCKET.search(text):
            return f"{uri}: there is no such bucket. Create it, or correct storage.root."
        if _NETWORK.search(text):
            return (
                f"{uri}: the storage server cannot be reached. Check storage.endpoint_url (or AWS_ENDPOINT_URL) and the "
                f"network: {one_line(text)}"
            )
    return f"{uri} cannot be read or written: {one_line(text)}"


def one_line(text: str, *, most: int = 300) -> str:
    """A library's message without its colours, arrows and line breaks, cut to `most` characters."""
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m|↳", " ", text).split())
    return plain if len(plain) <= most else f"{plain[:most]}..."


@dataclass(frozen=True)
class Storage:
    """Files under one root. Cheap to pickle; workers open their own connections. Paths are relative to the root, with
    slashes.
    """

    config: StorageConfig

    def uri(self, *parts: str) -> str:
        """Absolute path or s3:// address of a path under the root."""
        if self.config.is_s3:
            return "/".join([self.config.root.rstrip("/"), *parts])
        return str(Path(self.config.root).expanduser().resolve().joinpath(*parts))

    def absolute(self) -> Storage:
        """The same storage with an absolute root: what goes to processes with another working directory."""
        return Storage(replace(self.config, root=self.uri()))

    @property
    def filesystem(self) -> pafs.FileSystem:
        return _filesystem(self)

    def path(self, *parts: str) -> str:
        """The path `filesystem` understands: absolute and local, or bucket/prefix."""
        return self.uri(*parts).removeprefix("s3://")

    def s3_options(self) -> dict[str, str]:
        """Options of the Rust object store under Delta and polars; empty for local folders.

        Raises: ConfigError: AWS_* in the environment does not fit together.
        """
        if not self.config.is_s3:
            return {}
        config, env = self.config, os.environ
        options = {
            "AWS_REGION": config.region or env.get("AWS_REGION") or "us-east-1",
            "AWS_CONDITIONAL_PUT": "etag",
            "connect_timeout": f"{_CONNECT_TIMEOUT_S}s",
            "timeout": f"{_REQUEST_TIMEOUT_S}s",
            "retry_timeout": f"{_RETRY_TIMEOUT_S}s",
        }
        endpoint = (config.endpoint_url or env.get("AWS_ENDPOINT_URL") or "").rstrip("/")
        if endpoint:
            if not endpoint.startswith(("http://", "https://")):
                raise ConfigError(
                    f"AWS_ENDPOINT_URL={endpoint!r} needs a scheme: http://{endpoint} or https://{endpoint}."
                )
            options["AWS_ENDPOINT_URL"] = endpoint
            options["AWS_ALLOW_HTTP"] = str(endpoint.startswith("http://")).lower()
        if config.access_key_id is not None and config.secret_access_key is not None:
            options["AWS_ACCESS_KEY_ID"] = config.access_key_id.get_secret_value()
            options["AWS_SECRET_ACCESS_KEY"] = config.secret_access_key.get_secret_value()
        else:
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            found = {name: env[name] for name in names if env.get(name)}
            if ("AWS_ACCESS_KEY_ID" in found) != ("AWS_SECRET_ACCESS_KEY" in found):
                raise ConfigError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together; one of them is not set.")
            options.update(found)
        return options

    def check(self) -> None:
        """Prove that the root can be listed and written, before any work starts.

        Raises: StorageError: it cannot; says whether credentials, network or permissions are to blame.
        """
        self.list()  # first: a server that says nothing is given up sooner by a read than by a write
        probe = f".probe-{uuid.uuid4().hex}"
        self.write_bytes(probe, b"quantfleet")
        self.delete(probe)

    def exists(self, *parts: str) -> bool:
        uri = self.uri(*parts)
        with translated_errors(uri):
            return bool(self.filesystem.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound)

    def list(self, *parts: str) -> list[str]:
        """Names directly under a folder, sorted; empty when it does not exist."""
        with translated_errors(self.uri(*parts)):
            selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
            return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def read_bytes(self, *parts: str) -> bytes:
        with translated_errors(self.uri(*parts)), self.filesystem.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read())

    def read_text(self, *parts: str) -> str:
        return self.read_bytes(*parts).decode()

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Write a file whole or not at all: readers never see a part of it."""
        with translated_errors(self.uri(relative)):
            if self.config.is_s3:  # an object appears when its upload completes
                with self.filesystem.open_output_stream(self.path(relative)) as stream:
                    stream.write(content)
                return
            target = Path(self.uri(relative))
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
            try:
                with part.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def write_text(self, relative: str, text: str) -> None:
        self.write_bytes(relative, text.encode())

    def delete(self, *parts: str) -> None:
        """Delete a file or a folder with all it holds; nothing happens when it is not there."""
        with translated_errors(self.uri(*parts)):
            kind = self.filesystem.get_file_info(self.path(*parts)).type
            if kind == pafs.FileType.Directory:
                self.filesystem.delete_dir(self.path(*parts))
            elif kind == pafs.FileType.File:
                self.filesystem.delete_file(self.path(*parts))

    def read_parquet(self, *parts: str) -> pl.DataFrame:
        return pl.read_parquet(BytesIO(self.read_bytes(*parts)))

    def write_parquet(self, relative: str, frame: pl.DataFrame) -> None:
        buffer = BytesIO()
        frame.write_parquet(buffer, compression="zstd")
        self.write_bytes(relative, buffer.getvalue())

    def write_row_groups(self, relative: str, groups: Iterable[pa.Table]) -> None:
        """Write a Parquet file a row group at a time, so that no more than one is in memory. Raises: StorageError."""
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            local, writer = Path(folder) / "rows.parquet", None
            for group in groups:
                writer = writer or stack.enter_context(pq.ParquetWriter(local, group.schema, compression="zstd"))
                writer.write_table(group, row_group_size=group.num_rows)
            stack.close()
            with translated_errors(self.uri(relative)):
                self.filesystem.create_dir(self.path(relative).rpartition("/")[0], recursive=True)
                pafs.copy_files(
                    str(local),
                    self.path(relative),
                    source_filesystem=pafs.LocalFileSystem(),
                    destination_filesystem=self.filesystem,
                )

    def read_row_groups(self, *parts: str) -> Iterator[pl.DataFrame]:
        """A Parquet file, one row group after the other."""
        with translated_errors(self.uri(*parts)), self.filesystem.open_input_file(self.path(*parts)) as stream:
            file = pq.ParquetFile(stream)
            for number in range(file.num_row_groups):
                frame = pl.from_arrow(file.read_row_group(number))
                assert isinstance(frame, pl.DataFrame)
                yield frame

    def upload(self, local: Path, relative: str) -> None:
        """Copy a local folder's files under `relative`. Raises: StorageError: there is no such folder."""
        if not local.is_dir():
            raise StorageError(
                f"{local} is not a folder, so it cannot be copied to {self.uri(relative)}.", uri=str(local)
            )
        with translated_errors(self.uri(relative)):
            if not self.config.is_s3:
                Path(self.uri(relative)).mkdir(parents=True, exist_ok=True)
            pafs.copy_files(
                str(local.resolve()),
                self.path(relative),
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=self.filesystem,
            )

    def download(self, relative: str, local: Path) -> None:
        """Copy the files under `relative` into a local folder."""
        with translated_errors(self.uri(relative)):
            local.mkdir(parents=True, exist_ok=True)
            pafs.copy_files(
                self.path(relative),
                str(local.resolve()),
                source_filesystem=self.filesystem,
                destination_filesystem=pafs.LocalFileSystem(),
            )


@functools.lru_cache(maxsize=8)
def _connect(root_is_s3: bool, options: tuple[tuple[str, str], ...]) -> pafs.FileSystem:
    if not root_is_s3:
        return pafs.LocalFileSystem()
    settings = dict(options)
    arguments: dict[str, Any] = {
        "region": settings["AWS_REGION"],
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "request_timeout": _SILENCE_TIMEOUT_S,  # without a byte, not for the whole request
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=3),
        # A small file is one PUT, not a multipart upload of three requests, whose last a server that was away in the middle
        # refuses to repeat for minutes ("completion is already in progress", Ceph)
        "allow_delayed_open": True,
    }
    if "AWS_ENDPOINT_URL" in settings:
        scheme, _, host = settings["AWS_ENDPOINT_URL"].partition("://")
        arguments.update(endpoint_override=host, scheme=scheme)
    if "AWS_ACCESS_KEY_ID" in settings:
        arguments.update(
            access_key=settings["AWS_ACCESS_KEY_ID"],
            secret_key=settings["AWS_SECRET_ACCESS_KEY"],
            session_token=settings.get("AWS_SESSION_TOKEN"),
        )
    return pafs.S3FileSystem(**arguments)


def _filesystem(storage: Storage) -> pafs.FileSystem:
    return _connect(storage.config.is_s3, tuple(sorted(storage.s3_options().items())))
