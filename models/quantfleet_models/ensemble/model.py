"""The ensembles: members that are fitted on their own, and weights.

Shapes: M members, B chunks, C targets, H horizons, K = 3 H label columns, R rows, Z regimes. Heads are return, direction,
volatility.
"""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import ChunkBatch, DataSpec, FitContext, FitReport, Forecast, Model, TrainingData
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.transforms import sample_training_rows
from quantfleet_models.ensemble.config import (
    EnsembleConfig,
    ModelAveragingConfig,
    RegimeGatedConfig,
    StackingConfig,
    VotingConfig,
)
from quantfleet_models.ensemble.folds import folds_of
from quantfleet_models.parts.members import load_member, member_context, save_member

__all__ = ["ModelAveragingModel", "RegimeGatedModel", "StackingModel", "VotingModel"]

_FILE = "weights.json"
_LEAST_CHANCE = 1e-6
_LEAST_ERROR = 1e-18

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answers:
    """What members say of rows, and what came."""

    head_3MRH: Array
    """Returns, probabilities of an up move, volatilities."""
    label_3RH: Array
    """NaN where not known."""
    feature_R: Array
    """The regime's feature at the decision bar, where there is one."""


def chances(forecast: Forecast) -> Array:
    return 1.0 / (1.0 + np.exp(-forecast.direction_logit_BCH.astype(np.float64)))


class EnsembleModel(Model):
    """A family says which weights there are, how they are found and which of them hold for a row."""

    def __init__(self, config: EnsembleConfig, spec: DataSpec) -> None:
        self.config: EnsembleConfig = config
        self.spec = spec
        self.members = [member.build(spec) for member in config.members]
        self.weights: dict[str, Array] | None = None
        """None until fitted or loaded."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the arrays in `weights`."""

    @abstractmethod
    def _weigh(self, data: TrainingData, context: FitContext) -> dict[str, Array]:
        """Find the weights; members are fitted."""

    @abstractmethod
    def _combine(self, head_3MN: Array, batch: ChunkBatch) -> tuple[Array, Array]:
        """Heads (3, B, C, H), and the members' weights in a vote, (M, B, C), which add up to 1.

        Args: head_3MN: (3, M, B, C, H).
        """

    @property
    def per_symbol(self) -> bool:
        return any(member.per_symbol for member in self.members)

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        began = time.perf_counter()
        if data.spec != self.spec:
            raise SchemaError(f"model {self.config.label!r} was built for other data than it is to be fitted on.")
        reports = [
            member.fit(data, member_context(context, own.label))
            for member, own in zip(self.members, self.config.members, strict=True)
        ]
        self.weights = self._weigh(data, context)
        return FitReport(seconds=time.perf_counter() - began, parameters=sum(report.parameters for report in reports))

    def predict(self, batch: ChunkBatch) -> Forecast:
        if self.weights is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit or load it before it is asked.")
        forecasts = [member.predict(batch) for member in self.members]
        made_3, vote_MBC = self._combine(_heads(forecasts), batch)
        up = np.clip(made_3[1], _LEAST_CHANCE, 1 - _LEAST_CHANCE)
        position_BC = None
        if self.config.agreement is not None:
            call_MBC = np.stack([np.sign(f.direction_logit_BCH[..., 0]) for f in forecasts])
            position_BC = decide(call_MBC, vote_MBC, self.config.agreement)
        return Forecast(
            return_BCH=made_3[0].astype(np.float32),
            direction_logit_BCH=np.log(up / (1 - up)).astype(np.float32),
            volatility_BCH=np.maximum(made_3[2], 0.0).astype(np.float32),
            position_BC=position_BC,
        )

    def save(self, directory: Path) -> None:
        if self.weights is None:
            raise SchemaError(f"model {self.config.label!r} is empty: fit it before it is saved.")
        for number, member in enumerate(self.members):
            save_member(member, directory, f"member{number}")
        record = {"members": [own.label for own in self.config.members]}
        (directory / _FILE).write_text(json.dumps({**record, **{k: v.tolist() for k, v in self.weights.items()}}))

    def load(self, directory: Path) -> None:
        path = directory / _FILE
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            labels = record["members"]
            weights = {name: np.asarray(record[name], np.float64) for name in self.shapes}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaError(f"{path} does not hold the weights of an ensemble: {error}. Fit it again.") from error
        if labels != [own.label for own in self.config.members]:
            raise SchemaError(f"{path} weighs {labels}, the config has {[own.label for own in self.config.members]}.")
        for name, shape in self.shapes.items():
            if weights[name].shape != shape or not np.isfinite(weights[name]).all():
                raise SchemaError(
                    f"{path}: {name} has shape {weights[name].shape}, not {shape}, or holds no finite numbers."
                )
        for number, member in enumerate(self.members):
            load_member(member, directory, f"member{number}")
        self.weights = weights

    @property
    def _size(self) -> tuple[int, int]:
        return len(self.members), len(self.spec.horizons_bars)


