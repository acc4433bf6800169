"""Torch computes and differentiates attention by our kernels as it would by its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from hocket.fl.backends.attention_op import (
    attention,
    attention_backward,
    scaled_dot_product_attention,
)
from hocket.runtime.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Of the largest number in a tensor, or of 1. Torch computes products of 16 bits by other roundings.
TOLERANCES = {
    torch.float64: 1e-13,
    torch.float32: 3e-6,
    torch.float16: 3e-3,
    torch.bfloat16: 3e-2,
}


@pytest.fixture(scope="module", autouse=True)
def _kernels_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("HOCKET_CACHE_DIR")
    os.environ["HOCKET_CACHE_DIR"] = str(tmp_path_factory.mktemp("kernels"))
    yield
    if before is None:
        del os.environ["HOCKET_CACHE_DIR"]
    else:
        os.environ["HOCKET_CACHE_DIR"] = before


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@dataclass(frozen=True)
class Case:
    """Sizes of an attention, ``query`` and ``key`` being whole shapes."""

    query: tuple[int, ...] = (2, 4, 37, 16)
    key: tuple[int, ...] = (2, 4, 53, 16)
    value_dim: int = 16
    mask: tuple[int, ...] | None = None
    mask_kind: str = "added"
    dtype: torch.dtype = torch.float32
    swapped: bool = False
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


CASES = (
    Case(),
    Case(is_causal=True),
    Case(query=(2, 4, 53, 16), key=(2, 4, 37, 16), is_causal=True),
    Case(value_dim=24, scale=0.7),
    Case(swapped=True),
    Case(key=(2, 2, 53, 16), enable_gqa=True),
    Case(key=(2, 1, 53, 16)),
    Case(key=(1, 4, 53, 16)),
    Case(query=(4, 37, 16), key=(4, 53, 16)),
    Case(query=(37, 16), key=(53, 16), is_causal=True),
    Case(query=(2, 3, 2, 9, 8), key=(2, 3, 2, 11, 8), value_dim=8),
    Case(query=(2, 3, 2, 9, 8), key=(2, 3, 2, 11, 8), value_dim=8, mask=(3, 2, 9, 11)),
    Case(mask=(37, 53)),
    Case(mask=(37, 53), mask_kind="bool"),
    Case(mask=(37, 53), mask_kind="bool", is_causal=True),
    Case(mask=(2, 1, 1, 53)),
    Case(mask=(2, 1, 1, 53), mask_kind="bool"),
    Case(mask=(4, 37, 1)),
    Case(mask=(53,)),
    Case(mask=(1, 1, 37, 53), mask_kind="expanded"),
    Case(dtype=torch.float64, mask=(4, 37, 53), is_causal=True),
    Case(dtype=torch.float16, is_causal=True),
    Case(dtype=torch.bfloat16, swapped=True),
    Case(dtype=torch.bfloat16, mask=(37, 53)),
)


def operands_of(case: Case) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Leaves that want gradients, and the mask; one that is added is a leaf, too."""

    def leaf(*shape: int) -> torch.Tensor:
        tensor = torch.randn(shape, dtype=case.dtype)
        if case.swapped:
            tensor = tensor.transpose(1, 2).contiguous().transpose(1, 2)
        return tensor.requires_grad_()

    leaves = [leaf(*case.query), leaf(*case.key), leaf(*case.key[:-1], case.value_dim)]
    if case.mask is None:
        return leaves, None
    if case.mask_kind == "bool":
        return leaves, torch.rand(case.mask) < 0.7
    leaves.append(torch.randn(case.mask, dtype=case.dtype, requires_grad=True))
    mask = leaves[-1]
    if case.mask_kind == "expanded":
        mask = mask.expand(case.query[0], case.query[1], -1, -1)
    return leaves, mask


def torch_attention(
    *operands: torch.Tensor, attn_mask: torch.Tensor | None, is_causal: bool, **more: Any
) -> torch.Tensor:
    """Torch's own, by products and softmax; with a mask it takes causality as part of that."""
    if attn_mask is not None and is_causal:
        rows, columns = operands[0].shape[-2], operands[1].shape[-2]
        seen = torch.ones(rows, columns, dtype=torch.bool).tril()
        if attn_mask.dtype is torch.bool:
            attn_mask = attn_mask & seen
        else:
            attn_mask = attn_mask.masked_fill(~seen, -torch.inf)
        is_causal = False
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return functional.scaled_dot_product_attention(
            *operands, attn_mask=attn_mask, is_causal=is_causal, **more
        )


