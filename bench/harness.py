"""How a benchmark is run: correctness first, then ours and the peer in turn, judged by the median of their ratios.

A row of the table is a `BenchRow` named ROW in `bench/rows/<id in lower case>.py`. Absolute times are printed and never judged.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["BenchRow", "Prepared", "Result", "Timed", "measure", "write_results"]

ROUNDS = 5
"""Rounds of a row that does not ask for more."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The two sides of a row, ready to run; each call does all its work once."""

    ours: Callable[[], Any]
    peer: Callable[[], Any]
    check: Callable[[Any, Any], None]
    """Gets what ours and the peer returned; raises AssertionError where they differ by more than the row allows."""
    ours_units: float = 1.0
    """Units of work one call of ours does, when the peer is too slow to be given as many."""
    peer_units: float = 1.0
    close: Callable[[], None] = lambda: None
    """Ends what was started and removes what was written."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a row measured whose work runs in processes of its own, after it checked what they made."""

    pairs: list[tuple[float, float]]
    """Seconds per unit of ours and of the peer, a pair a round."""
    warm_up_s: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One line of the benchmark table."""

    id: str
    work: str
    """What one unit of work is, in words."""
    peer: str
    target: float
    """Upper bound of our time per unit divided by the peer's: ">= 25x faster" is 0.04."""
    prepare: Callable[[], Prepared | Timed]
    """Makes inputs; compiling belongs to the warm-up that follows, not here. Or times all by itself."""
    versions: tuple[str, ...] = ()
    """Distributions whose versions are recorded."""
    cores: int = 1
    """How many cores the process may use while this row runs."""
    rounds: int = ROUNDS


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `bench/results.json` holds of a row."""

    id: str
    work: str
    ours_s: float
    """Median seconds of ours per unit of work."""
    peer_s: float
    peer: str
    ratio: float
    """Median over the rounds of ours / peer, per unit of work."""
    target: float
    held: bool
    versions: dict[str, str]
    machine: str
    warm_up_s: float
    """The first call of ours, compiling included."""
    ratios: list[float] = field(default_factory=list)


def measure(row: BenchRow) -> Result:
    """Run one row. Raises: AssertionError: ours is wrong; then there is nothing to time."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[: row.cores]))
    try:
        prepared = row.prepare()
        timed = prepared if isinstance(prepared, Timed) else _in_turn(row, prepared)
    finally:
        os.sched_setaffinity(0, before)
    pairs = timed.pairs
    ratios = [mine / other for mine, other in pairs]
    ratio = statistics.median(ratios)
    return Result(
        id=row.id,
        work=row.work,
        ours_s=statistics.median(mine for mine, _ in pairs),
        peer_s=statistics.median(other for _, other in pairs),
        peer=row.peer,
        ratio=ratio,
        target=row.target,
        held=ratio <= row.target,
        versions={name: metadata.version(name) for name in row.versions},
        machine=f"{_cpu()}, {row.cores} of {len(before)} cores, Python {platform.python_version()}",
        warm_up_s=timed.warm_up_s,
        ratios=ratios,
    )


def _in_turn(row: BenchRow, prepared: Prepared) -> Timed:
    """Warm up, check, and run both sides in turn in this process."""
    try:
        warm_up_s, ours = _timed(prepared.ours)
        _, peer = _timed(prepared.peer)
        prepared.check(ours, peer)
        del ours, peer
        pairs = [_round(prepared, swapped=bool(number % 2)) for number in range(row.rounds)]
    finally:
        prepared.close()
    return Timed(pairs=pairs, warm_up_s=warm_up_s)


def write_results(results: Sequence[Result], path: Path) -> None:
    """Replace the rows that were run and keep the others."""
    kept: dict[str, dict[str, Any]] = {}
    if path.exists():
        kept = {record["id"]: record for record in json.loads(path.read_text())}
    kept.update({result.id: dict(vars(result)) for result in results})
    path.write_text(json.dumps([kept[name] for name in sorted(kept)], indent=1) + "\n")


def _round(prepared: Prepared, *, swapped: bool) -> tuple[float, float]:
    """Seconds per unit of ours and of the peer; who goes first changes from round to round."""
    sides = [(prepared.ours, prepared.ours_units), (prepared.peer, prepared.peer_units)]
    seconds = [0.0, 0.0]
    for place in (1, 0) if swapped else (0, 1):
        work, units = sides[place]
        gc.collect()
        seconds[place] = _timed(work)[0] / units
    return seconds[0], seconds[1]


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown CPU"
