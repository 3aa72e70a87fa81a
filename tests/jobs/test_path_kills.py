"""Kill -9 of the driver in the middle: the same command goes on from the last checkpoint and finishes."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from support.recipes import command, environment, quantfleet

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def start(recipe: Path, *arguments: str) -> subprocess.Popen[str]:
    log = recipe.with_suffix(".log").open("a")
    return subprocess.Popen(
        command(*arguments),
        cwd=recipe.parent,
        env=environment(),
        stdout=log,
        stderr=log,
        text=True,
    )


def logged(recipe: Path) -> str:
    return recipe.with_suffix(".log").read_text()[-4000:]


def wait_for_a_checkpoint(recipe: Path, store: Path, driver: subprocess.Popen[str]) -> None:
    """Until both workers have stored their parts: only a whole checkpoint is gone on from."""
    deadline = time.monotonic() + 600
    while not any(
        all((folder / f"manifest-{rank:05d}.json").exists() for rank in range(2))
        for folder in (store / "train").glob(f"{recipe.stem}-hybrid*/checkpoint_*")
    ):
        assert driver.poll() is None, f"the run ended before a first checkpoint:\n{logged(recipe)}"
        assert time.monotonic() < deadline, f"waited 600 s for a first checkpoint:\n{logged(recipe)}"
        time.sleep(0.1)


def record(recipe: Path, store: Path) -> Path:
    return store / "runs" / recipe.stem / "stages" / "train.json"


def assert_every_epoch_once_and_resumed(recipe: Path, store: Path) -> None:
    hybrid = json.loads(record(recipe, store).read_text())["outputs"]["models"]["hybrid"]
    assert [row["epoch"] for row in hybrid["curves"]] == list(range(len(hybrid["curves"])))
    assert len(hybrid["curves"]) > 1
    assert isinstance(hybrid["resumed_from"], int)
    assert hybrid["resumed_from"] > 0


def test_the_shipped_quickstart_killed_with_its_driver_goes_on_and_ends_with_decisions_and_a_report(tmp_path: Path):
    """The demo as `make demo` runs it; what was checkpointed before the kill is not trained again."""
    recipe, store = tmp_path / "quickstart.log", tmp_path / "store"
    arguments = ("run", "quickstart", "--set", f"storage.root={store}")
    driver = start(recipe, *arguments)
    try:
        wait_for_a_checkpoint(recipe, store, driver)
    finally:
        driver.kill()
        driver.wait()
    assert not record(recipe, store).exists()

    again = quantfleet(*arguments, cwd=tmp_path)

    assert again.returncode == 0, again.stdout[-4000:] + again.stderr[-4000:]
    assert_every_epoch_once_and_resumed(recipe, store)
    table = again.stdout[again.stdout.index("Decisions of run quickstart") :]
    verdicts = {row.split()[0]: row.split()[1] for row in table.splitlines()[3:8]}
    assert {name: word for name, word in verdicts.items() if word == "naive"}.keys() == {
        "buy_and_hold",
        "moving_average",
        "zero_return",
    }
    assert {verdicts["hybrid"], verdicts["xgboost"]} <= {"PROMOTE", "HOLD"}
    report = store / "runs" / "quickstart" / "report.html"
    assert f"Report: {report}" in again.stdout
    assert report.stat().st_size > 50_000
