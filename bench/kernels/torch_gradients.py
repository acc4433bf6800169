"""The gradients of attention in torch: autograd through each backend that has them on CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.contenders import Contender, Peer
from kernels.torch_peers import scaled_dot_product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kernels.operands import Operands


class TorchGradientPeer(Peer):
    """Autograd from an output that is there already."""

    def make(self, operands: Operands, num_threads: int) -> Contender:
        """Prepare a case, see ``contenders.Peer``."""
        import torch

        torch.set_num_threads(num_threads)
        inputs = [
            torch.from_numpy(array).requires_grad_()
            for array in (operands.query, operands.key, operands.value)
        ]
        output = scaled_dot_product(self.name, operands)(*inputs)
        output_gradient = torch.from_numpy(operands.output_gradient)
        found: list[Any] = []

        def run() -> None:
            found[:] = torch.autograd.grad(output, inputs, output_gradient, retain_graph=True)

        def result() -> NDArray[np.float32]:
            return np.concatenate([gradient.numpy() for gradient in found], axis=2)

        elements = sum(tensor.numel() for tensor in (*inputs, output))
        return Contender(run, result, operand_bytes=elements * inputs[0].element_size())


PEERS = (
    TorchGradientPeer("torch flash", "torch", uses_mkl=True),
    TorchGradientPeer("torch math", "torch", uses_mkl=True, keeps_scores=True),
)
