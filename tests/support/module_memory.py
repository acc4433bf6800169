"""A process that attacks and trains one module of a model, and says how much memory that took.

Run as ``python -m support.module_memory SHARE NUMBER``, like ``training_memory``: the module of
this number among those that fit into a share of the whole model's memory; -1 is the whole model.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import sys

import numpy as np
import torch
from torch import nn
from training.models import export

import hocket
from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.spans import Piece
from hocket.fl.fat.attack import L2, Attack, Linf
from hocket.fl.fat.evaluation import attack_piece
from hocket.fl.fat.partition import Cascade, atoms_of, partition, whole_model
from hocket.memory_probe import peak_bytes, start_counting

# VGG16 with batch normalisation, as FedProphet trains it on CIFAR-10: 0 halves the map.
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
SMALL = (8, 0, 8, 0)


def make(widths: tuple[int, ...], batch: int, size: int = 32) -> CompiledSpans:
    """Return the model with an exit behind each atom."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(2):
        layers += [nn.Linear(channels, channels), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(channels, 10)).train()
    example = {"pixels": torch.zeros(2, 3, size, size)}
    model = export(module, example, is_training=True)
    artifact = hocket.compile(model, dims={"batch": (1, batch)}).artifact
    bare = CompiledSpans(artifact)
    return CompiledSpans(artifact, [a.name for a in atoms_of(bare.borders(), bare.parameters())])


def modules_of(spans: CompiledSpans, training: LocalTraining, share: float) -> Cascade:
    """Return the modules under a share of the whole model's memory."""
    machine = spans.artifact.target
    whole = spans.footprint(machine, training, Piece().span).peak_bytes
    atoms = atoms_of(spans.borders(), spans.parameters())
    return partition(
        atoms,
        spans.owned,
        lambda span: spans.footprint(machine, training, span),
        int(share * whole),
    )


def train(spans: CompiledSpans, piece: Piece, training: LocalTraining, batch: int) -> None:
    """Attack and train a piece for two steps."""
    generator = np.random.default_rng(0)
    shape = {border.name: border.shape for border in spans.borders()}.get(piece.start, (3, 32, 32))
    inputs = generator.uniform(0, 1, (batch, *shape)).astype(np.float32)
    targets = generator.integers(0, 10, batch)
    ball = L2(1.0, is_positive=True) if piece.start else Linf(8 / 255)
    steps, attack = spans.train_piece(piece, training, 0), Attack(2, keep="last")
    for _ in range(2):
        moved = attack_piece(spans, piece, attack, ball, inputs, targets, generator)
        steps.step(moved, targets)


def main(share: float, number: int, batch: int = 64) -> dict[str, int]:
    torch.set_num_threads(1)
    training = LocalTraining(batch_size=batch, momentum=0.9, weight_decay=1e-4)
    # Libraries are loaded, so that they are not counted.
    small = make(SMALL, 8)
    train(small, Piece(), training, 2)
    spans = make(VGG16, batch)
    cascade = modules_of(spans, training, share) if number >= 0 else whole_model(spans.owned)
    piece = cascade.piece(max(number, 0), max(number, 0), convexity=1e-5)
    whole = spans.footprint(spans.artifact.target, training, Piece().span).peak_bytes
    footprint = spans.footprint(spans.artifact.target, training, piece.span)
    train(spans, piece, training, 8)
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
    before = start_counting()
    train(spans, piece, training, batch)
    measured = peak_bytes() - before + footprint.weight_bytes
    return {
        "modules": len(cascade),
        "budget": int(share * whole),
        "measured": measured,
        "predicted": footprint.peak_bytes,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(float(sys.argv[1]), int(sys.argv[2]))) + "\n")
