"""What is refused before workers start: one clear error each, with what there is and what to set."""

from typing import Any

import pytest

from quantfleet.contracts import DataSpec
from quantfleet.errors import ClusterError, ConfigError, TrainingError
from quantfleet.plugins import load_plugins
from quantfleet.training import TrainingConfig
from quantfleet.training.preflight import (
    ClusterView,
    Hardware,
    NodeView,
    check_batch,
    check_run,
    check_same_fit,
    check_strategy,
    check_workers_fit,
    fit_record,
    see_cluster,
    see_hardware,
)

load_plugins(("quantfleet_models",))

from quantfleet_models.hybrid import HybridConfig  # noqa: E402

SPEC = DataSpec(
    symbols=("A",), feature_columns=("f0", "f1"), feature_digest="0" * 16, horizons_bars=(1,), timeframe="1d", lookback_bars=6,
    chunk_bars=16,
)  # fmt: skip
LAPTOP = ClusterView(nodes=(NodeView(name="127.0.0.1", cpus=4),))
FLEET = ClusterView(nodes=(NodeView(name="head", cpus=2), *(NodeView(name=f"n{i}", cpus=8, gpus=1) for i in range(3))))


def refused(cluster: ClusterView, **asked) -> str:
    with pytest.raises(ClusterError) as caught:
        check_workers_fit(cluster, **{"workers": 1, "cpus_per_worker": 1.0, "use_gpu": False, **asked})
    return str(caught.value)


# --- workers ---


@pytest.mark.parametrize(
    ("cluster", "asked"),
    [
        (LAPTOP, {"workers": 4}),
        (LAPTOP, {"workers": 8, "cpus_per_worker": 0.5}),
        (LAPTOP, {"workers": 40, "cpus_per_worker": 0.1}),
        (FLEET, {"workers": 26}),
        (FLEET, {"workers": 3, "cpus_per_worker": 8.0, "use_gpu": True}),
    ],
)
def test_what_fits_is_let_through(cluster: ClusterView, asked):
    check_workers_fit(cluster, **{"cpus_per_worker": 1.0, "use_gpu": False, **asked})


def test_too_many_workers_are_told_what_the_cluster_has_and_how_many_fit():
    said = refused(LAPTOP, workers=64)
    assert "asks for 64 workers of 1 CPU, and the cluster has room for 4: 4 CPU, 0 GPU on 127.0.0.1" in said
    assert "training.workers=4" in said


def test_cores_of_two_nodes_do_not_make_one_worker():
    said = refused(FLEET, cpus_per_worker=9.0)
    assert "no node is large enough" in said
    assert "2 CPU, 0 GPU on head; 8 CPU, 1 GPU on each of 3 nodes" in said


def test_room_is_counted_node_by_node():
    assert "room for 3" in refused(FLEET, workers=4, cpus_per_worker=5.0), (
        "26 cores hold five such workers, no node holds two"
    )


def test_gpus_on_a_cluster_without_any_are_refused_as_that():
    assert "the cluster has no GPU" in refused(LAPTOP, use_gpu=True)


def test_too_few_gpus_count_like_too_few_cores():
    assert "room for 3" in refused(FLEET, workers=4, use_gpu=True)


def test_nodes_that_are_to_come_are_waited_for_on_demand_alone():
    assert "training.wait_for_nodes=true" in refused(LAPTOP, workers=5)
    check_workers_fit(LAPTOP, workers=5, cpus_per_worker=1.0, use_gpu=False, wait_for_nodes=True)


def test_an_autoscaler_s_limits_replace_what_is_there_now():
    growing = ClusterView(nodes=LAPTOP.nodes, most={"CPU": 32.0})
    check_workers_fit(growing, workers=32, cpus_per_worker=1.0, use_gpu=False)
    said = refused(growing, workers=33, wait_for_nodes=True)
    assert "with every node that its autoscaler may add, the cluster has 32 CPU and 0 GPU: room for 32" in said


def test_a_cluster_without_a_living_node_says_so():
    assert "no living node" in refused(ClusterView(nodes=()))


