"""Ray runs whatever it is sent. These tests hold the doors shut: identity, privileges, secrets and network."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Document = dict[str, Any]
Render = Callable[..., list[Document]]

SOUNDS_SECRET = ("SECRET", "PASSWORD", "TOKEN", "ACCESS_KEY")


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector (matchLabels only) takes these labels; an empty one takes all."""
    assert selector.keys() <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def admits(policy: Document, *, labels: dict[str, str], namespace: str, port: int) -> bool:
    """Whether a network policy lets a pod with these labels, in this namespace, connect to a port."""
    for rule in policy["spec"]["ingress"]:
        ports = rule.get("ports")
        if ports is not None and port not in [entry["port"] for entry in ports]:
            continue
        for peer in rule["from"]:
            assert peer.keys() <= {"podSelector", "namespaceSelector"}
            if "namespaceSelector" in peer:
                same_place = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
            else:
                same_place = namespace == policy["metadata"]["namespace"]
            if same_place and selects(peer.get("podSelector", {}), labels):
                return True
    return False


# Authentication


def test_ray_asks_for_a_token_by_default(render: Render, manifests: ModuleType) -> None:
    for kind in ("RayJob", "RayCluster"):
        document = manifests.only(render({"rayCluster": {"enabled": True}}), kind)
        assert manifests.ray_cluster_spec(document)["authOptions"] == {"mode": "token"}


def test_the_token_can_come_from_a_secret_of_ones_own(render: Render, manifests: ModuleType) -> None:
    job = manifests.only(render({"ray": {"auth": {"secretName": "ray-token"}}}), "RayJob")
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}


def test_nothing_rendered_overrides_the_operators_token(rendered: list[Document], manifests: ModuleType) -> None:
    for where, container in manifests.ray_containers(rendered):
        assert not {entry["name"] for entry in container["env"]} & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}, where


# Privileges


def test_no_container_runs_as_root_or_gains_privileges(rendered: list[Document], manifests: ModuleType) -> None:
    for where, pod in manifests.pods(rendered):
        shared = pod["spec"]["securityContext"]
        assert shared["runAsNonRoot"] is True, where
        assert min(shared["runAsUser"], shared["runAsGroup"], shared["fsGroup"]) > 0, where
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            }, where


def test_the_injected_autoscaler_is_held_as_tightly(render: Render, manifests: ModuleType) -> None:
    job = manifests.only(render({"cluster": {"autoscaling": {"enabled": True}}}), "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert cluster["autoscalerOptions"]["securityContext"] == head["securityContext"]
    assert cluster["autoscalerOptions"]["resources"].keys() == {"requests", "limits"}


def test_no_pod_reaches_into_its_node(rendered: list[Document], manifests: ModuleType) -> None:
    for where, pod in manifests.pods(rendered):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys(), where
        assert all("configMap" in volume for volume in pod["spec"].get("volumes", [])), where
        for container in pod["spec"]["containers"]:
            assert all("hostPort" not in port for port in container.get("ports", [])), where


def test_no_pod_carries_a_kubernetes_token_unless_ray_scales_itself(render: Render, manifests: ModuleType) -> None:
    documents = render({"rayCluster": {"enabled": True}})
    assert manifests.only(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    assert not any(pod["spec"]["automountServiceAccountToken"] for _, pod in manifests.pods(documents))

    scaling = render({"cluster": {"autoscaling": {"enabled": True}}})
    with_token = [where for where, pod in manifests.pods(scaling) if pod["spec"]["automountServiceAccountToken"]]
    assert with_token == ["RayJob head"]


def test_pods_use_the_service_account_of_the_release(render: Render, manifests: ModuleType) -> None:
    documents = render()
    account = manifests.only(documents, "ServiceAccount")["metadata"]["name"]
    assert {pod["spec"]["serviceAccountName"] for _, pod in manifests.pods(documents)} == {account}


# Secrets


def test_no_secret_is_rendered(rendered: list[Document]) -> None:
    assert "Secret" not in {document["kind"] for document in rendered}


def test_variables_that_sound_secret_are_references(rendered: list[Document], manifests: ModuleType) -> None:
    for where, pod in manifests.pods(rendered):
        for container in pod["spec"]["containers"]:
            for entry in container.get("env", []):
                if any(word in entry["name"] for word in SOUNDS_SECRET):
                    assert entry.keys() == {"name", "valueFrom"}, f"{where} {entry['name']}"
                    assert entry["valueFrom"].keys() == {"secretKeyRef"}, f"{where} {entry['name']}"


def test_the_submitter_gets_no_credentials(render: Render, manifests: ModuleType) -> None:
    documents = render({"storage": {"credentialsSecret": {"name": "s3"}}, "envFromSecrets": ["exchange"]})
    submitter = dict(manifests.pods(documents))["RayJob submitter"]["spec"]["containers"][0]
    assert not {"env", "envFrom"} & submitter.keys()


# Network


@pytest.fixture
def release(render: Render) -> list[Document]:
    return render({"rayCluster": {"enabled": True}}, release="red", namespace="research")


def test_the_policy_covers_every_pod_of_the_release(release: list[Document], manifests: ModuleType) -> None:
    policy = manifests.only(release, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    for where, pod in manifests.pods(release):
        assert selects(policy["spec"]["podSelector"], pod["metadata"]["labels"]), where


@pytest.mark.parametrize("port", [6379, 8265, 10001, 8080, 40123])
def test_pods_of_the_release_reach_each_other(release: list[Document], manifests: ModuleType, port: int) -> None:
    policy = manifests.only(release, "NetworkPolicy")
    for where, pod in manifests.pods(release):
        assert admits(policy, labels=pod["metadata"]["labels"], namespace="research", port=port), where


@pytest.mark.parametrize("port", [6379, 8265, 10001, 8080, 40123])
def test_strangers_reach_no_port(release: list[Document], render: Render, manifests: ModuleType, port: int) -> None:
    policy = manifests.only(release, "NetworkPolicy")
    other_release = dict(manifests.pods(render(release="blue", namespace="research")))["RayJob head"]["metadata"][
        "labels"
    ]
    own_labels = dict(manifests.pods(release))["RayJob head"]["metadata"]["labels"]
    assert not admits(policy, labels={}, namespace="research", port=port)
    assert not admits(policy, labels=other_release, namespace="research", port=port)
    assert not admits(policy, labels=own_labels, namespace="elsewhere", port=port)


def test_the_operator_reaches_the_dashboard_and_nothing_else(release: list[Document], manifests: ModuleType) -> None:
    # Without this a RayJob never leaves "Initializing": the operator asks the dashboard for the state of the job.
    policy = manifests.only(release, "NetworkPolicy")
    operator = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
    assert admits(policy, labels=operator, namespace="default", port=8265)
    assert not admits(policy, labels=operator, namespace="default", port=10001)
    assert not admits(policy, labels=operator, namespace="elsewhere", port=8265)


def test_pod_labels_leave_kuberays_own_labels_alone(rendered: list[Document], manifests: ModuleType) -> None:
    # KubeRay selects the head by these two; a chart that sets them may cut the service off from its pod.
    for where, pod in manifests.pods(rendered):
        labels = pod["metadata"]["labels"].keys()
        assert not labels & {"app.kubernetes.io/name", "app.kubernetes.io/created-by"}, where
        assert not [label for label in labels if label.startswith("ray.io/")], where
