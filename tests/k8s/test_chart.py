"""The chart renders valid objects for every way to install it, and hands on what its values say."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import helm_python as helm
import pytest

from quantfleet_jobs.recipe import load_recipe

Document = dict[str, Any]
Render = Callable[..., list[Document]]

RECIPES = Path(__file__).resolve().parents[2] / "jobs" / "recipes"
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def environment(container: Document) -> dict[str, str]:
    """The plain variables of a container."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def referenced(container: Document) -> dict[str, tuple[str, str]]:
    """The variables a container takes from Secrets: name to (Secret, key)."""
    references = {
        entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "value" not in entry
    }
    return {name: (reference["name"], reference["key"]) for name, reference in references.items()}


# Validity


def test_helm_lint_finds_nothing_in_strict_mode(chart_folder: Path, installation: Document) -> None:
    report = helm.lint(chart_folder, installation, strict=True, kube_version="v1.31.0")
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] >= 2] == []


def test_every_ray_object_matches_kuberays_definition(rendered: list[Document], custom_resources: Any) -> None:
    for document in rendered:
        if document["apiVersion"].startswith("ray.io/"):
            assert custom_resources.errors(document) == [], document["kind"]


def test_every_other_object_is_one_that_kubernetes_knows(rendered: list[Document], manifests: ModuleType) -> None:
    for document in rendered:
        if not document["apiVersion"].startswith("ray.io/"):
            assert manifests.kubernetes_errors(document) == [], document["kind"]


def test_every_pod_template_is_a_valid_pod(rendered: list[Document], manifests: ModuleType) -> None:
    for where, template in manifests.pods(rendered):
        pod = {"apiVersion": "v1", "kind": "Pod"} | template
        assert manifests.kubernetes_errors(pod) == [], where


def test_a_kind_nobody_knows_counts_as_a_fault(manifests: ModuleType) -> None:
    (fault,) = manifests.kubernetes_errors({"apiVersion": "v1", "kind": "ServiceAcount", "metadata": {"name": "x"}})
    assert "Couldn't find schema for kind ServiceAcount" in fault


def test_a_key_that_stands_twice_is_refused(manifests: ModuleType) -> None:
    with pytest.raises(Exception, match=r"keys named twice: \['a'\]"):
        manifests.parse("a: 1\na: 2\n")


# What the KubeRay operator checks by itself and its definitions do not say


def test_the_ray_job_passes_the_operators_own_checks(rendered: list[Document]) -> None:
    for job in (document for document in rendered if document["kind"] == "RayJob"):
        name, spec = job["metadata"]["name"], job["spec"]
        assert DNS_1035.fullmatch(name)
        assert len(name) <= 47
        assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode")
        assert spec["entrypoint"].startswith("quantfleet run ")
        assert ("rayClusterSpec" in spec) != ("clusterSelector" in spec)
        assert spec["shutdownAfterJobFinishes"] is True, "ttlSecondsAfterFinished is refused without it"
        assert spec["ttlSecondsAfterFinished"] >= 0
        assert spec["activeDeadlineSeconds"] > 0
        assert spec["backoffLimit"] >= 0
        assert not {"suspend", "managedBy", "deletionStrategy"} & spec.keys(), "these have rules of their own"
        if "submitterPodTemplate" in spec:
            assert spec["submissionMode"] == "K8sJobMode"
            assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never", "a Kubernetes Job takes no Always"
            assert "command" not in spec["submitterPodTemplate"]["spec"]["containers"][0], "KubeRay writes it"


def test_the_ray_cluster_passes_the_operators_own_checks(rendered: list[Document], manifests: ModuleType) -> None:
    for document in (d for d in rendered if d["apiVersion"] == "ray.io/v1"):
        spec = manifests.ray_cluster_spec(document)
        assert DNS_1035.fullmatch(document["metadata"]["name"])
        assert len(document["metadata"]["name"]) <= 50
        assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0), "older Ray knows no token"
        groups = spec.get("workerGroupSpecs", [])
        assert len(groups) == len({group["groupName"] for group in groups})
        for group in groups:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert "suspend" not in group
        if spec["enableInTreeAutoscaling"]:
            pods = [spec["headGroupSpec"], *groups]
            assert all("restartPolicy" not in pod["template"]["spec"] for pod in pods), "autoscaler v2 sets it"


# What is installed


def test_by_default_one_run_with_a_cluster_of_its_own_is_installed(render: Render) -> None:
    assert sorted(document["kind"] for document in render()) == ["NetworkPolicy", "RayJob", "ServiceAccount"]


def test_the_job_cleans_up_after_itself(render: Render, manifests: ModuleType) -> None:
    spec = manifests.only(render(), "RayJob")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] == 600


def test_the_job_and_the_standing_cluster_are_the_same_cluster(render: Render, manifests: ModuleType) -> None:
    documents = render({"rayCluster": {"enabled": True}})
    job, cluster = manifests.only(documents, "RayJob"), manifests.only(documents, "RayCluster")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_everything_lands_in_the_namespace_of_the_release(render: Render) -> None:
    documents = render({"rayCluster": {"enabled": True}}, namespace="research")
    assert {document["metadata"]["namespace"] for document in documents} == {"research"}


