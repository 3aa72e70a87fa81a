"""`python -m bench.forecast [--only dlinear,patch_tst/ETTh1/96]`: train, judge, print the table, write bench/forecast.json.

Rows whose id begins with one of the names of `--only` are run; the others keep what the file says of them.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.forecast.data import Dataset, data_folder, load
from bench.forecast.protocol import Persistence, errors, train
from bench.forecast.rows import ROWS, Row

RESULTS = Path(__file__).parent.parent / "forecast.json"


def run(row: Row, data: Dataset, *, seed: int, limit_s: float) -> dict[str, Any]:
    """One line of the file. Raises: nothing of its own; persistence is judged on the same windows."""
    torch.manual_seed(seed)
    network, shape = row.make(data.values_TF.shape[1]), {"lookback": row.lookback, "steps": row.steps}
    began = time.perf_counter()
    trained = None
    if row.training is not None:
        trained = train(network, data, row.training, **shape, seed=seed, limit_s=limit_s)
    mse, mae = errors(network, data, "test", **shape)
    naive_mse, naive_mae = errors(Persistence(steps=row.steps), data, "test", **shape)
    published_mse, published_mae = (None if math.isnan(value) else value for value in row.published)
    return {
        "id": row.id, "model": row.model, "data": row.data, "channels": data.values_TF.shape[1], **shape,
        "mse": mse, "mae": mae, "published_mse": published_mse, "published_mae": published_mae, "source": row.source,
        "persistence_mse": naive_mse, "persistence_mae": naive_mae, "note": row.note,
        "windows": len(data.windows("test", **shape)), "parameters": sum(p.numel() for p in network.parameters()),
        "epochs": trained.epochs if trained else 0, "of_epochs": row.training.epochs if row.training else 0,
        "best_epoch": trained.best_epoch if trained else 0, "stopped_by_time": bool(trained and trained.stopped_by_time),
        "epoch_s": trained.epoch_s if trained else 0.0, "seconds": time.perf_counter() - began, "seed": seed,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}",
    }  # fmt: skip


def table(records: list[dict[str, Any]]) -> str:
    """What was measured beside what was published, and where persistence wins."""
    lines = [f"{'row':32} {'L':>4}  {'ours MSE / MAE':>15}  {'published':>13}  {'persistence':>13}  epochs"]
    for r in records:
        published = "–" if r["published_mse"] is None else f"{r['published_mse']:.3f} / {r['published_mae']:.3f}"
        epochs = f"{r['epochs']} of {r['of_epochs']}" if r["of_epochs"] else "none"
        said = []
        if r["stopped_by_time"]:
            said.append("stopped by time")
        if r["model"] != "persistence" and r["persistence_mse"] <= r["mse"]:
            said.append("PERSISTENCE WINS on MSE")
        if r["model"] != "persistence" and r["persistence_mae"] <= r["mae"]:
            said.append("PERSISTENCE WINS on MAE")
        lines.append(
            f"{r['id']:32} {r['lookback']:4}  {r['mse']:7.4f} / {r['mae']:5.3f}  {published:>13}  "
            f"{r['persistence_mse']:5.3f} / {r['persistence_mae']:5.3f}  {'; '.join([epochs, *said])}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.forecast", description=__doc__)
    parser.add_argument("--only", default="", help="beginnings of row ids, with commas; all when absent")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="a row's training ends after the epoch in which this is over"
    )
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    wanted = [name.strip() for name in arguments.only.split(",") if name.strip()]
    rows = [row for row in ROWS if not wanted or any(row.id.startswith(name) for name in wanted)]
    if not rows:
        parser.error(f"no row begins with {', '.join(wanted)}; there are {', '.join(row.id for row in ROWS)}")
    folder, loaded = data_folder(), {}
    known = {r["id"]: r for r in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for row in rows:
        print(f"{row.id} ...", file=sys.stderr, flush=True)
        data = loaded.setdefault(row.data, load(row.data, folder))
        known[row.id] = run(row, data, seed=arguments.seed, limit_s=60 * arguments.minutes)
        ordered = [known[r.id] for r in ROWS if r.id in known]
        partial = RESULTS.with_suffix(".part")
        partial.write_text(json.dumps(ordered, indent=1) + "\n")
        partial.replace(RESULTS)
    print(table([known[row.id] for row in rows]))


if __name__ == "__main__":
    main()
