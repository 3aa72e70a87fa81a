"""Where the files of a file source lie: a file, a folder, a glob, a ZIP archive or a Delta table; local or on S3."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.fs as pafs

from quantfleet.errors import ConfigError, SourceError
from quantfleet.storage import Storage, StorageConfig
from quantfleet.storage.store import translated_errors
from quantfleet_data.sources.zips import is_archive, is_member, list_members

__all__ = ["Format", "Layout", "find_files"]

Format = Literal["parquet", "csv", "delta"]
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv"}
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Layout:
    """Files of one format. `files` are paths of `storage.filesystem`, sorted by name; a Delta table is one of them, and so
    is each member of a ZIP archive, as archive.zip!/member."""

    storage: Storage
    format: Format
    folder: str
    """Below this, folders named column=value are partitions."""
    files: tuple[str, ...]


def find_files(path: str, storage: StorageConfig | None, wanted: Literal["auto"] | Format) -> Layout:
    """List what a path stands for.

    Args:
        path: local, s3://bucket/..., or relative to `storage.root` when `storage` is given. `*`, `?` and `[...]` match
            within a name, `**` over folders; a path that exists is taken literally. Names that start with `_` or `.`
            are left out of folders and globs. A .zip stands for its members, which are told by their suffix.
        wanted: "auto" goes by `_delta_log` and by suffix: .parquet, .pq, .csv, .csv.gz, inside .zip as well.
    Raises:
        ConfigError: the path or its format cannot be told.
        SourceError: there is nothing.
        StorageError: the place cannot be reached, or the credentials are refused.
    """
    place, relative = _open_place(path, storage)
    below = (relative,) if relative else ()
    root, shown = place.path(*below).rstrip("/"), place.uri(*below)
    filesystem = place.filesystem
    with translated_errors(shown):
        kind = filesystem.get_file_info(root).type
        if kind == pafs.FileType.Directory:
            has_log = filesystem.get_file_info(f"{root}/_delta_log").type == pafs.FileType.Directory
            if wanted == "delta" or (wanted == "auto" and has_log):
                return Layout(place, "delta", root, (root,))
            return _of_suffix(place, root, _expanded(filesystem, _walk(filesystem, root)), shown, wanted)
    if kind == pafs.FileType.File and wanted != "delta":
        if is_archive(root):
            return _of_suffix(place, posixpath.dirname(root), list_members(filesystem, root), shown, wanted)
        return Layout(place, _format(root, shown) if wanted == "auto" else wanted, posixpath.dirname(root), (root,))
    if kind == pafs.FileType.NotFound and _WILDCARD.search(relative) and wanted != "delta":
        folder = posixpath.dirname(root[: len(root) - len(relative) + _first_wildcard(relative)])
        with translated_errors(shown):
            found = _walk(filesystem, folder)
        matching = _expanded(filesystem, [file for file in found if _glob(root).fullmatch(file)])
        if wanted == "auto" or any(is_member(file) for file in matching):
            return _of_suffix(place, folder, matching, shown, wanted)
        if matching:
            return Layout(place, wanted, folder, tuple(matching))
    raise SourceError(
        f"there is no {'file' if wanted == 'auto' else wanted} at {shown}. Check `path`, and `storage` when it is "
        "given.",
        path=shown,
    )


def _open_place(path: str, config: StorageConfig | None) -> tuple[Storage, str]:
    """The storage a path belongs to, and the path below its root."""
    if config is not None:
        relative = posixpath.normpath(path)
        if "://" in path or relative.startswith(("/", "~", "..")):
            raise ConfigError(f"path={path!r} must lie below storage.root={config.root!r}, since `storage` is given.")
        return Storage(config).absolute(), "" if relative == "." else relative
    scheme, separator, rest = path.partition("://")
    if separator and scheme != "s3":
        raise ConfigError(f"path={path!r}: only local paths and s3:// are known, not {scheme}://.")
    if separator:
        bucket, _, key = rest.partition("/")
        return Storage(StorageConfig(root=f"s3://{bucket}")), key.strip("/")
    absolute = Path(path).expanduser().absolute()
    return Storage(StorageConfig(root=absolute.anchor)), absolute.relative_to(absolute.anchor).as_posix()


def _walk(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    found = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    files = [info.path for info in found if info.type == pafs.FileType.File]
    hidden = re.compile(r"(^|/)[_.]")
    return sorted(file for file in files if not hidden.search(file.removeprefix(folder).lstrip("/")))


def _expanded(filesystem: pafs.FileSystem, files: list[str]) -> list[str]:
    """Files, with the members of ZIP archives in their place."""
    return [name for file in files for name in (list_members(filesystem, file) if is_archive(file) else [file])]


def _of_suffix(place: Storage, folder: str, files: list[str], path: str, wanted: Literal["auto"] | Format) -> Layout:
    formats = {file: known for file in files if (known := _suffix_format(file)) is not None}
    kinds = set(formats.values()) if wanted == "auto" else {wanted}
    if len(kinds) > 1:
        raise ConfigError(f"{path} holds {' and '.join(sorted(kinds))} files; set `format`, or name them by a glob.")
    chosen = tuple(file for file, known in formats.items() if known in kinds)
    if not chosen:
        raise SourceError(f"{path} holds no {' or '.join(_SUFFIXES) if wanted == 'auto' else wanted} files.", path=path)
    return Layout(place, kinds.pop(), folder, chosen)


def _suffix_format(file: str) -> Format | None:
    return next((known for suffix, known in _SUFFIXES.items() if file.lower().endswith(suffix)), None)


def _format(file: str, path: str) -> Format:
    known = _suffix_format(file)
    if known is None:
        raise ConfigError(f"the format of {path} cannot be told from its name; set `format` to parquet or csv.")
    return known


def _first_wildcard(relative: str) -> int:
    match = _WILDCARD.search(relative)
    assert match is not None
    return match.start()


def _glob(pattern: str) -> re.Pattern[str]:
    """A shell pattern as a regular expression: `**/` any folders, `*` and `?` within one name, `[ab]`, `[!ab]`."""
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    fixed = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = []
    for token in tokens:
        if token in fixed:
            parts.append(fixed[token])
        elif len(token) > 2 and token.startswith("[") and token.endswith("]"):
            body = token[1:-1].replace("\\", "\\\\")
            parts.append(f"[^/{body[1:]}]" if body.startswith("!") else f"[{body}]")
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts))