def results_of(attend: Callable[..., torch.Tensor], case: Case) -> list[torch.Tensor]:
    """Output and gradients of an attention, for the same numbers each time."""
    torch.manual_seed(1)
    leaves, mask = operands_of(case)
    output = attend(
        *leaves[:3],
        attn_mask=mask,
        is_causal=case.is_causal,
        scale=case.scale,
        enable_gqa=case.enable_gqa,
    )
    arriving = torch.linspace(-1, 1, output.numel(), dtype=case.dtype).reshape(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, arriving)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients_are_those_of_torch(case: Case) -> None:
    tolerance = TOLERANCES[case.dtype]
    expected = results_of(torch_attention, case)
    for found, right in zip(results_of(scaled_dot_product_attention, case), expected, strict=True):
        assert found.shape == right.shape
        assert found.dtype == right.dtype
        error = (found.double() - right.double()).abs().max().item()
        assert error <= tolerance * max(right.double().abs().max().item(), 1.0)


@pytest.mark.parametrize(
    ("mask", "is_causal"),
    [(None, False), (None, True), ((7, 9), True), ((1, 1, 9), False), ((2, 7, 1), False)],
)
def test_gradients_are_those_of_small_differences(
    mask: tuple[int, ...] | None, is_causal: bool
) -> None:
    shapes = [(1, 2, 7, 5), (1, 2, 9, 5), (1, 2, 9, 4), *([] if mask is None else [mask])]
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(*tensors, is_causal=is_causal)

    assert torch.autograd.gradcheck(attend, leaves)


@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[12], CASES[13], CASES[20]], ids=str)
def test_torch_finds_nothing_wrong_with_the_operators(case: Case) -> None:
    leaves, mask = operands_of(case)
    query, key, value = leaves[:3]
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    torch.library.opcheck(attention, (query, key, value, mask, case.is_causal, 0.3))
    inputs = [tensor.detach() for tensor in (query, key, value)]
    plain_mask = None if mask is None else mask.detach()
    output, sums = attention(*inputs, plain_mask, case.is_causal, 0.3)
    has_mask_gradient = plain_mask is not None and plain_mask.dtype is not torch.bool
    torch.library.opcheck(
        attention_backward,
        (
            torch.randn_like(output),
            *inputs,
            plain_mask,
            output,
            sums,
            case.is_causal,
            0.3,
            has_mask_gradient,
        ),
    )


def test_it_can_be_traced_and_compiled() -> None:
    compiled: Any = torch.compile(scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    for found, right in zip(
        results_of(compiled, CASES[0]),
        results_of(scaled_dot_product_attention, CASES[0]),
        strict=True,
    ):
        assert torch.equal(found, right)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    case = Case(query=(1, 2, 700, 16), key=(1, 2, 500, 16), mask=(2, 1, 500), is_causal=True)
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(results_of(scaled_dot_product_attention, case))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_rows_without_keys_are_zero_and_have_no_gradient() -> None:
    query, key, value = (torch.randn(1, 2, 8, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[3] = False
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert (output[:, :, 3] == 0).all()
    output[:, :, 3].sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad is not None
        assert (tensor.grad == 0).all()


def test_only_what_is_wanted_has_a_gradient() -> None:
    query, key, value = (torch.randn(1, 2, 8, 4) for _ in range(3))
    key.requires_grad_()
    scaled_dot_product_attention(query, key, value).sum().backward()
    assert key.grad is not None
    assert query.grad is value.grad is None


def test_nothing_to_attend_to_is_left_to_torch() -> None:
    query, nothing = torch.randn(1, 2, 8, 4), torch.randn(1, 2, 0, 4)
    assert (scaled_dot_product_attention(query, nothing, nothing) == 0).all()
    assert scaled_dot_product_attention(nothing, query, query).shape == (1, 2, 0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout_p": 0.1}, "dropout_p must be 0"),
        ({"key": torch.randn(1, 4, 8, 4, dtype=torch.float64)}, "key: want the dtype of query"),
        ({"query": torch.ones(1, 4, 8, 4, dtype=torch.int64)}, "query: want the dtype"),
        ({"value": torch.randn(4, 8, 4)}, "value: want rank"),
        ({"key": torch.randn(1, 2, 8, 4), "value": torch.randn(1, 2, 8, 4)}, "set enable_gqa"),
        ({"attn_mask": torch.ones(8, 8, dtype=torch.int32)}, "attn_mask: want bool or floating"),
        ({"attn_mask": torch.ones(8, 7, dtype=torch.bool)}, "attn_mask: .* does not broadcast"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], message: str) -> None:
    operands = {name: torch.randn(1, 4, 8, 4) for name in ("query", "key", "value")}
    with pytest.raises(UnsupportedError, match=message):
        scaled_dot_product_attention(**{**operands, **change})


def test_a_second_derivative_is_refused() -> None:
    query, key, value = (torch.randn(1, 2, 8, 4, requires_grad=True) for _ in range(3))
    output = scaled_dot_product_attention(query, key, value)
    (gradient,) = torch.autograd.grad(output.sum(), query, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