def test_two_releases_in_one_namespace_share_no_name(render: Render) -> None:
    values = {"rayCluster": {"enabled": True}}
    red, blue = (
        {(d["kind"], d["metadata"]["name"]) for d in render(values, release=release)} for release in ("red", "blue")
    )
    assert not red & blue


@pytest.mark.parametrize(
    ("values", "entrypoint", "name"),
    [
        ({}, "quantfleet run quickstart", "quantfleet-quickstart"),
        ({"recipe": "tune_quickstart"}, "quantfleet run tune_quickstart", "quantfleet-tune-quickstart"),
        ({"recipe": "/srv/My.Run.yaml"}, "quantfleet run /srv/My.Run.yaml", "quantfleet-my-run"),
        ({"runName": "again"}, "quantfleet run quickstart", "quantfleet-again"),
        (
            {"overrides": ["training.workers=4", "run.seed=5"]},
            "quantfleet run quickstart --set training.workers=4 --set run.seed=5",
            "quantfleet-quickstart",
        ),
        (
            {"recipe": "mine", "recipeConfigMap": "recipes"},
            "quantfleet run /etc/quantfleet/recipes/mine.yaml",
            "quantfleet-mine",
        ),
    ],
)
def test_the_recipe_becomes_the_entrypoint_and_the_name(
    render: Render, manifests: ModuleType, values: Document, entrypoint: str, name: str
) -> None:
    job = manifests.only(render({"rayJob": values}), "RayJob")
    assert (job["spec"]["entrypoint"], job["metadata"]["name"]) == (entrypoint, name)
    assert_loads(job["spec"]["entrypoint"], {})


def test_a_recipe_from_a_config_map_is_mounted_where_the_driver_runs(render: Render, manifests: ModuleType) -> None:
    documents = render({"rayJob": {"recipe": "mine", "recipeConfigMap": "recipes"}, "rayCluster": {"enabled": True}})
    pods = {where: pod["spec"] for where, pod in manifests.pods(documents)}
    assert pods["RayJob head"]["volumes"] == [{"name": "recipe", "configMap": {"name": "recipes"}}]
    (mount,) = pods["RayJob head"]["containers"][0]["volumeMounts"]
    assert mount == {"name": "recipe", "mountPath": "/etc/quantfleet/recipes", "readOnly": True}
    assert [where for where, pod in pods.items() if "volumes" in pod] == ["RayJob head"]


def test_the_default_recipe_is_one_that_the_wheel_carries(chart: helm.Chart, repository: Path) -> None:
    recipes = repository / "jobs" / "recipes"
    if not list(recipes.glob("*.yaml")):
        pytest.skip("jobs/recipes is empty")
    assert (recipes / f"{chart.values['rayJob']['recipe']}.yaml").is_file()


def test_every_setting_that_an_installation_makes_is_one_of_the_recipe(
    rendered: list[Document], manifests: ModuleType
) -> None:
    for job in (document for document in rendered if document["kind"] == "RayJob"):
        (head,) = (pod for where, pod in manifests.pods([job]) if where == "RayJob head")
        assert_loads(job["spec"]["entrypoint"], environment(head["spec"]["containers"][0]))


def assert_loads(entrypoint: str, environ: dict[str, str]) -> None:
    """`quantfleet run RECIPE --set ...` resolves; a recipe of the user's own stands for the quickstart."""
    program, verb, recipe, *options = shlex.split(entrypoint)
    assert (program, verb) == ("quantfleet", "run")
    own = Path(recipe).stem if (RECIPES / f"{Path(recipe).stem}.yaml").is_file() else "quickstart"
    assert options[::2] == ["--set"] * (len(options) // 2)
    load_recipe(own, options[1::2], environ)


def test_every_recipe_that_a_readme_runs_is_shipped(repository: Path) -> None:
    told = [
        name
        for file in ("k8s/README.md", "helm/quantfleet/README.md", "README.md")
        for name in re.findall(r"quantfleet run ([a-z_]+)(?![a-z_.])", (repository / file).read_text(encoding="utf-8"))
    ]
    assert "tune_quickstart" in told
    assert [name for name in told if not (RECIPES / f"{name}.yaml").is_file()] == []


# Versions


def test_the_chart_follows_the_version_of_the_project(chart: helm.Chart, repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart.metadata["appVersion"] == project["version"]
    (ray,) = (line for line in project["dependencies"] if line.startswith("ray["))
    wanted = ".".join(chart.values["ray"]["version"].split(".")[:2])
    assert f">={wanted}," in ray, "cluster.rayVersion has to be the Ray that the wheel depends on"


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "quantfleet:0.1.0"),
        ({"tag": "main-3f2a"}, "quantfleet:main-3f2a"),
        (
            {"repository": "ghcr.io/acme/fleet", "tag": "x", "digest": "sha256:" + "b" * 64},
            "ghcr.io/acme/fleet@sha256:" + "b" * 64,
        ),
    ],
)
def test_one_image_runs_everywhere_and_a_digest_wins_over_a_tag(
    render: Render, manifests: ModuleType, image: Document, reference: str
) -> None:
    pods = manifests.pods(render({"image": image}))
    assert {container["image"] for _, pod in pods for container in pod["spec"]["containers"]} == {reference}


