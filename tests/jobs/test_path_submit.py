"""The training job through a real `ray start --head` with token authentication: by `ray job submit` and by the SDK."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.recipes import REPOSITORY, environment, quantfleet, small_recipe, tiny_hybrid, write_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A running head node."""

    dashboard: str
    token: str

    @property
    def env(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_API_SERVER_ADDRESS": self.dashboard}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, token: str | None) -> int:
    """HTTP status of a request, with or without the token; 0 while nobody listens."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return 0


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    port, dashboard, token = free_port(), free_port(), secrets.token_hex(16)
    log = subprocess.PIPE
    start = [
        *(RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port)),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "4"),
        *("--object-store-memory", "500000000", "--disable-usage-stats"),
        *(
            "--dashboard-agent-listen-port",
            str(free_port()),
        ),  # the agent takes the jobs; another Ray here may have its port
    ]
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, PATH=f"{Path(RAY).parent}:/usr/bin:/bin")
    process = subprocess.Popen(start, env=env, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    url = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 90
        while answers(f"{url}/api/jobs/", token) != 200:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline, "the head node did not come up in 90 s"
            time.sleep(0.5)
        yield Head(url, token)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the head and all it started; SIGTERM takes half a minute
        process.wait()


@pytest.fixture(scope="module")
def recipe(prepared_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose data are ready to train on."""
    models = [tiny_hybrid(epochs=1), {"kind": "buy_and_hold"}]
    return write_recipe(
        tmp_path_factory.mktemp("submit"), small_recipe(str(prepared_store), models=models, name="submitted")
    )


def trained(store: Path, run: str) -> dict[str, object]:
    record = json.loads((store / "runs" / run / "stages" / "train.json").read_text())
    models: dict[str, object] = record["outputs"]["models"]
    return models


def test_the_head_refuses_who_has_no_token(head: Head):
    assert answers(f"{head.dashboard}/api/jobs/", None) == 401
    assert answers(f"{head.dashboard}/api/jobs/", "wrong") in (401, 403)


def test_ray_job_submit_trains(head: Head, recipe: Path, prepared_store: Path):
    python_path = json.dumps({"env_vars": {"PYTHONPATH": "platform:models:data_pipelines:jobs"}})
    submit = [RAY, "job", "submit", "--working-dir", ".", "--runtime-env-json", python_path, "--"]
    job = ["python", "-m", "quantfleet_jobs.train", "--config", str(recipe), "--set", "run.name=by-cli"]

    done = subprocess.run(
        [*submit, *job],
        cwd=REPOSITORY,
        env=environment(**head.env),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "succeeded" in done.stdout
    assert set(trained(prepared_store, "by-cli")) == {"hybrid", "buy_and_hold"}


def test_the_sdk_trains_and_follows_the_log(head: Head, recipe: Path, prepared_store: Path):
    done = quantfleet(
        *("submit", "train", str(recipe), "--working-dir", str(REPOSITORY), "--set", "run.name=by-sdk"),
        cwd=recipe.parent,
        **head.env,
    )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "/#/jobs/" in done.stdout, "the job's page"
    assert " val " in done.stdout, "the line of the fit"
    assert set(trained(prepared_store, "by-sdk")) == {"hybrid", "buy_and_hold"}


def test_a_job_that_fails_is_an_error_here(head: Head, recipe: Path):
    done = quantfleet(
        *("submit", "train", str(recipe), "--working-dir", str(REPOSITORY), "--set", "run.name=never-prepared"),
        cwd=recipe.parent,
        **head.env,
    )

    assert done.returncode == 1
    assert "has not done ingest yet" in done.stdout
    assert "TrainingError" in done.stderr
