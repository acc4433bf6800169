"""A process that trains for some steps and says how much memory that took, and was to take.

Run as ``python training_memory.py MODEL OPTIMIZER BATCH`` with the paths of tests and benches as
``PYTHONPATH``: a process of its own, because the peak of one that has done other things says
nothing. ``MALLOC_MMAP_THRESHOLD_`` should be fixed, as below it glibc keeps what is freed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import sys

import numpy as np
import torch
from support.training_models import Resnet
from training.models import Gpt, Vit, export

import hocket
from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.task import Task
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.data import Examples
from hocket.memory_probe import peak_bytes, start_counting


def make(model: str, scale: int, batch: int) -> tuple[CompiledBackend, Examples]:
    """A model whose activations are some hundred MB at scale 1, and tiny at scale 0."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    module: torch.nn.Module
    if model == "gpt":
        layers, length = (6, 256) if scale else (1, 32)
        module = Gpt(width=384, heads=6, layers=layers, vocabulary=65, positions=length)
        ids = generator.integers(0, 65, (batch, length + 1))
        examples = Examples({"ids": ids[:, :-1].copy()}, ids[:, 1:].copy())
    elif model == "vit":
        layers, image = (12, (256, 256)) if scale else (1, (64, 64))
        module = Vit(width=192, heads=3, layers=layers, image=image, patch=16)
        pixels = generator.standard_normal((batch, 3, *image)).astype(np.float32)
        examples = Examples({"pixels": pixels}, generator.integers(0, 5, batch))
    else:
        channels, size = (64, 96) if scale else (8, 16)
        module = Resnet(channels)
        pixels = generator.standard_normal((batch, 3, size, size)).astype(np.float32)
        examples = Examples({"pixels": pixels}, generator.integers(0, 5, batch))
    inputs = {name: torch.from_numpy(array) for name, array in examples.inputs.items()}
    onnx_model = export(module, inputs, is_training=True)
    artifact = hocket.compile(onnx_model, dims={"batch": batch}).artifact
    return CompiledBackend(artifact, Task("tokens" if model == "gpt" else "classes")), examples


def main(model: str, optimizer: str, batch: int) -> dict[str, int]:
    training = LocalTraining(batch_size=batch, max_steps=3, epochs=3, optimizer=optimizer)
    # Libraries and kernels are loaded, so that they are not counted.
    small, examples = make(model, 0, batch)
    small.train(training, examples, 0)
    backend, examples = make(model, 1, batch)
    footprint = backend.footprint(backend.artifact.target, training)
    weight_bytes = footprint.weight_bytes
    backend.train(LocalTraining(batch_size=batch, max_steps=1), examples, 0)
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
    before = start_counting()
    backend.train(training, examples, 0)
    # The weights were there before the count began.
    return {"measured": peak_bytes() - before + weight_bytes, "predicted": footprint.peak_bytes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))) + "\n")
