"""Classifiers of Fashion-MNIST, compiled, and what their pieces take."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from training.models import Vit, export

import hocket
from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.backend import LocalTraining, Span
from hocket.fl.fat.partition import Cascade, CascadeModule, atoms_of, partition, whole_model
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hocket.fl.core.backend import Footprint
    from hocket.fl.core.parameters import Parameters
    from hocket.runtime.artifact import Artifact

MACHINE = load_target("mas-edge")
INPUT, INPUT_SHAPE = "pixels", (1, 28, 28)
_BATCHES = (2, 64)  # a batch of one has no variance to normalise by


class Vgg(nn.Module):
    """Images ``[batch, 1, 28, 28]`` to logits; as in VGG, most parameters are in the classifier.

    Each layer but the last is normalised over the batch.

    Args:
        channels: Of the convolutions, each of which halves the map.
        widths: Of the layers behind them.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(one, other, 3, padding=1, bias=False)
            for one, other in itertools.pairwise([1, *channels])
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        self.wide_norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        side = 28 >> len(channels)
        self.layers = nn.ModuleList(
            nn.Linear(one, other)
            for one, other in itertools.pairwise([channels[-1] * side * side, *widths, 10])
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, 10]``."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            pixels = functional.max_pool2d(torch.relu(norm(convolution(pixels))), 2)
        values = pixels.flatten(1)
        *hidden, last = self.layers
        for layer, norm in zip(hidden, self.wide_norms, strict=True):
            values = torch.relu(norm(layer(values)))
        logits: torch.Tensor = last(values)
        return logits


class GreyVit(Vit):
    """Images ``[batch, 1, 28, 28]`` to logits, by attention."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__(width, heads, layers, image=(28, 28), patch=7, classes=10)
        self.patches = nn.Conv2d(1, width, 7, stride=7)


@dataclass(frozen=True)
class Model:
    """A compiled model and how it is trained.

    Attributes:
        artifact: The model.
        training: Of a device.
        exit_features: Of its early exits.
    """

    artifact: Artifact
    training: LocalTraining
    exit_features: int = 1

    def spans(self, exits: Sequence[str] = ()) -> CompiledSpans:
        """Return the model in pieces."""
        return CompiledSpans(self.artifact, exits, exit_features=self.exit_features)

    def planner(self) -> CompiledSpans:
        """Return the model with an exit behind each atom."""
        bare = self.spans()
        return self.spans([atom.name for atom in atoms_of(bare.borders(), bare.parameters())])

    def cascade(self, budget_bytes: int) -> Cascade:
        """Return the modules under a budget."""
        spans = self.planner()
        atoms = atoms_of(spans.borders(), spans.parameters())
        return partition(atoms, spans.owned, lambda span: self.footprint(spans, span), budget_bytes)

    def one_by_one(self) -> Cascade:
        """Return each atom as a module, however little memory it takes."""
        spans = self.planner()
        stops = [atom.name for atom in atoms_of(spans.borders(), spans.parameters())]
        modules = []
        for number, (start, stop) in enumerate(itertools.pairwise(["", *stops, ""])):
            own = spans.owned(Span(start, stop))
            with_exit = spans.owned(Span(start, stop, (stop,) if stop else ()))
            modules.append(CascadeModule(number, start, stop, own, with_exit - own))
        return Cascade(tuple(modules))

    def largest_atom_bytes(self) -> int:
        """Return what the largest atom takes with its exit: no budget can be below it."""
        spans = self.planner()
        stops = [atom.name for atom in atoms_of(spans.borders(), spans.parameters())]
        return max(
            self.footprint(
                spans, Span(start, stop, (stop,) if stop else (), is_attacked=True)
            ).peak_bytes
            for start, stop in itertools.pairwise(["", *stops, ""])
        )

    def whole(self) -> Cascade:
        """Return the model as one module."""
        return whole_model(self.spans().owned)

    def footprint(self, spans: CompiledSpans, span: Span, batch_size: int = 0) -> Footprint:
        """Return what it takes to train a span, on so many examples at a time if not as usual."""
        batch_size = batch_size or self.training.batch_size
        return spans.footprint(MACHINE, replace(self.training, batch_size=batch_size), span)

    def whole_footprint(self) -> Footprint:
        """Return what it takes to train all of it."""
        return self.footprint(self.spans(), Span(is_attacked=True))


@dataclass(frozen=True)
class Architecture:
    """A model that is trained.

    Attributes:
        make: Makes it, or a copy that has a share of its units.
        groups: Returns what the axes of its arrays number, as ``Widths`` takes it.
        training: Of a device; the learning rate is that of the first round of a stage.
        radius: Of changes of its inputs, by the largest change of a pixel.
        budget_share: Of the memory that the whole model takes, what every device has.
        narrow: Shares of its units that narrow copies have.
    """

    make: Callable[[float], nn.Module]
    groups: Callable[[Parameters], dict[str, list[str]]]
    training: LocalTraining
    radius: float
    budget_share: float = 0.2
    narrow: tuple[float, ...] = (0.75, 0.5, 0.375)


def _vgg(channels: Sequence[int], widths: Sequence[int]) -> Callable[[float], nn.Module]:
    def make(share: float) -> nn.Module:
        return Vgg([int(share * each) for each in channels], [int(share * each) for each in widths])

    return make


def _vgg_groups(parameters: Parameters) -> dict[str, list[str]]:
    convolutions = sum(name.startswith("convolutions") for name in parameters)
    layers = sum(name.startswith("layers") and name.endswith("weight") for name in parameters)
    found = {}
    for name, array in parameters.items():
        kind, number = name.split(".")[0], int(name.split(".")[1])
        if kind == "convolutions":
            found[name] = [f"c{number}", f"c{number - 1}" if number else "", "", ""]
        elif kind.endswith("norms"):
            found[name] = [f"{'f' if kind == 'wide_norms' else 'c'}{number}"]
        else:
            out = f"f{number}" if number < layers - 1 else ""
            side = 28 >> convolutions
            into = f"f{number - 1}" if number else f"c{convolutions - 1}*{side * side}"
            found[name] = [out, into][: array.ndim]
    return found


_HEADS = 3


def _vit_groups(parameters: Parameters) -> dict[str, list[str]]:
    """Return groups of a transformer whose heads all lose the same units: widths are 3 heads'."""
    width = len(parameters["norm.weight"])
    return {
        name: ["" if size % width else f"{_HEADS * size // width}*units" for size in array.shape]
        for name, array in parameters.items()
    }


