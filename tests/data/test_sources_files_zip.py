"""ZIP archives of any vendor are files like others: streamed, mapped alike, and refused when they would do harm."""

import datetime as dt
import io
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.fs as pafs
import pytest
from pydantic import SecretStr
from services.s3 import S3Server

from quantfleet.contracts import FetchRequest, Timeframe
from quantfleet.errors import ConfigError, SchemaError, SourceError
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.sources import FilesConfig, zips

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def read(path: Path | str, **settings: Any) -> pl.DataFrame:
    source = FilesConfig(path=str(path), **settings).build()
    return pl.concat(source.fetch(FetchRequest(Timeframe("1d"), lambda symbol: None, NOW)))


def csv_of(bars: pl.DataFrame) -> bytes:
    return bars.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv().encode()


def parquet_of(bars: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    bars.write_parquet(buffer)
    return buffer.getvalue()


def gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


@pytest.fixture
def two(make_bars) -> pl.DataFrame:
    return pl.concat([make_bars(1, 40, symbol="AAA"), make_bars(2, 30, symbol="BBB")])


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("encode", "suffix"), [(csv_of, "csv"), (parquet_of, "parquet"), (lambda b: gzipped(csv_of(b)), "csv.gz")]
)
def test_members_give_the_same_bars_as_files_and_leave_nothing_behind(tmp_path, temporary_folder, two, encode, suffix):
    members = {f"eod/2020/{s}.{suffix}": encode(own) for (s,), own in two.group_by("symbol")}
    path = archive(
        tmp_path / "eod.zip", members | {"README.md": b"hello", "__MACOSX/._AAA.csv": b"junk", "eod/.x.csv": b""}
    )
    assert read(path).equals(two)
    assert read(tmp_path).equals(two)
    assert read(tmp_path / "*.zip").equals(two)
    assert read(tmp_path / "*.zip", format="csv" if "csv" in suffix else "parquet").equals(two)
    assert read(path, symbols=("BBB",)).equals(two.filter(pl.col("symbol") == "BBB"))
    assert list(temporary_folder.iterdir()) == []


def test_a_folder_of_archives_and_files_is_one_table(tmp_path, two):
    archive(tmp_path / "1.zip", {"AAA.csv": csv_of(two.filter(pl.col("symbol") == "AAA").drop("symbol")[:25])})
    archive(tmp_path / "2.zip", {"AAA.csv": csv_of(two.filter(pl.col("symbol") == "AAA").drop("symbol")[25:])})
    (tmp_path / "BBB.csv").write_bytes(csv_of(two.filter(pl.col("symbol") == "BBB").drop("symbol")))
    assert read(tmp_path, symbol="{stem}").equals(two)


def test_what_is_wrong_in_a_member_names_archive_and_member(tmp_path, two):
    path = archive(
        tmp_path / "x.zip", {"a.csv": csv_of(two).replace(b"AAA,2020-01-02T00:00:00Z,", b"AAA,2020-01-02T00:00:00Z,x")}
    )
    with pytest.raises(SchemaError, match=r"x\.zip!/a\.csv cannot be read as csv"):
        read(path)
    mixed = archive(tmp_path / "mixed.zip", {"a.csv": csv_of(two), "b.parquet": parquet_of(two)})
    with pytest.raises(ConfigError, match="holds csv and parquet files"):
        read(mixed)
    assert read(mixed, format="parquet").equals(two)
    with pytest.raises(SourceError, match="holds no"):
        read(archive(tmp_path / "none.zip", {"notes.txt": b"", "inner.zip": b"PK"}))


def flip(path: Path, content: bytes) -> Path:
    """Damage one byte of the packed data."""
    raw = bytearray(content)
    raw[60] ^= 0xFF
    path.write_bytes(raw)
    return path


def test_a_damaged_archive_is_named_and_nothing_is_left(tmp_path, two, temporary_folder):
    whole = archive(tmp_path / "whole.zip", {"a.csv": csv_of(two)}).read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"torn\.zip cannot be read as a ZIP archive"):
        read(tmp_path / "torn.zip")
    with pytest.raises(SourceError, match=r"flipped\.zip cannot be read as a ZIP archive"):
        read(flip(tmp_path / "flipped.zip", whole))
    assert list(temporary_folder.iterdir()) == []


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused_before_it_is_opened(tmp_path, temporary_folder):
    bomb = archive(tmp_path / "bomb.zip", {"a.csv": b"0" * (17 * 2**20)})
    with pytest.raises(SourceError, match=r"'a\.csv' would unpack to 17,825,792 bytes, \d+ times its packed size"):
        read(bomb)
    assert list(temporary_folder.iterdir()) == []


