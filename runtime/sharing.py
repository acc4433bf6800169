"""Which steps are worth the trouble of sharing them among threads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hocket.runtime.steps import AttentionStep

if TYPE_CHECKING:
    from hocket.runtime.steps import Step

MIN_PARALLEL_MACS = 8_000_000
"""Multiply-accumulates from which on an attention is shared among threads.

One core takes some 0.1 ms for them; to wake a thread takes about half of that.
"""

MIN_PARALLEL_MACS_BESIDE_HOST = 24_000_000
"""The same where host steps come before and after.

Their threads must then be asleep while kernels work, and be woken up after each: on two cores, a
model of three layers of 128 tokens (12.6 million each) took 3 % longer that way.
"""

MIN_PARALLEL_BYTES = 8_000_000
"""Bytes of keys and values from which on an attention is shared, however little it computes.

One core takes some 0.1 ms to read them from a cache, and twice that from memory.
"""


def is_worth_sharing(step: Step, *, has_host: bool) -> bool:
    """Whether a step takes so long that waking threads for it pays.

    Args:
        step: An attention, or another step, which never is.
        has_host: Whether there are host steps, with threads of their own.
    """
    if not isinstance(step, AttentionStep):
        return False
    parameters = step.parameters
    macs = math.prod(parameters.scores_shape) * (parameters.head_dim + parameters.value_dim)
    elements = math.prod(parameters.key_shape) + math.prod(parameters.value_shape)
    num_bytes = elements * parameters.dtype.itemsize
    least = MIN_PARALLEL_MACS_BESIDE_HOST if has_host else MIN_PARALLEL_MACS
    return macs >= least or num_bytes >= MIN_PARALLEL_BYTES
