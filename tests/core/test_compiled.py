"""Machine code on disk follows the sources of the loop and of what it calls; inputs look alike to the compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from quantfleet.compiled import read_only

CALLEE = "from numba import njit\n\n@njit(cache=True)\ndef fee(x):\n    return x * {rate}\n"
CALLER = """
import inner
from quantfleet.compiled import compiled

@compiled(inner)
def charge(x):
    return inner.fee(x) + 1.0

print(charge(100.0), sum(charge.stats.cache_hits.values()))
"""


def write(folder: Path, rate: float) -> None:
    (folder / "inner.py").write_text(CALLEE.format(rate=rate))
    (folder / "outer.py").write_text(CALLER)
    os.utime(folder / "outer.py", (1.0, 1.0))  # the caller is never touched


def run(folder: Path) -> list[str]:
    """What the charge is, and how often code was taken from disk."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]),
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    call = [sys.executable, "-c", "import outer"]
    return subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_a_loop_is_kept_on_disk_until_what_it_calls_in_another_file_changes(tmp_path: Path):
    write(tmp_path, 0.5)
    assert run(tmp_path) == ["51.0", "0"]
    assert run(tmp_path) == ["51.0", "1"]
    write(tmp_path, 0.25)
    assert run(tmp_path) == ["26.0", "0"]


def test_inputs_are_contiguous_and_closed_to_writing_and_the_given_array_stays_open():
    given = np.arange(6.0).reshape(2, 3)
    view = read_only(given.T)
    assert view.flags.c_contiguous
    assert not view.flags.writeable
    assert np.shares_memory(read_only(given), given)
    given[0, 0] = 7.0
