"""Checkpoints of a fit: written by every worker, whole or not at all, checked to the byte before they are believed.

A checkpoint is a folder: what the strategy saved (by one worker, or a part by each), each worker's random numbers, rank 0's
`progress.json`, and a manifest per worker, uploaded last, with the size and the BLAKE2 digest of each of that worker's files. It
is whole when there is a manifest of every worker and every file is as listed. The weights of the best epochs lie beside, as
safetensors, readable by anything.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from quantfleet.errors import MissingInputError, TornCheckpointError
from quantfleet.logs import get_logger
from quantfleet.storage import Storage
from quantfleet.training.data_state import DataState
from quantfleet.training.patience import patiently
from quantfleet.training.preflight import check_same_fit

__all__ = [
    "PROGRESS_FILE",
    "WEIGHTS_FILE",
    "BestWeights",
    "Progress",
    "best_weights",
    "check_stored_fit",
    "fetch_newest",
    "fetch_whole",
    "keep_best",
    "mend_snapshot",
    "stored_checkpoints",
    "sweep",
    "upload",
    "verify",
]

log = get_logger(__name__)

PROGRESS_FILE = "progress.json"
WEIGHTS_FILE = "weights.safetensors"
BEST_DIR = "best"
_PREFIX = "checkpoint_"
_SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a fit's checkpoints."""
_BEST_FILE = "epoch.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a fit has come; stored in every checkpoint, so that a resumed fit goes on as if nothing had happened."""

    fit: Mapping[str, Any]
    """What is being fitted; a checkpoint of another fit is refused."""
    workers: int
    """How many wrote the checkpoint."""
    data: DataState
    step: int = 0
    """Optimizer steps done, over all epochs."""
    curve: tuple[dict[str, float], ...] = ()
    """One row per finished epoch."""
    attempt: int = 0
    """How often the fit was taken up again."""
    resumed_from: int | None = None
    """Step from which the newest attempt went on; None when it began afresh."""
    loss_sum: float = 0.0
    """Sum of the losses of this epoch's steps so far."""
    loss_steps: int = 0
    bad_steps: int = 0
    """Steps that were skipped because the gradient was not finite, over the whole fit."""
    finished: bool = False

    @property
    def best(self) -> dict[str, float] | None:
        """The row of the epoch with the lowest validation loss."""
        return min(self.curve, key=lambda row: row["val_loss"], default=None)

    def patience_spent(self) -> int:
        """Epochs since the best one."""
        best = self.best
        return 0 if best is None else int(self.curve[-1]["epoch"] - best["epoch"])

    def write(self, folder: Path) -> None:
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        Path(folder, PROGRESS_FILE).write_text(json.dumps({**record, "data": self.data.to_dict(), "format": _FORMAT}))

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Raises: TornCheckpointError: there is none, or it is of another format."""
        try:
            record = json.loads(Path(folder, PROGRESS_FILE).read_text())
            if record.pop("format") != _FORMAT:
                raise ValueError("it is of another format")
            data = DataState.from_dict(record.pop("data"))
            return cls(**{**record, "data": data, "curve": tuple(record["curve"])})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise TornCheckpointError(f"{folder / PROGRESS_FILE} cannot be read: {error}") from error


def upload(storage: Storage, local: Path, path: str, *, rank: int, workers: int, retry_s: float) -> None:
    """Copy this worker's files into a checkpoint, and last of all their manifest: what `verify` will hold them to.

    Tried again while the storage does not answer.
    """
    files = {str(p.relative_to(local)): _record(p) for p in _files(local)}
    manifest = json.dumps({"format": _FORMAT, "rank": rank, "workers": workers, "files": files}, sort_keys=True)
    patiently(lambda: storage.upload(local, path), "upload of a checkpoint", seconds=retry_s)
    patiently(
        lambda: storage.write_text(f"{path}/{_manifest(rank)}", manifest), "upload of a checkpoint", seconds=retry_s
    )


def verify(folder: Path) -> int:
    """Check a downloaded checkpoint against its manifests. Returns: how many workers wrote it.

    Raises: TornCheckpointError: a manifest or a file is missing, or not as it was written.
    """
    first = _read_manifest(folder, 0)
    workers = int(first["workers"])
    for rank in range(workers):
        manifest = first if rank == 0 else _read_manifest(folder, rank)
        for name, (size, digest) in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                raise TornCheckpointError(f"{path} is missing", file=name)
            if path.stat().st_size != size or _digest(path) != digest:
                raise TornCheckpointError(f"{path} is not as it was written", file=name)
    return workers


def stored_checkpoints(storage: Storage, run: str) -> list[str]:
    """Folders of a fit's checkpoints whose upload reached the end on rank 0, newest first; `verify` says which are whole.

    Storage is asked, not Ray Train: its list lacks a checkpoint whose workers died between the last upload and the report.
    Names hold the time at which they were begun.
    """
    names = [name for name in storage.list(run) if name.startswith(_PREFIX)]
    return [f"{run}/{name}" for name in reversed(names) if storage.exists(run, name, _manifest(0))]


def check_stored_fit(storage: Storage, run: str, fit: Mapping[str, Any], *, retry_s: float) -> None:
    """Before workers start: whether the newest checkpoint that can be read is of this fit. Where there is none, all is well.

    Raises: TrainingError: it is of another model; names what differs.
    """
    stored = patiently(lambda: stored_checkpoints(storage, run), "list of checkpoints", seconds=retry_s)
    for path in stored:
        try:
            read = partial(storage.read_text, path, PROGRESS_FILE)
            recorded = json.loads(patiently(read, "progress of a checkpoint", seconds=retry_s))["fit"]
        except (MissingInputError, ValueError, KeyError, TypeError):
            continue  # torn: the worker passes over it and says so
        check_same_fit(recorded, json.loads(json.dumps(fit)))
        return


def fetch_whole(storage: Storage, path: str, folder: Path, *, retry_s: float) -> bool:
    """Download a checkpoint and say whether it is whole; a torn one is logged and its files are removed again."""
    try:
        patiently(lambda: storage.download(path, folder), "download of a checkpoint", seconds=retry_s)
        verify(folder)
    except (TornCheckpointError, MissingInputError) as error:
        log.warning("a torn checkpoint is passed over", checkpoint=path, error=str(error))
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def fetch_newest(storage: Storage, run: str, folder: Path, *, retry_s: float) -> str | None:
    """Download the newest whole checkpoint of a fit, passing over torn ones. Returns: its path, None where there is none."""
    stored = patiently(lambda: stored_checkpoints(storage, run), "list of checkpoints", seconds=retry_s)
    return next((path for path in stored if fetch_whole(storage, path, folder, retry_s=retry_s)), None)


def mend_snapshot(storage: Storage, run: str) -> None:
    """Remove Ray Train's list of checkpoints where Ray could not start from it: torn, of another version, or naming what is gone.

    It is written in place, so a controller killed in the middle leaves half of it, and no later fit of that name would start.
    """
    if not storage.exists(run, _SNAPSHOT):
        return
    try:
        record = json.loads(storage.read_text(run, _SNAPSHOT))
        listed = [one["checkpoint_dir_name"] for one in record["checkpoint_results"]]
        gone = [name for name in listed if not storage.exists(run, name)]
        why = f"it names {', '.join(gone)}, which is gone" if gone else None
        if record["ray_version"] != ray.__version__:
            why = f"Ray {record['ray_version']} wrote it, this is {ray.__version__}"
    except (ValueError, KeyError, TypeError) as error:
        why = f"it cannot be read ({error!r})"
    if why is not None:
        log.warning(
            "Ray's list of checkpoints is dropped; the stored checkpoints themselves are used", run=run, why=why
        )
        storage.delete(f"{run}/{_SNAPSHOT}")


def sweep(storage: Storage, run: str, listed: Iterable[str]) -> None:
    """Delete what kills left behind: checkpoints that are older than the newest of those Ray Train lists, and not among them.

    Args: listed: names of folders.
    """
    known = set(listed)
    for name in storage.list(run) if known else ():
        if name.startswith(_PREFIX) and name not in known and name < max(known):
            storage.delete(run, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class BestWeights:
    """The weights of one epoch, kept because few were better."""

    epoch: int
    val_loss: float
    path: str
    """Folder, relative to the storage root."""

    def fetch(self, storage: Storage, local: Path) -> None:
        """Download and check. Raises: TornCheckpointError: the files are not as they were written."""
        storage.download(self.path, local)
        listed = json.loads((local / _BEST_FILE).read_text())["files"]
        for name, (size, digest) in listed.items():
            path = local / name
            if not path.is_file() or path.stat().st_size != size or _digest(path) != digest:
                raise TornCheckpointError(f"{self.path}/{name} is not as it was written", file=name)


def keep_best(storage: Storage, run: str, local: Path, row: Mapping[str, float], *, keep: int, retry_s: float) -> None:
    """Store the weights of an epoch, the file that makes them count last; then forget all but the best `keep`.

    Args:
        run: the fit's folder, relative to the storage root.
        local: holds the files.
        row: the epoch's row of the curve.
    """
    path = f"{run}/{BEST_DIR}/epoch-{int(row['epoch']):05d}-{time.time_ns()}"
    files = {str(p.relative_to(local)): _record(p) for p in _files(local)}
    patiently(lambda: storage.upload(local, path), "upload of weights", seconds=retry_s)
    text = json.dumps({"epoch": int(row["epoch"]), "val_loss": row["val_loss"], "files": files})
    patiently(lambda: storage.write_text(f"{path}/{_BEST_FILE}", text), "upload of weights", seconds=retry_s)
    for worse in best_weights(storage, run)[keep:]:
        storage.delete(f"{worse.path}/{_BEST_FILE}")  # first: a folder that is half gone must not count
        storage.delete(worse.path)


def best_weights(storage: Storage, run: str) -> list[BestWeights]:
    """What is kept of a fit, lowest validation loss first."""
    found = []
    folder = f"{run}/{BEST_DIR}"
    for name in storage.list(folder) if storage.exists(folder) else ():
        marker = f"{folder}/{name}/{_BEST_FILE}"
        if storage.exists(marker):
            record = json.loads(storage.read_text(marker))
            found.append(BestWeights(epoch=record["epoch"], val_loss=record["val_loss"], path=f"{folder}/{name}"))
    return sorted(found, key=lambda one: (one.val_loss, -one.epoch))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _record(path: Path) -> list[Any]:
    return [path.stat().st_size, _digest(path)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def _manifest(rank: int) -> str:
    return f"manifest-{rank:05d}.json"


def _read_manifest(folder: Path, rank: int) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(Path(folder, _manifest(rank)).read_text())
        if record["format"] != _FORMAT:
            raise ValueError("it is of another format")
        return record
    except (OSError, KeyError, ValueError) as error:
        raise TornCheckpointError(f"the manifest of worker {rank} cannot be read: {error}", rank=rank) from error
