"""The kinds of attention that are timed: for each its cases, our kernel, the peers, the truth."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels import onnx_peers, openvino_peer, ours, torch_gradients, torch_peers
from kernels.cases import backward_flops, forward_flops, make_cases
from kernels.operands import attend, differentiate
from kernels.ours import make_our_gradients, make_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.compiler.problem import AttentionProblem
    from hocket.runtime.workers import WorkerPool
    from kernels.cases import Case
    from kernels.contenders import Contender, Peer
    from kernels.operands import Expected, Operands

LIBRARIES = ("onnxruntime", "torch", "openvino")
OUR_LIBRARY = "hocket"
"""That of peers which are kernels of ours, too; they take part always."""

FLOAT32_TOLERANCE = 1e-5
"""Largest absolute error that an output may have. Operands are standard normal; what computes in
float32 lies within 3e-6 of float64, what computes in bfloat16 is off by 1e-4 and more."""

GRADIENT_TOLERANCE = 1e-4
"""The same of gradients, which are sums over all rows of numbers that are a few units large."""

BFLOAT16_TOLERANCE = 2e-2
"""The same where weights and outputs are rounded to 8 bits; outputs are up to some 4."""


@dataclass(frozen=True)
class Kind:
    """One kind of attention.

    Attributes:
        name: For ``--kind`` and the table.
        make_cases: Returns what is timed by default, or in the quick form.
        make_ours: Prepares our kernel.
        peers: Whom it is compared with.
        expect: Returns the right output.
        tolerance: Largest absolute error an output may have.
        flops: Returns the operations that must be done.
        is_bound_by_memory: Whether what must be read says more than the operations.
    """

    name: str
    make_cases: Callable[[bool], list[Case]]
    make_ours: Callable[[Operands, WorkerPool], Contender]
    peers: tuple[Peer, ...]
    expect: Callable[[Operands], Expected]
    tolerance: float
    flops: Callable[[AttentionProblem], float]
    is_bound_by_memory: bool = False


def _forward(name: str, *, is_bound_by_memory: bool = False) -> Kind:
    return Kind(
        name=name,
        make_cases=lambda is_quick: make_cases(name, is_quick=is_quick),
        make_ours=make_ours,
        peers=(*onnx_peers.PEERS, *torch_peers.PEERS, *openvino_peer.PEERS),
        expect=attend,
        tolerance=FLOAT32_TOLERANCE,
        flops=forward_flops,
        is_bound_by_memory=is_bound_by_memory,
    )


KINDS = {
    kind.name: kind
    for kind in (
        _forward("dense"),
        _forward("exported"),
        _forward("causal"),
        _forward("mask"),
        _forward("gqa"),
        _forward("decode", is_bound_by_memory=True),
        Kind(
            name="bf16",
            make_cases=lambda is_quick: make_cases("bf16", is_quick=is_quick),
            make_ours=make_ours,
            peers=(*ours.PEERS, *torch_peers.PEERS, *openvino_peer.PEERS),
            expect=attend,
            tolerance=BFLOAT16_TOLERANCE,
            flops=forward_flops,
        ),
        Kind(
            name="backward",
            make_cases=lambda is_quick: make_cases("backward", is_quick=is_quick),
            make_ours=make_our_gradients,
            peers=torch_gradients.PEERS,
            expect=differentiate,
            tolerance=GRADIENT_TOLERANCE,
            flops=backward_flops,
        ),
    )
}


@functools.cache
def is_installed(library: str) -> bool:
    """Return whether a library of ``LIBRARIES`` is there."""
    return importlib.util.find_spec(library) is not None