def test_an_archive_that_lies_about_a_size_gives_no_more_than_it_declared(tmp_path, two, temporary_folder):
    content = csv_of(two)
    path = archive(tmp_path / "liar.zip", {"a.csv": content})
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", len(content)), struct.pack("<L", 100)))
    with pytest.raises(SourceError, match=r"liar\.zip cannot be read as a ZIP archive: Bad CRC"):
        read(path)
    assert list(temporary_folder.iterdir()) == []


def test_other_limits_are_said(tmp_path, two, monkeypatch):
    path = archive(tmp_path / "x.zip", {"a.csv": csv_of(two), "b.csv": csv_of(two)})
    monkeypatch.setattr(zips, "_MAX_BYTES", 1000)
    with pytest.raises(SourceError, match="At most 1,000 bytes"):
        read(path)
    monkeypatch.setattr(zips, "_MAX_MEMBERS", 1)
    with pytest.raises(SourceError, match="has 2 members; 1 are allowed"):
        read(path)


def test_names_that_climb_out_of_a_folder_reach_no_file(tmp_path, two, temporary_folder):
    (tmp_path / "secret.csv").write_text("untouched")
    path = archive(tmp_path / "climb.zip", {"a/b/x.csv": csv_of(two)})
    path.write_bytes(path.read_bytes().replace(b"a/b/x.csv", b"../se.csv"))
    with pytest.raises(SourceError, match="holds no"):  # `..` begins with a dot
        read(path)
    assert (tmp_path / "secret.csv").read_text() == "untouched"
    assert list(temporary_folder.iterdir()) == []


def test_twins_and_encrypted_members_are_refused(tmp_path, two):
    path = tmp_path / "twins.zip"
    archive(path, {"a.csv": csv_of(two), "b.csv": csv_of(two)})
    path.write_bytes(path.read_bytes().replace(b"b.csv", b"a.csv"))
    with pytest.raises(SourceError, match=r"two members called 'a\.csv'"):
        read(path)
    locked = archive(tmp_path / "locked.zip", {"a.csv": csv_of(two)})
    raw = bytearray(locked.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(raw)
    with pytest.raises(SourceError, match=r"'a\.csv' is encrypted"):
        read(locked)


def test_unpacking_holds_a_mebibyte_in_memory_whatever_the_size(tmp_path, monkeypatch):
    import random

    content = random.Random(1).randbytes(8 * 2**20)
    path = archive(tmp_path / "big.zip", {"a.csv": content})
    sizes = []
    plain = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: sizes.append(n) or plain(self, n))
    with zips.unpacked(pafs.LocalFileSystem(), f"{path}!/a.csv") as copy:
        assert Path(copy.name).read_bytes() == content
    assert set(sizes) == {2**20}


@pytest.mark.services
def test_prefixes_and_archives_on_s3_are_read_like_folders(s3_server: S3Server, tmp_path, two, temporary_folder):
    bucket = s3_server.create_bucket("vendor-files")
    place = StorageConfig(
        root=f"{bucket}/vendor",
        endpoint_url=s3_server.endpoint_url,
        access_key_id=SecretStr(s3_server.access_key),
        secret_access_key=SecretStr(s3_server.secret_key),
    )
    storage = Storage(place)
    for (symbol,), own in two.group_by("symbol"):
        storage.write_bytes(f"eod/2020/{symbol}.parquet", parquet_of(own))
    storage.write_bytes("zips/eod.zip", archive(tmp_path / "eod.zip", {"a/b.csv": csv_of(two)}).read_bytes())
    for path in ("eod", "eod/2020/*.parquet", "eod/**/???.parquet", "zips", "zips/eod.zip", "zips/*.zip"):
        assert read(path, storage=place).equals(two), path
    with pytest.raises(SourceError, match="there is no file at s3://"):
        read("nothing", storage=place)
    assert list(temporary_folder.iterdir()) == []
