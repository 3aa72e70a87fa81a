"""Scalers and selections as they are stored beside a model: plain records that name their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantfleet.errors import SchemaError
from quantfleet.plugins import PluginRegistry

__all__ = ["restored"]


def restored(registry: PluginRegistry[Any], record: Mapping[str, Any], what: str) -> Any:
    """Make again what a kind of the registry stored, by that kind's `restore`.

    Raises:
        SchemaError: this is no such record.
        UnknownPluginError: its kind is not registered; import the package that defines it.
    """
    if not isinstance(record.get("kind"), str):
        raise SchemaError(f"this is no stored {what}: it does not say its kind. Fit the {what} again.")
    kind = registry.get(record["kind"])
    try:
        return kind.restore(record)
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(
            f"the stored {record['kind']} {what} cannot be read: {error!r}. Fit the {what} again."
        ) from error
