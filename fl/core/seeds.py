"""Seeds that follow from what they are for, not from who asked before."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *purpose: object) -> int:
    """Return a seed of 63 bits for a purpose, the same on every machine and in every order.

    Args:
        seed: Of the federation.
        purpose: What it is for: words, rounds, names of devices.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *purpose: object) -> np.random.Generator:
    """Return a random generator for a purpose; see ``derive_seed``."""
    return np.random.default_rng(derive_seed(seed, *purpose))
