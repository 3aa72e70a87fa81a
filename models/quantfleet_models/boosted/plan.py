"""Measures, in this process, what a fit of the trees would cost a worker: a few rounds on some of the real rows."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import xgboost

from quantfleet.contracts import TrainingData
from quantfleet.errors import EmptyTableError
from quantfleet.training.plan import FitPlan, PlanRequest
from quantfleet.training.torch_plan import process_costs
from quantfleet.training.tree_plan import TreeCosts, TreeInput, plan_trees
from quantfleet.transforms import InputTransform
from quantfleet_models.boosted.config import XGBoostConfig

__all__ = ["plan_xgboost"]

_SAMPLE_ROWS = 20_000
_ROUNDS = 3


def plan_xgboost(config: XGBoostConfig, data: TrainingData, request: PlanRequest) -> FitPlan:
    """Fit the selection as a fit does, time a few rounds, and plan. Raises: EmptyTableError: no row has all labels."""
    began = time.perf_counter()
    inputs = InputTransform.fit(data, scaler=None, selection=config.selection, label=config.selection_label)
    prepare_s = time.perf_counter() - began
    began = time.perf_counter()
    rows_RG, labels_RK = _sample(data, inputs)
    read_s = time.perf_counter() - began
    if not len(rows_RG):
        raise EmptyTableError(
            f"model {config.label!r}: no training row has all labels, so there is nothing to plan with. Shorten the horizons."
        )
    process = process_costs(imports="import quantfleet_models.boosted.model")
    threads = max(1, int(request.training.cpus_per_worker))
    return plan_trees(
        TreeInput(
            model=config.label,
            kind=config.kind,
            rounds=config.rounds,
            trees_per_round=labels_RK.shape[1],
            max_depth=config.max_depth,
            features=inputs.spec.features,
            labels=labels_RK.shape[1],
            train_windows=int(data.stats.targets["train"]),
            validation_windows=int(data.stats.targets["validation"]),
            workers=request.workers,
            threads=threads,
        ),
        TreeCosts(
            sampled_rows=len(rows_RG),
            read_s=read_s,
            round_s=_round_seconds(config, rows_RG, labels_RK, threads),
            process_bytes=process.bytes,
            prepare_s=prepare_s,
            import_s=process.seconds,
        ),
        request,
    )


def _sample(data: TrainingData, inputs: InputTransform) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The first training rows with all labels, (R, G) and (R, K)."""
    rows: list[npt.NDArray[np.float32]] = []
    labels: list[npt.NDArray[np.float32]] = []
    for batch in data.read("train"):
        chosen = batch.mask_BC & np.isfinite(batch.y_BCK).all(2)
        x_BCF = batch.x_BTF[:, inputs.given.lookback_bars - 1 :]
        rows.append(inputs.apply(x_BCF, batch.symbol_id_B)[chosen])
        labels.append(batch.y_BCK[chosen])
        if sum(map(len, rows)) >= _SAMPLE_ROWS:
            break
    return np.concatenate(rows)[:_SAMPLE_ROWS], np.concatenate(labels)[:_SAMPLE_ROWS]


def _round_seconds(
    config: XGBoostConfig, rows_RG: npt.NDArray[np.float32], labels_RK: npt.NDArray[np.float32], threads: int
) -> float:
    """Mean of rounds after the first, which also finds the bins."""
    spread_K = labels_RK.std(0)
    scaled_RK = (labels_RK - labels_RK.mean(0)) / np.where(spread_K > 0, spread_K, 1.0)
    parameters = {"tree_method": "hist", "max_depth": config.max_depth, "nthread": threads, "verbosity": 0}
    booster = xgboost.Booster(parameters, [matrix := xgboost.DMatrix(rows_RG, label=scaled_RK)])
    booster.update(matrix, 0)
    began = time.perf_counter()
    for number in range(_ROUNDS):
        booster.update(matrix, 1 + number)
    return (time.perf_counter() - began) / _ROUNDS
