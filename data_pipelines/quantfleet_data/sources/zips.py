"""Members of ZIP archives as files: listed from the archive's directory, unpacked one at a time, within stated limits.

An archive of a vendor is somebody else's data, so it is never unpacked under the names it gives, never whole, and never
beyond what it declared: at most 100,000 members per archive, 32 GiB per member, and 200 times its packed size for members
above 16 MiB (bars pack 3 to 30 times). Archives in archives are not opened.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

import pyarrow.fs as pafs

from quantfleet.errors import SourceError
from quantfleet.storage.store import translated_errors

__all__ = ["is_archive", "is_member", "list_members", "unpacked"]

_INSIDE = "!/"
"""Between archive and member: a path `eod/2024.zip!/AAA.csv`."""
_MAX_MEMBERS = 100_000
_MAX_BYTES = 32 * 2**30
_MAX_RATIO = 200
_RATIO_FROM_BYTES = 16 * 2**20
_COPY_BYTES = 2**20
_ENCRYPTED = 0x1


def is_archive(file: str) -> bool:
    return file.lower().endswith(".zip")


def is_member(file: str) -> bool:
    return _INSIDE in file and is_archive(file.partition(_INSIDE)[0])


def list_members(filesystem: pafs.FileSystem, archive: str) -> list[str]:
    """Paths of an archive's files, sorted by name; those whose name or folder begins with `_` or `.` are left out.

    Raises: SourceError: it is no ZIP, or breaks a limit of this module.
    """
    with _opened(filesystem, archive) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
    if len(members) > _MAX_MEMBERS:
        raise SourceError(f"{archive} has {len(members)} members; {_MAX_MEMBERS} are allowed. Split it.")
    seen = set()
    for member in members:
        if member.filename in seen:
            raise SourceError(f"{archive} has two members called {member.filename!r}; which one counts cannot be told.")
        seen.add(member.filename)
        ratio = member.file_size / max(member.compress_size, 1)
        if member.file_size > _MAX_BYTES or (member.file_size > _RATIO_FROM_BYTES and ratio > _MAX_RATIO):
            raise SourceError(
                f"{archive}: {member.filename!r} would unpack to {member.file_size:,} bytes, {ratio:.0f} times its packed "
                f"size. At most {_MAX_BYTES:,} bytes and {_MAX_RATIO} times are allowed, since more is how archives do harm. "
                "Unpack it yourself if you trust it."
            )
        if member.flag_bits & _ENCRYPTED:
            raise SourceError(f"{archive}: {member.filename!r} is encrypted; unpack it yourself.")
    shown = [name for name in seen if not any(part.startswith(("_", ".")) for part in name.split("/"))]
    return sorted(f"{archive}{_INSIDE}{name}" for name in shown)


def unpacked(filesystem: pafs.FileSystem, member: str) -> IO[bytes]:
    """A copy of one member in the folder for temporary files (TMPDIR), deleted when it is closed or forgotten.

    Its name is ours, with the member's suffixes. Memory: one mebibyte.

    Raises: SourceError: the member is damaged. StorageError: the disk is full.
    """
    archive, _, name = member.partition(_INSIDE)
    base = PurePosixPath(name).name
    suffix = "".join(
        PurePosixPath(base).suffixes[-2:] if base.lower().endswith(".gz") else PurePosixPath(base).suffixes[-1:]
    )
    with _opened(filesystem, archive) as opened:
        copy = tempfile.NamedTemporaryFile(prefix="quantfleet-", suffix=suffix)  # noqa: SIM115 - the caller closes it
        try:
            with opened.open(name) as packed:
                shutil.copyfileobj(packed, copy, _COPY_BYTES)
            copy.flush()
        except BaseException:
            copy.close()
            raise
    return copy


@contextlib.contextmanager
def _opened(filesystem: pafs.FileSystem, archive: str) -> Iterator[zipfile.ZipFile]:
    with translated_errors(archive):
        try:
            # Buffered: the reader asks for a few kilobytes at a time, and on S3 each of these would be a request.
            with (
                filesystem.open_input_file(archive) as file,
                io.BufferedReader(file, _COPY_BYTES) as buffered,
                zipfile.ZipFile(buffered) as opened,
            ):
                yield opened
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError) as error:
            raise SourceError(f"{archive} cannot be read as a ZIP archive: {error}", archive=archive) from error
