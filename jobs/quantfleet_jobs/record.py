"""What a run has done so far: one small JSON file per finished stage, under the storage root."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import quantfleet
from quantfleet.errors import MissingInputError, OutputExistsError, StorageError
from quantfleet.storage import Storage

__all__ = ["RunRecord", "StageRecord"]

_SHOWN_CHANGES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """A finished stage. Written last, so that it stands for outputs that are whole."""

    stage: str
    fingerprint: str
    """Of the settings, inputs and code version that made the outputs."""
    inputs: dict[str, str]
    """Fingerprints of the stages it read."""
    outputs: dict[str, Any]
    """Paths and versions: what the next stage reads."""
    summary: str
    """One line for people."""
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    """The parts of the recipe that made the outputs, without secrets: to say later what has changed."""
    version: str = quantfleet.__version__
    """Of Quantfleet."""
    finished_at: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))


class RunRecord:
    """The folder of one run."""

    def __init__(self, storage: Storage, run_name: str) -> None:
        self.storage = storage
        self.run_name = run_name

    def path(self, *parts: str) -> str:
        """Path under the storage root of something that belongs to this run."""
        return "/".join(["runs", self.run_name, *parts])

    def find(self, stage: str) -> StageRecord | None:
        if not self.storage.exists(self.path("stages", f"{stage}.json")):
            return None
        place = self.path("stages", f"{stage}.json")
        try:
            return StageRecord(**json.loads(self.storage.read_text(place)))
        except (ValueError, TypeError) as error:  # no JSON, or not the fields of a record
            raise StorageError(
                f"{self.storage.uri(place)} is no record of a finished stage: {error}. Delete it and run {stage} again.",
                stage=stage,
            ) from error

    def need(self, stage: str, *, of: str) -> StageRecord:
        """Raises: MissingInputError: `stage` has not run; says which command makes it."""
        record = self.find(stage)
        if record is None:
            raise MissingInputError(
                f"{of} reads what {stage} makes, and run {self.run_name!r} has not done {stage} yet. Run `python "
                f"-m quantfleet_jobs.{stage} --config RECIPE` first, or `quantfleet run RECIPE` for all stages.",
                stage=stage,
            )
        return record

    def finish(self, record: StageRecord) -> StageRecord:
        self.storage.write_text(self.path("stages", f"{record.stage}.json"), json.dumps(asdict(record), indent=1))
        return record

    def forget(self, stage: str) -> None:
        """Before outputs are replaced: half of the new and half of the old must not pass for either."""
        self.storage.delete(self.path("stages", f"{stage}.json"))

    def refuse_other(self, found: StageRecord, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        """Raises: OutputExistsError: this run holds the stage's output for other settings or inputs."""
        raise OutputExistsError(
            f"run {self.run_name!r} already holds the output of {found.stage} of {found.finished_at}, and since then "
            f"{_changed(found, inputs, settings)}. Give the new run a name of its own (--set run.name=NAME), or replace "
            "the old output with --overwrite.",
            run=self.run_name,
            stage=found.stage,
        )


def _changed(found: StageRecord, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """What is not as it was when the stage ran."""
    made = sorted(name for name in inputs if found.inputs.get(name) != inputs[name])
    if made:
        return f"what {' and '.join(made)} made has changed"
    if found.version != quantfleet.__version__:
        return f"Quantfleet has changed from {found.version} to {quantfleet.__version__}"
    old, new = _leaves(found.settings), _leaves(settings)
    changes = [
        f"{path} from {old.get(path, 'absent')} to {new.get(path, 'absent')}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    more = f" and {len(changes) - _SHOWN_CHANGES} more" if len(changes) > _SHOWN_CHANGES else ""
    return f"the settings have changed{': ' if changes else ''}{', '.join(changes[:_SHOWN_CHANGES])}{more}"


def _leaves(tree: Any, path: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` becomes `{"a.b": "1"}`."""
    if isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        found: dict[str, str] = {}
        for key, value in items:
            found |= _leaves(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: json.dumps(tree)}
