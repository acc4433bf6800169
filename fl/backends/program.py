"""Steps made ready to run in torch, for the sizes of one set of inputs.

Whatever follows from sizes and constants alone, shapes to reshape to or a causal mask, is computed
once, here. What is left to run is a list of calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hocket.fl.backends.attention_step import attention_compute
from hocket.fl.backends.onnx_ops.node import Site
from hocket.fl.backends.onnx_ops.table import find_operator
from hocket.fl.core.errors import CapabilityError
from hocket.runtime.steps import AttentionStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.backends.onnx_ops.node import Compute, Node
    from hocket.fl.backends.training_graph import StepGraph
    from hocket.runtime.signature import TensorSpec

_OF_SHAPE = frozenset({"Shape", "Size"})
"""Operators whose result is known as soon as the shapes of their inputs are."""


@dataclass(frozen=True, eq=False)
class Call:
    """One operator at its place.

    Attributes:
        compute: What computes it.
        inputs, outputs: Where values are.
        done: Places whose values nobody needs any more; autograd keeps what it needs.
        label: For messages.
        step: Number of the artifact's step that it belongs to.
    """

    compute: Compute
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    done: tuple[int, ...]
    label: str
    step: int


@dataclass(frozen=True)
class Value:
    """What is at a place.

    Attributes:
        place: Its number.
        shape, dtype: Of the tensor there.
    """

    place: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class TrainingProgram:
    """Calls in order.

    Attributes:
        calls: To run one after the other.
        given: Places of inputs and weights, by name.
        wanted: Places of results, by name.
        known: Values that were computed once, at their places; None at others.
        values: All that is computed in a run, inputs and weights, by name.
    """

    calls: tuple[Call, ...]
    given: Mapping[str, int]
    wanted: Mapping[str, int]
    known: Sequence[torch.Tensor | None]
    values: Mapping[str, Value]

    def run(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the results by name.

        Args:
            tensors: All inputs and weights by name; there may be more.
        """
        values: list[Any] = list(self.known)
        for name, place in self.given.items():
            values[place] = tensors[name]
        for call in self.calls:
            found = call.compute(*[values[place] for place in call.inputs])
            if isinstance(found, torch.Tensor):
                values[call.outputs[0]] = found
            else:
                for place, value in zip(call.outputs, found, strict=False):
                    values[place] = value
            del found
            for place in call.done:
                values[place] = None
        return {name: values[place] for name, place in self.wanted.items()}


def make_program(
    graphs: Sequence[StepGraph],
    tensors: Mapping[str, TensorSpec],
    given: Mapping[str, torch.Tensor],
    wanted: Sequence[str],
    *,
    is_training: bool,
    generator: torch.Generator,
) -> TrainingProgram:
    """Return a program for some steps.

    Args:
        graphs: The steps, in order.
        tensors: What is at their borders, in the sizes of the inputs.
        given: All inputs and weights by name, or tensors of the same shapes and types.
        wanted: Names of the results.
        is_training: Whether operators are to behave as in training.
        generator: Draws what is random.

    Raises:
        CapabilityError: An operator is not supported, or not here.
    """
    maker = _Maker(given, is_training, generator)
    for number, graph in enumerate(graphs):
        if isinstance(graph.step, AttentionStep):
            step = graph.step
            compute = attention_compute(step, tensors[step.output].shape)
            inputs = (step.query, step.key, step.value, step.mask or "", step.kv_lengths or "")
            maker.add(compute, inputs, (step.output,), f"attention {step.name!r}", number)
            continue
        for name, constant in graph.constants.items():
            maker.know(name, constant)
        for node in graph.nodes:
            maker.add_node(node, number)
    return maker.finish(wanted)


class _Maker:
    """Puts a program together, with the shapes of everything at hand but no numbers."""

    def __init__(
        self, given: Mapping[str, torch.Tensor], is_training: bool, generator: torch.Generator
    ) -> None:
        self._is_training, self._generator = is_training, generator
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._places: dict[str, int] = {"": 0}
        self._known: dict[str, torch.Tensor] = {}
        self._shapes: dict[str, torch.Tensor] = {}
        self._calls: list[tuple[Compute, tuple[str, ...], tuple[str, ...], str, int]] = []
        self._given = {name: self._place(name) for name in given}
        with self._mode:
            for name, tensor in given.items():
                self._shapes[name] = torch.empty_strided(
                    tensor.shape, tensor.stride(), dtype=tensor.dtype
                )

    def know(self, name: str, value: torch.Tensor) -> None:
        self._known[name] = value
        self._place(name)

    def add_node(self, node: Node, step: int) -> None:
        known = tuple(self._known.get(name) for name in node.inputs)
        operator = find_operator(node)
        compute = operator(Site(node, known, self._is_training, self._generator))
        is_known = all(
            value is not None or not name for name, value in zip(node.inputs, known, strict=True)
        )
        if is_known and node.op_type != "Dropout":
            with torch.no_grad():
                self._keep(node, compute(*known))
        elif node.op_type in _OF_SHAPE:
            self._keep(node, compute(*(self._shapes[name] for name in node.inputs)))
        elif node.op_type == "CastLike" and known[0] is not None:
            self._keep(node, known[0].to(self._shapes[node.inputs[1]].dtype))
        else:
            self.add(compute, node.inputs, node.outputs, str(node), step)

    def add(
        self,
        compute: Compute,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        label: str,
        step: int,
    ) -> None:
        operands = [
            None if not name else self._known.get(name, self._shapes.get(name)) for name in inputs
        ]
        try:
            with self._mode, torch.no_grad():
                found = compute(*operands)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise CapabilityError(f"{label}: torch cannot compute it: {error}") from error
        self._name(outputs, found, label, self._shapes)
        self._calls.append((compute, inputs, outputs, label, step))

    def finish(self, wanted: Sequence[str]) -> TrainingProgram:
        """Return the program, in which values are forgotten as soon as nobody needs them."""
        for name in wanted:
            if name not in self._shapes and name not in self._known:
                raise CapabilityError(f"no step makes {name!r}")
        kept = {*self._given, *self._known, *wanted, ""}
        calls: list[Call] = []
        for compute, inputs, outputs, label, step in reversed(self._calls):
            done = [name for name in dict.fromkeys((*inputs, *outputs)) if name not in kept]
            kept.update(done)
            calls.append(
                Call(
                    compute,
                    tuple(self._places[name] for name in inputs),
                    tuple(self._place(name) if name else self._place(" ") for name in outputs),
                    tuple(self._places[name] for name in done),
                    label,
                    step,
                )
            )
        known: list[torch.Tensor | None] = [None] * len(self._places)
        read = {place for call in calls for place in call.inputs}
        for name, value in self._known.items():
            if self._places[name] in read or name in wanted:
                known[self._places[name]] = value
        results = {name: self._places[name] for name in wanted}
        given = dict(self._given)
        values = {
            name: Value(self._places[name], tuple(tensor.shape), tensor.dtype)
            for name, tensor in self._shapes.items()
        }
        return TrainingProgram(tuple(reversed(calls)), given, results, known, values)

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    def _keep(self, node: Node, found: Any) -> None:
        self._name(node.outputs, found, str(node), self._known)

    def _name(
        self, outputs: tuple[str, ...], found: Any, label: str, values: dict[str, torch.Tensor]
    ) -> None:
        results = [found] if isinstance(found, torch.Tensor) else list(found)
        for index, name in enumerate(outputs):
            if not name:
                continue
            if index >= len(results):
                raise CapabilityError(f"{label}: its output {index} ({name!r}) is not supported")
            values[name] = results[index]
            self._place(name)
