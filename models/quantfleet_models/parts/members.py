"""Models inside a model: their names, the runs of their fits, and their files side by side in one folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantfleet.contracts import FitContext, Model, ModelConfig
from quantfleet.errors import ConfigError, SchemaError

__all__ = ["check_labels", "load_member", "member_context", "save_member"]


def check_labels(label: str, members: Sequence[ModelConfig]) -> None:
    """Raises: ConfigError: two members have one label, so that their fits would write over each other."""
    labels = [member.label for member in members]
    double = sorted({name for name in labels if labels.count(name) > 1})
    if double:
        raise ConfigError(f"{label}.members holds {double[0]!r} more than once; give each a `name` of its own.")


def member_context(context: FitContext, label: str) -> FitContext:
    """The context of a member's fit: a run of its own, so that it resumes by itself."""
    return replace(context, run_name=f"{context.run_name}--{label}")


def save_member(model: Model, directory: Path, prefix: str) -> None:
    """Write a member's files as `prefix.NAME`; artifacts are flat folders."""
    with tempfile.TemporaryDirectory() as name:
        model.save(Path(name))
        for path in sorted(Path(name).iterdir()):
            shutil.copyfile(path, directory / f"{prefix}.{path.name}")


def load_member(model: Model, directory: Path, prefix: str) -> None:
    """Read what `save_member` wrote. Raises: SchemaError: files are missing, or of another model."""
    found = sorted(directory.glob(f"{prefix}.*"))
    if not found:
        raise SchemaError(
            f"{directory} holds no files of {prefix}. Fit the model again, or load it from where it is whole."
        )
    with tempfile.TemporaryDirectory() as name:
        for path in found:
            shutil.copyfile(path, Path(name, path.name[len(prefix) + 1 :]))
        model.load(Path(name))
