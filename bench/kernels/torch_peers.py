"""Attention in torch: what ``scaled_dot_product_attention`` has for CPUs, and compiled flex."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.dtypes import DType
from kernels.contenders import Contender, NotServedError, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from kernels.operands import Operands

    Attention = Callable[[Any, Any, Any], Any]

_FLEX = "torch flex"
_BACKENDS = {
    "torch flash": "FLASH_ATTENTION",
    "torch efficient": "EFFICIENT_ATTENTION",
    "torch math": "MATH",
}


class TorchPeer(Peer):
    """One backend of torch, on tensors that share the operands' memory."""

    def make(self, operands: Operands, num_threads: int) -> Contender:
        """Prepare a case, see ``contenders.Peer``."""
        import torch

        torch.set_num_threads(num_threads)
        problem = operands.problem
        arrays = (operands.query, operands.key, operands.value)
        tensors = [torch.from_numpy(array) for array in arrays]
        if operands.case.is_exported:
            tensors = [
                torch.from_numpy(merged).view(1, -1, *array.shape[1::2]).transpose(1, 2)
                for merged, array in zip(operands.merged, arrays, strict=True)
            ]
        is_half = problem.dtype is DType.BFLOAT16
        if is_half:
            tensors = [tensor.bfloat16() for tensor in tensors]
        attention = (
            _flex(operands) if self.name == _FLEX else scaled_dot_product(self.name, operands)
        )
        found: list[Any] = []

        def run() -> None:
            found.clear()
            with torch.inference_mode():
                output = attention(*tensors)
                if operands.case.is_exported:
                    output = output.transpose(1, 2).flatten(2)
            found.append(output)

        def result() -> NDArray[np.float32]:
            output = found[0]
            if operands.case.is_exported:
                output = output.view(1, -1, problem.query_heads, problem.value_dim).transpose(1, 2)
            array: NDArray[np.float32] = output.float().numpy()
            return array

        elements = problem.query_heads * problem.query_length * problem.value_dim
        elements += sum(tensor.numel() for tensor in tensors) if is_half else 0
        return Contender(run, result, operand_bytes=elements * problem.dtype.itemsize)


PEERS = (
    TorchPeer("torch flash", "torch", uses_mkl=True),
    TorchPeer("torch efficient", "torch", uses_mkl=True),
    TorchPeer("torch math", "torch", uses_mkl=True, keeps_scores=True),
    TorchPeer(_FLEX, "torch", compiles=True),
)


def sgemm(num_threads: int, size: int) -> Contender:
    """Return a product of two square matrices, to see how fast its kernels are."""
    import torch

    torch.set_num_threads(num_threads)
    left, right = torch.ones(2, size, size)
    return Contender(lambda: torch.mm(left, right), lambda: torch.mm(left, right).numpy())


def describe() -> str:
    """Return which instructions torch's own kernels use, and its MKL."""
    import torch

    library = re.search(r"Math Kernel Library Version ([\d.]+)", torch.__config__.show())
    blas = f"MKL {library[1]}" if library else "no MKL"
    return f"own kernels {torch.backends.cpu.get_cpu_capability()}, {blas}"


def scaled_dot_product(name: str, operands: Operands) -> Attention:
    """Return torch's attention by the backend of a peer, for tensors of heads first."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    problem = operands.problem
    backend = getattr(SDPBackend, _BACKENDS[name])
    mask = None if operands.mask is None else torch.from_numpy(operands.mask)
    is_causal = problem.is_causal
    if is_causal and mask is not None:
        # The op takes one of the two.
        mask, is_causal = mask + torch.from_numpy(operands.causal_mask), False

    def attend(query: Any, key: Any, value: Any) -> Any:
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(
                query,
                key,
                value,
                mask,
                is_causal=is_causal,
                scale=problem.scale,
                enable_gqa=problem.group_size > 1,
            )

    return attend


def _flex(operands: Operands) -> Attention:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        raise NotServedError("torch.compile finds no C++ compiler")
    # Without this, the limit on recompilations sends later shapes to a slow fallback, silently.
    torch.compiler.reset()
    problem = operands.problem
    block_mask, score_mod = None, None
    if problem.is_causal:
        block_mask = create_block_mask(
            lambda _batch, _head, row, column: row >= column,
            None,
            None,
            problem.query_length,
            problem.kv_length,
            device="cpu",
        )
    if operands.mask is not None:
        mask = torch.from_numpy(operands.mask[0, 0])

        def score_mod(score: Any, _batch: Any, _head: Any, row: Any, column: Any) -> Any:
            return score + mask[row, column]

    compiled = torch.compile(flex_attention, fullgraph=True)
    return lambda query, key, value: compiled(
        query,
        key,
        value,
        score_mod=score_mod,
        block_mask=block_mask,
        scale=problem.scale,
        enable_gqa=problem.group_size > 1,
    )
