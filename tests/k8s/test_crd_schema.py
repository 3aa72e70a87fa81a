"""The converter has to catch what the API server would silently drop: these tests break good manifests on purpose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Document = dict[str, Any]


@pytest.fixture
def ray_job(render: Callable[..., list[Document]], manifests: ModuleType) -> Document:
    job: Document = copy.deepcopy(manifests.only(render(), "RayJob"))
    return job


def test_a_good_ray_job_has_no_errors(ray_job: Document, custom_resources: Any) -> None:
    assert custom_resources.errors(ray_job) == []


def test_a_misspelt_field_is_named_with_its_path(ray_job: Document, custom_resources: Any) -> None:
    ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    (error,) = custom_resources.errors(ray_job)
    assert error.startswith("$.spec.rayClusterSpec.workerGroupSpecs[0]: ")
    assert "'minReplica' was unexpected" in error


def test_a_misspelt_field_deep_inside_a_pod_template_is_caught(ray_job: Document, custom_resources: Any) -> None:
    head = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["env"][0]["valueFrm"] = {}
    (error,) = custom_resources.errors(ray_job)
    assert "'valueFrm' was unexpected" in error


def test_a_wrong_type_is_caught(ray_job: Document, custom_resources: Any) -> None:
    ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"
    (error,) = custom_resources.errors(ray_job)
    assert error == "$.spec.rayClusterSpec.workerGroupSpecs[0].replicas: 'two' is not of type 'integer'"


def test_a_value_outside_an_enum_is_caught(ray_job: Document, custom_resources: Any) -> None:
    ray_job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"
    (error,) = custom_resources.errors(ray_job)
    assert error == "$.spec.rayClusterSpec.authOptions.mode: 'tokens' is not one of ['disabled', 'token']"


def test_a_number_too_large_for_int32_is_caught(ray_job: Document, custom_resources: Any) -> None:
    ray_job["spec"]["activeDeadlineSeconds"] = 2**31
    (error,) = custom_resources.errors(ray_job)
    assert "greater than the maximum" in error


def test_a_missing_required_field_is_caught(ray_job: Document, custom_resources: Any) -> None:
    del ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]
    (error,) = custom_resources.errors(ray_job)
    assert "'groupName' is a required property" in error


def test_a_required_field_with_a_default_may_be_left_out(ray_job: Document, custom_resources: Any) -> None:
    del ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplicas"]
    assert custom_resources.errors(ray_job) == []


def test_a_bad_quantity_is_caught_and_whole_numbers_are_quantities(ray_job: Document, custom_resources: Any) -> None:
    resources = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]
    resources["limits"]["cpu"] = 2
    assert custom_resources.errors(ray_job) == []
    resources["limits"]["cpu"] = "two"
    (error,) = custom_resources.errors(ray_job)
    assert error.startswith("$.spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].resources.limits.cpu: ")


def test_a_field_beside_spec_is_caught(ray_job: Document, custom_resources: Any) -> None:
    ray_job["sepc"] = ray_job.pop("spec")
    (error,) = custom_resources.errors(ray_job)
    assert "'sepc' was unexpected" in error


def test_a_kind_or_version_that_nobody_serves_is_an_error_not_a_pass(ray_job: Document, custom_resources: Any) -> None:
    assert custom_resources.errors(ray_job | {"kind": "RayJop"}) == ["no served definition of RayJop in ray.io/v1"]
    assert custom_resources.errors(ray_job | {"apiVersion": "ray.io/v9"}) == [
        "no served definition of RayJob in ray.io/v9"
    ]


def test_free_form_maps_nullable_values_and_preserved_fields_are_let_through(crd_schema: ModuleType) -> None:
    schema = crd_schema.to_json_schema(
        {
            "type": "object",
            "properties": {
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "limit": {"type": "integer", "nullable": True},
                "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "port": {"x-kubernetes-int-or-string": True},
            },
        }
    )
    validator = crd_schema.Draft202012Validator(schema)
    good = {
        "apiVersion": "example.com/v1",
        "kind": "Example",
        "metadata": {"name": "x"},
        "labels": {"any": "text"},
        "limit": None,
        "raw": {"anything": [1]},
        "port": "http",
    }
    assert validator.is_valid(good)
    assert validator.is_valid(good | {"port": 80})
    assert not validator.is_valid(good | {"labels": {"any": 1}})
    assert not validator.is_valid(good | {"port": [80]})
    assert not validator.is_valid(good | {"limit": "many"})