class VotingModel(EnsembleModel):
    """The same weights for every row and horizon."""

    config: VotingConfig

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight_M": self._size[:1]}

    def _weigh(self, data: TrainingData, context: FitContext) -> dict[str, Array]:
        given = np.array(self.config.weights or (1.0,) * len(self.members))
        return {"weight_M": given / given.sum()}

    def _combine(self, head_3MN: Array, batch: ChunkBatch) -> tuple[Array, Array]:
        assert self.weights is not None
        weight_M = self.weights["weight_M"]
        return weighted(head_3MN, weight_M[:, None, None, None]), np.broadcast_to(
            weight_M[:, None, None], head_3MN.shape[1:4]
        )


class ModelAveragingModel(EnsembleModel):
    """Weights per horizon, from log scores of the validation returns."""

    config: ModelAveragingConfig

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight_MH": self._size}

    def _weigh(self, data: TrainingData, context: FitContext) -> dict[str, Array]:
        said = answers(self.members, data)
        weight_MH = np.empty(self._size)
        for h, horizon in enumerate(self.spec.horizons_bars):
            error_MR, known_R = _errors(said, h)
            if not known_R.any():
                raise ConfigError(_NOTHING_KNOWN.format(label=self.config.label))
            # returns over h bars overlap, so that h of them tell as much as one
            rows = known_R.sum() / horizon
            variance_M = np.maximum((error_MR[:, known_R] ** 2).mean(1), _LEAST_ERROR)
            score_M = -0.5 * rows * np.log(variance_M)
            weight_MH[:, h] = np.exp(score_M - score_M.max())
        return {"weight_MH": weight_MH / weight_MH.sum(0)}

    def _combine(self, head_3MN: Array, batch: ChunkBatch) -> tuple[Array, Array]:
        assert self.weights is not None
        weight_MH = self.weights["weight_MH"]
        vote = np.broadcast_to(weight_MH[:, 0][:, None, None], head_3MN.shape[1:4])
        return weighted(head_3MN, weight_MH[:, None, None, :]), vote