SGD = LocalTraining(
    epochs=100,
    max_steps=10,
    batch_size=16,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=1e-4,
)
# Transformers hardly learn by SGD in so few steps.
ADAM = replace(SGD, optimizer="adam", learning_rate=2e-3, momentum=0.0, weight_decay=0.0)

ARCHITECTURES = {
    # The radius that is usual for Fashion-MNIST.
    "vgg": Architecture(_vgg((8, 16, 32), (512,) * 5), _vgg_groups, SGD, 0.1),
    # At that one it learns nothing in hundreds of steps; this is the paper's, for CIFAR-10.
    "vit": Architecture(
        lambda share: GreyVit(_HEADS * int(share * 16), _HEADS, 7),
        _vit_groups,
        ADAM,
        8 / 255,
        narrow=(0.75, 0.5, 0.25, 0.125),
    ),
    "small": Architecture(_vgg((8, 16), (64,)), _vgg_groups, SGD, 0.1, budget_share=0.85),
}
"""By their names; ``small`` is for quick forms alone."""

EXIT_FEATURES = 16
"""Numbers that exits read for each class; 1 as published."""


def compile_architecture(
    name: str,
    *,
    share: float = 1.0,
    exit_features: int = EXIT_FEATURES,
    seed: int = 0,
    **of_training: Any,
) -> Model:
    """Return a model of images, compiled, with the same random parameters for the same seed.

    Args:
        name: Of the architecture.
        share: Of its units, those that a narrow copy has.
        exit_features: Of its early exits.
        seed: Of the parameters.
        **of_training: What differs from the architecture's training.
    """
    architecture = ARCHITECTURES[name]
    torch.manual_seed(seed)
    module = architecture.make(share).train()
    exported = export(module, {INPUT: torch.zeros(2, *INPUT_SHAPE)}, is_training=True)
    artifact = hocket.compile(exported, dims={"batch": _BATCHES}).artifact
    return Model(artifact, replace(architecture.training, **of_training), exit_features)
