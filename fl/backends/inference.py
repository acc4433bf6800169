"""An artifact of a model that was exported as it is in training, as it is in use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from hocket.runtime.artifact import Artifact
    from hocket.runtime.steps import HostModel

_DROPOUT_DATA = 1


def as_inference_artifact(artifact: Artifact) -> Artifact:
    """Return an artifact that normalises by its running statistics and drops nothing out.

    Artifacts of models that were exported for inference are returned as they are.
    """
    hosts = tuple(_as_inference(host) for host in artifact.host_models)
    if all(one is other for one, other in zip(hosts, artifact.host_models, strict=True)):
        return artifact
    return dataclasses.replace(artifact, host_models=hosts)


def _as_inference(host: HostModel) -> HostModel:
    model = onnx.load_from_string(host.content)
    if not _switch_off(model.graph):
        return host
    return dataclasses.replace(host, content=model.SerializeToString())


def _switch_off(graph: onnx.GraphProto) -> bool:
    """Take training out of a graph; return whether there was any."""
    has_changed = False
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                has_changed |= _switch_off(attribute.g)
        if node.op_type == "BatchNormalization":
            for attribute in node.attribute:
                if attribute.name == "training_mode" and attribute.i:
                    attribute.i = 0
                    has_changed = True
            if len(node.output) > 1:  # what it makes of its statistics, which nobody reads
                del node.output[1:]
                has_changed = True
        elif node.op_type == "Dropout" and len(node.input) > _DROPOUT_DATA:
            del node.input[_DROPOUT_DATA:]
            has_changed = True
    return has_changed
