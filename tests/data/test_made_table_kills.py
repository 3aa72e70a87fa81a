"""Feature and label jobs killed with -9 at random moments, and two at once: readers see one whole version, always.

The tasks run in the job's own process (`support.local_tasks`): what is tested is the order of the commits.
"""

import random
import time
from pathlib import Path

import polars as pl
import pytest
from support.local_tasks import FEATURES, LABELS, SYMBOLS, GrowingBars, processes, write_for_ever, write_once

from quantfleet.config import fingerprint
from quantfleet.contracts import Timeframe
from quantfleet.storage import MadeTable, Storage, StorageConfig
from quantfleet_data.feature_store import feature_table_path
from quantfleet_data.features import compute_features
from quantfleet_data.labels import compute_labels

KILLS, MOST = 4, 30
PATHS = {
    "features": feature_table_path("1d", FEATURES),
    "labels": f"lake/labels/1d/{fingerprint('labels', LABELS)}",
}


def whole(storage: Storage, job: str, generation: int) -> pl.DataFrame:
    """What a job of this generation writes, computed at once."""
    bars = GrowingBars(storage, generation)
    if job == "features":
        return pl.concat(compute_features(bars.read(symbol), FEATURES) for symbol in SYMBOLS)
    return pl.concat(compute_labels(bars.read(symbol), LABELS, Timeframe("1d")) for symbol in SYMBOLS)


def generation_of(table: MadeTable) -> int:
    """Of the finished version; its rows are those of that generation, every one."""
    found = table.finished()
    generation = int(table.properties(found.version)["bars_version"])
    wanted = whole(table.storage, table.path.split("/")[1], generation).sort("symbol", "timestamp")
    rows = table.read_finished().sort("symbol", "timestamp").select(wanted.columns)
    assert rows.cast(wanted.schema).equals(wanted)
    return generation


@pytest.mark.parametrize("job", PATHS)
def test_a_job_killed_at_any_moment_leaves_the_last_finished_version_whole_and_the_next_one_goes_on(
    tmp_path: Path, job: str
):
    table = MadeTable(Storage(StorageConfig(root=str(tmp_path))), PATHS[job])
    draws, context, generation, kills, torn = random.Random(job), processes(), 0, 0, 0
    while kills < KILLS or not torn:
        kills += 1
        assert kills < MOST, "no kill hit a write under way"
        heard, said = context.Pipe(duplex=False)
        child = context.Process(target=write_for_ever, args=(str(tmp_path), job, generation, said), daemon=True)
        child.start()
        said.close()
        assert heard.recv() == generation
        first = generation + 2 if kills == 1 else generation + 1
        while heard.recv() < first:  # it finished at least one
            pass
        time.sleep(draws.uniform(0.0, 0.15))
        child.kill()
        child.join()
        begun = first
        while heard.poll():
            try:
                begun = heard.recv()
            except EOFError:
                break
        generation = generation_of(table)
        assert generation in (begun - 1, begun), "what was finished is never lost"
        torn += table.latest() != table.finished()
        generation += 1


@pytest.mark.parametrize("job", PATHS)
def test_of_two_jobs_at_once_a_loser_is_told_and_the_finished_version_is_whole(tmp_path: Path, job: str):
    table = MadeTable(Storage(StorageConfig(root=str(tmp_path))), PATHS[job])
    context, start = processes(), processes().Event()
    generations, lost = (0,), 0
    while not lost:
        assert generations[0] < MOST, "no two jobs met"
        start.clear()
        pipes, children = [], []
        for generation in generations:
            heard, say = context.Pipe(duplex=False)
            children.append(
                context.Process(target=write_once, args=(str(tmp_path), job, generation, start, say), daemon=True)
            )
            children[-1].start()
            say.close()
            pipes.append(heard)
        before = table.last_finished()
        start.set()
        told = [heard.recv() for heard in pipes]
        for child in children:
            child.join()
        assert all(one == "finished" or "another job wrote it at the same time" in one for one in told), told
        found = generation_of(table)
        finished = [g for g, one in zip(generations, told, strict=True) if one == "finished"]
        assert found in finished if finished else table.last_finished() == before
        lost, generations = len(generations) - len(finished), (generations[-1] + 1, generations[-1] + 2)
