"""Every error Quantfleet raises on purpose.

    QuantfleetError
    ├── ConfigError                 a recipe, an environment variable or --set is wrong
    ├── UnknownPluginError          no plugin of that kind under that name
    ├── DataError                   a table breaks its contract
    │   ├── SchemaError             a column is missing or has the wrong type
    │   ├── TimeError               naive, unsorted or duplicated timestamps
    │   ├── PriceError              NaN, infinite or non-positive prices, contradicting OHLC
    │   ├── EmptyTableError         no rows where rows are needed
    │   ├── BookError               an order book crosses, has a gap or lacks its snapshot
    │   ├── QualityError            a quality finding whose policy is `fail`
    │   └── SourceError             an exchange, file or vendor did not deliver
    ├── LeakageError                a feature, label or split would see the future
    ├── StorageError                a path cannot be opened, read or written
    │   ├── MissingInputError       a stage's input was never made
    │   └── OutputExistsError       a stage's output holds something else
    ├── TrainingError               a fit cannot be done, or failed after its retries were spent
    │   └── TornCheckpointError     a checkpoint is not as it was written
    ├── BacktestError               orders, prices or costs that no account can book
    ├── ClusterError                Ray cannot be reached or started
    └── RegistryError               the model registry refused or is unreachable
        └── ChecksumError           stored weights are not the ones that were registered

All of them carry typed `fields` beside the text and survive pickling, so they cross Ray unharmed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "BacktestError",
    "BookError",
    "ChecksumError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "EmptyTableError",
    "LeakageError",
    "MissingInputError",
    "OutputExistsError",
    "PriceError",
    "QualityError",
    "QuantfleetError",
    "RegistryError",
    "SchemaError",
    "SourceError",
    "StorageError",
    "TimeError",
    "TornCheckpointError",
    "TrainingError",
    "UnknownPluginError",
    "nearest",
]


def _rebuild(cls: type[QuantfleetError], message: str, fields: dict[str, Any]) -> QuantfleetError:
    return cls(message, **fields)


class QuantfleetError(Exception):
    """Base of the tree: a message that says what, which value and what to do next, plus the values as `fields`."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields: Mapping[str, Any] = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, dict(self.fields))


class ConfigError(QuantfleetError):
    """A recipe, an environment variable or a --set override is wrong."""


class UnknownPluginError(QuantfleetError):
    """No plugin of that kind is registered under that name."""


class DataError(QuantfleetError):
    """A table breaks its contract."""


class SchemaError(DataError):
    """A column is missing or has the wrong type."""


class TimeError(DataError):
    """Timestamps are naive, unsorted, duplicated or off their timeframe."""


class PriceError(DataError):
    """Prices are NaN, infinite, not positive, or contradict each other."""


class EmptyTableError(DataError):
    """There are no rows where rows are needed."""


class BookError(DataError):
    """An order book crosses, misses a message, or changes before its first snapshot."""


class QualityError(DataError):
    """A quality finding whose policy is `fail`."""


class SourceError(DataError):
    """An exchange, file or vendor did not deliver; a re-run resumes where it stopped."""


class LeakageError(QuantfleetError):
    """A feature, a label or a split would see the future."""


class StorageError(QuantfleetError):
    """A path cannot be opened, read or written."""


class MissingInputError(StorageError):
    """The input of a stage was never made."""


class OutputExistsError(StorageError):
    """The output of a stage already holds something else."""


class TrainingError(QuantfleetError):
    """A fit cannot be done as asked, or failed after its retries were spent."""


class TornCheckpointError(TrainingError):
    """A checkpoint is not as it was written: a file is missing, cut or changed."""


class BacktestError(QuantfleetError):
    """Orders, prices or costs that no account can book."""


class ClusterError(QuantfleetError):
    """Ray cannot be reached or started."""


class RegistryError(QuantfleetError):
    """The model registry refused, or cannot be reached."""


class ChecksumError(RegistryError):
    """Stored weights are not the ones that were registered."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
