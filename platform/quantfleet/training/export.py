"""The weights of a fit for other programs: one safetensors file, whatever strategy and number of workers saved them."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantfleet.errors import ConfigError, MissingInputError
from quantfleet.storage import Storage
from quantfleet.training.checkpoints import (
    WEIGHTS_FILE,
    Progress,
    best_weights,
    fetch_newest,
)

__all__ = ["Exported", "check_new_folder", "export_best", "export_newest"]

_PREFIX = "forecaster."
_INPUT_FILES = ("scaler.json", "selection.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    epoch: int
    """Epochs that were over when the weights were saved, for the newest; the epoch itself, counted from 0, for the best."""
    step: int | None
    """Optimizer steps done; None for the best weights, which lie at an epoch's end."""
    source: str
    """Folder it came from, relative to the storage root."""
    parameters: int


def export_best(storage: Storage, run: str, to: Path) -> Exported:
    """Copy the weights of a fit's best epoch, with its scaler, to a folder that does not exist yet.

    Args: run: the fit's folder, relative to the storage root.
    Raises: MissingInputError: no epoch is over. ConfigError: the folder exists. TornCheckpointError: the files were changed.
    """
    check_new_folder(to)
    kept = best_weights(storage, run)
    if not kept:
        raise MissingInputError(f"{storage.uri(run)} holds no best weights: no epoch of the fit is over.", uri=run)
    with tempfile.TemporaryDirectory() as name:
        kept[0].fetch(storage, Path(name))
        weights = load_file(Path(name, WEIGHTS_FILE))
        _write(to, weights, Path(name), {"epoch": kept[0].epoch, "val_loss": kept[0].val_loss, "source": kept[0].path})
    return Exported(folder=to, epoch=kept[0].epoch, step=None, source=kept[0].path, parameters=_count(weights))


def export_newest(storage: Storage, run: str, to: Path) -> Exported:
    """Put the newest whole checkpoint's parts together: of DDP, FSDP or any ZeRO stage, in this process, without a cluster.

    Args: run: the fit's folder, relative to the storage root.
    Raises: MissingInputError: there is no whole checkpoint. ConfigError: the folder exists.
    """
    check_new_folder(to)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkpoint")
        path = fetch_newest(storage, run, folder, retry_s=0)
        if path is None:
            raise MissingInputError(f"{storage.uri(run)} holds no whole checkpoint.", uri=run)
        progress = Progress.read(folder)
        weights = {k.removeprefix(_PREFIX): v for k, v in _module(folder).items() if k.startswith(_PREFIX)}
        epoch = len(progress.curve)
        _write(to, weights, folder, {"epochs_over": epoch, "step": progress.step, "source": path})
        return Exported(folder=to, epoch=epoch, step=progress.step, source=path, parameters=_count(weights))


def check_new_folder(to: Path) -> None:
    """Raises: ConfigError: the folder exists."""
    if to.exists():
        raise ConfigError(f"{to} exists already; name a folder that does not, so that nothing of yours is replaced.")


def _module(folder: Path) -> dict[str, Tensor]:
    """The wrapped module's whole state. Our own files, their digests checked; DeepSpeed's reader unpickles them."""
    module: dict[str, Tensor]
    if (folder / "state.pt").is_file():
        module = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)["module"]
    elif (folder / ".metadata").is_file():
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        whole = folder / "whole.pt"
        dcp_to_torch_save(folder, whole)
        module = torch.load(whole, map_location="cpu", weights_only=True)["model"]
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        module = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag="state")
    return module


def _write(to: Path, weights: dict[str, Tensor], inputs: Path, about: dict[str, Any]) -> None:
    """Whole or not at all: made beside, then renamed."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".export-") as name:
        made = Path(name, "made")
        made.mkdir()
        save_file({k: v.detach().contiguous() for k, v in weights.items()}, made / WEIGHTS_FILE)
        for file in _INPUT_FILES:
            if (inputs / file).is_file():
                shutil.copyfile(inputs / file, made / file)
        (made / "export.json").write_text(json.dumps(about, indent=1))
        made.rename(to)


def _count(weights: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())
