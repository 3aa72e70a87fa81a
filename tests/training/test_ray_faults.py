"""A fit on a real Ray loses a worker, its controller, a node and its storage, and ends as if nothing had happened.

The figures of docs/faults.md are those this prints: `pytest tests/training/test_ray_faults.py -s`.
"""

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from services.s3 import S3Server
from support.ray_faults import EPOCHS, EVERY, STEPS_PER_EPOCH
from support.recipes import environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MOST_LOST = 2 * EVERY + 1
"""Steps since the newest whole checkpoint, while the next one is on its way."""


def struck(fault: str, folder: Path, root: str, *servers: int, **env: str) -> dict[str, Any]:
    """Fit while the fault happens; what `support.ray_faults` says of it."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from support.ray_faults import main; main()",
            fault,
            str(folder),
            root,
            *map(str, servers),
        ],
        env=environment(PYTHONPATH=":".join(p for p in sys.path if p), RAY_AUTH_TOKEN=secrets.token_hex(32), **env),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    print(fault, line)
    said: dict[str, Any] = json.loads(line)
    assert said["errors"] == []
    assert said["stopped"] is None
    assert said["epochs"] == list(range(EPOCHS)), "each epoch once"
    assert said["steps_in_the_end"] == EPOCHS * STEPS_PER_EPOCH
    return said


@pytest.mark.parametrize("fault", ["worker", "controller"])
def test_what_is_killed_is_replaced_and_goes_on_from_the_newest_checkpoint(fault: str, tmp_path: Path):
    said = struck(fault, tmp_path, str(tmp_path / "store"))
    assert said["attempts"] == 1
    assert said["steps_lost"] <= MOST_LOST


def test_a_fit_shrinks_when_a_node_is_lost_and_grows_when_one_comes(tmp_path: Path):
    said = struck("node", tmp_path, str(tmp_path / "store"))
    assert said["workers"] == [2, 1, 2]
    assert said["steps_lost"] <= MOST_LOST


@pytest.mark.services
def test_storage_that_says_nothing_for_half_a_minute_loses_no_step(s3_server: S3Server, tmp_path: Path):
    root = f"{s3_server.create_bucket('faults')}/store"
    said = struck("storage", tmp_path, root, *s3_server.pids, **s3_server.environment)
    assert said["attempts"] == 0, "nothing is begun again"
