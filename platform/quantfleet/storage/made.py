"""Tables that a job makes from others in several commits: which of their versions are whole, and who may call them so.

A version is finished when it names itself in its properties: the last commit of a job writes the number it must land on if
nobody else committed in between. A job that died, two jobs at once, a stray commit: none of them makes such a version, so
readers keep the one before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import polars as pl
import pyarrow.compute as pc

from quantfleet.errors import MissingInputError, StorageError
from quantfleet.storage.delta import LakeTable, TableVersion

__all__ = ["MADE_FOLDERS", "MadeTable", "Rewrite"]

MADE_FOLDERS = ("lake/features/", "lake/index/", "lake/labels/")
"""Where the tables lie that are written this way."""
_CONTENT, _FINISHED = "fingerprint", "finished_version"
_UNFINISHED = "unfinished"
_SAME_ROWS = ("OPTIMIZE",)
"""Commits that change files and no row: after a finished version they are finished, too."""


class MadeTable(LakeTable):
    """A table with finished and unfinished versions. `read_finished` is what a reader wants; `read` does not look."""

    def last_finished(self) -> TableVersion | None:
        """The newest version that a job finished; None when there is none yet."""
        if not self.exists():
            return None
        newest = self.latest()
        if self._names_itself(newest.version):
            return newest
        for commit in self.history():
            if self.is_finished(int(commit["version"])):
                return TableVersion(self.path, int(commit["version"]))
        return None

    def is_finished(self, version: int) -> bool:
        """Whether a job finished this version, or only files were joined since. Raises: MissingInputError: no such version."""
        if self._names_itself(version):
            return True
        operations = {int(commit["version"]): commit.get("operation") for commit in self.history()}
        while operations.get(version) in _SAME_ROWS:
            version -= 1
            if self._names_itself(version):
                return True
        return False

    def finished(self) -> TableVersion:
        """As `last_finished`. Raises: MissingInputError: there is none."""
        found = self.last_finished()
        if found is None:
            raise MissingInputError(
                f"{self.uri} has no finished version: its first write is under way, or died. Run the stage that makes it "
                "(again), such as `quantfleet features compute RECIPE`.",
                uri=self.uri,
            )
        return found

    def read_finished(
        self,
        *,
        columns: Sequence[str] | None = None,
        symbols: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pl.DataFrame:
        """Rows of the last finished version, as `read` gives them. Raises: MissingInputError: there is none."""
        return self.read(self.finished().version, columns=columns, symbols=symbols, where=where)

    def content(self) -> str | None:
        """What the newest version was said to hold; None when it is not finished, or there is no table."""
        found = self.last_finished()
        if found is None or found != self.latest():
            return None
        return self.properties(found.version).get(_CONTENT)

    def begin(self, *, base: TableVersion | None = None) -> Rewrite:
        """Mark the table as unfinished, unless it is new, and return what finishes it.

        Args:
            base: the version that the job goes on from; None when it replaces every row.
        Raises: StorageError: the table is no longer at `base`.
        """
        if not self.exists():
            return Rewrite(self, -1)
        marked = self.set_properties({_CONTENT: _UNFINISHED}).version
        rewrite = Rewrite(self, marked)
        if base is not None and marked != base.version + 1:
            raise rewrite._lost()
        return rewrite

    def _names_itself(self, version: int) -> bool:
        properties = self.properties(version)
        return _CONTENT in properties and properties.get(_FINISHED) == str(version)


class Rewrite:
    """One job's commits to a table, counted, so that a commit of another in between is noticed."""

    def __init__(self, table: MadeTable, version: int) -> None:
        """Args: version: of the job's own last commit, -1 before the first one of a new table."""
        self._table, self._version = table, version

    def intruded(self) -> bool:
        """Whether somebody else committed since the job began."""
        newest = self._table.latest().version if self._table.exists() else -1
        return newest != self._version

    @contextlib.contextmanager
    def one_commit(self) -> Iterator[None]:
        """Around work that makes one commit.

        Raises: StorageError: the work failed, and another job has committed meanwhile, which is why.
        """
        try:
            yield
        except Exception as error:
            if self.intruded():
                raise self._lost() from error
            raise
        self._version += 1

    def check(self) -> None:
        """Raises: StorageError: another job has committed since this one began."""
        if self.intruded():
            raise self._lost()

    def _lost(self) -> StorageError:
        kept = self._table.last_finished()
        return StorageError(
            f"{self._table.uri}: another job wrote it at the same time, so what this one wrote is not called finished; readers "
            f"keep {'nothing, for no version was finished before' if kept is None else f'version {kept.version}'}. Run the "
            "stage again, one job at a time.",
            uri=self._table.uri,
        )

    def finish(self, content: str, provenance: Mapping[str, str]) -> TableVersion:
        """Make the finished version. Raises: StorageError: another job committed in between; then there is none."""
        self.check()
        due = self._version + 1
        landed = self._table.set_properties({**provenance, _CONTENT: content, _FINISHED: str(due)})
        if landed.version != due:
            raise self._lost()
        return landed
