"""A stored model behind MLflow's `predict`: windows of raw features in, heads out.

Shapes: N windows, L look-back bars, F features, H horizons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import ChunkBatch
from quantfleet.errors import SchemaError, nearest
from quantfleet.registry.artifact import StoredModel

__all__ = ["WindowModel"]


class WindowModel:
    """Answers for windows of raw features, as the model's signature says."""

    def __init__(self, stored: StoredModel) -> None:
        self._model = stored.model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> dict[str, npt.NDArray[np.float32]]:
        """Map {"x_NLF": (N, L, F), "symbol_N": (N,)} to heads (N, H).

        `symbol_N` holds the name of each window's symbol. A model whose answers depend on it (`Model.per_symbol`) cannot do
        without; for others the array of windows may be given alone.

        Raises: SchemaError: another shape, values that are no finite numbers, a symbol that is missing or not known.
        """
        spec = self._model.spec
        wanted = f"(N, {spec.lookback_bars} bars, {spec.features} features)"
        if isinstance(model_input, dict) and not {"x_NLF"} <= set(model_input) <= {"x_NLF", "symbol_N"}:
            raise SchemaError(
                f"input holds {', '.join(sorted(map(str, model_input))) or 'nothing'}; the model reads x_NLF, shape {wanted}, "
                "and symbol_N, shape (N,)."
            )
        given = model_input["x_NLF"] if isinstance(model_input, dict) else model_input
        try:
            x_NLF = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError) as error:  # texts, or rows of different lengths
            raise SchemaError(f"input is no array of numbers ({error}); the model reads {wanted}.") from error
        if x_NLF.ndim != 3 or x_NLF.shape[1:] != (spec.lookback_bars, spec.features):
            raise SchemaError(f"input has shape {x_NLF.shape}; the model reads {wanted}.")
        broken = int((~np.isfinite(x_NLF).all(axis=(1, 2))).sum())
        if broken:
            raise SchemaError(
                f"{broken} of {len(x_NLF)} windows hold values that are not finite; a model answers for whole windows only."
            )
        N = len(x_NLF)
        forecast = self._model.predict(
            ChunkBatch(
                chunk_id_B=np.arange(N, dtype=np.int64),
                symbol_id_B=self._symbol_ids(model_input, N),
                time_BC=np.zeros((N, 1), np.int64),
                x_BTF=x_NLF,
                y_BCK=np.full((N, 1, len(spec.label_columns)), np.nan, np.float32),
                mask_BC=np.ones((N, 1), np.bool_),
                weight_BC=np.ones((N, 1), np.float32),
            )
        )
        return {
            "return": forecast.return_BCH[:, 0],
            "direction_logit": forecast.direction_logit_BCH[:, 0],
            "volatility": forecast.volatility_BCH[:, 0],
        }

    def _symbol_ids(self, model_input: Any, windows: int) -> npt.NDArray[np.int32]:
        """Place of each window's symbol in the spec. Raises: SchemaError."""
        known = self._model.spec.symbols
        given = model_input.get("symbol_N") if isinstance(model_input, dict) else None
        if given is None:
            if self._model.per_symbol:
                raise SchemaError(
                    "this model answers for each symbol in its own way: beside x_NLF give symbol_N, the symbol of each window "
                    f"({', '.join(known[:5])}{', ...' if len(known) > 5 else ''})."
                )
            return np.zeros(windows, np.int32)
        names = np.asarray(given)
        if names.shape != (windows,):
            raise SchemaError(f"symbol_N has shape {names.shape}; there are {windows} windows, each of one symbol.")
        places = {name: i for i, name in enumerate(known)}
        for name in names.tolist():
            if name not in places:
                raise SchemaError(
                    f"symbol_N holds {name!r}, which the model was not fitted on.{nearest(str(name), known)} It knows "
                    f"{len(known)} symbols."
                )
        return np.array([places[name] for name in names.tolist()], np.int32)
