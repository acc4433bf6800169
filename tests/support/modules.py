"""A small compiled module and feeds for it, made once a test session."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.tiny_encoder import VOCABULARY, make_tiny_encoder

from hocket.compiler.driver import compile_model
from hocket.runtime.artifact import Artifact

BATCH, LENGTH = 2, 12


@functools.cache
def tiny_artifact(target: str = "host") -> Artifact:
    """The tiny encoder for batch 2, length 12."""
    dims = {"batch": BATCH, "seq": LENGTH}
    return compile_model(make_tiny_encoder(), target=target, dims=dims)


def tiny_feeds(seed: int = 0) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    mask = np.ones((BATCH, LENGTH), np.int64)
    mask[0, LENGTH // 2 :] = 0
    return {"ids": generator.integers(0, VOCABULARY, (BATCH, LENGTH)), "mask": mask}
