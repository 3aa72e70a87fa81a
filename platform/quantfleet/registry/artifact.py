"""A model on disk: a JSON description, weights in a format that runs no code, and a checksum for every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import quantfleet
from quantfleet.config import from_plain, to_plain
from quantfleet.contracts import DataSpec, FeatureSet, Model, ModelConfig
from quantfleet.errors import ChecksumError, RegistryError

__all__ = ["StoredModel", "artifact_digest", "read_artifact", "verify_artifact", "write_artifact"]

_DESCRIPTION = "model.json"
_CHECKSUMS = "checksums.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A loaded model with what is needed to feed it."""

    model: Model
    features: FeatureSet
    provenance: Mapping[str, Any]
    """Versions of the data it was fitted on, run name, code version."""
    digest: str


def write_artifact(model: Model, features: FeatureSet, provenance: Mapping[str, Any], directory: Path) -> str:
    """Write a fitted model into an empty directory and return its digest (SHA-256, hexadecimal).

    Raises: RegistryError: the directory is not empty.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise RegistryError(f"{directory} is not empty; a model is never written over another.")
    model.save(directory)
    description = {
        "format": _FORMAT,
        "quantfleet": quantfleet.__version__,
        "config": to_plain(model.config),
        "spec": model.spec.to_dict(),
        "per_symbol": model.per_symbol,
        "features": to_plain(features),
        "provenance": dict(provenance),
    }
    (directory / _DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True))
    sums = {p.name: _sha256(p) for p in sorted(directory.iterdir())}
    (directory / _CHECKSUMS).write_text(json.dumps(sums, indent=1, sort_keys=True))
    return artifact_digest(directory)


def artifact_digest(directory: Path) -> str:
    """Digest of the checksum list, and so of every file it lists."""
    return _sha256(directory / _CHECKSUMS)


def verify_artifact(directory: Path, digest: str | None = None) -> None:
    """Prove that every file is the one that was written.

    Args:
        digest: what the registry recorded; without it only the files are checked against the list beside them.
    Raises: ChecksumError: a file is missing, new or changed, or the list itself is not the registered one.
    """
    listing = directory / _CHECKSUMS
    if not listing.is_file():
        raise ChecksumError(
            f"{directory} holds no {_CHECKSUMS}: it is not a Quantfleet model, or a part of it is missing.",
            file=_CHECKSUMS,
        )
    if digest is not None and artifact_digest(directory) != digest:
        raise ChecksumError(
            f"{listing} is not the one that was registered (expected digest {digest[:12]}, found "
            f"{artifact_digest(directory)[:12]}). Do not use this model; register it again from its run.",
            file=_CHECKSUMS,
        )
    sums = _listed(listing)
    present = {p.name for p in directory.iterdir()} - {_CHECKSUMS}
    for name in sorted(set(sums) | present):
        if name not in present:
            raise ChecksumError(f"{directory / name} is missing.", file=name)
        if name not in sums:
            raise ChecksumError(f"{directory / name} was not there when the model was registered.", file=name)
        if not (directory / name).is_file() or _sha256(directory / name) != sums[name]:
            raise ChecksumError(
                f"{directory / name} has changed since the model was registered: its checksum does not match. Do "
                "not use it; register the model again from its run.",
                file=name,
            )


def _listed(listing: Path) -> dict[str, str]:
    """File name to checksum. Raises: ChecksumError: it is not such a list."""
    try:
        sums = json.loads(listing.read_text())
    except ValueError:  # no JSON, or no text at all
        sums = None
    if not isinstance(sums, dict):
        raise ChecksumError(f"{listing} is damaged: it is no list of checksums.", file=_CHECKSUMS)
    return sums


def read_artifact(directory: Path, *, digest: str | None = None, chunk_bars: int | None = None) -> StoredModel:
    """Verify a stored model, then rebuild it; nothing is unpickled.

    Args:
        chunk_bars: C of the chunks it will answer for, when not that of training; 1 to answer for one bar.
    Raises: ChecksumError; RegistryError: the description is of another format.
    """
    verify_artifact(directory, digest)
    description = json.loads((directory / _DESCRIPTION).read_text())
    if description.get("format") != _FORMAT:
        raise RegistryError(
            f"{directory} is of format {description.get('format')}, this Quantfleet ({quantfleet.__version__}) reads "
            f"{_FORMAT}."
        )
    where = str(directory / _DESCRIPTION)
    config = from_plain(ModelConfig, description["config"], where=where)
    features = from_plain(FeatureSet, description["features"], where=where)
    spec = DataSpec.from_dict(description["spec"])
    if features.digest != spec.feature_digest:
        raise RegistryError(
            f"{directory}: this Quantfleet computes feature set {features.name!r} v{features.version} as "
            f"{features.digest}, the model was fitted on {spec.feature_digest}. Use the version that registered it "
            f"({description['quantfleet']})."
        )
    if chunk_bars is not None:
        spec = replace(spec, chunk_bars=chunk_bars)
    model = config.build(spec)
    model.load(directory)
    return StoredModel(model, features, description["provenance"], artifact_digest(directory))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
