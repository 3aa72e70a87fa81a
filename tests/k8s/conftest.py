"""What the tests of the chart and of the plain manifests share. Helm runs as a library: no cluster, no binary."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import helm_python as helm
import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CHART = REPOSITORY / "helm" / "quantfleet"
CRDS = REPOSITORY.parent / "shared" / "k8s" / "crds"

Document = dict[str, Any]

GPU_GROUP: Document = {
    "name": "gpu",
    "replicas": 1,
    "minReplicas": 0,
    "maxReplicas": 8,
    "resources": {
        "requests": {"cpu": 8, "memory": "64Gi", "ephemeral-storage": "50Gi", "nvidia.com/gpu": 1},
        "limits": {"cpu": 8, "memory": "64Gi", "ephemeral-storage": "50Gi", "nvidia.com/gpu": 1},
    },
    "nodeSelector": {"accelerator": "h200"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}

# Value sets whose rendering has to be valid, each a way somebody would install the chart.
INSTALLATIONS: dict[str, Document] = {
    "defaults": {},
    "standing cluster only": {"rayCluster": {"enabled": True}, "rayJob": {"enabled": False}},
    "operator submits": {"rayJob": {"submissionMode": "HTTPMode"}},
    "GPU workers that scale": {"cluster": {"autoscaling": {"enabled": True}, "workerGroups": [GPU_GROUP]}},
    "one node": {"cluster": {"head": {"numCpus": 2}, "workerGroups": []}},
    "Amazon S3 by workload identity": {
        "storage": {"root": "s3://acme-quant/prod", "endpointUrl": "", "region": "eu-central-1"},
        "registry": {"trackingUri": ""},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/qf"}},
    },
    "own network control": {"networkPolicy": {"enabled": False}, "serviceAccount": {"create": False}},
    "everything set": {
        "fullnameOverride": "fleet",
        "image": {
            "repository": "registry.example.com:5000/quant/fleet",
            "digest": "sha256:" + "0a" * 32,
            "pullPolicy": "Always",
            "pullSecrets": ["registry-login"],
        },
        "ray": {"auth": {"secretName": "ray-token"}},
        "storage": {"credentialsSecret": {"name": "s3-keys"}},
        "registry": {"credentialsSecret": {"name": "mlflow-login"}},
        "envFromSecrets": ["exchange-keys"],
        "extraEnv": {"OMP_NUM_THREADS": "4", "QUANTFLEET_TRAINING__WORKERS": "4"},
        "cluster": {"workerGroups": [GPU_GROUP, GPU_GROUP | {"name": "spare", "replicas": 0}]},
        "rayCluster": {"enabled": True},
        "rayJob": {
            "recipe": "tune_quickstart",
            "recipeConfigMap": "my-recipes",
            "overrides": ["training.workers=4", "search.trials=64"],
            "runName": "tune-2",
        },
    },
    "names that look like numbers": {
        "fullnameOverride": "fleet",
        "image": {"pullSecrets": ["1"]},
        "ray": {"auth": {"secretName": "2"}},
        "storage": {"credentialsSecret": {"name": "3", "accessKeyIdKey": "4", "secretAccessKeyKey": "5"}},
        "envFromSecrets": ["6"],
        "serviceAccount": {"name": "7"},
        "networkPolicy": {"operatorNamespace": "8"},
        "rayJob": {"recipeConfigMap": "9"},
    },
}


def _load(name: str) -> ModuleType:
    """Import a helper that lies next to the tests, which --import-mode=importlib does not do."""
    spec = importlib.util.spec_from_file_location(f"tests_k8s_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def chart_folder() -> Path:
    return CHART


@pytest.fixture(scope="session")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as chart:
        yield chart


@pytest.fixture(scope="session")
def manifests() -> ModuleType:
    """tests/k8s/manifests.py"""
    return _load("manifests")


@pytest.fixture(scope="session")
def crd_schema() -> ModuleType:
    """tests/k8s/crd_schema.py"""
    return _load("crd_schema")


@pytest.fixture(scope="session")
def custom_resources(crd_schema: ModuleType) -> Any:
    """Validators for the ray.io kinds."""
    if not list(CRDS.glob("ray.io_*.yaml")):
        pytest.skip(f"the KubeRay v1.7.0 definitions are not at {CRDS}")
    return crd_schema.CustomResources(CRDS)


@pytest.fixture(scope="session")
def render(chart: helm.Chart, manifests: ModuleType) -> Callable[..., list[Document]]:
    """Render the chart as `helm template <release> --namespace <namespace>` does, and parse the result."""

    def render(
        values: Document | None = None, *, release: str = "quantfleet", namespace: str = "quantfleet"
    ) -> list[Document]:
        texts = chart.render(values or {}, name=release, namespace=namespace)
        return [doc for path, text in texts.items() if not path.endswith("NOTES.txt") for doc in manifests.parse(text)]

    return render


@pytest.fixture(params=list(INSTALLATIONS.values()), ids=list(INSTALLATIONS))
def installation(request: pytest.FixtureRequest) -> Document:
    """The values of one way to install the chart."""
    values: Document = request.param
    return values


@pytest.fixture
def rendered(render: Callable[..., list[Document]], installation: Document) -> list[Document]:
    """The documents of one way to install the chart."""
    return render(installation)
