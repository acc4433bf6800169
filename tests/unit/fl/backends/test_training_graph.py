"""Host steps as they are read from artifacts, and what of them cannot be trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from support.training_cases import compiled

from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.inference import as_inference_artifact
from hocket.fl.backends.onnx_ops.node import Node
from hocket.fl.backends.task import Task
from hocket.fl.backends.training_graph import (
    StepGraph,
    as_input,
    find_statistics,
    read_steps,
    to_tensor,
)
from hocket.fl.core.errors import CapabilityError
from hocket.runtime.steps import HostStep


def test_every_step_is_read_with_its_weights_under_their_names() -> None:
    artifact = compiled("vit")
    graphs = read_steps(artifact)
    assert [graph.step for graph in graphs] == list(artifact.steps)
    read = {name for graph in graphs for node in graph.nodes for name in node.inputs}
    assert artifact.weights.keys() <= read
    for graph in graphs:
        if isinstance(graph.step, HostStep):
            made = {name for node in graph.nodes for name in node.outputs}
            assert set(graph.step.outputs) <= made
        else:
            assert not graph.nodes


def test_inner_names_of_steps_do_not_meet() -> None:
    graphs = read_steps(compiled("gpt"))
    made = [name for graph in graphs for node in graph.nodes for name in node.outputs if name]
    assert len(made) == len(set(made))


def test_a_statistic_that_is_something_else_too_is_refused() -> None:
    norm = Node("BatchNormalization", "", "norm", ("x", "w", "b", "ones", "var"), ("y",))
    other = Node("Mul", "", "scale", ("y", "ones"), ("z",))
    step = HostStep("step", ("x",), ("z",), 0, ("z",), 2)
    assert find_statistics([StepGraph(step, (norm,), {})]) == {"ones", "var"}
    with pytest.raises(CapabilityError, match=r"'ones' .*Mul at node 'scale'.*PRESERVE"):
        find_statistics([StepGraph(step, (norm, other), {})])


def test_operators_beside_the_turns_are_refused() -> None:
    artifact = compiled("vit")
    number = next(number for number, host in enumerate(artifact.host_models) if host.turn)
    hosts = list(artifact.host_models)
    model = onnx.load_from_string(hosts[number].content)
    model.graph.node.append(onnx.helper.make_node("Neg", ["x"], ["odd"]))
    hosts[number] = dataclasses.replace(hosts[number], content=model.SerializeToString())
    changed = dataclasses.replace(artifact, host_models=tuple(hosts))
    with pytest.raises(CapabilityError, match=r"operators \['Neg'\] beside its turns"):
        read_steps(changed)


def test_an_operator_that_is_missing_is_found_when_the_backend_is_made() -> None:
    artifact = compiled("lenet")
    host = artifact.host_models[0]
    model = onnx.load_from_string(host.content)
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Odd"
    odd = dataclasses.replace(host, content=model.SerializeToString())
    with pytest.raises(CapabilityError, match=r"Odd at node .* no such operator to train with"):
        CompiledBackend(dataclasses.replace(artifact, host_models=(odd,)), Task())


def test_models_exported_in_training_are_switched_for_inference() -> None:
    artifact = as_inference_artifact(compiled("resnet"))
    content = onnx.load_from_string(artifact.host_models[0].content)
    norms = [node for node in content.graph.node if node.op_type == "BatchNormalization"]
    assert norms
    for node in norms:
        assert len(node.output) == 1
        assert not any(each.name == "training_mode" and each.i for each in node.attribute)
    plain = compiled("lenet")
    assert as_inference_artifact(plain) is plain


def test_arrays_become_tensors_of_the_same_numbers() -> None:
    import ml_dtypes

    array = np.array([1.5, -2.0, 3e38], ml_dtypes.bfloat16)
    assert to_tensor(array).dtype is torch.bfloat16
    np.testing.assert_array_equal(to_tensor(array).float().numpy(), array.astype(np.float32))
    shared, fixed = np.arange(3.0), np.arange(3.0)
    fixed.flags.writeable = False
    as_input(shared)[0] = 7
    as_input(fixed)[0] = 7
    assert (shared[0], fixed[0]) == (7.0, 0.0)
