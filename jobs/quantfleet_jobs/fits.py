"""The fits of a run: what they are called, whether there is something to go on from, and their weights for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

import quantfleet
from quantfleet.config import Resolved, fingerprint
from quantfleet.contracts import ModelConfig
from quantfleet.errors import ConfigError, MissingInputError, nearest
from quantfleet.storage import Storage
from quantfleet.training import TorchModelConfig
from quantfleet.training.export import export_best, export_newest
from quantfleet.training.runtime import TRAIN_DIR
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import open_run
from quantfleet_jobs.watch import without_watching

__all__ = ["check_resumable", "export_weights", "finished_fit", "fit_content", "fit_name"]


def fit_content(config: ModelConfig, chunks: str, recipe: Recipe) -> str:
    """Digest of all that a fit depends on: the same again goes on with it, anything else is another fit."""
    return fingerprint(quantfleet.__version__, config, chunks, without_watching(recipe.training), recipe.run.seed)


def fit_name(config: ModelConfig, chunks: str, recipe: Recipe) -> str:
    return f"{recipe.run.name}-{config.label}-{fit_content(config, chunks, recipe)}"


def finished_fit(storage: Storage, marker: str, content: str) -> dict[str, Any] | None:
    """The record of a model that this run has fitted with the same settings, from the file that is written last."""
    if not storage.exists(marker):
        return None
    known: dict[str, Any] = json.loads(storage.read_text(marker))
    return known if known["content"] == content else None


def check_resumable(resolved: Resolved[Recipe]) -> None:
    """Raises: MissingInputError: no model of the recipe has anything to go on from, so `--resume` would begin anew."""
    recipe = resolved.value
    storage, _, record = open_run(resolved)
    chunks = str(record.need("chunks", of="train").outputs["path"])
    for config in recipe.models:
        marker, name = record.path("models", f"{config.label}.json"), fit_name(config, chunks, recipe)
        if finished_fit(storage, marker, fit_content(config, chunks, recipe)) is not None:
            return
        run = f"{TRAIN_DIR}/{name}"
        if any(found.startswith("checkpoint_") for found in storage.list(run)):
            return
    others = [name for name in storage.list(TRAIN_DIR) if name.startswith(f"{recipe.run.name}-")]
    with_others = f" There are fits with other settings: {', '.join(others)}." if others else ""
    raise MissingInputError(
        f"there is nothing to resume: no model of run {recipe.run.name!r} has a checkpoint with these settings under "
        f"{storage.uri(TRAIN_DIR)}.{with_others} Leave --resume away to begin.",
        uri=storage.uri(TRAIN_DIR),
    )


def export_weights(resolved: Resolved[Recipe], label: str, to: Path, console: Console, *, newest: bool) -> None:
    """Write a torch model's best or newest weights to a new folder.

    Raises: ConfigError: the recipe has no such torch model. MissingInputError: its fit has no weights yet.
    """
    _, storage, run = _torch_fit(resolved, label)
    made = export_newest(storage, run, to) if newest else export_best(storage, run, to)
    at = f"step {made.step}" if made.step is not None else f"epoch {made.epoch}"
    console.print(f"{made.parameters:,} parameters of {label} at {at}: {made.folder} (from {storage.uri(made.source)})")


def export_graph(
    resolved: Resolved[Recipe], label: str, to: Path, console: Console, *, stream: bool, int8: bool, rows: int
) -> None:
    """Write the network of a torch model's best epoch as an ONNX graph into a new folder.

    Raises: ConfigError: the recipe has no such torch model, or no graph can be made of it. TrainingError: no epoch is over.
    """
    from quantfleet.serving.onnx import export_onnx

    config, storage, run = _torch_fit(resolved, label)
    _, _, record = open_run(resolved)
    chunks = ChunkStore.open(storage, str(record.need("chunks", of="train").outputs["path"]))
    model = config.build(chunks.spec)
    model.load_best(storage, run.removeprefix(f"{TRAIN_DIR}/"))
    made = export_onnx(model, to, stream=stream, int8=int8, rows=rows)
    size = (to / "graph.onnx").stat().st_size / 1e6
    measure = "root mean square" if int8 else "largest"
    console.print(
        f"{label} as a graph of {made.kind}, {size:.1f} MB: {to} ({measure} difference from torch: {made.error:.1e} of its spread)"
    )


def _torch_fit(resolved: Resolved[Recipe], label: str) -> tuple[TorchModelConfig, Storage, str]:
    """A torch model of the recipe, the storage and the folder of its fit. Raises: ConfigError: there is no such model."""
    recipe = resolved.value
    models = {model.label: model for model in recipe.models if isinstance(model, TorchModelConfig)}
    if label not in models:
        raise ConfigError(
            f"the recipe has no torch model {label!r}.{nearest(label, models)} It has: {', '.join(models) or 'none'}."
        )
    storage, _, record = open_run(resolved)
    chunks = str(record.need("chunks", of="train").outputs["path"])
    return models[label], storage, f"{TRAIN_DIR}/{fit_name(models[label], chunks, recipe)}"
