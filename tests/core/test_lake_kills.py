"""Kill -9 at random moments of a write: the table shows one whole version, the new one or the one before."""

import random
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from support.recipes import environment

from quantfleet.storage import LakeTable, Storage, StorageConfig

ROWS = 60_000
KILLS = 8
WRITER = f"""
import sys
import numpy as np, pyarrow as pa
from quantfleet.storage import LakeTable, Storage, StorageConfig
root, way, generation = sys.argv[1], sys.argv[2], int(sys.argv[3])
table = LakeTable(Storage(StorageConfig(root=root)), "t")
symbols = np.repeat(["A", "B", "C"], {ROWS} // 3)
while True:
    rows = pa.table({{"symbol": symbols, "t": np.tile(np.arange({ROWS} // 3), 3), "generation": np.full({ROWS}, generation),
                     "noise": np.random.default_rng(generation).random({ROWS})}})
    print(generation, flush=True)
    if way == "overwrite" or not table.exists():
        table.overwrite(rows, partition_by=["symbol"])
    else:
        table.upsert(rows, ["symbol", "t"])
    generation += 1
"""


@pytest.mark.parametrize("way", ["overwrite", "upsert"])
def test_a_write_killed_at_any_moment_leaves_a_whole_version_to_read(tmp_path: Path, way: str):
    table = LakeTable(Storage(StorageConfig(root=str(tmp_path))), "t")
    draws, seen, generation, before = random.Random(way), [], 0, -1
    while len(seen) < KILLS:
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), way, str(generation)],
            env=environment(PYTHONPATH=":".join(p for p in sys.path if p)),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        if not seen:  # let it finish a first version
            before = int(child.stdout.readline())
        begun = int(child.stdout.readline())
        time.sleep(draws.uniform(0.0, 0.15))
        child.kill()
        begun = max([begun, *(int(line) for line in child.communicate()[0].split())])

        rows = table.read()
        assert rows.height == ROWS
        assert rows["generation"].n_unique() == 1, "rows of one write only"
        whole = int(rows["generation"][0])
        assert whole in ((before if begun == generation else begun - 1), begun), "what was finished is never lost"
        assert rows.select("symbol", "t").is_unique().all()
        version = table.latest().version
        if version:
            assert table.read(version - 1).height == ROWS, "the version before stays readable"
        seen.append(begun - whole)
        before, generation = whole, begun + 1
    assert sum(seen) > 0, f"no kill hit a write under way: {seen}"
    last = table.upsert(rows.with_columns(pl.lit(-1).alias("generation")).to_arrow(), ["symbol", "t"])
    assert table.read(last.version)["generation"].unique().to_list() == [-1], "and the next writer goes on"