class RegimeGatedModel(EnsembleModel):
    """Weights per regime and horizon; a row is in the regime of its own bar's feature."""

    config: RegimeGatedConfig

    def __init__(self, config: RegimeGatedConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self._place = spec.feature_columns.index(config.feature)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        cuts = len(self.config.quantiles)
        return {"cut_Z": (cuts,), "weight_ZMH": (cuts + 1, *self._size)}

    def _weigh(self, data: TrainingData, context: FitContext) -> dict[str, Array]:
        rows = sample_training_rows(data, rows=100_000, seed=context.seed)
        cut_Z = np.nanquantile(rows.x_RF[:, self._place].astype(np.float64), self.config.quantiles)
        said = answers(self.members, data, feature=self._place)
        regime_R = np.searchsorted(cut_Z, said.feature_R, side="right")
        weight_ZMH = np.empty((len(cut_Z) + 1, *self._size))
        for h in range(self._size[1]):
            error_MR, known_R = _errors(said, h)
            if not known_R.any():
                raise ConfigError(_NOTHING_KNOWN.format(label=self.config.label))
            square_MR = error_MR**2
            overall_M = square_MR[:, known_R].mean(1)
            for z in range(len(weight_ZMH)):
                own = known_R & (regime_R == z)
                total_M = square_MR[:, own].sum(1) + (self.config.prior_rows + 1e-9) * overall_M
                weight_ZMH[z, :, h] = 1.0 / np.maximum(
                    total_M / (own.sum() + self.config.prior_rows + 1e-9), _LEAST_ERROR
                )
        return {"cut_Z": cut_Z, "weight_ZMH": weight_ZMH / weight_ZMH.sum(1, keepdims=True)}

    def _combine(self, head_3MN: Array, batch: ChunkBatch) -> tuple[Array, Array]:
        assert self.weights is not None
        feature_BC = batch.x_BTF[:, self.spec.lookback_bars - 1 :, self._place].astype(np.float64)
        regime_BC = np.searchsorted(self.weights["cut_Z"], feature_BC, side="right")
        weight_MBCH = np.moveaxis(self.weights["weight_ZMH"][regime_BC], 2, 0)
        return weighted(head_3MN, weight_MBCH), weight_MBCH[..., 0]


class StackingModel(EnsembleModel):
    """Returns: a sum of members' returns with weights of any sum, and a constant; probabilities and volatilities: weights that
    sum to 1.
    """

    config: StackingConfig

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight_3MH": (3, *self._size), "constant_H": self._size[1:]}

    def _weigh(self, data: TrainingData, context: FitContext) -> dict[str, Array]:
        parts = []
        for fold, held_PC in folds_of(data, self.config.folds, embargo_bars=self.config.embargo_bars):
            members = [member.build(self.spec) for member in self.config.members]
            for member, own in zip(members, self.config.members, strict=True):
                member.fit(fold, member_context(context, f"{own.label}-{fold.name}"))
            parts.append(answers(members, data, held_PC=held_PC))
        head_3MRH = np.concatenate([part.head_3MRH for part in parts], axis=2)
        label_3RH = np.concatenate([part.label_3RH for part in parts], axis=1)
        weight_3MH, constant_H = np.empty((3, *self._size)), np.empty(self._size[1])
        for h in range(self._size[1]):
            for head in range(3):
                known = np.isfinite(label_3RH[head, :, h])
                if not known.any():
                    raise ConfigError(_NOTHING_KNOWN.format(label=self.config.label))
                x_RM, y_R = head_3MRH[head, :, :, h].T[known], label_3RH[head, known, h]
                weight_3MH[head, :, h], constant = stacked(x_RM, y_R, convex=head > 0)
                if head == 0:
                    constant_H[h] = constant
        return {"weight_3MH": weight_3MH, "constant_H": constant_H}

    def _combine(self, head_3MN: Array, batch: ChunkBatch) -> tuple[Array, Array]:
        assert self.weights is not None
        weight_3MH = self.weights["weight_3MH"]
        made = np.einsum("smbch,smh->sbch", head_3MN, weight_3MH)
        made[0] += self.weights["constant_H"]
        return made, np.broadcast_to(weight_3MH[1, :, 0][:, None, None], head_3MN.shape[1:4])


_NOTHING_KNOWN = (
    "model {label!r}: no row to weigh members by knows its label. Widen the segment in the recipe's split, or shorten the "
    "horizons."
)


def stacked(x_RM: Array, y_R: Array, *, convex: bool) -> tuple[Array, float]:
    """Weights at or above 0 with the least squared error, and a constant.

    Args: convex: the weights add up to 1, and there is no constant.
    """
    from scipy.optimize import nnls

    if not convex:
        mean_M, mean = x_RM.mean(0), float(y_R.mean())
        weight_M, _ = nnls(x_RM - mean_M, y_R - mean)
        return weight_M, mean - float(mean_M @ weight_M)
    # one row of great weight asks the sum to be 1; the rest of the way is a division
    weighty = 1e3 * np.sqrt((x_RM**2).sum() + 1e-12)
    weight_M, _ = nnls(np.vstack([x_RM, np.full((1, x_RM.shape[1]), weighty)]), np.append(y_R, weighty))
    return weight_M / weight_M.sum(), 0.0


def weighted(head_3MN: Array, weight_M: Array) -> Array:
    """Means of returns and probabilities; of volatilities the root of the mean variance."""
    mean = (head_3MN[:2] * weight_M).sum(1)
    return np.concatenate([mean, np.sqrt((head_3MN[2:] ** 2 * weight_M).sum(1))])


def decide(call_MBC: npt.NDArray[np.floating], vote_MBC: Array, agreement: float) -> npt.NDArray[np.float32]:
    """1 or -1 where members with that share of the weight call up or down, else 0. A member that calls nothing agrees with
    nobody."""
    up = (vote_MBC * (call_MBC > 0)).sum(0) >= agreement - 1e-9
    down = (vote_MBC * (call_MBC < 0)).sum(0) >= agreement - 1e-9
    position_BC: npt.NDArray[np.float32] = up.astype(np.float32) - down.astype(np.float32)
    return position_BC


def answers(
    members: Iterable[Model], data: TrainingData, *, held_PC: npt.NDArray[np.bool_] | None = None, feature: int = 0
) -> Answers:
    """What members say of the validation segment's targets, or of these targets of the training segment. Memory: all of them."""
    members, L, place = list(members), data.spec.lookback_bars, 0
    heads, labels, features = [], [], []
    for batch in data.read("validation" if held_PC is None else "train"):
        at = batch.mask_BC
        if held_PC is not None:
            at, place = held_PC[place : place + len(at)], place + len(at)
        if not at.any():
            continue
        heads.append(_heads([member.predict(batch) for member in members])[:, :, at])
        labels.append(np.stack(np.split(batch.y_BCK[at].astype(np.float64), 3, axis=1)))
        features.append(batch.x_BTF[:, L - 1 :, feature][at].astype(np.float64))
    if not heads:
        raise ConfigError(
            "there are no targets to weigh an ensemble's members by. Widen the segment in the recipe's split."
        )
    return Answers(np.concatenate(heads, axis=2), np.concatenate(labels, axis=1), np.concatenate(features))


def _heads(forecasts: list[Forecast]) -> Array:
    """(3, M, B, C, H)."""
    return np.stack(
        [
            np.stack([f.return_BCH.astype(np.float64) for f in forecasts]),
            np.stack([chances(f) for f in forecasts]),
            np.stack([f.volatility_BCH.astype(np.float64) for f in forecasts]),
        ]
    )


def _errors(said: Answers, h: int) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Errors of the members' returns, (M, R), and where the return is known."""
    return said.head_3MRH[0, :, :, h] - said.label_3RH[0, :, h], np.isfinite(said.label_3RH[0, :, h])
