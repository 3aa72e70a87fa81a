"""Two workers in two processes, with each library's own network: one set of bins, one set of trees, errors over all rows."""

import contextlib
import dataclasses
import multiprocessing as mp
import socket
from pathlib import Path

import numpy as np
import pytest
import ray.train.collective
import ray.train.lightgbm
import ray.util
import xgboost
from support.row_models import Reports, learnable_data, lone_lightgbm, task_of

from quantfleet.training.boosting import Progress
from quantfleet.training.rows import Share
from quantfleet.training.single_task import all_rows
from quantfleet_models.boosted import XGBoostConfig
from quantfleet_models.boosted.model import grower as xgboost_grower
from quantfleet_models.lightgbm import LightGBMConfig
from quantfleet_models.lightgbm.model import grower as lightgbm_grower

pytestmark = pytest.mark.slow
WORKERS = 2
QUICK = {
    "rounds": 8, "checkpoint_every_rounds": 4, "min_child_weight": 2.0, "learning_rate": 0.3, "subsample": 1.0,
    "column_sample": 1.0, "l2": 0.0,
}  # fmt: skip
"""No penalty: alone, LightGBM tries a feature no more below a leaf where no split by it paid; several workers always do. Without a
penalty every split pays, so both try all.
"""
TINY_BATCH = 4 * 21 * 5 * 4
"""Bytes of four chunks: several batches a share."""


def batched(config):
    """Data and task. Features take four values, so that the bins found on any share are the same: what then differs between one
    worker and two would be a fault.
    """
    data = learnable_data(chunks=15)
    for batch in data.batches.values():
        batch.x_BTF[...] = np.round(batch.x_BTF / 10.0 ** np.arange(5)) % 4
        batch.y_BCK[..., 0] += batch.x_BTF[:, data.spec.lookback_bars - 1 :, 0]
    task = task_of(config, data)
    readers = {s: dataclasses.replace(r, batch_bytes=TINY_BATCH) for s, r in task.readers.items()}
    return data, dataclasses.replace(task, readers=readers)


def xgboost_worker(rank: int, arguments: dict, config: XGBoostConfig, folder: Path) -> None:
    _, task = batched(config)
    with (
        xgboost.collective.CommunicatorContext(**arguments, dmlc_task_id=str(rank)),
        xgboost_grower(task, Share(rank, WORKERS), None) as grower,
    ):
        cuts = np.concatenate([c for pair in [grower._matrices[0].get_quantile_cut()] for c in pair])
        np.save(folder / f"cuts-{rank}.npy", cuts)
        Reports(task, folder / str(rank)).boost(grower, Progress())


def lightgbm_worker(rank: int, ports: list[int], place, config: LightGBMConfig, folder: Path) -> None:
    """Ray Train says who listens where, and carries one value from rank 0 to the others; here a queue and constants do."""
    _, task = batched(config)

    def broadcast(value):
        if rank == 0:
            place.put(value)
            return value
        return place.get(timeout=60)

    ray.train.collective.broadcast_from_rank_zero = broadcast
    ray.train.lightgbm.get_network_params = lambda: {
        "machines": ",".join(f"127.0.0.1:{port}" for port in ports), "local_listen_port": ports[rank],
        "num_machines": WORKERS,
    }  # fmt: skip
    ray.util.get_node_ip_address = lambda: "127.0.0.1"
    with lightgbm_grower(task, Share(rank, WORKERS), None) as grower:
        Reports(task, folder / str(rank)).boost(grower, Progress())


def run_both(target, *arguments) -> None:
    context = mp.get_context("spawn")
    processes = [context.Process(target=target, args=(rank, *arguments)) for rank in range(WORKERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
    assert [process.exitcode for process in processes] == [0] * WORKERS


def answers(config, folder: Path):
    """Both workers' trees and curves, and the curve that their trees have on all rows."""
    data, task = batched(config)
    rows = all_rows(task.readers["validation"])
    models, curves = [], []
    for rank in range(WORKERS):
        left = max((folder / str(rank)).iterdir(), key=lambda path: int(path.name.split("-")[1]))
        model = config.build(data.spec)
        model.load(left)
        models.append(model._answer(data.rows("test")[0]))
        progress = Progress.load(left)
        curves.append(progress.curve)
        error = np.sqrt(np.mean((model._answer(rows.x_RG) - rows.y_RK) ** 2))
        assert progress.curve[progress.best - 1][1] == pytest.approx(error, rel=1e-5)
    return models, curves


def alone(config, make, folder: Path) -> list[tuple[float, float]]:
    """The curve of one worker that has all the rows."""
    _, task = batched(config)
    with make(task) as grower:
        return Reports(task, folder).boost(grower, Progress()).curve


@pytest.mark.parametrize("way", ["never", "always"])
def test_two_xgboost_workers_agree_on_bins_trees_and_errors(way: str, tmp_path: Path):
    config = XGBoostConfig(**QUICK, external_memory=way)
    tracker = xgboost.RabitTracker(n_workers=WORKERS, host_ip="127.0.0.1", sortby="task")
    tracker.start()
    run_both(xgboost_worker, tracker.worker_args(), config, tmp_path)
    first, second = (np.load(tmp_path / f"cuts-{rank}.npy") for rank in range(WORKERS))
    np.testing.assert_array_equal(first, second)
    models, curves = answers(config, tmp_path)
    np.testing.assert_array_equal(*models)
    assert curves[0] == curves[1]
    lone = alone(config, lambda task: xgboost_grower(task, Share(0, 1), None), tmp_path / "alone")
    np.testing.assert_allclose(curves[0], lone, rtol=1e-5, err_msg="two workers learn what one does from the same rows")


def test_two_lightgbm_workers_agree_on_trees_and_errors(tmp_path: Path):
    config = LightGBMConfig(**QUICK)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(WORKERS)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    run_both(lightgbm_worker, ports, mp.get_context("spawn").Queue(), config, tmp_path)
    models, curves = answers(config, tmp_path)
    np.testing.assert_array_equal(*models)
    assert curves[0] == curves[1]

    lone = alone(config, lambda task: lone_lightgbm(task, Share(0, 1), None), tmp_path / "alone")
    np.testing.assert_allclose(curves[0], lone, rtol=1e-5, err_msg="two workers learn what one does from the same rows")
