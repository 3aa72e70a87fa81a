"""`python -m bench.online`: how long the online read of a symbol's newest feature row takes, call by call.

5,000 symbols, the 413 columns of all named sets, the calls in random order over the symbols; no mean, but the slowest in a
hundred and in a thousand. `look-up` is what a service does for an answer; `refresh and look-up` asks the storage (a local
folder) first whether there is a newer version. Writes bench/online.json.
"""

from __future__ import annotations

import datetime as dt
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from quantfleet.storage import Storage, StorageConfig, TableVersion
from quantfleet_data.feature_store import OnlineFeatures
from quantfleet_data.feature_store.live import LiveFeatures
from quantfleet_data.feature_store.state import SymbolState, states_to_bytes

SYMBOLS, COLUMNS = 5_000, 413
TABLE = "lake/features/1m/bench-0"


def percentiles(call: Callable[[str], object], symbols: list[str]) -> dict[str, float]:
    """Microseconds of single calls, the clock's own share among them."""
    spent = np.empty(len(symbols))
    for number, symbol in enumerate(symbols):
        start = time.perf_counter_ns()
        call(symbol)
        spent[number] = time.perf_counter_ns() - start
    named = zip(("p50_us", "p99_us", "p99.9_us"), np.percentile(spent, [50, 99, 99.9]) / 1000, strict=True)
    return {"calls": len(symbols), **{name: round(float(value), 2) for name, value in named}}


def main() -> None:
    rng = np.random.default_rng(0)
    names = [f"S{number:05d}" for number in range(SYMBOLS)]
    with tempfile.TemporaryDirectory(prefix="quantfleet-bench-online-") as root:
        live = LiveFeatures(Storage(StorageConfig(root=root)), TABLE)
        opened = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
        rows = {name: rng.standard_normal(COLUMNS) for name in names}
        live.write("bench", states_to_bytes(SymbolState(n, 1, opened, "", row, {}) for n, row in rows.items()))
        live.publish("bench", TableVersion(TABLE, 1), [f"f{number}" for number in range(COLUMNS)])
        online = OnlineFeatures(live.storage, TABLE)
        for name in names:
            assert online.latest(name)[1].tobytes() == rows[name].tobytes()

        def refreshed(name: str) -> object:
            online.refresh()
            return online.latest(name)

        found = {
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "symbols": SYMBOLS,
            "columns": COLUMNS,
            "look-up": percentiles(online.latest, list(rng.choice(names, 200_000))),
            "refresh and look-up": percentiles(refreshed, list(rng.choice(names, 5_000))),
        }
    print(json.dumps(found, indent=1))
    Path(__file__).with_name("online.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
