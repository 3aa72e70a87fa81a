"""Tables made in several commits: only what one job made alone, to its end, is a finished version."""

import pyarrow as pa
import pytest

from quantfleet.errors import MissingInputError, StorageError
from quantfleet.storage import MadeTable, Storage, StorageConfig, TableVersion

PATH = "lake/features/1d/test"


def rows(*values: int) -> pa.Table:
    return pa.table({"value": pa.array(values, pa.int64())})


@pytest.fixture
def table(tmp_path) -> MadeTable:
    return MadeTable(Storage(StorageConfig(root=str(tmp_path))), PATH)


def make(table: MadeTable, content: str, *values: int) -> TableVersion:
    rewrite = table.begin()
    with rewrite.one_commit():
        table.overwrite(rows(*values))
    return rewrite.finish(content, {"bars_version": "7"})


def test_a_finished_version_says_what_it_holds_and_of_what(table: MadeTable):
    first = make(table, "one", 1)
    assert first == table.latest() == table.finished()
    assert table.content() == "one"
    assert table.properties()["bars_version"] == "7"
    assert make(table, "two", 2).version == first.version + 3, "mark, rows, end"
    assert table.read_finished()["value"].to_list() == [2]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_job_that_dies_after_any_commit_leaves_the_version_before_to_readers(table: MadeTable, steps: int):
    first = make(table, "one", 1)
    table.begin()
    if steps == 2:
        table.append(rows(2))
    assert table.last_finished() == first
    assert table.content() is None, "what is there is not said to be anything"
    assert table.read_finished()["value"].to_list() == [1]
    make(table, "two", 3)
    assert table.read_finished()["value"].to_list() == [3], "the next job finishes it"


def test_a_first_write_that_died_is_no_version_at_all(table: MadeTable):
    with pytest.raises(MissingInputError, match="no finished version: its first write is under way, or died"):
        table.read_finished()
    table.overwrite(rows(1))
    assert table.last_finished() is None
    with pytest.raises(MissingInputError, match="no finished version"):
        table.read_finished()


@pytest.mark.parametrize("moment", ["before the rows", "after the rows"])
def test_a_job_that_another_committed_between_is_refused_and_readers_keep_the_version_before(
    table: MadeTable, moment: str
):
    first = make(table, "one", 1)
    rewrite = table.begin()
    if moment == "before the rows":
        table.append(rows(9))
    with rewrite.one_commit():
        table.overwrite(rows(2))
    if moment == "after the rows":
        table.append(rows(9))
    with pytest.raises(
        StorageError, match=f"another job wrote it at the same time.*readers keep version {first.version}"
    ):
        rewrite.finish("two", {})
    assert table.last_finished() == first


def test_a_commit_that_slips_in_before_the_very_last_one_is_noticed(table: MadeTable, monkeypatch):
    first = make(table, "one", 1)
    rewrite = table.begin()
    with rewrite.one_commit():
        table.overwrite(rows(2))
    monkeypatch.setattr(
        rewrite, "intruded", lambda: bool(table.append(rows(9))) and False
    )  # after the look, before the end
    with pytest.raises(StorageError, match="another job wrote it"):
        rewrite.finish("two", {})
    assert table.last_finished() == first


def test_of_two_first_writes_neither_is_finished_when_they_mix(table: MadeTable):
    one, other = table.begin(), table.begin()
    with one.one_commit():
        table.append(rows(1))
    with other.one_commit():
        table.append(rows(2))
    for rewrite in (one, other):
        with pytest.raises(StorageError, match="readers keep nothing"):
            rewrite.finish("x", {})
    assert table.last_finished() is None


def test_a_job_that_fails_because_another_committed_is_told_so_and_one_that_fails_by_itself_is_not(table: MadeTable):
    make(table, "one", 1)
    rewrite = table.begin()
    with pytest.raises(KeyError), rewrite.one_commit():
        raise KeyError("its own mistake")
    table.append(rows(9))
    with pytest.raises(StorageError, match="another job wrote it") as caught, rewrite.one_commit():
        raise KeyError("a file is gone")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_job_goes_on_only_from_the_version_it_looked_at(table: MadeTable):
    base = make(table, "one", 1)
    table.append(rows(9))
    with pytest.raises(StorageError, match=f"readers keep version {base.version}"):
        table.begin(base=base)


def test_joining_files_keeps_a_finished_version_finished_and_a_stray_commit_does_not(table: MadeTable):
    rewrite = table.begin()
    for value in (1, 2, 3):
        with rewrite.one_commit():
            table.append(rows(value))
    finished = rewrite.finish("one", {})
    joined = table.compact()
    assert joined.version > finished.version
    assert table.last_finished() == joined
    assert table.content() == "one"
    table.append(rows(4))
    table.compact()
    assert table.last_finished() == joined, "joined files of a stray commit are stray"
    assert table.content() is None
