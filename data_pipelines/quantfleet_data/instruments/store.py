"""Instruments in the lake: three Delta tables, each change of which is a version that a run can name."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from quantfleet.contracts.instrument import ACTIONS_SCHEMA, INSTRUMENTS_SCHEMA, MEMBERSHIPS_SCHEMA
from quantfleet.errors import OutputExistsError
from quantfleet.storage import LakeTable, Storage, TableVersion
from quantfleet_data.instruments.base import Instruments

__all__ = ["InstrumentVersions", "read_actions", "read_instruments", "write_instruments"]

_FOLDER = "lake/instruments"
_SCHEMAS: dict[str, pa.Schema] = {
    "listings": INSTRUMENTS_SCHEMA,
    "memberships": MEMBERSHIPS_SCHEMA,
    "actions": ACTIONS_SCHEMA,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InstrumentVersions:
    """The three tables at the versions that belong together: what a run records, and reads again later."""

    listings: TableVersion
    memberships: TableVersion
    actions: TableVersion


def write_instruments(storage: Storage, instruments: Instruments) -> InstrumentVersions:
    """Replace the tables in the lake, each in one commit; a table that holds these rows already is left alone.

    What was known before stays readable: earlier versions are kept. Whoever reads while this writes must name versions,
    since the three commits are not one.

    Raises: OutputExistsError: another kind of table lies there. StorageError: the lake cannot be written.
    """
    versions = {}
    for name, schema in _SCHEMAS.items():
        table = LakeTable(storage, f"{_FOLDER}/{name}")
        rows = getattr(instruments, name).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
        if table.exists():
            there = table.read()
            if set(there.columns) != set(schema.names):
                raise OutputExistsError(
                    f"{table.uri} is a table of {', '.join(there.columns)}, not of {name}. Move it away, or use another "
                    "root.",
                    uri=table.uri,
                )
            if there.select(schema.names).sort(schema.names).equals(getattr(instruments, name).sort(schema.names)):
                versions[name] = table.latest()
                continue
            versions[name] = table.overwrite(rows, metadata={"stage": "instruments"})
        else:
            versions[name] = table.append(rows, metadata={"stage": "instruments"})
    return InstrumentVersions(**versions)


def read_actions(storage: Storage, version: TableVersion) -> pl.DataFrame:
    """Read the corporate actions of one version. Raises: MissingInputError: there is no such version."""
    return LakeTable(storage, version.path).read(version.version, columns=ACTIONS_SCHEMA.names)


def read_instruments(storage: Storage, versions: InstrumentVersions | None = None) -> Instruments:
    """Read instruments back, the newest when no versions are named.

    Raises: MissingInputError: they were never written, or not at those versions. DataError: they break their contract.
    """
    tables = {}
    for name, schema in _SCHEMAS.items():
        version = None if versions is None else getattr(versions, name).version
        tables[name] = LakeTable(storage, f"{_FOLDER}/{name}").read(version, columns=schema.names)
    return Instruments(**tables)
