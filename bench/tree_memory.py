"""`python -m bench.tree_memory`: peak resident memory of a worker that fits trees, while its shard grows tenfold.

Each fit runs in a process of its own, on a shard that is made up chunk by chunk and never lies in memory. What is printed is how
far the process's own memory rose, and `ru_maxrss`, which also counts the pages of XGBoost's cache files: mapped, and
taken back by the operating system when it needs them. In megabytes, and in bytes a row between the two sizes.

Shapes: B chunks, C targets, T = C + L - 1 rows, F features, K label columns.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MadeUpChunks", "rise_of_a_fit"]

FEATURES, CHUNK_BARS = 200, 256
WAYS = ("xgboost-always", "xgboost-never", "lightgbm", "whole-shard")
"""`whole-shard` holds the features as floats and hands them to XGBoost at once, as it was done before."""


class MadeUpChunks:
    """A ChunkReader over chunks that a generator makes when they are asked for: equal places, equal chunks."""

    local, content = True, "made up"

    def __init__(self, chunks: int, seed: int) -> None:
        from quantfleet.contracts import DataSpec

        self._chunks, self._seed = chunks, seed
        self.spec = DataSpec(
            symbols=("S",), feature_columns=tuple(f"f{i}" for i in range(FEATURES)), feature_digest="0" * 16,
            horizons_bars=(1, 5), timeframe="1m", lookback_bars=1, chunk_bars=CHUNK_BARS,
        )  # fmt: skip

    def __len__(self) -> int:
        return self._chunks

    def index(self) -> Any:
        from quantfleet.contracts import ChunkIndex

        P = self._chunks
        return ChunkIndex(
            chunk_id_P=np.arange(P), time_P=np.arange(P), targets_P=np.full(P, CHUNK_BARS, np.int32),
            weight_P=np.full(P, CHUNK_BARS, np.float32), volatility_P=np.ones(P, np.float32),
            regime_P=np.zeros(P, np.int16),
        )  # fmt: skip

    def take(self, place_B: npt.NDArray[np.int64]) -> Any:
        from quantfleet.contracts import ChunkBatch

        B, K = len(place_B), len(self.spec.label_columns)
        x_BTF = np.empty((B, CHUNK_BARS, FEATURES), np.float32)
        y_BCK = np.empty((B, CHUNK_BARS, K), np.float32)
        for b, place in enumerate(place_B):
            rng = np.random.default_rng((self._seed, int(place)))
            rng.standard_normal(out=x_BTF[b], dtype=np.float32)
            rng.standard_normal(out=y_BCK[b], dtype=np.float32)
            y_BCK[b] += x_BTF[b, :, :K]
        values: dict[str, Any] = {
            "chunk_id_B": place_B.copy(), "symbol_id_B": np.zeros(B, np.int32),
            "time_BC": place_B[:, None] * CHUNK_BARS + np.arange(CHUNK_BARS), "x_BTF": x_BTF, "y_BCK": y_BCK,
            "mask_BC": np.ones((B, CHUNK_BARS), np.bool_), "weight_BC": np.ones((B, CHUNK_BARS), np.float32),
        }  # fmt: skip
        return ChunkBatch(**{name: values[name] for name in ChunkBatch.__dataclass_fields__})


def rise_of_a_fit(way: str, chunks: int) -> tuple[int, int]:
    """Fit in this process; how far its own memory rose at most, and `ru_maxrss`, in bytes. Once a process: a peak never falls."""
    import lightgbm  # noqa: F401 - libraries count as what stood before
    import xgboost

    from quantfleet.training.boosting import Progress, boost
    from quantfleet.training.row_model import RowTask
    from quantfleet.training.rows import LabelScale, RowReader, Share
    from quantfleet.training.single_task import all_rows
    from quantfleet.transforms import InputTransform
    from quantfleet_models.boosted import XGBoostConfig
    from quantfleet_models.boosted.model import grower, parameters
    from quantfleet_models.lightgbm import LightGBMConfig
    from quantfleet_models.lightgbm.model import LightGBMGrower

    settings: Any = {"rounds": 4, "checkpoint_every_rounds": 2, "max_bins": 64}
    config: Any = LightGBMConfig(**settings, sample_rows=5000) if way == "lightgbm" else XGBoostConfig(
        **settings, external_memory="always" if way == "xgboost-always" else "never", memory_mb=1
    )  # fmt: skip
    train, validation = MadeUpChunks(chunks, 1), MadeUpChunks(max(1, chunks // 10), 2)
    K = len(train.spec.label_columns)
    scale, inputs = LabelScale(np.zeros(K), np.ones(K)), InputTransform(train.spec)
    readers: Any = {
        name: RowReader(reader, inputs, scale, batch_bytes=4 << 20)
        for name, reader in (("train", train), ("validation", validation))
    }
    task = RowTask(
        config=config, spec=train.spec, inputs=inputs, scale=scale, seed=1, threads=1, use_gpu=False, readers=readers
    )
    readers["validation"].read(np.arange(1))
    peak = _AnonymousPeak()
    if way == "whole-shard":
        matrices = [xgboost.DMatrix(r.x_RG, label=r.y_RK) for r in (all_rows(reader) for reader in readers.values())]
        xgboost.train({**parameters(task), "seed": 1}, matrices[0], num_boost_round=settings["rounds"])
    elif way == "lightgbm":
        boost(task, LightGBMGrower(task, Share(0, 1), None, network={}, add_up=lambda v: v), Progress(), lambda p: None)
    else:
        with grower(task, Share(0, 1), None) as grown:
            boost(task, grown, Progress(), lambda p: None)
    return peak.risen()


class _AnonymousPeak:
    """How far this process's own memory rises, looked at every 5 ms, and `ru_maxrss`, which counts mapped pages of files too."""

    def __init__(self) -> None:
        self._before = self._highest = self._now()
        self._maxrss = self._maxrss_now()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def risen(self) -> tuple[int, int]:
        self._stop.set()
        self._watcher.join()
        return self._highest - self._before, self._maxrss_now() - self._maxrss

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._highest = max(self._highest, self._now())

    @staticmethod
    def _maxrss_now() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @staticmethod
    def _now() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024


def measure(way: str, chunks: int) -> list[float]:
    """Megabytes, from a process of its own."""
    code = f"from bench.tree_memory import rise_of_a_fit as r; print('rise', *r({way!r}, {chunks}))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return [int(part) / (1 << 20) for part in done.stdout.split("rise ")[1].split()[:2]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.tree_memory", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument(
        "--chunks", type=int, default=100, help="of the small shard; the large one has ten times as many"
    )
    parser.add_argument("--way", choices=WAYS, action="append", help="all when absent")
    arguments = parser.parse_args()
    small, large = arguments.chunks, 10 * arguments.chunks
    print(f"{small * CHUNK_BARS} and {large * CHUNK_BARS} rows of {FEATURES} features ({4 * FEATURES} bytes as floats)")
    for way in arguments.way or WAYS:
        rises = [measure(way, chunks) for chunks in (small, large)]
        for name, low, high in zip(("own", "maxrss"), *rises, strict=True):
            slope = (high - low) * (1 << 20) / ((large - small) * CHUNK_BARS)
            print(f"{way:16} {name:8} {low:8.0f} MB {high:8.0f} MB {slope:8.0f} bytes a row", flush=True)


if __name__ == "__main__":
    main()
