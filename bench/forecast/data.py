"""ETTh1 and exchange_rate, cut and scaled as the literature does.

Shapes: T rows, F channels, L look-back rows, S steps ahead, N windows.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["DATASETS", "Dataset", "Part", "data_folder", "load"]

Part = Literal["train", "validation", "test"]
HOURS_A_MONTH = 30 * 24


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One series of many channels, standardised by its training rows."""

    name: str
    values_TF: Tensor
    parts: dict[Part, tuple[int, int]]
    """Rows [first, last) that are to be forecast. A window's look-back may reach into the part before."""

    def windows(self, part: Part, *, lookback: int, steps: int) -> Tensor:
        """All windows of a part, (N, F, L + S), a view. Every window of the part is there; none is dropped for a round batch."""
        first, last = self.parts[part]
        begin = first - lookback if part != "train" else first
        return self.values_TF[begin:last].unfold(0, lookback + steps, 1)


def _etth1(folder: Path) -> tuple[np.ndarray, dict[Part, tuple[int, int]]]:
    """7 channels by the hour; 12, 4 and 4 months of 30 days, as in Zhou et al. 2021 (Informer); later rows are not used."""
    with gzip.open(folder / "ETTh1.csv.gz", "rt") as file:
        values = np.loadtxt(file, delimiter=",", skiprows=1, usecols=range(1, 8))
    a, b, c = (months * HOURS_A_MONTH for months in (12, 16, 20))
    return values, {"train": (0, a), "validation": (a, b), "test": (b, c)}


def _exchange_rate(folder: Path) -> tuple[np.ndarray, dict[Part, tuple[int, int]]]:
    """8 currencies against the dollar by the day; 70 %, 10 % and 20 % of the rows, as in Wu et al. 2021 (Autoformer)."""
    with gzip.open(folder / "exchange_rate.txt.gz", "rt") as file:
        values = np.loadtxt(file, delimiter=",")
    rows = len(values)
    a, c = int(rows * 0.7), rows - int(rows * 0.2)
    return values, {"train": (0, a), "validation": (a, c), "test": (c, rows)}


DATASETS = {"ETTh1": _etth1, "exchange_rate": _exchange_rate}


def load(name: str, folder: Path) -> Dataset:
    """Read a data set. Raises: FileNotFoundError: its file is not in the folder."""
    values, parts = DATASETS[name](folder)
    known = values[slice(*parts["train"])]
    scaled = (values - known.mean(0)) / known.std(0)
    return Dataset(name=name, values_TF=torch.from_numpy(scaled.astype(np.float32)), parts=parts)


def data_folder() -> Path:
    """QUANTFLEET_BENCH_DATA, or the folder shared/data beside the repository or above it.

    Raises: FileNotFoundError: there is none.
    """
    given = os.environ.get("QUANTFLEET_BENCH_DATA")
    here = Path(__file__).resolve()
    tried = [Path(given)] if given else [parent / "shared" / "data" for parent in here.parents]
    for folder in tried:
        if (folder / "ETTh1.csv.gz").exists():
            return folder
    raise FileNotFoundError(
        f"ETTh1.csv.gz is not in {tried[0]}. Put ETTh1.csv (github.com/zhouhaoyi/ETDataset) and exchange_rate.txt "
        "(github.com/laiguokun/multivariate-time-series-data), gzipped, into one folder, and name it with QUANTFLEET_BENCH_DATA."
    )
