"""Small recipes for tests that run jobs, and the command line as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[2]

BEFORE_TRAINING = ("ingest", "quality", "features", "labels", "split", "chunks")
NAIVE: tuple[dict[str, Any], ...] = ({"kind": "buy_and_hold"}, {"kind": "moving_average"}, {"kind": "zero_return"})


def small_recipe(
    root: str, *, models: Sequence[Mapping[str, Any]], name: str = "small", **sections: Any
) -> dict[str, Any]:
    """Both indices of `arch`, short horizons, small windows; `sections` are added or replace what is here."""
    recipe: dict[str, Any] = {
        "run": {"name": name},
        "storage": {"root": root},
        "ingest": {"timeframe": "1d", "sources": [{"kind": "arch_daily"}]},
        "labels": {
            "families": [
                {"kind": kind, "horizons_bars": [1, 5]}
                for kind in ("forward_return", "direction", "realised_volatility")
            ]
        },
        "policy": {"horizon_bars": 5},
        "windows": {"lookback_bars": 16, "chunk_bars": 32},
        "models": [dict(model) for model in models],
    }
    return recipe | sections


def tiny_hybrid(**settings: Any) -> dict[str, Any]:
    return {"kind": "hybrid", "epochs": 2, "width": 8, "attention_heads": 2, "batch_windows": 512} | settings


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> Path:
    path = folder / f"{recipe['run']['name']}.yaml"
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(dict(recipe), file)
    return path


def environment(**extra: str) -> dict[str, str]:
    """The environment of a user's shell: nothing of this test process's own Ray or registry.

    Only that Ray's workers do not wait behind the other half of the suite.
    """
    ours = ("RAY_", "QUANTFLEET_", "MLFLOW_", "AWS_")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return plain | {"COLUMNS": "120", "RAY_worker_niceness": "0"} | extra


def command(*arguments: str) -> list[str]:
    """`quantfleet ARGUMENTS` with the interpreter that runs the tests."""
    return [sys.executable, "-c", "from quantfleet_jobs.cli import main; main()", *arguments]


def quantfleet(*arguments: str, cwd: Path, timeout_s: float = 900, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def prepare(recipe: Path) -> None:
    """Do every stage before training, in a process of its own."""
    script = (
        "import importlib, sys\nfrom quantfleet_jobs.main import perform\nfrom quantfleet_jobs.recipe import load_recipe\n"
        f"stages = [importlib.import_module('quantfleet_jobs.' + n).STAGE for n in {BEFORE_TRAINING!r}]\n"
        "perform(stages, load_recipe(sys.argv[1]))\n"
    )
    call = [sys.executable, "-c", script, str(recipe)]
    done = subprocess.run(
        call, cwd=recipe.parent, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