def test_living_nodes_are_seen_with_all_they_have_and_the_driver_s_check_reads_them(monkeypatch: pytest.MonkeyPatch):
    import ray
    from ray._private.state import state

    def node(name: str, alive: bool, **resources: float) -> dict[str, Any]:
        return {"NodeManagerAddress": name, "Alive": alive, "Resources": {"memory": 1e9, **resources}}

    nodes = [node("a", True, CPU=4.0), node("dead", False, CPU=64.0), node("b", True, CPU=8.0, GPU=2.0)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: None)

    assert str(see_cluster()) == "4 CPU, 0 GPU on a; 8 CPU, 2 GPU on b"
    check_run(TrainingConfig(workers=12))
    with pytest.raises(ClusterError, match="room for 12"):
        check_run(TrainingConfig(workers=13))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    check_run(TrainingConfig(workers=13))


# --- batch ---


def test_a_batch_larger_than_the_shard_says_the_largest_that_fits():
    check_batch("m", 32, shards=2, chunks=2, spec=SPEC)
    with pytest.raises(ConfigError, match=r"m.batch_windows=34 asks 17 .* holds 16. Lower it to 32 or less"):
        check_batch("m", 34, shards=2, chunks=2, spec=SPEC)


# --- strategy ---


@pytest.mark.parametrize(
    ("asked", "hardware", "word"),
    [
        ({"kind": "ddp", "use_gpu": False, "precision": "fp16"}, None, "fp16 needs a GPU"),
        ({"kind": "fsdp", "use_gpu": True, "offload": True}, None, "offload is DeepSpeed's"),
        ({"kind": "ddp", "use_gpu": True}, Hardware(cuda=False), "NCCL cannot run"),
        ({"kind": "ddp", "use_gpu": True, "precision": "bf16"}, Hardware(cuda=True, gpu_bf16=False), "bfloat16"),
        ({"kind": "deepspeed", "use_gpu": False}, Hardware(deepspeed=False), r"pip install 'quantfleet\[deepspeed\]'"),
        (
            {"kind": "deepspeed", "use_gpu": False, "offload": True},
            Hardware(deepspeed=True, compiler=False),
            "ninja-build",
        ),
    ],
)
def test_a_strategy_that_the_hardware_cannot_run_is_refused(asked, hardware: Hardware | None, word: str):
    with pytest.raises(ConfigError, match=word):
        check_strategy(**asked, hardware=hardware)


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "deepspeed"])
def test_cpu_workers_run_every_strategy_in_32_bits_and_bfloat16(kind: str, precision):
    check_strategy(kind, use_gpu=False, precision=precision, hardware=Hardware(cuda=False, deepspeed=True))


def test_what_nobody_has_looked_at_is_not_judged():
    check_strategy("deepspeed", use_gpu=True, precision="bf16", offload=True)


def test_this_machine_is_seen_without_a_cluster():
    seen = see_hardware()
    assert None not in (seen.cuda, seen.gpu_bf16, seen.deepspeed, seen.compiler)


# --- checkpoint ---


def test_a_checkpoint_of_the_same_fit_is_taken_even_after_a_trip_through_json():
    import json

    record = fit_record(HybridConfig(width=16), SPEC, seed=3)
    check_same_fit(json.loads(json.dumps(record)), record)


@pytest.mark.parametrize(
    ("other", "key", "was", "now"),
    [
        (fit_record(HybridConfig(width=32), SPEC, seed=3), "model.width", "32", "16"),
        (fit_record(HybridConfig(width=16), SPEC, seed=4), "seed", "4", "3"),
        ({"model": {"kind": "patch_tst"}}, "model.kind", "'patch_tst'", "'hybrid'"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_first_difference_with_both_values(other, key: str, was: str, now: str):
    with pytest.raises(TrainingError) as caught:
        check_same_fit(other, fit_record(HybridConfig(width=16), SPEC, seed=3))
    assert f"its {key} is {was}, this fit's is {now}." in str(caught.value)
    assert caught.value.fields["key"] == key


def test_what_only_the_checkpoint_has_is_a_difference_too():
    with pytest.raises(TrainingError, match=r"its a.c is 2, this fit's is absent"):
        check_same_fit({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}})


def test_long_values_are_cut():
    with pytest.raises(TrainingError) as caught:
        check_same_fit({"x": "y" * 500}, {"x": "z"})
    assert len(str(caught.value)) < 350
