"""A1: sixty indicators of one symbol. The code of the kernels is timed, on columns, as TA-Lib is."""

from __future__ import annotations

from typing import Any

from bench.harness import BenchRow, Prepared
from bench.sixty import assert_equals_talib, random_market, talib_calls
from quantfleet_data.features import sixty_indicators
from quantfleet_data.features.kernels import Runner, empty_rows, program_of

BARS = 1_000_000


def prepare() -> Prepared:
    market, features = random_market(0, BARS), sixty_indicators()
    columns = market.columns()
    out_FT = empty_rows(len(features), BARS)
    out_FT[:] = 0.0  # reused by every round, as a job reuses it for every symbol

    def ours() -> Any:
        Runner(program_of(features)).feed(columns, out_FT)  # compiled in the first call, then known
        return out_FT

    def peer() -> None:
        for _ in talib_calls(market):  # every result is dropped at once, so TA-Lib's memory stays in the cache
            pass

    def check(values_FT: Any, _: Any) -> None:
        names = tuple(feature.column for feature in features)
        assert_equals_talib(names, lambda number: values_FT[number], market, tolerance=1e-9)

    return Prepared(ours=ours, peer=peer, check=check)


ROW = BenchRow(
    id="A1",
    work="60 indicator columns, 1 symbol x 1M bars, float64",
    peer="the TA-Lib calls",
    target=0.5,
    prepare=prepare,
    versions=("TA-Lib", "llvmlite", "numpy"),
    rounds=9,
)
