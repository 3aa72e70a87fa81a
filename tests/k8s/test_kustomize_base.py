"""k8s/base is the chart with its default values, without Helm's own labels. These tests keep the two equal.

To refresh after a change of the chart: the failing test prints the manifest, paste it into the file it names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

Document = dict[str, Any]
Render = Callable[..., list[Document]]

FILES = {"RayJob": "rayjob.yaml", "ServiceAccount": "serviceaccount.yaml", "NetworkPolicy": "networkpolicy.yaml"}
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")


@pytest.fixture
def base(repository: Path) -> Path:
    return repository / "k8s" / "base"


def without_helm(document: Document) -> Document:
    """A rendered document as it would stand in the base: kustomize sets the namespace, and Helm has no part in it."""
    plain = copy.deepcopy(document)
    del plain["metadata"]["namespace"]
    for label in HELM_LABELS:
        del plain["metadata"]["labels"][label]
    return plain


@pytest.mark.parametrize("kind", FILES)
def test_the_base_is_what_the_chart_renders_by_default(
    render: Render, manifests: ModuleType, base: Path, kind: str
) -> None:
    expected = without_helm(manifests.only(render(), kind))
    (actual,) = manifests.parse((base / FILES[kind]).read_text(encoding="utf-8"))
    text = yaml.safe_dump(expected, sort_keys=False)
    assert actual == expected, f"k8s/base/{FILES[kind]} differs from the chart. It should say:\n{text}"


def test_the_base_leaves_nothing_out_that_the_chart_installs(render: Render) -> None:
    assert {document["kind"] for document in render()} == FILES.keys()


def test_the_kustomization_lists_every_manifest_and_names_the_namespace(manifests: ModuleType, base: Path) -> None:
    (kustomization,) = manifests.parse((base / "kustomization.yaml").read_text(encoding="utf-8"))
    (namespace,) = manifests.parse((base / "namespace.yaml").read_text(encoding="utf-8"))
    assert kustomization.keys() == {"apiVersion", "kind", "namespace", "resources"}
    assert (kustomization["apiVersion"], kustomization["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    assert kustomization["namespace"] == namespace["metadata"]["name"]
    present = {file.name for file in base.glob("*.yaml")} - {"kustomization.yaml"}
    assert sorted(kustomization["resources"]) == sorted(present)


def test_the_namespace_enforces_the_restricted_pod_security_standard(manifests: ModuleType, base: Path) -> None:
    (namespace,) = manifests.parse((base / "namespace.yaml").read_text(encoding="utf-8"))
    assert manifests.kubernetes_errors(namespace) == []
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_plain_ray_job_is_valid(manifests: ModuleType, base: Path, custom_resources: Any) -> None:
    (job,) = manifests.parse((base / "rayjob.yaml").read_text(encoding="utf-8"))
    assert custom_resources.errors(job) == []
