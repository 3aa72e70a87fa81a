"""One real fit that is heard: steps between reports, workers, a restart, and all of it in the node's Prometheus page."""

import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from support.watched_fit import steps_until_scraped

from quantfleet.cluster.dashboard import dashboard_link, job_page
from quantfleet.contracts import FitContext
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training import FaultsConfig, TrainingConfig
from quantfleet.training.live import FitCallback, LiveReport, live_reports
from quantfleet.training.runtime import run_config, run_trainer, scaling_config

NAMES = (
    "ray_quantfleet_train_rows_total",
    "ray_quantfleet_train_step_seconds_count",
    "ray_quantfleet_train_input_stall_ratio",
    "ray_quantfleet_train_restarts_total",
    "ray_quantfleet_train_workers",
)


def scrape_until_all_are_there(found: dict[str, list[str]], folder: Path) -> None:
    (node,) = (n for n in ray.nodes() if n["Alive"])
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    give_up_at = time.monotonic() + 120
    while time.monotonic() < give_up_at and len(found) < len(NAMES):
        try:
            with urllib.request.urlopen(page, timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:  # the node's agent starts some seconds after the node
            lines = []
        for name in NAMES:
            if ours := [line for line in lines if line.startswith(f"{name}{{") and 'run="watched"' in line]:
                found[name] = ours
        time.sleep(0.5)
    (folder / "scraped").touch()


@pytest.mark.ray
@pytest.mark.slow
def test_a_fit_is_heard_while_it_runs_and_its_metrics_stand_on_the_nodes_prometheus_page(
    local_ray: None, tmp_path: Path
):
    heard: list[LiveReport] = []
    found: dict[str, list[str]] = {}
    reader = threading.Thread(target=scrape_until_all_are_there, args=(found, tmp_path), daemon=True)
    reader.start()
    with live_reports(heard.append, run="watched", model="tiny") as channel:
        context = FitContext(
            run_name="watched",
            storage=Storage(StorageConfig(root=str(tmp_path / "store"))),
            training=TrainingConfig(workers=1, faults=FaultsConfig(max_failures=1)),
            seed=1,
            train_callbacks=(channel.callback,),
            live=channel.sink,
        )
        run_trainer(
            lambda: TorchTrainer(
                steps_until_scraped,
                train_loop_config={"folder": str(tmp_path), "live": context.live},
                scaling_config=scaling_config(context),
                run_config=run_config(context),
            ),
            context,
        )
    reader.join(timeout=10)

    kinds = [report.kind for report in heard]
    assert kinds.index("restart") < kinds.index("step") < kinds.index("report")
    assert [r.values for r in heard if r.kind == "restart"] == [{"from_step": 0}]
    assert [r.values["workers"] for r in heard if r.kind == "workers"] == [1, 0, 1, 0]
    (last,) = (r.values for r in heard if r.kind == "report")
    assert last["val_loss"] == 0.25
    assert 0.2 < last["input_stall"] < 0.8, "half of each step is waiting"
    assert last["rss_mb"] > 10

    assert sorted(found) == sorted(NAMES)
    assert all('model="tiny"' in line for lines in found.values() for line in lines)
    assert float(found["ray_quantfleet_train_restarts_total"][0].rpartition(" ")[2]) == 1.0
    assert 'rank="0"' in found["ray_quantfleet_train_rows_total"][0]
    rows, steps = (float(found[name][0].rpartition(" ")[2]) for name in NAMES[:2])
    assert rows > 0
    assert rows % 64 == 0
    assert steps > 0

    began = time.perf_counter()
    channel.sink.send({"step": 1})  # the queue is gone: nobody is harmed
    assert time.perf_counter() - began < 1.0
    assert dashboard_link() is None, "a local Ray has no dashboard"


class Kept:
    """Stands in for a sink and for the exported metrics."""

    def __init__(self) -> None:
        self.reports: list[LiveReport] = []
        self.gauges: list[int] = []
        self.restarts = 0

    def put(self, report: LiveReport) -> None:
        self.reports.append(report)

    def workers(self, count: int) -> None:
        self.gauges.append(count)

    def restarted(self) -> None:
        self.restarts += 1


def test_the_controllers_callback_says_which_checkpoint_lost_workers_go_on_from(monkeypatch: pytest.MonkeyPatch):
    kept: Any = Kept()
    monkeypatch.setattr("quantfleet.training.live.FitMetrics", lambda **names: kept)
    callback = FitCallback(kept, run="a-run", model="tiny")

    callback.after_worker_group_start(["rank 0", "rank 1"])
    callback.after_report(SimpleNamespace(checkpoint="a checkpoint"), [{"step": 240}, {"step": 240}])
    callback.after_report(SimpleNamespace(checkpoint=None), [{"step": 300}, {"step": 300}])
    callback.before_worker_group_shutdown(None)
    callback.before_controller_execute_failure_decision(FailureDecision.NOOP)
    callback.before_controller_execute_failure_decision(FailureDecision.RETRY)
    callback.before_controller_execute_failure_decision(FailureDecision.RAISE)

    assert kept.reports == [
        LiveReport("workers", {"workers": 2}),
        LiveReport("report", {"step": 240}),
        LiveReport("report", {"step": 300}),
        LiveReport("workers", {"workers": 0}),
        LiveReport("restart", {"from_step": 240}),
    ]
    assert (kept.gauges, kept.restarts) == ([2, 0], 1)


def test_a_jobs_page_is_found_by_either_of_its_ids_with_or_without_a_scheme():
    assert job_page("127.0.0.1:8265", "01000000") == "http://127.0.0.1:8265/#/jobs/01000000"
    assert job_page("https://ray.example/", "raysubmit_x") == "https://ray.example/#/jobs/raysubmit_x"
