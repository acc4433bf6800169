"""Feeds made up from a signature: random ones by seed, and the edge cases where kernels break."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hocket.runtime.signature import TensorSpec

    Feeds = dict[str, NDArray[Any]]

# Large enough that softmax saturates, small enough that a product of two inputs keeps its digits.
LARGE_SCALE = 10.0

# What an integer input holds of which nothing is known: it may be a mask, and 0 and 1 index any
# table that has two rows.
DEFAULT_RANGE = (0, 2)


def random_feeds(inputs: Sequence[TensorSpec], seed: int = 0) -> Feeds:
    """Return one array an input: floats standard normal, integers uniform in their range.

    Args:
        inputs: What the module takes.
        seed: The same seed gives the same feeds.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _random_array(spec, generator) for spec in inputs}


def edge_case_feeds(inputs: Sequence[TensorSpec], seed: int = 0) -> dict[str, Feeds]:
    """Return feeds at the edges, keyed by what they are.

    ``zeros`` and ``ones`` everywhere; ``large`` floats, random in sign and size; the ``lowest`` and
    ``highest`` integers of each range; ``padded``, where each input of range (0, 2), a padding mask
    most likely, ends in zeros, in each row from another column on. A case that would change nothing
    for these inputs is left out.
    """
    cases: dict[str, Feeds] = {}
    generator = np.random.default_rng(seed)
    makers: dict[str, Callable[[TensorSpec], NDArray[Any] | None]] = {
        "zeros": lambda spec: _filled(spec, 0),
        "ones": lambda spec: _filled(spec, 1),
        "large": lambda spec: _large(spec, generator),
        "lowest": lambda spec: _at_edge(spec, highest=False),
        "highest": lambda spec: _at_edge(spec, highest=True),
        "padded": _padded,
    }
    for name, make in makers.items():
        made = {spec.name: make(spec) for spec in inputs}
        if all(array is None for array in made.values()):
            continue
        background = random_feeds(inputs, seed)
        cases[name] = {
            key: background[key] if array is None else array for key, array in made.items()
        }
    return cases


def _random_array(spec: TensorSpec, generator: np.random.Generator) -> NDArray[Any]:
    dtype = _numpy_dtype(spec)
    if spec.dtype is DType.BOOL:
        return generator.integers(0, 2, spec.shape).astype(dtype)
    if spec.dtype.is_floating:
        return np.asarray(generator.standard_normal(spec.shape)).astype(dtype)
    low, high = spec.value_range or DEFAULT_RANGE
    return np.asarray(generator.integers(low, high, spec.shape)).astype(dtype)


def _filled(spec: TensorSpec, value: int) -> NDArray[Any]:
    if not spec.dtype.is_floating and spec.value_range is not None:
        low, high = spec.value_range
        value = min(max(value, low), high - 1)
    return np.full(spec.shape, value, _numpy_dtype(spec))


def _large(spec: TensorSpec, generator: np.random.Generator) -> NDArray[Any] | None:
    if not spec.dtype.is_floating:
        return None
    return np.asarray(LARGE_SCALE * generator.standard_normal(spec.shape)).astype(
        _numpy_dtype(spec)
    )


def _at_edge(spec: TensorSpec, *, highest: bool) -> NDArray[Any] | None:
    if spec.dtype.is_floating or spec.dtype is DType.BOOL or spec.value_range is None:
        return None
    low, high = spec.value_range
    return np.full(spec.shape, high - 1 if highest else low, _numpy_dtype(spec))


def _padded(spec: TensorSpec) -> NDArray[Any] | None:
    is_mask = spec.dtype is DType.BOOL or (
        not spec.dtype.is_floating and spec.value_range == (0, 2)
    )
    if not is_mask or not spec.shape or spec.shape[-1] < 2:
        return None
    columns = spec.shape[-1]
    num_rows = int(np.prod(spec.shape[:-1]))
    # Lengths from one to all but one column, so that no row is wholly masked and none untouched.
    lengths = 1 + np.arange(num_rows) * 7 % (columns - 1) if columns > 2 else np.ones(num_rows)
    lengths = columns - lengths
    rows = np.arange(columns)[None, :] < lengths[:, None]
    return np.asarray(rows.reshape(spec.shape)).astype(_numpy_dtype(spec))


def _numpy_dtype(spec: TensorSpec) -> np.dtype[Any]:
    return np.dtype(spec.dtype.to_numpy())
