"""What a run in torch holds and computes, counted without numbers."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Registers the operators whose work is counted here.

if TYPE_CHECKING:
    from hocket.hwmodels.machine import HardwareModel

_BACKWARD_PRODUCTS = 5
_FORWARD_PRODUCTS = 2


class TensorLedger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are alive, and the work of all operators.

    Within it operators run on fake tensors, which have shapes and lifetimes but no numbers.

    Args:
        machine: For the time that operators take.

    Attributes:
        live_bytes, peak_bytes: Of storages that tensors hold: now, and the most there were.
        flops: Two a multiply-accumulate, one for each element that any other operator makes.
        seconds: On the machine, the attentions' not counted: an operator takes as long as it
            computes or as it moves its operands, whichever is longer.
        attention_seconds: The same of attentions.
    """

    def __init__(self, machine: HardwareModel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self.flops = 0
        self.seconds = self.attention_seconds = 0.0
        per_cycle = machine.matrix_unit.macs_per_cycle
        self._matrix_flops = 2.0 * per_cycle * machine.num_cores * machine.clock_hz
        self._vector_flops = float(machine.vector_unit.lanes) * machine.num_cores * machine.clock_hz
        self._bandwidth = machine.dma.bandwidth_bytes_per_second
        self._storages: set[int] = set()

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was there before."""
        self._enter(tensor)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        results = [each for each in tree_leaves(found) if isinstance(each, torch.Tensor)]
        made = [each for each in results if self._enter(each)]
        operands = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if func._overloadpacket in _COPYING:
            copied = max(each.numel() * each.itemsize for each in operands)
            self.peak_bytes = max(self.peak_bytes, self.live_bytes + copied)
        self._count(func, args, kwargs or {}, found, made, operands)
        return found

    def _enter(self, tensor: torch.Tensor) -> bool:
        """Count a tensor's storage until nobody holds it; return whether it is a new one."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return False
        self._storages.add(key)
        num_bytes = storage.nbytes()
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._leave, key, num_bytes)
        return True

    def _leave(self, key: int, num_bytes: int) -> None:
        self._storages.discard(key)
        self.live_bytes -= num_bytes

    def _count(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        found: Any,
        made: list[torch.Tensor],
        operands: list[torch.Tensor],
    ) -> None:
        packet = func._overloadpacket
        num_bytes = sum(each.numel() * each.itemsize for each in (*made, *operands))
        if packet in _ATTENTIONS:
            flops = _attention_flops(args, _ATTENTIONS[packet])
            self.flops += flops
            self.attention_seconds += self._time(flops / self._matrix_flops, num_bytes)
            return
        if str(packet) == "mkldnn._linear_pointwise":
            flops = 2 * args[0].numel() * args[1].shape[0]
        elif packet in flop_registry:
            flops = int(flop_registry[packet](*args, **kwargs, out_val=found))
        elif made or func._schema.is_mutable:
            flops = sum(each.numel() for each in made or operands[:1])
            self.flops += flops
            self.seconds += self._time(flops / self._vector_flops, num_bytes)
            return
        else:
            return
        self.flops += flops
        self.seconds += self._time(flops / self._matrix_flops, num_bytes)

    def _time(self, seconds: float, num_bytes: int) -> float:
        return max(seconds, num_bytes / self._bandwidth)


_COPYING = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
"""Operators that hold a copy of their largest operand meanwhile, in an order of oneDNN's own."""

_ATTENTIONS = {
    torch.ops.hocket.attention: (0, 1, 2, 4, _FORWARD_PRODUCTS),
    torch.ops.hocket.attention_backward: (1, 2, 3, 5, _BACKWARD_PRODUCTS),
}
"""Where the operators have query, key, value and causality, and how many products they compute."""


def _attention_flops(args: tuple[Any, ...], places: tuple[int, int, int, int, int]) -> int:
    query, key, value, count = (args[places[0]], args[places[1]], args[places[2]], places[4])
    del places, key
    batch, heads, rows, head_dim = query.shape
    columns, value_dim = value.shape[2:]
    # The backward pass has three products of the head's size and two of the value's.
    of_values = count // 2
    width = (count - of_values) * head_dim + of_values * value_dim
    return int(2 * batch * heads * rows * columns * width)
