"""Scalers that subtract a centre and divide by a scale; standard scaling (mean, deviation) is what models get by default.

Shapes: T rows, F features, B chunks, S symbols (1 where all share one scale).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import Scaler, ScalerConfig, TrainingData, register_scaler
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.moments import Moments
from quantfleet.transforms.rows import training_rows_by_symbol

__all__ = ["AffineScaler", "AffineScalerConfig", "StandardScalerConfig"]

Vector = npt.NDArray[np.float64]


class AffineScaler(Scaler):
    """(x - centre) / scale in float32, cut off at +-clip. A feature that never varied in training is only centred."""

    def __init__(
        self,
        *,
        kind: str,
        feature_columns: tuple[str, ...],
        centre_SF: Vector,
        scale_SF: Vector,
        symbols: tuple[str, ...] = (),
        clip: float | None = None,
    ) -> None:
        """Make a scaler.

        Args:
            symbols: the S symbols the rows of the arrays are of, in the order of the DataSpec; empty: one row for all.
        Raises: SchemaError: shapes that do not fit, or numbers that are not finite or not positive.
        """
        self.kind = kind
        self.feature_columns = feature_columns
        self.symbols = symbols
        self.clip = clip
        shape = (len(symbols) or 1, len(feature_columns))
        if centre_SF.shape != shape or scale_SF.shape != shape:
            raise SchemaError(f"a {kind} scaler has centre {centre_SF.shape} and scale {scale_SF.shape}, not {shape}.")
        if not (np.isfinite(centre_SF).all() and (scale_SF > 0).all() and np.isfinite(scale_SF).all()):
            raise SchemaError(f"a {kind} scaler holds centres that are not finite, or scales that are not positive.")
        self.centre_SF, self.scale_SF = centre_SF, scale_SF
        self._centre_SF, self._scale_SF = centre_SF.astype(np.float32), scale_SF.astype(np.float32)

    @property
    def per_symbol(self) -> bool:
        return bool(self.symbols)

    def _scaled(self, x_BTF: npt.NDArray[np.float32], symbol_id_B: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        row_B = np.zeros(len(x_BTF), np.int64)
        if self.symbols:
            unknown = symbol_id_B[(symbol_id_B < -1) | (symbol_id_B >= len(self.symbols))]
            if unknown.size:
                raise SchemaError(
                    f"symbol_id {int(unknown[0])} is none of the {len(self.symbols)} symbols this scaler was fitted on. Fit it on "
                    "data that hold the symbol, or fit one scale for all (per_symbol: false)."
                )
            row_B = np.maximum(symbol_id_B, 0)
        scaled = x_BTF - self._centre_SF[row_B][:, None]
        scaled /= self._scale_SF[row_B][:, None]
        if self.clip is not None:
            np.clip(scaled, -self.clip, self.clip, out=scaled)
        return scaled

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "feature_columns": list(self.feature_columns),
            "symbols": list(self.symbols),
            "clip": self.clip,
            "centre": self.centre_SF.tolist(),
            "scale": self.scale_SF.tolist(),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> AffineScaler:
        """The scaler that `to_dict` wrote down; floats come back from JSON to the bit."""
        return cls(
            kind=record["kind"],
            feature_columns=tuple(record["feature_columns"]),
            centre_SF=np.array(record["centre"], np.float64),
            scale_SF=np.array(record["scale"], np.float64),
            symbols=tuple(record["symbols"]),
            clip=record["clip"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AffineScalerConfig(ScalerConfig):
    """Base of scalers that learn a centre and a scale."""

    per_symbol: bool = False
    """True: every symbol has its own centre and scale; one without training rows takes those of all together."""
    clip: float | None = 10.0
    """Scaled values end here; None: they do not."""

    def __post_init__(self) -> None:
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"scaler {self.kind}: clip={self.clip} must be positive, or null for none.")

    @classmethod
    def restore(cls, record: Mapping[str, Any]) -> Scaler:
        return AffineScaler.from_dict(record)

    def make_scaler(
        self, data: TrainingData, pooled: tuple[Vector, Vector], own: dict[int, tuple[Vector, Vector]]
    ) -> Scaler:
        """The scaler of these centres and scales.

        Args:
            pooled: centre and scale (F,) of all symbols together.
            own: those of each symbol_id that has training rows; read when `per_symbol`.
        """
        symbols = data.spec.symbols if self.per_symbol else ()
        pairs = [own.get(i, pooled) for i in range(len(symbols))] or [pooled]
        centre_SF, scale_SF = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
        # a spread that float32 cannot tell from rounding of the centre is no spread
        flat = ~(scale_SF > np.finfo(np.float32).eps * np.abs(centre_SF))
        return AffineScaler(
            kind=self.kind,
            feature_columns=data.spec.feature_columns,
            centre_SF=np.where(np.isfinite(centre_SF), centre_SF, 0.0),
            scale_SF=np.where(flat, 1.0, scale_SF),
            symbols=symbols,
            clip=self.clip,
        )


@register_scaler("standard")
@dataclass(frozen=True, kw_only=True, slots=True)
class StandardScalerConfig(AffineScalerConfig):
    """Mean 0 and standard deviation 1 over the training rows; the moments of `TrainingStats`, exact, in one pass.

    Memory: one batch of chunks.
    """

    def fit(self, data: TrainingData) -> Scaler:
        """Raises: EmptyTableError: there are no training rows."""
        pooled = (data.stats.feature_mean_F, data.stats.feature_std_F)
        own: dict[int, Moments] = {}
        if self.per_symbol:
            for symbol_id, rows in training_rows_by_symbol(data):
                moments = Moments.of(rows.x_RF)
                own[symbol_id] = own[symbol_id] + moments if symbol_id in own else moments
        return self.make_scaler(data, pooled, {i: (m.mean, m.std) for i, m in own.items()})
