"""Every operator against onnxruntime, and its gradient against finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.operator_cases import OPERATOR_CASES, OperatorCase

from hocket.fl.backends.onnx_ops.node import Node, Site
from hocket.fl.backends.onnx_ops.table import FUSED_DOMAIN, OPERATORS, find_operator
from hocket.fl.backends.training_graph import to_tensor
from hocket.fl.core.errors import CapabilityError

# Sums of some dozen float32 products, in another order.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


def _node(case: OperatorCase) -> Node:
    proto = case.model().graph.node[0]
    attributes: dict[str, Any] = {}
    for each in proto.attribute:
        value = onnx.helper.get_attribute_value(each)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = to_tensor(onnx.numpy_helper.to_array(value))
        attributes[each.name] = value
    return Node(
        proto.op_type,
        "",
        proto.name,
        tuple(proto.input),
        tuple(proto.output),
        attributes,
        case.opset,
    )


def _site(
    case: OperatorCase, dtype: torch.dtype | None = None, *, is_training: bool = False
) -> Site:
    known = tuple(
        _as(array, dtype) if place in case.known else None
        for place, array in enumerate(case.inputs)
    )
    return Site(_node(case), known, is_training, torch.Generator())


def _as(array: Any, dtype: torch.dtype | None) -> torch.Tensor | None:
    if array is None:
        return None
    tensor = to_tensor(array)
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _results(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else list(found)


@pytest.mark.parametrize("case", OPERATOR_CASES, ids=lambda case: case.label)
def test_operator_computes_what_onnxruntime_does(case: OperatorCase) -> None:
    site = _site(case)
    found = _results(find_operator(site.node)(site)(*(_as(each, None) for each in case.inputs)))
    session = onnxruntime.InferenceSession(
        case.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    wanted = session.run(None, {name: case.inputs[int(name[2:])] for name in names})
    for one, other in zip(found, wanted, strict=False):
        assert one.numpy().dtype == other.dtype
        np.testing.assert_allclose(one.numpy(), other, **TOLERANCE, equal_nan=True)
    assert len(found) >= len(wanted)


@pytest.mark.parametrize(
    "case", [case for case in OPERATOR_CASES if case.is_smooth], ids=lambda case: case.label
)
def test_gradient_is_that_of_finite_differences(case: OperatorCase) -> None:
    site = _site(case, torch.float64)
    compute = find_operator(site.node)(site)
    tensors = [_as(each, torch.float64) for each in case.inputs]
    places = [
        place
        for place, tensor in enumerate(tensors)
        if tensor is not None and tensor.is_floating_point() and place not in case.known
    ]
    # What batch normalisation keeps running is no parameter: torch gives it no gradient.
    places = places[:3] if case.op_type == "BatchNormalization" else places

    def differentiable(*some: torch.Tensor) -> tuple[torch.Tensor, ...]:
        whole = list(tensors)
        for place, tensor in zip(places, some, strict=True):
            whole[place] = tensor
        return tuple(each for each in _results(compute(*whole)) if each.is_floating_point())

    leaves = [tensors[place].clone().requires_grad_() for place in places]
    assert torch.autograd.gradcheck(differentiable, leaves)


def test_every_operator_has_a_case() -> None:
    missing = {name for domain, name in OPERATORS if domain != FUSED_DOMAIN}
    assert missing == {case.op_type for case in OPERATOR_CASES}


def _made(
    op_type: str, *known: torch.Tensor | None, is_training: bool = False, **attributes: Any
) -> Any:
    inputs = tuple(f"in{place}" for place in range(len(known)))
    node = Node(op_type, "", "the node", inputs, ("out",), attributes, 20)
    generator = torch.Generator().manual_seed(3)
    return find_operator(node)(Site(node, known, is_training, generator))


def test_batch_normalization_trains_as_torch_does() -> None:
    x = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    module = torch.nn.BatchNorm1d(4, momentum=0.2)
    mean, variance = torch.zeros(4), torch.ones(4)
    compute = _made("BatchNormalization", *[None] * 5, is_training=True, momentum=0.8)
    found = compute(x, module.weight, module.bias, mean, variance)
    torch.testing.assert_close(found, module(x))
    torch.testing.assert_close(mean, module.running_mean)
    torch.testing.assert_close(variance, module.running_var)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(100, 100, requires_grad=True)
    ratio = torch.tensor(0.25)
    one, kept = _made("Dropout", None, ratio, is_training=True)(x, ratio)
    again, _ = _made("Dropout", None, ratio, is_training=True)(x, ratio)
    # Of 10,000 draws the share is within five deviations, 0.022.
    assert 0.228 < 1 - kept.float().mean().item() < 0.272
    torch.testing.assert_close(one, kept / 0.75)
    assert torch.equal(one, again)
    one.sum().backward()
    torch.testing.assert_close(x.grad, kept / 0.75)


@pytest.mark.parametrize(
    ("op_type", "known", "attributes", "message"),
    [
        ("Reshape", (None, None), {}, "input 'in1' must follow from sizes and constants"),
        ("ArgMax", (None,), {"select_last_index": 1}, "torch takes the first"),
        ("ScatterND", (None,) * 3, {"reduction": "max"}, "reduction 'max' is none of"),
        ("ScatterElements", (None,) * 3, {"reduction": "mul"}, "reduction 'mul' is none of"),
        ("AveragePool", (None,), {"kernel_shape": [2], "dilations": [2]}, "no dilated mean"),
        ("ConvTranspose", (None,) * 2, {"auto_pad": "SAME_UPPER"}, "give pads"),
        ("Cast", (None,), {"to": onnx.TensorProto.STRING}, "no elements of ONNX's type 8"),
        ("Constant", (), {"value_string": "a"}, "constant of .'value_string'. is not supported"),
        ("Pad", (None, torch.zeros(4)), {"mode": "odd"}, "mode 'odd' is none of"),
        ("NonMaxSuppression", (), {}, "there is no such operator to train with"),
    ],
)
def test_what_is_not_supported_is_said_with_the_node(
    op_type: str, known: tuple[Any, ...], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CapabilityError, match=message) as caught:
        _made(op_type, *known, **attributes)
    assert f"{op_type} at node 'the node'" in str(caught.value)
