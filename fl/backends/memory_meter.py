"""What training really holds in memory, counted while it runs; more than allowed is stopped."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hocket.fl.core.errors import BudgetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType


class MemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made within it and are alive, and of some before.

    Scratch that operators free before they return is not seen, nor what numpy has of its own; but
    an array that shares a tensor's memory keeps that counted.

    Args:
        held: Tensors that are there throughout, such as weights.
        limit_bytes: The most that may be alive; 0 for as much as it takes.
        visiting: Groups of weights of which one at a time is held: from the operator that reads
            one of them first until one reads others, of another group or of those held throughout.

    Attributes:
        live_bytes, peak_bytes: Now, and the most there were; what was refused is not among them.
    """

    def __init__(
        self,
        held: Iterable[torch.Tensor],
        limit_bytes: int = 0,
        visiting: Sequence[Iterable[torch.Tensor]] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._limit_bytes = limit_bytes
        self._finalizers: dict[int, Any] = {}
        self._group_of: dict[int, int] = {}
        group_bytes = [self._know(group, number) for number, group in enumerate([held, *visiting])]
        self.live_bytes = self.peak_bytes = group_bytes[0]
        # While those that are always held are read nobody visits.
        self._visitor, self._visitor_bytes = 0, [0, *group_bytes[1:]]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if len(self._visitor_bytes) > 1:
            for each in tree_leaves((args, kwargs)):
                if isinstance(each, torch.Tensor):
                    self._visit(each.untyped_storage()._cdata)
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, torch.Tensor):
                self._enter(each.untyped_storage())
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        # What lives on, such as momenta, is not watched for the rest of its life.
        for each in self._finalizers.values():
            if each is not None:
                each.detach()

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._finalizers:
            return
        self._finalizers[key] = weakref.finalize(storage, self._leave, key, num_bytes)
        self._add(num_bytes)

    def _visit(self, key: int) -> None:
        group = self._group_of.get(key, self._visitor)
        if group != self._visitor:
            before, self._visitor = self._visitor, group
            self._add(self._visitor_bytes[group] - self._visitor_bytes[before])

    def _add(self, num_bytes: int) -> None:
        self.live_bytes += num_bytes
        if self._limit_bytes and self.live_bytes > self._limit_bytes:
            raise BudgetError(self.live_bytes, self._limit_bytes)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _know(self, tensors: Iterable[torch.Tensor], group: int) -> int:
        """Take in tensors that are not made here; return how many bytes they have."""
        num_bytes = 0
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._finalizers:
                self._finalizers[storage._cdata] = None
                self._group_of[storage._cdata] = group
                num_bytes += storage.nbytes()
        return num_bytes

    def _leave(self, key: int, num_bytes: int) -> None:
        del self._finalizers[key]
        self.live_bytes -= num_bytes