# Environment


def test_head_and_workers_know_storage_and_registry_under_their_agreed_names(
    render: Render, manifests: ModuleType
) -> None:
    values = {
        "storage": {"root": "s3://bucket/prefix", "endpointUrl": "https://s3.example.com", "region": "eu-west-1"},
        "registry": {"trackingUri": "https://mlflow.example.com"},
        "extraEnv": {"OMP_NUM_THREADS": "4"},
    }
    for where, container in manifests.ray_containers(render(values)):
        assert environment(container) == {
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "OMP_NUM_THREADS": "4",
            "QUANTFLEET_REGISTRY__TRACKING_URI": "https://mlflow.example.com",
            "QUANTFLEET_STORAGE__ENDPOINT_URL": "https://s3.example.com",
            "QUANTFLEET_STORAGE__REGION": "eu-west-1",
            "QUANTFLEET_STORAGE__ROOT": "s3://bucket/prefix",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.02",
        }, where


def test_an_empty_address_is_left_out_so_that_the_programs_default_holds(render: Render, manifests: ModuleType) -> None:
    documents = render({"storage": {"endpointUrl": ""}, "registry": {"trackingUri": ""}})
    for _, container in manifests.ray_containers(documents):
        assert environment(container).keys() == {
            "QUANTFLEET_STORAGE__ROOT",
            "QUANTFLEET_STORAGE__REGION",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
        }


def test_credentials_come_from_the_named_secrets(render: Render, manifests: ModuleType) -> None:
    values = {
        "storage": {"credentialsSecret": {"name": "s3", "accessKeyIdKey": "id", "secretAccessKeyKey": "key"}},
        "registry": {"credentialsSecret": {"name": "mlflow", "usernameKey": "user", "passwordKey": "pass"}},
        "envFromSecrets": ["exchange"],
    }
    for _, container in manifests.ray_containers(render(values)):
        assert referenced(container) == {
            "AWS_ACCESS_KEY_ID": ("s3", "id"),
            "AWS_SECRET_ACCESS_KEY": ("s3", "key"),
            "MLFLOW_TRACKING_USERNAME": ("mlflow", "user"),
            "MLFLOW_TRACKING_PASSWORD": ("mlflow", "pass"),
        }
        assert container["envFrom"] == [{"secretRef": {"name": "exchange"}}]


def test_no_services_of_the_namespace_leak_into_the_settings(rendered: list[Document], manifests: ModuleType) -> None:
    # Kubernetes would add QUANTFLEET_..._HEAD_SVC_PORT and the like, and every QUANTFLEET_* name is a setting.
    assert all(pod["spec"]["enableServiceLinks"] is False for _, pod in manifests.pods(rendered))


# Shape of the cluster


def test_worker_groups_keep_their_replicas_resources_and_places(render: Render, manifests: ModuleType) -> None:
    group = {
        "name": "gpu",
        "replicas": 3,
        "minReplicas": 1,
        "maxReplicas": 5,
        "resources": {
            "requests": {"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": 1},
            "limits": {"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": 1},
        },
        "nodeSelector": {"accelerator": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }
    job = manifests.only(render({"cluster": {"workerGroups": [group]}}), "RayJob")
    (worker,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [worker[key] for key in ("groupName", "replicas", "minReplicas", "maxReplicas")] == ["gpu", 3, 1, 5]
    assert worker["template"]["spec"]["containers"][0]["resources"] == group["resources"]
    assert worker["template"]["spec"]["nodeSelector"] == group["nodeSelector"]
    assert worker["template"]["spec"]["tolerations"] == group["tolerations"]


def test_no_training_is_scheduled_on_the_head_by_default(render: Render, manifests: ModuleType) -> None:
    head = manifests.only(render(), "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"


def test_every_container_requests_and_limits_cpu_and_memory(rendered: list[Document], manifests: ModuleType) -> None:
    for where, pod in manifests.pods(rendered):
        for container in pod["spec"]["containers"]:
            for side in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][side].keys(), where


def test_the_packaged_chart_renders_the_same(chart_folder: Path, chart: helm.Chart, tmp_path: Path) -> None:
    archive = helm.package(chart_folder, destination=tmp_path)
    with helm.Chart.load(archive) as packaged:
        assert packaged.render({}, name="quantfleet") == chart.render({}, name="quantfleet")


def test_the_notes_name_the_run_and_warn_when_the_token_is_off(chart: helm.Chart) -> None:
    def notes(values: Document) -> str:
        return chart.render(values, name="qf", namespace="research")["quantfleet/templates/NOTES.txt"]

    assert "kubectl -n research get rayjob qf-quantfleet-quickstart" in notes({})
    assert "WARNING" not in notes({})
    assert "WARNING: token authentication is off" in notes({"ray": {"auth": {"mode": "disabled"}}})
