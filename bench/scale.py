"""`python -m bench.scale`: ingest to chunks at 1x and 10x the data; what time and resident memory do.

`--grow symbols` (ten times the symbols): time per row and memory must not grow. Writes bench/scale.json, docs/images/scale.png.
`--grow days` (ten times the history of each): memory may grow with a symbol's history, which a task holds, and with nothing
else. Writes bench/scale_days.json.

Every stage runs in a process of its own, which starts its own local Ray; the start alone is timed, too. Memory is the
proportional set size (shared pages counted once), sampled twice a second: of the whole process tree, and of its largest
process, which is a task or the driver.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

STAGES = ("ingest", "quality", "features", "labels", "split", "chunks")
INTERVAL_S = 0.5
START = """
from quantfleet.cluster import ClusterConfig
from quantfleet.cluster.session import ray_session
with ray_session(ClusterConfig()):
    pass
"""


@dataclass
class Watched:
    """One process tree while it ran."""

    seconds: float
    samples: list[tuple[float, float]]
    """Seconds since the start, bytes."""
    largest: float = 0.0
    """Bytes of the largest single process, at its largest."""

    @property
    def peak(self) -> float:
        return max((size for _, size in self.samples), default=0.0)


def tree_bytes(root: psutil.Process) -> tuple[float, float]:
    """Of all processes, and of the largest."""
    sizes = [0.0]
    for process in [root, *root.children(recursive=True)]:
        try:
            sizes.append(process.memory_full_info().pss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the listing and the question
    return sum(sizes), max(sizes)


def watched(command: list[str], log: Path) -> Watched:
    with log.open("a") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
        samples: list[tuple[float, float]] = []
        largest = [0.0]
        start, ended = time.perf_counter(), threading.Event()

        def sample() -> None:
            root = psutil.Process(child.pid)
            while not ended.wait(INTERVAL_S):
                try:
                    total, most = tree_bytes(root)
                    samples.append((time.perf_counter() - start, total))
                    largest[0] = max(largest[0], most)
                except psutil.NoSuchProcess:
                    return

        thread = threading.Thread(target=sample)
        thread.start()
        code = child.wait()
        seconds = time.perf_counter() - start
        ended.set()
        thread.join()
    if code:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-4000:]}")
    return Watched(seconds, samples, largest[0])


def recipe(root: Path, symbols: int, days: int, name: str) -> dict[str, Any]:
    horizons = {"horizons_bars": [5, 15]}
    return {
        "run": {"name": name},
        "storage": {"root": str(root / "store")},
        "market": {"bars_per_year": 525_600},
        "ingest": {"timeframe": "1m", "sources": [{"kind": "synthetic", "symbols": symbols, "days": days}]},
        "quality": {"calendar": "continuous", "splits": "keep"},
        "features": {"sets": ["intraday"]},
        "labels": {
            "families": [{"kind": k, **horizons} for k in ("forward_return", "direction", "realised_volatility")]
        },
        "policy": {"horizon_bars": 15},
        "windows": {"lookback_bars": 60, "chunk_bars": 240},
        "models": [{"kind": "buy_and_hold"}],
    }


def measure(symbols: int, days: int) -> dict[str, Any]:
    root = Path(tempfile.mkdtemp(prefix="quantfleet-scale-"))
    try:
        file = root / f"scale-{symbols}.yaml"
        with file.open("w") as stream:
            YAML(typ="safe", pure=True).dump(recipe(root, symbols, days, f"scale-{symbols}"), stream)
        stages: dict[str, Any] = {}
        for stage in STAGES:
            ran = watched([sys.executable, "-m", f"quantfleet_jobs.{stage}", "--config", str(file)], root / "log")
            stages[stage] = {"seconds": ran.seconds, "peak_bytes": ran.peak, "samples": ran.samples}
            stages[stage]["largest_process_bytes"] = ran.largest
            print(
                f"{symbols} symbols of {days} days, {stage}: {ran.seconds:.1f} s, peak {ran.peak / 1e9:.2f} GB, largest process "
                f"{ran.largest / 1e9:.2f} GB",
                flush=True,
            )
        lake = root / "store" / "lake"
        size = sum(path.stat().st_size for path in lake.rglob("*") if path.is_file())
        return {
            "symbols": symbols,
            "days": days,
            "bars": symbols * days * 1440,
            "lake_bytes": size,
            "seconds": sum(s["seconds"] for s in stages.values()),
            "peak_bytes": max(s["peak_bytes"] for s in stages.values()),
            "largest_process_bytes": max(s["largest_process_bytes"] for s in stages.values()),
            "stages": stages,
        }
    finally:
        shutil.rmtree(root)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(runs), figsize=(11, 3.6), sharey=True, constrained_layout=True)
    for axis, run in zip(axes, runs, strict=True):
        start = 0.0
        for number, (name, stage) in enumerate(run["stages"].items()):
            times = [start + t for t, _ in stage["samples"]]
            axis.fill_between(times, [b / 1e9 for _, b in stage["samples"]], color=f"C{number}", alpha=0.75, label=name)
            start += stage["seconds"]
        axis.axhline(run["peak_bytes"] / 1e9, color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"{run['symbols']} symbols, {run['bars'] / 1e6:.1f}M bars: {run['seconds']:.0f} s")
        axis.set_xlabel("seconds")
    axes[0].set_ylabel("resident memory of all processes, GB")
    axes[0].legend(fontsize=8, ncols=2, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--grow", choices=("symbols", "days"), default="symbols", help="what the larger run has 10x of")
    parser.add_argument("--symbols", type=int, default=50, help="symbols of the smaller run")
    parser.add_argument("--days", type=int, default=7, help="days of minutes of each symbol in the smaller run")
    arguments = parser.parse_args()
    of_symbols = arguments.grow == "symbols"
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        start_s = min(watched([sys.executable, "-c", START], Path(log.name)).seconds for _ in range(2))
    print(f"start of Python and a local Ray, without work: {start_s:.1f} s", flush=True)
    grown = (10 * arguments.symbols, arguments.days) if of_symbols else (arguments.symbols, 10 * arguments.days)
    runs = [measure(*size) for size in ((arguments.symbols, arguments.days), grown)]
    small, large = runs
    folder = Path(__file__).parent
    summary = {
        "grown": arguments.grow,
        "start_seconds": start_s,
        "time_ratio": large["seconds"] / small["seconds"],
        "memory_ratio": large["peak_bytes"] / small["peak_bytes"],
        "runs": [
            {**run, "stages": {n: {k: v for k, v in s.items() if k != "samples"} for n, s in run["stages"].items()}}
            for run in runs
        ],
    }
    (folder / ("scale.json" if of_symbols else "scale_days.json")).write_text(json.dumps(summary, indent=1) + "\n")
    if of_symbols:
        draw(runs, folder.parent / "docs" / "images" / "scale.png")
    print(
        f"10x the {arguments.grow}: {summary['time_ratio']:.2f}x the time, {summary['memory_ratio']:.2f}x the peak memory, "
        f"largest process {small['largest_process_bytes'] / 1e9:.2f} -> {large['largest_process_bytes'] / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
