"""A decoder that is small enough to be compiled and trained in a test."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.task import Task
from hocket.fl.core.data import Examples
from hocket.fl.photon.sizes import GptSize
from hocket.photon_parts import compile_gpt

if TYPE_CHECKING:
    from hocket.runtime.artifact import Artifact

TINY = GptSize(layers=2, width=32, heads=4, kv_heads=2, vocabulary=61, context=16)


@functools.cache
def tiny_artifact() -> Artifact:
    return compile_gpt(TINY, seed=1, max_batch=16)


def tiny_backend() -> CompiledBackend:
    return CompiledBackend(tiny_artifact(), Task("tokens"), num_threads=1)


def draw_tokens(count: int, seed: int = 0) -> np.ndarray:
    """Sequences with something to learn: each token is the one before plus a step of few."""
    generator = np.random.default_rng(seed)
    steps = generator.integers(1, 4, (count, TINY.context + 1))
    return (steps.cumsum(axis=1) + generator.integers(0, 61, (count, 1))) % TINY.vocabulary


def draw_examples(count: int, seed: int = 0) -> Examples:
    tokens = draw_tokens(count, seed)
    return Examples({"ids": tokens[:, :-1].copy()}, tokens[:, 1:].copy())
