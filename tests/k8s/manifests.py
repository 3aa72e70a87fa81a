"""Reads manifests, finds the pods in them and checks documents against Kubernetes' own schemas."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import kubernetes_validate
import yaml

KUBERNETES = "1.31"

Document = dict[str, Any]


class _OneKeyOnceLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice; PyYAML would take the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"keys named twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str) -> list[Document]:
    """Every document of a YAML text; empty ones are left out."""
    return [document for document in yaml.load_all(text, _OneKeyOnceLoader) if document]


def only(documents: list[Document], kind: str) -> Document:
    """The one document of this kind."""
    found = [document for document in documents if document["kind"] == kind]
    assert len(found) == 1, f"{len(found)} documents of kind {kind}"
    return found[0]


def ray_cluster_spec(document: Document) -> Document:
    """The Ray cluster in a RayJob or a RayCluster."""
    spec: Document = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Every pod template with a name for messages: head, each worker group, submitter."""
    for document in documents:
        if document["kind"] not in ("RayJob", "RayCluster"):
            continue
        cluster = ray_cluster_spec(document)
        yield f"{document['kind']} head", cluster["headGroupSpec"]["template"]
        for group in cluster.get("workerGroupSpecs", ()):
            yield f"{document['kind']} workers {group['groupName']}", group["template"]
        if "submitterPodTemplate" in document["spec"]:
            yield f"{document['kind']} submitter", document["spec"]["submitterPodTemplate"]


def ray_containers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """The containers that run Ray: every pod but the submitter."""
    for where, pod in pods(documents):
        if not where.endswith("submitter"):
            yield where, pod["spec"]["containers"][0]


def kubernetes_errors(document: Document) -> list[str]:
    """Faults by the strict schemas of Kubernetes 1.31. A kind they do not know is a fault too."""
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as fault:
        return [f"{fault.json_path}: {fault.message}"]
    except kubernetes_validate.SchemaNotFoundError as fault:
        return [fault.message]
    return []
