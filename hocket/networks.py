"""Attention of networks that people compare with, by name: one layer, batch 1.

The twelve workloads of MAS-Attention (MLSys 2025, arXiv 2411.17720). Its table could not be read;
the sizes are recalled, and are those the networks have, with as many key-value heads as query heads
also where a network shares them.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple


class NetworkSizes(NamedTuple):
    """Sizes of one attention layer: heads, rows of query and key, columns of a head."""

    heads: int
    length: int
    head_dim: int


NETWORKS = {
    "bert-base": NetworkSizes(12, 512, 64),
    "bert-large": NetworkSizes(16, 512, 64),
    "bert-small": NetworkSizes(8, 512, 64),
    "llama3-8b": NetworkSizes(32, 512, 128),
    "t5-mini": NetworkSizes(8, 512, 32),
    "vit-b-14": NetworkSizes(12, 256, 64),
    "vit-l-14": NetworkSizes(16, 256, 64),
    "vit-h-14": NetworkSizes(16, 256, 80),
    "vit-b-16": NetworkSizes(12, 196, 64),
    "vit-l-16": NetworkSizes(16, 196, 64),
    "vit-h-16": NetworkSizes(16, 196, 80),
    "xlm": NetworkSizes(8, 512, 128),
}


def network_sizes(name: str) -> NetworkSizes:
    """Return the sizes of a network's attention.

    Raises:
        ValueError: There is no such network; the message says which there are.
    """
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown network {name!r}; {meant}there are {', '.join(NETWORKS)}")
    return NETWORKS[name]
