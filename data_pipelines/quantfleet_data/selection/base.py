"""What selectors share: checked rows, and columns picked by score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import Selection, SelectorConfig
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError

__all__ = ["ColumnSelection", "ColumnSelectorConfig", "CompleteRows", "complete_rows", "take_best"]

Array: TypeAlias = npt.NDArray[np.float64]
_FEWEST_ROWS = 30


class ColumnSelection(Selection):
    """Some of the features, untouched, in their order."""

    def __init__(
        self,
        *,
        kind: str,
        feature_columns: tuple[str, ...],
        columns: tuple[str, ...],
        scores: Mapping[str, float],
        dropped: Mapping[str, str],
    ) -> None:
        """Make a selection. Raises: SchemaError: a column is none of the features, or none is left."""
        strange = [c for c in columns if c not in feature_columns]
        if strange or not columns:
            raise SchemaError(
                f"a {kind} selection keeps {', '.join(strange) or 'no feature'}, not of those it was fitted on."
            )
        self.kind, self.feature_columns, self.columns = kind, feature_columns, columns
        self.scores, self.dropped = dict(scores), dict(dropped)
        self._places = np.array([feature_columns.index(c) for c in columns])

    def _transformed(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.take(x, self._places, axis=-1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "feature_columns": list(self.feature_columns),
            "columns": list(self.columns),
            "scores": self.scores,
            "dropped": self.dropped,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSelectorConfig(SelectorConfig):
    """Base of selectors that keep some of the features as they are."""

    @classmethod
    def restore(cls, record: Mapping[str, Any]) -> Selection:
        return ColumnSelection(
            kind=cls.kind,
            feature_columns=tuple(record["feature_columns"]),
            columns=tuple(record["columns"]),
            scores=record["scores"],
            dropped=record["dropped"],
        )


@dataclass(frozen=True, slots=True)
class CompleteRows:
    """Rows that a selector may learn from: every feature defined, the label known, in order of time."""

    x_RF: Array
    y_R: Array
    time_R: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x_RF)

    def thinned(self, rows: int) -> CompleteRows:
        """At most so many rows, evenly spread over time."""
        if len(self) <= rows:
            return self
        picked = np.linspace(0, len(self) - 1, rows).round().astype(np.int64)
        return CompleteRows(self.x_RF[picked], self.y_R[picked], self.time_R[picked])

    def split_tail(self, share: float, gap_times: int) -> tuple[CompleteRows, CompleteRows]:
        """Rows before, and the last `share` of the distinct times; `gap_times` times between them belong to neither.

        Raises: EmptyTableError: a part is too small.
        """
        times = np.unique(self.time_R)
        first_tail = len(times) - max(math.ceil(len(times) * share), 1)
        last_head = first_tail - gap_times  # labels of the rows in between reach into the tail
        head = self.time_R < times[max(last_head, 0)]
        parts = tuple(
            CompleteRows(self.x_RF[m], self.y_R[m], self.time_R[m]) for m in (head, self.time_R >= times[first_tail])
        )
        for name, part in zip(("before the tail", "in the tail"), parts, strict=True):
            if len(part) < _FEWEST_ROWS:
                raise EmptyTableError(
                    f"{len(part)} rows lie {name} that features are judged on, and at least {_FEWEST_ROWS} are needed. Give more "
                    "training rows."
                )
        return parts[0], parts[1]


def complete_rows(
    kind: str,
    x_RF: npt.NDArray[np.float32],
    y_R: npt.NDArray[np.float32] | None,
    names: Sequence[str],
    time_R: npt.NDArray[np.int64] | None,
    *,
    labelled: bool,
) -> CompleteRows:
    """Check what a selector was given and leave out rows that are not complete; see `SelectorConfig.fit`."""
    if x_RF.ndim != 2 or x_RF.shape[1] != len(names) or len(set(names)) != len(names):
        raise SchemaError(
            f"selector {kind}: features of shape {x_RF.shape} come with {len(names)} names, which must be different."
        )
    R = len(x_RF)
    if labelled and y_R is None:
        raise ConfigError(f"selector {kind} judges features by a label; name the label to fit it on.")
    time_R = np.arange(R, dtype=np.int64) if time_R is None else time_R
    for name, given in (("labels", y_R if labelled else None), ("times", time_R)):
        if given is not None and given.shape != (R,):
            raise SchemaError(f"selector {kind}: {R} rows come with {name} of shape {given.shape}.")
    if (np.diff(time_R) < 0).any():
        raise SchemaError(f"selector {kind}: rows step back in time. Sort them by time.")
    undefined_F = ~np.isfinite(x_RF)
    known_R = ~undefined_F.any(1)
    y = np.zeros(R) if y_R is None or not labelled else y_R.astype(np.float64)
    known_R &= np.isfinite(y)
    if (left := int(known_R.sum())) < _FEWEST_ROWS:
        worst = names[int(undefined_F.sum(0).argmax())] if undefined_F.any() else None
        raise EmptyTableError(
            f"selector {kind}: {left} of {R} rows are complete, and at least {_FEWEST_ROWS} are needed."
            + (f" Feature {worst!r} is undefined most often: leave it out." if worst else " Give more training rows."),
            rows=left,
        )
    return CompleteRows(x_RF[known_R].astype(np.float64), y[known_R], time_R[known_R])


def take_best(
    kind: str, names: Sequence[str], scores_F: Array, *, keep: int | None, least: float, unit: str
) -> ColumnSelection:
    """The `keep` features with the highest scores above `least`; of equal ones the first. The best one always stays.

    Raises: ConfigError: more are to be kept than there are.
    """
    if keep is not None and keep > len(names):
        raise ConfigError(f"selector {kind}: keep={keep} of {len(names)} features. Keep fewer.")
    order = np.argsort(-scores_F, kind="stable")
    best = [int(i) for i in order[:keep] if scores_F[i] > least] or [int(order[0])]
    return ColumnSelection(
        kind=kind,
        feature_columns=tuple(names),
        columns=tuple(names[i] for i in sorted(best)),
        scores={name: float(s) for name, s in zip(names, scores_F, strict=True)},
        dropped={
            names[i]: f"{unit} {scores_F[i]:.6g}, rank {place + 1} of {len(names)}"
            for place, i in enumerate(order.tolist())
            if i not in best
        },
    )
