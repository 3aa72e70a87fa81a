"""Run in a process of its own: a Ray cluster of three nodes on this machine loses one in the middle of the feature job.

Prints one JSON line: digests of the table written undisturbed and of the one written with the loss, and what was there when
the node died.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import ray
from ray.cluster_utils import Cluster

from quantfleet.config import fingerprint
from quantfleet.contracts import FetchRequest, Timeframe
from quantfleet.plugins import load_plugins
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.feature_store import feature_table_path, write_features
from quantfleet_data.features import FeaturesConfig
from quantfleet_data.features.cross_section import CrossRank
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.sources.synthetic import SyntheticConfig

SYMBOLS, DAYS = 24, 20
BEFORE_LOSS = 10
"""Symbols that are finished when the node is lost, at least; one or more of them by that node."""


@dataclass(frozen=True, kw_only=True)
class MadeBars:
    """Synthetic bars, made when they are read; the task says that it began."""

    storage: Storage
    wait: bool
    """Once enough symbols are finished, tasks stand still until the node is lost, so that it happens in the middle however fast
    the machine is. The first task of a node goes through."""
    timeframe: str = "5m"
    version: int = 0

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(f"S{number:05d}" for number in range(SYMBOLS))

    @property
    def fingerprint(self) -> str:
        return "made"

    def read(self, symbol: str) -> pl.DataFrame:
        context = ray.get_runtime_context()
        if context.get_task_id() is not None:  # not the driver, which tries the features on one symbol first
            root, node = Path(self.storage.path()), context.get_node_id()
            self.storage.write_text(f"begun/{symbol}", node)
            deadline = time.monotonic() + 120
            done = finished(root)
            stands = self.wait and len(done) >= BEFORE_LOSS and node in done.values()
            while stands and not self.storage.exists("lost"):
                assert time.monotonic() < deadline, "no node was lost within 120 s"
                time.sleep(0.05)
        return all_bars().filter(pl.col("symbol") == symbol)


def begun(root: Path) -> dict[str, str]:
    """Symbols whose task began, and the node of it; not those on their way into place."""
    return {file.name: file.read_text() for file in (root / "begun").glob("S?????")}


def finished(root: Path) -> dict[str, str]:
    """Symbols whose features are computed, for their state is written."""
    states = {file.stem for file in root.glob("lake/scratch/*/*/state/*.arrow")}
    return {symbol: node for symbol, node in begun(root).items() if fingerprint(symbol) in states}


@functools.lru_cache(maxsize=1)
def all_bars() -> pl.DataFrame:
    request = FetchRequest(
        timeframe=Timeframe("5m"), last_known=lambda symbol: None, now_utc=dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    )
    return pl.concat(SyntheticConfig(symbols=SYMBOLS, days=DAYS).build().fetch(request))


def written(root: Path, wait: bool) -> str:
    storage = Storage(StorageConfig(root=str(root)))
    features = FeaturesConfig(extra=(CrossRank(of=LogReturn(bars=5)),)).resolve()
    version = write_features(MadeBars(storage=storage, wait=wait), features)
    rows = LakeTable(storage, feature_table_path("5m", features)).read(version.version).sort("symbol", "timestamp")
    return hashlib.sha256(rows.select(sorted(rows.columns)).write_ipc(None).getvalue()).hexdigest()


def main() -> None:
    root = Path(sys.argv[1])
    load_plugins(("quantfleet_data",))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200_000_000})
    others = [cluster.add_node(num_cpus=1, object_store_memory=200_000_000) for _ in range(2)]
    ray.init(
        cluster.address,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": ":".join(p for p in sys.path if p)}},
    )
    undisturbed = written(root / "undisturbed", wait=False)
    at_loss: dict[str, Any] = {}

    def lose_a_node() -> None:
        lake, doomed = root / "disturbed", others[0].node_id
        while True:  # until it has finished something, and is at work on something else
            done, at_work = finished(lake), begun(lake)
            there = [symbol for symbol, node in at_work.items() if node == doomed and symbol not in done]
            if len(done) >= BEFORE_LOSS and doomed in done.values() and there:
                break
            time.sleep(0.05)
        at_loss["begun"], at_loss["finished"], at_loss["there"] = len(at_work), len(done), there
        at_loss["lost"] = sum(node == doomed for node in done.values())
        cluster.remove_node(others[0], allow_graceful=False)
        (root / "disturbed" / "lost").touch()

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    disturbed = written(root / "disturbed", wait=True)
    thread.join(timeout=30)
    again = [name for name in at_loss["there"] if begun(root / "disturbed")[name] != others[0].node_id]
    said = {"undisturbed": undisturbed, "disturbed": disturbed, "symbols": SYMBOLS, **at_loss}
    print(json.dumps({**said, "again": again}))
    ray.shutdown()
    cluster.shutdown()
