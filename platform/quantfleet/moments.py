"""Mean and standard deviation of columns, added up symbol by symbol (Chan, Golub and LeVeque 1983)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Moments"]

Vector = npt.NDArray[np.float64]
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations of each column; NaN entries are left out."""

    count: Vector
    mean: Vector
    squares: Vector

    @classmethod
    def none(cls, columns: int) -> Moments:
        """Moments of no row."""
        return cls(np.zeros(columns), np.zeros(columns), np.zeros(columns))

    @classmethod
    def of(cls, rows: npt.NDArray[np.float32]) -> Moments:
        """Moments of an array (rows, columns); its doubles exist for some thousand rows at a time."""
        if len(rows) > _ROWS_AT_ONCE:
            parts = (cls.of(rows[first : first + _ROWS_AT_ONCE]) for first in range(0, len(rows), _ROWS_AT_ONCE))
            return sum(parts, cls.none(rows.shape[1]))
        values = rows.astype(np.float64)
        known = np.isfinite(values)
        count = known.sum(0).astype(np.float64)
        divisor = np.maximum(count, 1)
        mean = np.where(known, values, 0.0).sum(0) / divisor
        squares = np.where(known, (values - mean) ** 2, 0.0).sum(0)
        return cls(count, mean, squares)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        divisor = np.maximum(count, 1)
        shift = other.mean - self.mean
        return Moments(
            count,
            self.mean + shift * other.count / divisor,
            self.squares + other.squares + shift**2 * self.count * other.count / divisor,
        )

    @property
    def std(self) -> Vector:
        """Population standard deviation; 0 where nothing is known."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))
