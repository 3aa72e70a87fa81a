"""Answering bar by bar from carried state: raw features of a new bar in, heads in natural units out.

Shapes: S streams, F features given, W rows that a scaler reads for one result, H horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from quantfleet.contracts.streaming import StreamingNetwork
from quantfleet.errors import ConfigError, SchemaError, nearest
from quantfleet.training.torch_model import TorchModel
from quantfleet.transforms import InputTransform

__all__ = ["BarStreams", "ScaledBars"]


class ScaledBars:
    """Raw bars of S streams to the rows that a network reads, with the past that the scaler needs. Not thread-safe."""

    def __init__(self, inputs: InputTransform, symbol_id_S: npt.NDArray[np.int32]) -> None:
        self.inputs, self._symbol_id_S = inputs, symbol_id_S
        self._rows = inputs.given.lookback_bars - inputs.spec.lookback_bars + 1
        self._past_SWF = np.zeros((len(symbol_id_S), 0, inputs.given.features), np.float32)

    def push(self, x_SF: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """A bar of each stream, (S, F) to (S, G); None for the first W - 1 bars.

        Raises: SchemaError: another number of symbols or features, or values that are no finite numbers.
        """
        wanted = (len(self._symbol_id_S), self.inputs.given.features)
        if x_SF.shape != wanted:
            raise SchemaError(
                f"a bar has shape {x_SF.shape}; the streams read {wanted[0]} symbols x {wanted[1]} features."
            )
        if not np.isfinite(x_SF).all():
            raise SchemaError(
                "a bar holds values that are not finite, and they would stay in the carried state. Leave such a bar out, or begin "
                "the streams anew."
            )
        past = np.concatenate([self._past_SWF, x_SF[:, None].astype(np.float32)], axis=1)
        self._past_SWF = past[:, max(0, past.shape[1] - (self._rows - 1)) :] if self._rows > 1 else past[:, :0]
        if past.shape[1] < self._rows:
            return None
        return np.ascontiguousarray(self.inputs.apply(past, self._symbol_id_S)[:, 0])


class BarStreams:
    """Streams of one model, one a symbol, that get a bar each at the same times. Not thread-safe.

    The meaning of its answers is that of `StreamingNetwork`. The first W - 1 bars feed the scaler only and get no answer.

    Raises: ConfigError: the model's network carries no state, or its settings forbid it. SchemaError: the model is empty, or was
        not fitted on a symbol.
    """

    def __init__(self, model: TorchModel, symbols: Sequence[str]) -> None:
        network = model.forecaster.network
        if not isinstance(network, StreamingNetwork):
            raise ConfigError(
                f"model {model.config.label!r} answers whole windows only: {type(network).__name__} carries no state. Ask it by "
                "windows, or use hybrid or xlstm."
            )
        network.check_streams()
        if model.inputs is None:
            raise SchemaError(f"model {model.config.label!r} is empty: fit or load it before it is asked.")
        known = model.spec.symbols
        for name in symbols:
            if name not in known:
                raise SchemaError(
                    f"the model was not fitted on {name!r}.{nearest(name, known)} It knows {len(known)} symbols."
                )
        self._model, self._network = model, network
        self._bars = ScaledBars(model.inputs, np.array([known.index(name) for name in symbols], np.int32))
        self._state = network.begin(torch.zeros(len(symbols), model.inputs.spec.features))

    def push(self, x_SF: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]] | None:
        """Take in a bar of each stream; answers by head, (S, H), as `Forecast` means them; None while the scaler still fills.

        Raises: SchemaError: another number of symbols or features, or values that are no finite numbers.
        """
        row_SG = self._bars.push(x_SF)
        if row_SG is None:
            return None
        with torch.inference_mode():
            heads, self._state = self._network.step(torch.from_numpy(row_SG), self._state)
            answer = self._model.forecaster.in_natural_units(self._model.forecaster.monotone(heads))
        return {name: value.numpy().copy() for name, value in answer.items()}

    @property
    def state(self) -> Any:
        """What is carried to the next bar."""
        return self._state
