"""Run in a process of its own: a fit on a real Ray that something happens to. Prints one JSON line: what it did about it.

`python -c "from support.ray_faults import main; main()" FAULT FOLDER STORAGE_ROOT PID...`: pids of the S3 server that is frozen.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.train.torch import TorchTrainer

from quantfleet.contracts import FitContext
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training import CheckpointsConfig, FaultsConfig, TrainingConfig
from quantfleet.training.runtime import run_config, run_trainer, scaling_config, torch_backend, worker_environment
from support.fits import fit_task

EPOCHS, STEPS_PER_EPOCH, STEP_S, EVERY = 20, 6, 0.15, 2
AWAY_S = 30.0
MOST_WAITED_S = 240.0
RUN = "faulted"


def fit_with_diary(config: dict[str, Any]) -> dict[str, Any]:
    """`fit_on_worker` with steps that take a while; rank 0 notes when it made which, and with how many workers.

    `config["alone_waits"]`: a worker that is left alone makes one step and waits to be joined, however long a node takes to come.
    """
    import ray.train

    from quantfleet.training import loop

    plain, diary = loop._Fit._step, Path(config["diary"])
    rank = ray.train.get_context().get_world_rank()

    def step(self: Any, batch: Any) -> None:
        time.sleep(STEP_S)
        plain(self, batch)
        if rank == 0:
            note = {"at": time.time(), "step": self._progress.step, "workers": self._workers}
            with diary.open("a") as file:
                file.write(json.dumps({**note, "attempt": self._progress.attempt}) + "\n")
            if config["alone_waits"] and self._workers == 1:
                time.sleep(MOST_WAITED_S)
                raise TimeoutError(f"no worker joined for {MOST_WAITED_S} s")

    loop._Fit._step = step  # type: ignore[method-assign]
    return loop.fit_on_worker(config)


@dataclass
class Scene:
    """A running fit, seen from outside."""

    folder: Path
    cluster: Cluster
    nodes: list[Any]
    servers: tuple[int, ...] = ()
    struck_at: float = 0.0
    joined: subprocess.Popen[bytes] | None = None

    @property
    def diary(self) -> list[dict[str, Any]]:
        path = self.folder / "diary.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self, until: Callable[[dict[str, Any]], bool]) -> None:
        """Until a step was made that is as asked."""
        deadline = time.monotonic() + MOST_WAITED_S
        while not any(until(note) for note in self.diary):
            assert time.monotonic() < deadline, f"waited {MOST_WAITED_S} s; the last steps: {self.diary[-3:]}"
            time.sleep(0.05)

    def strike(self) -> None:
        self.struck_at = time.time()


def processes(title: str) -> list[psutil.Process]:
    """Ray's processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
    return found


def lose_worker(scene: Scene) -> None:
    scene.strike()
    processes("ray::RayTrainWorker")[0].send_signal(signal.SIGKILL)


def lose_controller(scene: Scene) -> None:
    scene.strike()
    (controller,) = processes("ray::TrainController")
    controller.send_signal(signal.SIGKILL)


def lose_and_return_node(scene: Scene) -> None:
    """The fit goes on with the worker that is left; when another node comes, it grows again."""
    scene.strike()
    scene.cluster.remove_node(scene.nodes[1], allow_graceful=False)
    scene.wait(lambda note: note["attempt"] >= 1 and note["workers"] == 1)
    # a node of its own process: Cluster.add_node works in the main thread only, which fits
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--address={scene.cluster.address}",
        "--num-cpus=1",
    ]
    scene.joined = subprocess.Popen([*command, "--object-store-memory=100000000", "--block"], stdout=subprocess.DEVNULL)


def freeze_storage(scene: Scene) -> None:
    """The server takes connections and says nothing, then is back."""
    scene.strike()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in scene.servers:
            os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(AWAY_S)


FAULTS: dict[str, Callable[[Scene], None]] = {
    "worker": lose_worker,
    "controller": lose_controller,
    "node": lose_and_return_node,
    "storage": freeze_storage,
}


def fit(folder: Path, storage: Storage, workers: int | tuple[int, int]) -> dict[str, Any]:
    diary, elastic = str(folder / "diary.jsonl"), isinstance(workers, tuple)
    training = TrainingConfig(
        workers=workers, shards=4, checkpoints=CheckpointsConfig(every_steps=EVERY), resize_every_s=1,
        faults=FaultsConfig(max_failures=3, storage_retry_s=120),
    )  # fmt: skip
    task = replace(
        fit_task(folder, training, epochs=EPOCHS, patience_epochs=EPOCHS), storage=storage, run=f"train/{RUN}"
    )
    context = FitContext(run_name=RUN, storage=storage, training=training, seed=3)
    result = run_trainer(
        lambda: TorchTrainer(
            fit_with_diary,
            train_loop_config={"task": task, "diary": diary, "alone_waits": elastic},
            torch_config=torch_backend(context),
            scaling_config=scaling_config(context),
            run_config=run_config(context),
        ),
        context,
    )
    made: dict[str, Any] = result.return_value
    return made


def main() -> None:
    fault, folder, root, servers = sys.argv[1], Path(sys.argv[2]), sys.argv[3], tuple(map(int, sys.argv[4:]))
    os.environ.update(worker_environment())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment.update(worker_environment(), PYTHONPATH=":".join(p for p in sys.path if p))
    ray.init(cluster.address, log_to_driver=False, runtime_env={"env_vars": environment})
    scene = Scene(folder, cluster, nodes, servers)
    errors: list[BaseException] = []

    def strike() -> None:
        try:
            scene.wait(lambda note: note["step"] >= 9)
            FAULTS[fault](scene)
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    made = fit(folder, Storage(StorageConfig(root=root)), (1, 2) if fault == "node" else 2)
    thread.join(timeout=60)
    print(json.dumps(told(scene, made, errors)))
    if scene.joined is not None:
        scene.joined.terminate()
        scene.joined.wait()
    ray.shutdown()
    cluster.shutdown()


def told(scene: Scene, made: dict[str, Any], errors: list[BaseException]) -> dict[str, Any]:
    diary = scene.diary
    before = [note for note in diary if note["at"] <= scene.struck_at]
    after = [note for note in diary if note["at"] > scene.struck_at]
    newest = max(note["attempt"] for note in diary)
    # under a new attempt, or for storage, the same one
    again = next((note for note in after if note["attempt"] > before[-1]["attempt"]), after[0])
    gaps = [b["at"] - a["at"] for a, b in itertools.pairwise(diary)]
    return {
        "errors": [repr(error) for error in errors],
        "stopped": made["stopped"],
        "epochs": [row["epoch"] for row in made["curve"]],
        "steps_in_the_end": diary[-1]["step"],
        "attempts": newest,
        "workers": [
            note["workers"] for n, note in enumerate(diary) if not n or note["workers"] != diary[n - 1]["workers"]
        ],
        "recovered_after_s": round(again["at"] - scene.struck_at, 1),
        "steps_lost": max(note["step"] for note in diary if note["attempt"] == before[-1]["attempt"])
        - again["step"]
        + 1,
        "longest_pause_s": round(max(gaps), 1),
        "undisturbed_step_s": STEP_S,
    }


if __name__ == "__main__":
    main()
