"""A cluster of three nodes loses one in the middle of the feature job."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from support.recipes import environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_feature_job_finishes_and_its_table_equals_that_of_an_undisturbed_run(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", "from support.node_loss import main; main()", str(tmp_path)],
        env=environment(PYTHONPATH=":".join(p for p in sys.path if p), RAY_AUTH_TOKEN=secrets.token_hex(32)),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    said = json.loads(line)
    assert 10 <= said["finished"] < said["begun"] < said["symbols"], "the node was lost in the middle of the job"
    assert said["lost"] > 0, "it had finished symbols"
    assert said["again"], "what ran on it was computed again elsewhere"
    assert said["disturbed"] == said["undisturbed"]
