"""A2: sixty indicators of 500 symbols into one float32 panel."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.harness import BenchRow, Prepared
from bench.sixty import assert_equals_talib, random_market, talib_calls
from quantfleet_data.features import sixty_indicators
from quantfleet_data.features.kernels import Panel, PanelRunner, Runner, lane_code_of, program_of
from quantfleet_data.features.kernels.codes import LANES

SYMBOLS, BARS = 500, 5_000


def prepare() -> Prepared:
    markets, features = [random_market(seed, BARS) for seed in range(SYMBOLS)], sixty_indicators()
    columns = [market.columns() for market in markets]
    groups = [range(start, min(start + LANES, SYMBOLS)) for start in range(0, SYMBOLS, LANES)]
    panel = Panel.empty(len(features), [BARS] * SYMBOLS)
    panel.values_FT[:] = 0.0  # used memory, as a job has from its panel before

    def ours() -> Any:
        runner = PanelRunner(lane_code_of(features))
        for group in groups:
            runner.run([columns[symbol] for symbol in group], panel, group)
        return panel

    def peer() -> None:
        for market in markets:
            for _ in talib_calls(market):  # dropped at once; copying them into a panel would double the peer's time
                pass

    def check(panel: Any, _: Any) -> None:
        names = tuple(feature.column for feature in features)
        runner, whole = Runner(program_of(features)), np.zeros((len(features), BARS))
        for symbol in (0, 1, SYMBOLS - 1):
            runner.reset()
            runner.feed(columns[symbol], whole)
            assert_equals_talib(names, lambda number: whole[number], markets[symbol], tolerance=1e-9)
            np.testing.assert_array_equal(panel.of(symbol), whole.T.astype(np.float32))

    return Prepared(ours=ours, peer=peer, check=check)


ROW = BenchRow(
    id="A2",
    work="60 indicator columns, 500 symbols x 5k bars into one float32 panel",
    peer="the TA-Lib calls in a loop",
    target=0.2,
    prepare=prepare,
    versions=("TA-Lib", "llvmlite", "numpy"),
    rounds=9,
)
