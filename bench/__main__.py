"""`python -m bench [--only A1,C]`: measure, print the table, write bench/results.json."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from pathlib import Path

# One thread for everybody, before numpy is imported: ours and the peers are compared core by core.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")

import bench.rows
from bench.harness import BenchRow, Result, measure, write_results


def rows() -> dict[str, BenchRow]:
    """Every row, by id."""
    modules = sorted(module.name for module in pkgutil.iter_modules(bench.rows.__path__))
    found = [importlib.import_module(f"bench.rows.{name}").ROW for name in modules]
    return {row.id: row for row in found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="ids of the rows to run, with commas; all when absent")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    arguments = parser.parse_args()
    known = rows()
    wanted = [name.strip() for name in arguments.only.split(",") if name.strip()] or list(known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    results: list[Result] = []
    for name in wanted:
        print(f"{name}: {known[name].work} ...", file=sys.stderr, flush=True)
        results.append(measure(known[name]))
        write_results(results, Path(__file__).parent / "results.json")
    print(f"{'row':6} {'ours':>12} {'peer':>12} {'ratio':>7} {'target':>7}  held  peer")
    for r in results:
        print(
            f"{r.id:6} {r.ours_s:10.4g} s {r.peer_s:10.4g} s {r.ratio:7.3f} {r.target:7.3f}  "
            f"{'yes' if r.held else 'NO':4}  {r.peer}"
        )
    if arguments.strict and not all(r.held for r in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
